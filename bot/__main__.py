"""`python -m bot`: the command line."""

from bot.cli import program

if __name__ == "__main__":
    program()

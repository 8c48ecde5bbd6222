"""Punchline: a Discord bot that runs open-weight language models itself."""

__version__ = "0.1.0"

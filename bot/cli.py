"""The command line: what can be asked, and which room answers. No logic, and nothing heavy is imported
before the command is known, so that `--help` is instant.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bot import __version__
from bot.errors import BotError, SettingsError, UsageError

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2


def build_parser() -> argparse.ArgumentParser:
    """The parser for `python -m bot` and `punchline`."""
    parser = argparse.ArgumentParser(
        prog="punchline",
        description="A Discord bot that runs open-weight language models itself, on one GPU.",
    )
    parser.add_argument("--version", action="version", version=f"punchline {__version__}")
    parser.add_argument(
        "--env-file", type=Path, metavar="FILE", help="settings file (default: .env, if there is one)"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="start the bot on Discord")
    run.add_argument("--sync", action="store_true", help="register the commands even if they did not change")

    demo = commands.add_parser("demo", help="try the bot without Discord, in a local page or the terminal")
    demo.add_argument("--once", metavar="COMMAND", help="run one command, as in '/joke topic:cats', and exit")
    demo.add_argument("--port", type=int, default=0, help="port of the local page (default: a free one)")

    pull = commands.add_parser("pull", help="fetch a model's files ahead of time")
    pull.add_argument("alias", help="an alias from the catalogue")

    bench = commands.add_parser(
        "bench", help="measure how fast this machine answers, beside bare transformers"
    )
    bench.add_argument(
        "--users", default="1,4,8,16,32", metavar="N,N", help="how many at once (default: %(default)s)"
    )
    bench.add_argument("--tokens", type=int, default=64, help="tokens of each answer (default: %(default)s)")
    bench.add_argument("--model", metavar="ALIAS", help="which model (default: DEFAULT_MODEL)")
    bench.add_argument(
        "--peer", action="append", default=[], metavar="URL", help="an OpenAI-compatible server beside"
    )
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    bench.add_argument("--plots", type=Path, metavar="FOLDER", help="draw two pictures into this folder")

    commands.add_parser("check", help="tell whether this machine is ready")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 (it failed) or 2 (it was asked or configured wrongly)."""
    args = build_parser().parse_args(argv)
    # Libraries draw progress bars by themselves, some with no switch of their own. Read when tqdm is imported.
    os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        return _dispatch(args)
    except (SettingsError, UsageError) as error:
        return _say(error, EXIT_USAGE)
    except BotError as error:
        return _say(error, EXIT_FAILED)
    except KeyboardInterrupt:
        return 130  # what a shell reports for a command that Ctrl-C ended


def _dispatch(args: argparse.Namespace) -> int:
    from bot.settings import load_settings

    if args.env_file is not None and not args.env_file.is_file():
        raise UsageError(f"There is no file {args.env_file}: check --env-file.")
    settings = load_settings(args.env_file or Path(".env"))
    if args.command == "run":
        from bot.app import run

        return run(settings, force_sync=args.sync)
    if args.command == "demo":
        from bot.demo import demo

        return demo(settings, once=args.once, port=args.port)
    if args.command == "pull":
        from bot.ops.pull import pull

        return pull(settings, args.alias)
    if args.command == "bench":
        from bot.bench.run import Plan, bench, parsed_users

        try:
            users = parsed_users(args.users)
        except ValueError:
            raise UsageError(
                f"--users {args.users}: write numbers with commas between, such as 1,4,16."
            ) from None
        plan = Plan(args.model or settings.default_model, users, args.tokens, tuple(args.peer))
        return bench(settings, plan, args.json, args.plots)
    from bot.ops.doctor import check

    return check(settings)


def _say(error: BotError, code: int) -> int:
    sys.stderr.write(f"{error}\n")
    return code

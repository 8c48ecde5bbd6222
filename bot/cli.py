"""The command line: what can be asked, and which room answers. No logic, and nothing heavy is imported
before the command is known, so that `--help` is instant.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot import __version__
from bot.errors import BotError, DeviceKeepsFailing, SettingsError, UsageError

if TYPE_CHECKING:
    from bot.settings import Settings

log = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2

_EXIT_CODES = """exit codes:
  0    it was done, or nothing that was checked has failed
  1    it failed, or something that was checked has
  2    it was asked or configured wrongly, or the GPU keeps failing: trying again does not help
  130  Ctrl-C ended it"""


def build_parser() -> argparse.ArgumentParser:
    """The parser for `python -m bot` and `punchline`."""
    parser = argparse.ArgumentParser(
        prog="punchline",
        description="A Discord bot that runs open-weight language models itself, on one GPU.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
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

    check = _with_exit_codes(
        commands,
        "check",
        help="tell whether this machine and the bot's application are ready",
        description="Look at everything the bot needs, and say what to do about what is not as it should be.",
    )
    check.add_argument(
        "--server", type=int, metavar="ID", help="look at the bot's permissions in this server too"
    )
    check.add_argument("--offline", action="store_true", help="leave out what asks Discord or the Hub")
    check.add_argument("--json", action="store_true", help="print one JSON document: docs/check.md")

    backup = _with_exit_codes(
        commands,
        "backup",
        help="copy the database into a new file; the bot may be running",
        description="Copy the database, whole and of one moment, into a new file. The bot may be running.",
    )
    backup.add_argument("file", type=Path, metavar="FILE", help="where to; it must not exist yet")

    restore = _with_exit_codes(
        commands,
        "restore",
        help="put a backup in the database's place; the bot must be stopped",
        description="Look a backup through, and put it in the database's place. What was there is kept beside it.",
    )
    restore.add_argument("file", type=Path, metavar="FILE", help="a file that `backup` made")
    return parser


def _with_exit_codes(commands: Any, name: str, **words: str) -> argparse.ArgumentParser:
    """The parser of a command that scripts run."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, epilog=_EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter, **words
    )
    return parser


def program() -> None:
    """Run one command, and end the process with its exit code."""
    from bot.ops.logs import log_what_nobody_catches

    log_what_nobody_catches()
    code = main()
    if "bot.inference.threads" in sys.modules:
        from bot.inference.threads import end_the_process

        end_the_process(code)
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 (it failed) or 2 (it was asked or configured wrongly)."""
    args = build_parser().parse_args(argv)
    # Libraries draw progress bars by themselves, some with no switch of their own. Read when tqdm is imported.
    os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        return _dispatch(args)
    except (SettingsError, UsageError, DeviceKeepsFailing) as error:
        return _say(error, EXIT_USAGE)
    except BotError as error:
        return _say(error, EXIT_FAILED)
    except KeyboardInterrupt:
        return 130  # what a shell reports for a command that Ctrl-C ended


def _settings(args: argparse.Namespace) -> Settings:
    """The settings. From here on their secrets are struck out of the log, and libraries have their variables.

    Raises:
        SettingsError: they are malformed.
        UsageError: the file that was named is not there.
    """
    from bot.env_file import export
    from bot.inference.gpu_choice import choose_gpu
    from bot.ops.logs import configure_logging
    from bot.settings import library_variables, load_settings

    if args.env_file is not None and not args.env_file.is_file():
        raise UsageError(f"There is no file {args.env_file}: check --env-file.")
    env_file = args.env_file or Path(".env")
    export(library_variables(env_file))  # first: the defaults of some settings follow them
    settings = load_settings(env_file)
    choose_gpu(settings.gpu_device)
    configure_logging("WARNING", settings.secrets, form=settings.log_format)  # some commands log more
    if args.command != "check":  # which tells them as its findings
        for warning in settings.warnings:
            log.warning("%s", warning)
    return settings


def _dispatch(args: argparse.Namespace) -> int:
    try:
        settings = _settings(args)
    except SettingsError as error:
        if args.command == "check" and args.json:
            from bot.ops.doctor import unsettled

            unsettled(error)
        raise
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
    if args.command == "backup":
        from bot.ops.safekeeping import backup_command

        return backup_command(settings, args.file)
    if args.command == "restore":
        from bot.ops.safekeeping import restore_command

        return restore_command(settings, args.file)
    from bot.ops.doctor import check

    return check(settings, server_id=args.server, offline=args.offline, as_json=args.json)


def _say(error: BotError, code: int) -> int:
    sys.stderr.write(f"{error}\n")
    return code

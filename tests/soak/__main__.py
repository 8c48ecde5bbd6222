"""`python -m tests.soak`: says what was seen, and exits with 1 if something should not be."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

from bot.inference.embedded import checkpoint_path
from bot.settings import load_settings
from tests.soak.course import Outcome, Plan, Soak


def main() -> int:
    """Read the command line and run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long (default: 5)")
    parser.add_argument("--kills", type=int, default=3, help="how often the bot is killed (default: 3)")
    parser.add_argument("--seed", type=int, help="repeats a run's choices (default: a new one)")
    parser.add_argument("--rate", type=float, default=1.5, help="what people do in a second (default: 1.5)")
    parser.add_argument("--faults", type=float, default=1.0, help="how many faults; 0 for none (default: 1)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep log and database there")
    given = parser.parse_args()
    cache_dir = load_settings(None).cache_dir
    if not checkpoint_path(cache_dir).exists():
        sys.exit("The embedded model is not there: run `python -m bot pull smol` first.")
    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    plan = Plan(given.minutes, given.kills, seed, given.rate, given.faults)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        try:
            outcome = asyncio.run(Soak(plan, Path(folder), cache_dir, _say).run())
        finally:
            if given.keep is not None:
                shutil.copytree(folder, given.keep, dirs_exist_ok=True)
    return _report(outcome)


def _report(outcome: Outcome) -> int:
    for name, value in outcome.figures.items():
        print(f"{name}: {value}")
    for fault in outcome.faults:
        print(f"WRONG: {fault}")
    print(f"{len(outcome.faults)} things are wrong" if outcome.faults else "nothing is wrong")
    return 1 if outcome.faults else 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())

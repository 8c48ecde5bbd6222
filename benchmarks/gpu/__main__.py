"""What only a GPU shows: whether all of it works there, and how fast. README.md beside this file says how to read it.

python -m benchmarks.gpu                    on a machine with an NVIDIA GPU, in at most 450 s
python -m benchmarks.gpu --tiny             on a CPU, with tiny dimensions: whether this program itself works
python -m benchmarks.gpu --only load,steps  some stages; what they need is made for them
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.gpu import catalogue
from benchmarks.gpu.results import Results
from benchmarks.gpu.stage import Stage
from benchmarks.gpu.supervisor import NoCuda, Options, supervise

REFUSAL = (
    "There is no GPU here that PyTorch can use (torch.cuda.is_available() says no), and this measures one. Run it on a "
    "machine with an NVIDIA GPU and a PyTorch built for CUDA, or give --tiny to try the program itself on the CPU."
)
_SHM = Path("/dev/shm")  # noqa: S108  memory-backed
_ROOM_BYTES = 50e9  # 36 GB of checkpoints and 13 GB of quantized copies


def selected(stages: Sequence[Stage], only: str | None) -> list[Stage]:
    """The stages named in "a,b", in their own order; all for None.

    Raises:
        ValueError: one is not known.
    """
    if only is None:
        return list(stages)
    wanted = {name.strip() for name in only.split(",") if name.strip()}
    if unknown := wanted - {stage.name for stage in stages}:
        known = ", ".join(stage.name for stage in stages)
        raise ValueError(f"no stage is called {', '.join(sorted(unknown))}: choose from {known}")
    return [stage for stage in stages if stage.name in wanted]


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="stages:\n" + "\n".join(f"  {one.name:<13}{one.shows}" for one in catalogue.STAGES),
    )
    parser.add_argument("--tiny", action="store_true", help="tiny dimensions, on the CPU")
    parser.add_argument("--only", metavar="A,B", help="these stages only")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(os.environ.get("OUT") or "gpu-run"),
        help="folder for the results (default: $OUT, or else gpu-run)",
    )
    parser.add_argument("--seconds", type=float, default=450.0, help="for all of it (default: %(default).0f)")
    parser.add_argument(
        "--folder", type=Path, help=f"folder for checkpoints, {_ROOM_BYTES / 1e9:.0f} GB (default: /dev/shm)"
    )
    parser.add_argument("--keep", action="store_true", help="leave the checkpoints there, for a next run")
    parser.add_argument("--rehearse", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        options.stages = selected(catalogue.STAGES, options.only)
    except ValueError as error:
        parser.error(str(error))
    return options


def chosen_folder(tiny: bool) -> Path:
    """A new folder for checkpoints: in memory, or where most is free if that is too small."""
    places = [place for place in (_SHM, Path(tempfile.gettempdir())) if os.access(place, os.W_OK)]
    roomy = [place for place in places if shutil.disk_usage(place).free >= (1e9 if tiny else _ROOM_BYTES)]
    best = roomy[0] if roomy else max(places, key=lambda place: shutil.disk_usage(place).free)
    return Path(tempfile.mkdtemp(prefix="punchline-gpu-", dir=best))


async def _supervised(run: Options, results: Results, stages: Sequence[Stage]) -> None:
    """Run all; told to end, in good order, so that no process stays."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await supervise(run, stages, results, lambda line: print(line, flush=True))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code is 0 if no stage has failed, 1 if one has, 2 if there is no GPU."""
    options = parsed(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in ("results.json", "summary.txt", "log.txt", "tests.txt", "dead-gpu-log.txt"):
        (options.out / name).unlink(missing_ok=True)
    # In a folder of somebody's, one of its own: it is removed at the end.
    folder = options.folder / "punchline-gpu" if options.folder else chosen_folder(options.tiny)
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "begun": datetime.now(UTC).isoformat(timespec="seconds"),
        "tiny": options.tiny,
        "machine": platform.platform(),
        "cores": os.cpu_count(),
        "checkpoints": str(folder),
        "checkpoints_free_bytes": shutil.disk_usage(folder).free,
    }
    results = Results(options.out, options.stages, about)
    run = Options(
        catalogue.__name__,
        folder.resolve(),
        options.out.resolve(),
        options.seconds,
        options.tiny,
        options.rehearse,
    )
    try:
        asyncio.run(_supervised(run, results, options.stages))
    except NoCuda:
        print(REFUSAL, file=sys.stderr)
        return 2
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("stopped: the results so far are written", file=sys.stderr)
        return 130
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print("\n" + (options.out / "summary.txt").read_text(encoding="utf-8"))
    return 0 if results.is_good else 1


if __name__ == "__main__":
    sys.exit(main())

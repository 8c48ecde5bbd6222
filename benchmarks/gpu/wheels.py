"""Gather the wheels that a machine with a GPU and PyTorch, but without a package index, needs for this and the tests.

    python -m benchmarks.gpu.wheels                          into .whl, for Python 3.12 on x86-64 and CUDA 13.0
    python -m benchmarks.gpu.wheels --python 3.11 --cuda 128

Versions are those of constraints.txt; what needs what is read from the packages of this environment. bitsandbytes comes
with a library for each CUDA: that of one and the CPU's are kept.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_ROOT = Path(__file__).parents[2]
_TESTS = ("pytest", "pytest-asyncio", "pytest-timeout", "pytest-cov", "pytest-xdist", "hypothesis")
# What a machine with PyTorch has, or this does not use; what only they need is not followed.
_THERE = frozenset(
    (
        *("accelerate", "aiohttp", "jinja2", "matplotlib", "numpy", "packaging", "pip", "pyyaml", "requests"),
        *("safetensors", "setuptools", "torch", "tqdm"),
    )
)
_GLIBC = (39, 38, 37, 36, 35, 34, 31, 28, 27, 24, 17, 12, 5)
_LIMIT_MIB = 64.0


def needed(roots: Iterable[str], python: str) -> list[str]:
    """The roots and all that they need, by names, less what is there."""
    target = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    target |= {
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "os_name": "posix",
    }
    found: set[str] = set()
    left = [Requirement(root) for root in roots]
    while left:
        one = left.pop()
        name = canonicalize_name(one.name)
        if name in found | _THERE or (one.marker is not None and not one.marker.evaluate(target)):
            continue
        found.add(name)
        left += [Requirement(line) for line in importlib.metadata.requires(name) or ()]
    return sorted(found)


def pinned(names: Iterable[str], constraints: str) -> list[str]:
    """Each name with its version.

    Raises:
        ValueError: one has none.
    """
    pins = {
        canonicalize_name(line.partition("==")[0]): line.strip()
        for line in constraints.splitlines()
        if "==" in line
    }
    wanted = [canonicalize_name(name) for name in names]
    if missing := [name for name in wanted if name not in pins]:
        raise ValueError(f"constraints.txt has no version of {', '.join(missing)}")
    return [pins[name] for name in wanted]


def download(pins: Iterable[str], folder: Path, python: str) -> None:
    """Have pip fetch them, for that Python on Linux."""
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in _GLIBC] + [
        "manylinux2014_x86_64",
        "manylinux1_x86_64",
    ]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", python, "--implementation", "cp", "--dest", str(folder)]
    command += [word for platform in platforms for word in ("--platform", platform)]
    subprocess.run([*command, *pins], check=True)  # noqa: S603  names and versions of ours


def slim(wheel: Path, is_kept: Callable[[str], bool]) -> None:
    """Write a wheel anew without some of its files, and their lines in its record."""
    part = wheel.with_suffix(".part")
    with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as new:
        for info in whole.infolist():
            if not is_kept(info.filename):
                continue
            content = whole.read(info)
            if info.filename.endswith(".dist-info/RECORD"):
                lines = content.decode().splitlines(keepends=True)
                content = "".join(line for line in lines if is_kept(line.split(",")[0])).encode()
            new.writestr(info, content, zipfile.ZIP_DEFLATED)
    part.replace(wheel)


def is_for(cuda: str) -> Callable[[str], bool]:
    """Whether a file of bitsandbytes is needed with this CUDA: all but the libraries for others."""

    def is_kept(name: str) -> bool:
        library = re.search(r"libbitsandbytes_(\w+)\.\w+$", name)
        return library is None or library[1] in (f"cuda{cuda}", "cpu")

    return is_kept


def main() -> int:
    """Gather; the exit code is 1 if they are too large together."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.wheels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--folder", type=Path, default=Path(".whl"), help="where to (default: %(default)s)")
    parser.add_argument("--python", default="3.12", help="of that machine (default: %(default)s)")
    parser.add_argument(
        "--cuda", default="130", help="of its PyTorch, without the dot (default: %(default)s)"
    )
    options = parser.parse_args()
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = needed([*project["dependencies"], *_TESTS], options.python)
    pins = pinned(names, (_ROOT / "constraints.txt").read_text(encoding="utf-8"))
    options.folder.mkdir(parents=True, exist_ok=True)
    for old in options.folder.glob("*.whl"):
        old.unlink()
    download(pins, options.folder, options.python)
    for wheel in options.folder.glob("bitsandbytes-*.whl"):
        slim(wheel, is_for(options.cuda))
        with zipfile.ZipFile(wheel) as slimmed:
            if not any(f"libbitsandbytes_cuda{options.cuda}." in name for name in slimmed.namelist()):
                print(f"{wheel.name} has no library for CUDA {options.cuda}.", file=sys.stderr)
                return 1
    sizes = {wheel.name: wheel.stat().st_size / 2**20 for wheel in sorted(options.folder.glob("*.whl"))}
    for name, size in sizes.items():
        print(f"{size:6.1f} MiB  {name}")
    total = sum(sizes.values())
    print(f"{total:6.1f} MiB  in {len(sizes)} wheels; expected on the machine: {', '.join(sorted(_THERE))}")
    if total > _LIMIT_MIB:
        print(f"That is more than {_LIMIT_MIB:.0f} MiB.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""deploy/punchline.service as systemd reads it."""

from __future__ import annotations

import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy" / "punchline.service"

# Where what is compiled while the bot runs is kept; and all that is set for a GPU.
COMPILED = ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "CUDA_CACHE_PATH")
OF_THE_GPU = (*COMPILED, "PYTORCH_ALLOC_CONF")


def settings_of(unit: Path = UNIT) -> dict[str, list[str]]:
    """Every `Name=value` of the unit; a name may stand there more than once."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text(encoding="utf-8").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith(("#", ";")):
            found.setdefault(name, []).append(value)
    return found


def exec_start() -> list[str]:
    (line,) = settings_of()["ExecStart"]
    return shlex.split(line)


def environment() -> dict[str, str]:
    return dict(line.split("=", 1) for line in settings_of()["Environment"])


def seconds(value: str) -> float:
    """A time span as units write it."""
    for suffix, factor in (("min", 60.0), ("s", 1.0), ("d", 86_400.0)):
        if value.endswith(suffix):
            return float(value.removesuffix(suffix)) * factor
    return float(value)

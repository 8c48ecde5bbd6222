"""`make test-avx2` has every process of the tests compute as on a processor without AVX512."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SWITCH = Path(__file__).parent / "avx2"
PROGRAM = """
import bitsandbytes.functional, bitsandbytes.nn.modules, bitsandbytes.backends.cpu.ops
import torch
print(
    bitsandbytes.functional.lib.has_avx512bf16_cpu.__module__,
    bitsandbytes.nn.modules.has_avx512bf16(),
    bitsandbytes.backends.cpu.ops.has_avx512bf16(),
    torch.backends.cpu.get_cpu_capability(),
)
"""


def test_with_the_switch_a_child_process_has_no_nf4_kernel_whatever_the_processor() -> None:
    switched = {"PYTHONPATH": str(SWITCH), "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **switched},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    assert said.stdout.split() == ["only_avx2", "False", "False", "AVX2"]

"""What continuous integration says of pip-audit's report."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parent.parent / ".ci" / "audit.py"


def verdict(*dependencies: dict[str, Any]) -> tuple[int, str]:
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    code, said = module.verdict({"dependencies": list(dependencies)})
    return int(code), str(said)


WELL = {"name": "yarl", "version": "1.25.1", "vulns": []}
UNKNOWN = {"name": "simcord", "skip_reason": "Dependency not found on PyPI"}
BROKEN = {
    "name": "aiohttp",
    "version": "3.0.0",
    "vulns": [{"id": "CVE-2099-1", "fix_versions": ["3.0.1"], "aliases": [], "description": "long"}],
}


def test_a_known_vulnerability_fails_and_names_the_version_that_mends_it() -> None:
    code, said = verdict(WELL, BROKEN, UNKNOWN)
    assert code == 1
    assert "aiohttp 3.0.0: CVE-2099-1, mended in 3.0.1" in said
    assert "yarl" not in said


def test_no_known_vulnerability_passes_and_says_of_how_many_that_is_so() -> None:
    assert verdict(WELL, WELL, UNKNOWN) == (
        0,
        "audited 2 of 3 pinned versions: no known vulnerability; not known to the index: simcord",
    )


def test_an_index_that_knows_of_no_vulnerabilities_is_not_taken_for_a_clean_bill() -> None:
    code, said = verdict(UNKNOWN, UNKNOWN)
    assert code == 0
    assert said.startswith("NOT AUDITED")

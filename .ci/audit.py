"""Whether versions that are pinned have known vulnerabilities, by pip-audit in an environment of its own.

Exit code 1 if one has. Where nobody can be asked, that is said loudly, and is no failure.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

PINS = Path(__file__).parent.parent / "constraints.txt"
INSTALL_TIMEOUT_S = 180
AUDIT_TIMEOUT_S = 300
ANSWER_TIMEOUT_S = 10  # of each question to the index


def verdict(report: dict[str, Any]) -> tuple[int, str]:
    """The exit code, and what to say of a report of pip-audit's (its JSON)."""
    pinned = report["dependencies"]
    found = []
    for one in pinned:
        for fault in one.get("vulns", ()):
            mended = ", ".join(fault["fix_versions"]) or "no version yet"
            found.append(f"{one['name']} {one['version']}: {fault['id']}, mended in {mended}")
    if found:
        return 1, "\n".join(["KNOWN VULNERABILITIES in what constraints.txt pins:", *found])
    unknown = [one["name"] for one in pinned if "skip_reason" in one]
    if len(unknown) == len(pinned):
        return 0, "NOT AUDITED: the package index that can be reached tells nothing of vulnerabilities."
    rest = f"; not known to the index: {', '.join(unknown)}" if unknown else ""
    return (
        0,
        f"audited {len(pinned) - len(unknown)} of {len(pinned)} pinned versions: no known vulnerability{rest}",
    )


def audit() -> tuple[int, str]:
    """Install pip-audit, and ask it."""
    with tempfile.TemporaryDirectory() as folder:
        python, report = Path(folder, "venv", "bin", "python"), Path(folder, "report.json")
        asked = ["--requirement", str(PINS), "--no-deps", "--disable-pip", "--progress-spinner", "off"]
        asked += ["--timeout", str(ANSWER_TIMEOUT_S), "--format", "json", "--output", str(report)]
        said = ""
        try:
            venv.create(Path(folder, "venv"), with_pip=True)
            install = [str(python), "-m", "pip", "install", "--quiet", "pip-audit"]
            subprocess.run(install, check=True, capture_output=True, timeout=INSTALL_TIMEOUT_S)  # noqa: S603
            command = [str(python), "-m", "pip_audit", *asked]
            ran = subprocess.run(  # noqa: S603
                command, check=False, capture_output=True, text=True, timeout=AUDIT_TIMEOUT_S
            )
            said = ran.stderr
            return verdict(json.loads(report.read_text(encoding="utf-8")))
        except subprocess.CalledProcessError:
            return 0, "NOT AUDITED: pip-audit could not be installed."
        except subprocess.TimeoutExpired:
            return 0, "NOT AUDITED: the package index did not answer in time."
        except (OSError, ValueError):
            lines = said.strip().splitlines() or ["it said nothing"]
            return 0, f"NOT AUDITED: pip-audit gave no report ({lines[-1][:200]})."


if __name__ == "__main__":
    code, said = audit()
    sys.stdout.write(f"{said}\n")
    sys.exit(code)

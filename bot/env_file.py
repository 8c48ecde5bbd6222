"""What a settings file holds beside settings: variables that libraries read, and mistakes.

Libraries read the environment, not this file, and most do so when they are imported. So `export` puts their variables
into the environment first, where that does not have them. A name that nobody knows, and a line that cannot be read, is
a sentence: a misspelt setting would otherwise count for nothing without a word. No sentence holds a value, or a name
that may be one: a token may be in the wrong place.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

# What variables of libraries, drivers and the system begin with, where their names are no one's else.
_PREFIXES = (
    *("ACCELERATE_", "BITSANDBYTES_", "BNB_", "CUBLAS_", "CUDA_", "CUDNN_", "GOMP_", "HF_", "HIP_", "HSA_"),
    *("HUGGINGFACE_", "HUGGING_FACE_", "KMP_", "MKL_", "MPL", "NCCL_", "NUMEXPR_", "NVIDIA_", "OMP_"),
    *("OPENBLAS_", "PIP_", "PYTORCH_", "ROCR_", "SAFETENSORS_", "SSL_", "TOKENIZERS_", "TORCH", "TQDM_"),
    *("TRANSFORMERS_", "TRITON_", "XDG_"),
)
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_NAMES = (*_PROXIES, *map(str.upper, _PROXIES), "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "TMPDIR", "TZ")
# What is meant by a name that is nearly one of these.
_WELL_KNOWN = (
    *("CUDA_VISIBLE_DEVICES", "HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "OMP_NUM_THREADS"),
    *("PIP_INDEX_URL", "PYTORCH_CUDA_ALLOC_CONF", "SSL_CERT_FILE", "TRANSFORMERS_OFFLINE", "XDG_CACHE_HOME"),
)
# What is read before a line of this program runs.
_TOO_LATE = ("GLIBC_TUNABLES", "LD_", "MALLOC_", "PYTHON")

_A_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BLANK = re.compile(r"\s*")
# No token is only of these.
_OPENLY_A_NAME = re.compile(r"[A-Z_]+")
_LEAST = 4  # characters: what is shorter would be struck out of every other word of the log
_A_SLIP = 0.88  # of letters in common: DISCORD_TOKN, MAX_NEW_TOKEN, LOGLEVEL


@dataclass(frozen=True, slots=True)
class EnvFile:
    """What is in a file beside settings.

    Attributes:
        variables: those that libraries read, with their values.
        warnings: a sentence for each line that counts for nothing.
    """

    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    warnings: tuple[str, ...] = ()


def read_env_file(path: Path | None, settings: Collection[str]) -> EnvFile:
    """Read what a settings file holds beside settings.

    Args:
        path: the file; one that does not exist, and None, count as empty.
        settings: the settings' names, in capitals.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is no text in UTF-8.
    """
    if path is None or not path.is_file():
        return EnvFile()
    from dotenv import dotenv_values
    from dotenv.parser import parse_stream

    logging.getLogger("dotenv.main").setLevel(logging.ERROR)  # it warns of what is told here
    text = path.read_text(encoding="utf-8-sig")
    values = dotenv_values(path, encoding="utf-8-sig")
    variables: dict[str, str] = {}
    warnings = []
    with path.open(encoding="utf-8-sig") as stream:
        lines = list(parse_stream(stream))
    for line in lines:
        number = line.original.line + _BLANK.match(line.original.string)[0].count("\n")  # type: ignore[index]
        name = line.key
        if line.error or (name is not None and (line.value is None or not _A_NAME.fullmatch(name))):
            known = name is not None and name.upper() in settings
            what = f"{name} has no value" if known else "It is not NAME=value"
            warnings.append(
                f"Line {number} of {path} counts for nothing. {what}: mend it, or put # before it."
            )
        elif name is None or name.upper() in settings or f"${{{name}" in text:
            continue  # a comment, a setting, or what another line is made from
        elif (told := _told(name, settings, f" in {path}", f"Line {number}")) is not None:
            warnings.append(told)
        elif value := values.get(name):
            variables[name] = value
    return EnvFile(variables, tuple(dict.fromkeys(warnings)))


def _told(name: str, settings: Collection[str], where: str, line: str) -> str | None:
    """What is wrong with a name; None for one that a library may read. What may be a token is told by its line."""
    near = difflib.get_close_matches(name.upper(), settings, 1, _A_SLIP)
    if near:
        return f"{name}{where} is not a setting: did you mean {near[0]}?"
    if name.startswith(_TOO_LATE):
        return f"{name}{where} is read before this file is: set it in the environment that starts the bot."
    if name in _NAMES or name.startswith(_PREFIXES):
        almost = difflib.get_close_matches(name, _WELL_KNOWN, 1, _A_SLIP)
        if almost and almost[0] != name:
            return f"{name}{where} is no variable that we know: did you mean {almost[0]}?"
        return None
    near = difflib.get_close_matches(name.upper(), [*settings, *_WELL_KNOWN], 1)
    if not near and not _OPENLY_A_NAME.fullmatch(name):
        return f"{line}{where} names no setting: remove it, or see .env.example for those there are."
    fix = f"did you mean {near[0]}?" if near else "remove it, or see .env.example for those there are."
    return f"{name}{where} is not a setting: {fix}"


def misspelt(environment: Iterable[str], settings: Collection[str]) -> Iterator[str]:
    """A sentence for each variable of the environment that is nearly a setting; the others are somebody else's."""
    for name in sorted(environment):
        if name.upper() in settings or name.startswith((*_PREFIXES, *_TOO_LATE)):
            continue
        if near := difflib.get_close_matches(name.upper(), settings, 1, _A_SLIP):
            yield f"{name} in the environment is not a setting: did you mean {near[0]}?"


def export(variables: Mapping[str, str], environment: MutableMapping[str, str] | None = None) -> None:
    """Put variables into the environment, for libraries that are imported later; what is there already wins."""
    environment = os.environ if environment is None else environment
    for name, value in variables.items():
        environment.setdefault(name, value)
    if "TZ" in variables and environment is os.environ and hasattr(time, "tzset"):
        time.tzset()


def passwords(values: Iterable[str]) -> Iterator[str]:
    """The passwords in addresses, such as those of proxies and package indexes."""
    for value in values:
        if "@" in value:
            try:
                password = urlsplit(value).password
            except ValueError:
                continue
            if password and len(password) >= _LEAST:
                yield password

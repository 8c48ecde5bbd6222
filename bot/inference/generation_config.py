"""What a checkpoint's `generation_config.json` says about sampling, and what of it is used.

The file is for transformers' `generate` and may hold anything: beams, strings to stop at, tokens to suppress, values
out of range. Only sampling and token ids are read, by us. transformers is given a config with the ids alone, so that a
model answers in the same way in a batch and by itself, and no value ends an answer with an error.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bot.inference.catalog import SamplingParams

log = logging.getLogger(__name__)

FILE = "generation_config.json"
_SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty")
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def read_sampling(folder: Path, alias: str) -> dict[str, float]:
    """The values of `SamplingParams` that a checkpoint recommends; what it does not name is left out.

    `do_sample: false` means the likeliest token every time: a temperature of 0. Values of a wrong type or out of range
    are left out with one warning. Lengths are not read: the catalogue decides how long an answer may be.
    """
    told = _read(folder / FILE)
    if told is None:
        if (folder / FILE).exists():
            log.warning("%s of %s cannot be read: the usual sampling is used", FILE, alias)
        return {}
    found = {name: told[name] for name in _SAMPLING if name in told}
    wrong = [name for name, value in found.items() if not _is_valid(name, value)]
    sampling = {name: value for name, value in found.items() if name not in wrong}
    samples = told.get("do_sample", True)
    if samples is False:
        sampling["temperature"] = 0.0
    elif samples is not True:
        wrong.append("do_sample")
    if wrong:
        log.warning("%s of %s: %s cannot be used and is ignored", FILE, alias, ", ".join(wrong))
    return sampling


def read_token_ids(folder: Path) -> dict[str, int | list[int] | bool]:
    """The ids that begin, end and pad, from where transformers takes them: this file, or else config.json.

    `_from_model_config` is kept too: transformers made such a file of a config, so that an id in it may be no choice
    of the checkpoint's but the default of the model's class.
    """
    told = _read(folder / FILE)
    if told is None:
        config = _read(folder / "config.json") or {}
        text = config.get("text_config")
        told = {**(text if isinstance(text, dict) else {}), **config}
    ids = {name: told[name] for name in _TOKEN_IDS if _is_ids(told.get(name))}
    return ids | ({"_from_model_config": True} if told.get("_from_model_config") is True else {})


def _read(file: Path) -> Mapping[str, Any] | None:
    try:
        told = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def _is_valid(name: str, value: Any) -> bool:
    try:
        SamplingParams.model_validate({name: value})
    except ValidationError:
        return False
    return True


def _is_ids(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return bool(values) and all(isinstance(one, int) and not isinstance(one, bool) for one in values)

"""Why a model cannot be loaded or examined: one sentence about that model, whatever was raised.

transformers, its quantizers and tokenizers raise anything, from ImportError to TypeError. So no list of exceptions
decides whether there is a sentence: the cause is looked for in the error and in the model's files, and where none is
found there is a general sentence.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Collection, Iterator
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError
from safetensors import SafetensorError

from bot.errors import ModelUnavailable
from bot.inference.catalog import EMBEDDED, ModelSpec
from bot.inference.config_file import UnusableSize, skeleton
from bot.inference.device import is_out_of_memory
from bot.inference.files import NOT_READABLE, instead_of_weights, plain
from bot.inference.headers import read_headers

_PACKAGE = re.compile(r"pip3? install (?:-\S+ +)*['\"`]?([A-Za-z0-9][\w.\-]*(?:\[[\w,\-]+\])?)")
_LIBRARY = re.compile(
    r"requires the (\w[\w.-]*) library|need to have (\w[\w.-]*)(?: or \w+)? installed", re.I
)
_NEEDS_GPU = re.compile(
    r"\b(?:GPU|CUDA)\b[^.]*\b(?:required|needed|not available)\b|\b(?:requires?|needs?|only)\b[^.]*\b(?:GPU|CUDA)\b"
    r"|\bNo (?:GPU|CUDA)\b|CPU or disk device",
    re.I,
)
_WRONG_SHAPE = re.compile(r"mismatch|size mismatch|shape", re.I)

# What a model was trained for that does not write text, by the end of its architecture's name.
_NOT_WRITING = (
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
)
_METHODS = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "hqq": "HQQ",
    "fp8": "FP8",
    "fbgemm_fp8": "FP8",
    "mxfp4": "MXFP4",
    "nvfp4": "NVFP4",
    "bitnet": "BitNet",
    "quanto": "Quanto",
    "aqlm": "AQLM",
    "auto-round": "AutoRound",
    "bitsandbytes": "bitsandbytes",
}


class MissingWeights(ValueError):
    """A checkpoint's files lack weights of its architecture; transformers would make them up."""


class Step(StrEnum):
    """What was being done."""

    CONFIG = "config"
    TOKENIZER = "tokenizer"
    WEIGHTS = "weights"
    TEMPLATE = "template"  # and what else is made ready


def refuse_non_writers(spec: ModelSpec, folder: Path) -> None:
    """transformers loads some models that do not write text, such as BERT, as if they did; what they say is nonsense.

    Raises:
        ModelUnavailable: the architectures that the config names are all of that kind.
    """
    config = _config(folder)
    named = config.get("architectures") if config else None
    if isinstance(named, list) and named and all(str(one).endswith(_NOT_WRITING) for one in named):
        raise ModelUnavailable(f"{spec.alias} cannot be loaded: {_not_a_writer(plain(named[0]))}.")


def why_not(
    spec: ModelSpec,
    folder: Path,
    error: BaseException,
    step: Step,
    *,
    done: str = "loaded",
) -> ModelUnavailable:
    """The sentence for whatever was raised.

    Args:
        spec: the model.
        folder: its files.
        error: what was raised.
        step: while what was done.
        done: what the model cannot be, "loaded" or "examined".
    """
    if is_out_of_memory(error):
        return ModelUnavailable(
            f"{spec.alias} does not fit into the memory that is free now. Please try a smaller model; the operator "
            "can lower its context_tokens, or GPU_MEMORY_BUDGET if other programs use the device."
        )
    cause = next(filter(None, _causes(spec, folder, error, step)), None) or _GENERAL
    return ModelUnavailable(f"{spec.alias} cannot be {done}: {cause}.")


_BROKEN_CONFIG = (
    "its config.json is broken, or does not describe a model as this bot knows them. Fetch it again"
)
_GENERAL = "its files are missing, broken or of a kind that is not supported. The operator finds the reason in the log"


def _causes(spec: ModelSpec, folder: Path, error: BaseException, step: Step) -> Iterator[str | None]:
    """What it may be, the surest first."""
    chain = list(_chain(error))
    if any(isinstance(one, OSError) and one.errno in (errno.ENOSPC, errno.EDQUOT) for one in chain):
        yield "no space is left on the bot's disk. The operator can free some there"
    if any(isinstance(one, PermissionError) or "Permission denied" in str(one) for one in chain):
        yield NOT_READABLE
    if any(isinstance(one, SafetensorError) for one in chain):
        yield f"its files are damaged. The operator can {_made_whole(spec)}"
    if any("no kernel image" in str(one) for one in chain):
        yield "this PyTorch was not built for this GPU. The operator sees with `python -m bot check` which it is for"
    config = _config(folder)
    if config is None:
        yield _without_config(folder) or "its folder is gone. The operator can put it back, and ask again"
    else:
        yield _unknown_kind(config)
        if step is Step.WEIGHTS:
            yield _quantized_already(spec, config, chain)
    if any(isinstance(one, MissingWeights) for one in chain):
        yield f"{error}. Its files are not whole, or of another model than its config.json says"
    yield _missing_package(chain)
    if step is Step.CONFIG:
        sized = next((one for one in chain if isinstance(one, UnusableSize)), None)
        yield _BROKEN_CONFIG if sized is None else f"its config.json is not usable: {sized}"
    if step is Step.WEIGHTS:
        yield _weights(spec, folder, chain)
        yield _not_built(folder)
    if step is Step.TOKENIZER:
        yield "its tokenizer is missing, broken or of a kind that is not supported. Fetch it again, or check its files"
    if any(isinstance(one, TemplateError) for one in chain):
        yield "its chat template is broken. The operator can put another chat_template.jinja into its folder"


def _made_whole(spec: ModelSpec) -> str:
    """What the operator can do about a model's files. `pull` fetches nothing into a folder of theirs."""
    if spec.repository is None and spec.source != EMBEDDED:
        return "copy whole files of it into the folder that the log names"
    return f"remove the folder that the log names, and fetch them anew with `python -m bot pull {spec.alias}`"


def _not_built(folder: Path) -> str | None:
    """transformers reads the config, and cannot build the model that it describes."""
    try:
        skeleton(folder)
    except Exception:  # anything; the error in the log is of the same
        return _BROKEN_CONFIG
    return None


def not_fetched(spec: ModelSpec, error: BaseException) -> ModelUnavailable:
    """The sentence for a fetch that failed in a way that nobody has foreseen."""
    if any(isinstance(one, OSError) and one.errno in (errno.ENOSPC, errno.EDQUOT) for one in _chain(error)):
        return ModelUnavailable(f"{spec.alias} cannot be fetched: no space is left on the bot's disk.")
    if isinstance(error, PermissionError):
        return ModelUnavailable(f"{spec.alias} cannot be fetched: {NOT_READABLE}.")
    key = "'source'" if spec.repository is None else "'repository' and 'revision'"
    return ModelUnavailable(
        f"{spec.alias} cannot be fetched. The operator finds the reason in the log, and can check {key} in the "
        "catalogue."
    )


def without_config(folder: Path) -> str:
    """What a folder is that has no config.json."""
    return _without_config(folder) or "there is no config.json"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and what it came from."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _config(folder: Path) -> dict[str, Any] | None:
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return config if isinstance(config, dict) else None


def _without_config(folder: Path) -> str | None:
    """The folder's config is missing or cannot be read: what it holds instead."""
    if (folder / "config.json").is_file():
        return "its config.json is broken or was cut off. Fetch it again"
    return instead_of_weights(folder) or ("it has no config.json" if folder.is_dir() else None)


def _unknown_kind(config: dict[str, Any]) -> str | None:
    """An architecture that transformers has no text-writing class for."""
    from transformers.models.auto import configuration_auto
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = config.get("model_type")
    named = config.get("architectures")
    architecture = plain(named[0] if isinstance(named, list) and named else kind)
    if not isinstance(kind, str):
        return "its config.json is broken, for it does not name a model type. Fetch it again"
    library = f"transformers {version('transformers')}"
    known: Collection[str] = configuration_auto.CONFIG_MAPPING_NAMES  # type: ignore[attr-defined]
    if kind not in known:
        code = " Code that comes with it is never run." if "auto_map" in config else ""
        return (
            f"{architecture} is of a kind that is not supported, not a language model {library} knows by itself."
            f"{code} A newer version of the bot may know it"
        )
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return _not_a_writer(architecture)
    return None


def _not_a_writer(architecture: str) -> str:
    return (
        f"{architecture} is not a language model that writes text (a causal language model), so it cannot answer. "
        "Choose another"
    )


def _quantized_already(spec: ModelSpec, config: dict[str, Any], chain: list[BaseException]) -> str | None:
    """A checkpoint that is quantized, in a way that cannot be read here or not be combined with ours."""
    own = config.get("quantization_config") or config.get("compression_config")
    for part in config.values():
        if not own and isinstance(part, dict):
            own = part.get("quantization_config")
    if not isinstance(own, dict):
        return None
    method = plain(own.get("quant_method") or "a way that its config.json does not name")
    if method == "bitsandbytes" or own.get("load_in_4bit") or own.get("load_in_8bit"):
        return None
    shown = _METHODS.get(method, method)
    said = f"it is quantized already, with {shown}"
    package = _package(chain)
    needs = f", and needs the package {package}: `pip install {package}`" if package else ""
    if spec.quantization != "none":
        return (
            f'{said}, and cannot be quantized once more. The operator can set quantization = "none" for it{needs}, '
            "or choose a version of it that is not quantized"
        )
    if package:
        return (
            f"{said}{needs}. The operator can install that, or choose a version of it that is not quantized"
        )
    told = " ".join(map(str, chain))
    if _NEEDS_GPU.search(told):
        return f"{said}, which needs a GPU. The operator can choose a version of it that is not quantized"
    return (
        f"{said}, which transformers {version('transformers')} cannot read here. The operator finds the reason in the "
        "log, and can choose a version of it that is not quantized"
    )


def _missing_package(chain: list[BaseException]) -> str | None:
    package = _package(chain)
    return package and (
        f"it needs the package {package}, which is not installed. The operator can install it: `pip install {package}`"
    )


def _package(chain: list[BaseException]) -> str | None:
    """The package that is missing, where an error tells."""
    for error in chain:
        told = str(error)
        found = _PACKAGE.search(told)
        package = found.group(1).rstrip(".") if found else None
        if package is None and (found := _LIBRARY.search(told)):
            package = (found.group(1) or found.group(2)).lower()
        if package is None and isinstance(error, ImportError) and error.name:
            package = error.name.partition(".")[0]
        # Errors of other kinds advise to try newer versions of these.
        if package is not None and (
            isinstance(error, ImportError) or package not in ("transformers", "torch")
        ):
            return package
    return None


def _weights(spec: ModelSpec, folder: Path, chain: list[BaseException]) -> str | None:
    """What is wrong with the files of the weights."""
    try:
        read_headers(folder, spec.alias)
    except ModelUnavailable as broken:
        said = str(broken).rstrip(".")
        _, _, cause = said.partition(" cannot be used: ")
        return cause or said.replace(spec.alias, "it", 1)
    if any(_WRONG_SHAPE.search(str(one)) for one in chain):
        return "its weights are not whole, or have other shapes than its config.json says. Fetch it again"
    return None

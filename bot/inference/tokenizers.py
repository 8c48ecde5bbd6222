"""Tokenizers, each read once.

Reading one stops every thread of Python for its whole duration, the event loop too: the library lets go of the
interpreter's lock nowhere in it. It takes 0.1 s for smol's 49,000 words and grows with their number. A look at a model,
its load, and every load after it was unloaded share what was read first.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from bot.errors import ModelUnavailable
from bot.inference.catalog import ModelSpec
from bot.inference.files import state

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The files that transformers makes tokenizers of: any of these sets is one. Those that end in .model need the packages
# sentencepiece and protobuf, or tiktoken.
TOKENIZER_FILES: tuple[tuple[str, ...], ...] = (
    ("tokenizer.json",),
    ("tokenizer.model",),
    ("tiktoken.model",),
    ("tekken.json",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("spiece.model",),
    ("sentencepiece.model",),
    ("sentencepiece.bpe.model",),
    ("prophetnet.tokenizer",),
)

_KEPT = 8
_SUFFIXES = {".json", ".jinja", ".model", ".txt", ".tokenizer"}


class TokenizerMissing(ValueError):
    """A folder holds no tokenizer, though transformers may make one of nothing.

    Attributes:
        file: what is missing.
    """

    def __init__(self, file: str) -> None:
        super().__init__(f"there is no {file}")
        self.file = file


def tokenizer_missing(spec: ModelSpec, error: TokenizerMissing) -> ModelUnavailable:
    """What is said of a model whose tokenizer is missing."""
    or_fetch = "" if spec.repository is None else f", or fetch it with `python -m bot pull {spec.alias}`"
    return ModelUnavailable(
        f"{spec.alias} cannot be loaded: its tokenizer is missing, there is no {error.file}. The operator can put the "
        f"tokenizer's files of the same checkpoint beside its weights{or_fetch}."
    )


def has_tokenizer(folder: Path) -> bool:
    """Whether the files of a tokenizer are in a folder."""
    return any(all((folder / name).is_file() for name in names) for names in TOKENIZER_FILES)


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a model's folder, as its files are now. It is shared: nobody may change how it splits text.

    Raises:
        TokenizerMissing: its files are not there.
        OSError, ValueError, KeyError, TypeError, AttributeError: its files are broken; transformers' own.
    """
    return _read(folder, state(folder, _SUFFIXES))


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """What two tokenizers share whose ids mean the same: a hash of the vocabulary, the added tokens and the rules.

    Takes 0.1 s for 150,000 words.
    """
    tokenizer("a")  # sets how it cuts and pads as every encoding does: a file may say otherwise until then
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = json.dumps(tokenizer.get_vocab(), sort_keys=True) if backend is None else backend.to_str()
    return hashlib.sha256(words.encode()).hexdigest()[:32]


@lru_cache(_KEPT)
def _read(folder: Path, _: tuple[str, ...]) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        if has_tokenizer(folder) or not folder.is_dir():
            raise
        raise TokenizerMissing(_missing(folder)) from error
    # Without their files, many classes make a tokenizer of their special tokens and little else.
    added = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    needs_files = bool(type(tokenizer).vocab_files_names)
    is_empty = len(tokenizer) <= len(added)
    if (is_empty or needs_files) and not has_tokenizer(folder):
        raise TokenizerMissing(_missing(folder))
    if is_empty:
        raise ValueError("the tokenizer's vocabulary is empty")
    if (template := _template(tokenizer, folder)) is not None:
        tokenizer.chat_template = template
    return tokenizer


def _missing(folder: Path) -> str:
    """The file that the folder would need first."""
    for names in TOKENIZER_FILES:
        missing = [name for name in names if not (folder / name).is_file()]
        if missing and len(missing) < len(names):
            return missing[0]
    return TOKENIZER_FILES[0][0]


def _template(tokenizer: PreTrainedTokenizerBase, folder: Path) -> str | None:
    """The chat template to use where the tokenizer does not say it itself: of several without a default the first, or
    that of `chat_template.json`, where checkpoints with a processor keep it and transformers' tokenizers do not look.

    Raises:
        ValueError: the file holds no template.
    """
    known = tokenizer.chat_template
    if isinstance(known, dict):
        return known["default"] if "default" in known else next(iter(known.values()), None)
    file = folder / "chat_template.json"
    if known is not None or not file.is_file():
        return None
    held = json.loads(file.read_bytes())
    template = held.get("chat_template") if isinstance(held, dict) else held
    if not isinstance(template, str):
        raise ValueError("chat_template.json holds no chat template")
    return template

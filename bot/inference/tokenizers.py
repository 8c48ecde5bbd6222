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

from bot.inference.files import state

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_KEPT = 8
_SUFFIXES = {".json", ".jinja", ".model", ".txt"}


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a model's folder, as its files are now. It is shared: nobody may change how it splits text.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError: its files are missing or broken; transformers' own.
    """
    return _read(folder, state(folder, _SUFFIXES))


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """What two tokenizers share whose ids mean the same: a hash of the vocabulary, the added tokens and the rules.

    Takes 0.1 s for 150,000 words.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = json.dumps(tokenizer.get_vocab(), sort_keys=True) if backend is None else backend.to_str()
    return hashlib.sha256(words.encode()).hexdigest()[:32]


@lru_cache(_KEPT)
def _read(folder: Path, _: tuple[str, ...]) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    return tokenizer

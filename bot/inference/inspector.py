"""Looking at a model of the catalogue, wherever its files are."""

from __future__ import annotations

from dataclasses import dataclass

from bot.errors import ModelUnavailable
from bot.inference.anatomy import Anatomy, examine
from bot.inference.catalog import EMBEDDED, ModelSpec
from bot.inference.loader import ModelLoader


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found; `missing_bytes` is what a fetch would still bring, 0 if the model is here."""

    spec: ModelSpec
    anatomy: Anatomy
    missing_bytes: int


class Inspector:
    """Looks at models without loading them.

    Args:
        loader: knows where files are.
        hf_token: for gated repositories; None asks as nobody.
    """

    def __init__(self, loader: ModelLoader, hf_token: str | None = None) -> None:
        self._loader = loader
        self._hf_token = hf_token

    def look(self, spec: ModelSpec) -> Inspection:
        """Look at a model; one that is not on this disk is asked for at the Hub, which may take its time.

        Call it off the event loop.

        Raises:
            ModelUnavailable: there is nothing to look at, or it is broken or not supported.
        """
        if folder := self._loader.present(spec):
            return Inspection(spec, examine(folder, spec), 0)
        if spec.source == EMBEDDED:
            raise ModelUnavailable(
                f"{spec.alias} is not on this disk yet: run `python -m bot pull {spec.alias}`, or ask it something."
            )
        from bot.inference import hub

        peeked = hub.peek(spec, self._hf_token)
        return Inspection(spec, examine(peeked.folder, spec, peeked.headers), peeked.missing_bytes)

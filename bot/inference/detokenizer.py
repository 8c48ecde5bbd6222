"""Token ids to text as they come, with no character cut in half."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # what decoding gives for bytes that are no whole character
_LONGEST_CHARACTER_TOKENS = 16  # past this many, such bytes will never become a character: show what there is
_CONTEXT_TOKENS = 8
_WINDOW_TOKENS = 32


class IncrementalDetokenizer:
    """Feed it ids, get the text that has become certain.

    A token's text can depend on the one before it (leading spaces, bytes of one character), so each step
    decodes a short window and gives what is new at its end. The window starts where a character starts,
    wherever there is such a place; its length does not grow with the answer.

    Args:
        decode: ids to text, special tokens left out.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._boundary = 0  # the last place in the window where no character was incomplete
        self._given = 0  # how many characters of the window's text were given already
        self._pending = 0  # how many ids came since text was given

    def feed(self, token_ids: Sequence[int]) -> str:
        """The text that `token_ids` add, or "" while a character is incomplete."""
        return "".join(map(self._step, token_ids))

    def flush(self) -> str:
        """The rest, at the end of the answer."""
        return self._take(self._decode(self._window))

    def _step(self, token_id: int) -> str:
        self._window.append(token_id)
        self._pending += 1
        text = self._decode(self._window)
        whole = not text.endswith(_INCOMPLETE)
        given_up = self._pending >= _LONGEST_CHARACTER_TOKENS
        new = self._take(text if whole or given_up else text.rstrip(_INCOMPLETE))
        if new or whole:
            self._pending = 0
        if whole:
            self._keep(len(self._window) - self._boundary, len(text))
            self._boundary = len(self._window)
        elif len(self._window) >= _WINDOW_TOKENS:  # every token ends inside a character
            self._keep(self._pending + _CONTEXT_TOKENS, len(text))
            self._boundary = 0
        return new

    def _take(self, certain: str) -> str:
        new = certain[self._given :]
        self._given += len(new)
        return new

    def _keep(self, tokens: int, length: int) -> None:
        """Shorten the window; what was not given yet is at its end and stays so."""
        not_given = length - self._given
        self._window = self._window[-tokens:]
        self._given = max(0, len(self._decode(self._window)) - not_given)

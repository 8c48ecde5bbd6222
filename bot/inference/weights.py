"""How far transformers is with a checkpoint's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

_DESCRIPTION = "Loading weights"  # what transformers calls its own bar


@contextmanager
def weights_reported(report: Callable[[float], None]) -> Iterator[None]:
    """While the block runs, `report` hears what part of the weights is in place, 0 to 1.

    It sits where transformers would draw a progress bar, of which there is one for the whole process. What
    `report` raises ends the load.
    """
    from transformers.utils import logging

    def hook(factory: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if options.get("desc") == _DESCRIPTION and args:
            return _Counted(args[0], report)
        return factory(*args, **options)

    before = logging.set_tqdm_hook(hook)
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)


class _Counted:
    """Stands in for a bar that is iterated over."""

    def __init__(self, items: Any, report: Callable[[float], None]) -> None:
        self._items = items
        self._report = report

    def __iter__(self) -> Iterator[Any]:
        total = len(self._items)
        for done, item in enumerate(self._items):
            self._report(done / total)
            yield item

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_, **__: None

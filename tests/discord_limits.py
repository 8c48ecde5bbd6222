"""Discord's limits on what a bot sends, API v10, looked for in the body of a request. Lengths in UTF-16 units."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_EMBED = {"title": 256, "description": 4_096}
_TEXTS: dict[str, dict[int | None, int]] = {
    "label": {2: 80, None: 100},
    "placeholder": {None: 150},
    "custom_id": {None: 100},
}


def length(text: object) -> int:
    """As Discord's clients count."""
    return len(str(text).encode("utf-16-le")) // 2


def too_much(body: Any) -> list[str]:
    """What of a body is over a limit."""
    if not isinstance(body, dict):
        return []
    data = body["data"] if isinstance(body.get("data"), dict) else body
    return [*_content(data), *_choices(data), *_embeds(data), *_components(data.get("components") or [])]


def _content(data: dict[str, Any]) -> Iterator[str]:
    if length(data.get("content") or "") > 2_000:
        yield f"content: {length(data['content'])}"


def _choices(data: dict[str, Any]) -> Iterator[str]:
    choices = data.get("choices") or []
    if len(choices) > 25:
        yield f"choices: {len(choices)}"
    for choice in choices:
        for part in ("name", "value"):
            if not 1 <= length(choice[part]) <= 100:
                yield f"choice {part}: {length(choice[part])}"


def _embeds(data: dict[str, Any]) -> Iterator[str]:
    embeds = data.get("embeds") or []
    whole = 0
    for embed in embeds:
        fields = embed.get("fields") or []
        texts: list[tuple[str, int]] = [(embed.get(part) or "", limit) for part, limit in _EMBED.items()]
        texts += [((embed.get("footer") or {}).get("text") or "", 2_048)]
        texts += [(field["name"], 256) for field in fields] + [(field["value"], 1_024) for field in fields]
        whole += sum(length(text) for text, _ in texts)
        yield from (f"embed: {length(text)} of {limit}" for text, limit in texts if length(text) > limit)
        if len(fields) > 25:
            yield f"fields: {len(fields)}"
        yield from (
            "a field without a name or a value"
            for field in fields
            if not (field["name"].strip() and field["value"].strip())
        )
    if whole > 6_000:
        yield f"embeds: {whole}"


def _components(components: list[dict[str, Any]]) -> Iterator[str]:
    for component in components:
        yield from _components(component.get("components") or [])
        for part, limits in _TEXTS.items():
            limit = limits.get(component.get("type"), limits[None])
            if length(component.get(part) or "") > limit:
                yield f"{part}: {length(component[part])}"
        options = component.get("options") or []
        if len(options) > 25:
            yield f"options: {len(options)}"
        for option in options:
            for part in ("label", "value", "description"):
                if length(option.get(part) or "") > 100:
                    yield f"option {part}: {length(option[part])}"

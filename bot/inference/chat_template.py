"""What a model's chat template accepts, found out by trying it: model names say nothing reliable.

A template is a small program that came with the tokenizer. Some raise on a system message (Gemma), some drop
it without a word (early Phi-3), some raise unless user and assistant take turns (Gemma, Mixtral). Each is
tried once with a few words, and the messages are put into a form that it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jinja2.exceptions import TemplateError

from bot.chat.messages import ChatMessage, Role
from bot.chat.prompt import Messages, alternate, fold_system

# Renders messages in the form transformers takes them, or raises what the template raises.
Render = Callable[[list[dict[str, str]]], str]

_PROBE = "punchline-probe"


@dataclass(frozen=True, slots=True)
class TemplateTraits:
    """What a template takes."""

    accepts_system: bool
    needs_alternation: bool


def probe(render: Render) -> TemplateTraits:
    """Try a template's ways.

    Raises:
        TemplateError: it does not even take one question.
    """
    question = {"role": "user", "content": "Hello"}
    render([question])
    system = {"role": "system", "content": _PROBE}
    accepts_system = _shows(render, [system, question])
    repeated = [question, {"role": "user", "content": _PROBE}]
    return TemplateTraits(accepts_system=accepts_system, needs_alternation=not _shows(render, repeated))


def adapt(messages: Sequence[ChatMessage], traits: TemplateTraits) -> Messages:
    """The same conversation in a form that a template with these traits takes."""
    adapted = tuple(messages) if traits.accepts_system else fold_system(messages)
    return alternate(adapted) if traits.needs_alternation else adapted


def as_dicts(messages: Sequence[ChatMessage]) -> list[dict[str, str]]:
    """The form transformers takes messages in."""
    return [{"role": str(message.role), "content": message.content} for message in messages]


def plain(messages: Sequence[ChatMessage]) -> str:
    """A prompt for a base model, which has no template: who says what, and the answer's beginning."""
    names = {Role.SYSTEM: "", Role.USER: "Question: ", Role.ASSISTANT: "Answer: "}
    return "\n\n".join([*(f"{names[m.role]}{m.content}" for m in messages), "Answer:"])


def _shows(render: Render, messages: list[dict[str, str]]) -> bool:
    try:
        return _PROBE in render(messages)
    except TemplateError:
        return False

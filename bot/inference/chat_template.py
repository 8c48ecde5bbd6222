"""What a model's chat template accepts, found out by trying it: model names say nothing reliable.

A template is a small program that came with the tokenizer. Some raise on a system message (Gemma), some drop
it without a word (early Phi-3), some need one, some raise unless user and assistant take turns (Gemma, Mixtral),
some read content only as a list of parts. Each is tried with a few words, and the messages are put into a form
that it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jinja2.exceptions import TemplateError, TemplateSyntaxError

from bot.chat.messages import ChatMessage, Role
from bot.chat.prompt import Messages, alternate, fold_assistant, fold_system
from bot.errors import ModelUnavailable

# Renders messages in the form transformers takes them, or raises what the template raises.
Render = Callable[[list[dict[str, Any]]], str]

# What a template raises on messages that it does not take: its own `raise_exception`, and whatever an expression in it
# raises on values that its author did not think of.
REFUSALS = (
    TemplateError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)

# Letters only: a template may trim, capitalize or escape content.
_FIRST, _SECOND, _THIRD = "punchlineprobe", "punchlinesecond", "punchlinethird"
_HELPER = "You are a helpful assistant."

_FORMS: tuple[frozenset[Role], ...] = (
    frozenset(),
    frozenset(Role),
    frozenset({Role.USER}),
    frozenset({Role.SYSTEM}),
)


class TakesNoQuestion(ValueError):
    """A template that shows a user's message in none of the forms that we know."""


@dataclass(frozen=True, slots=True)
class TemplateTraits:
    """What a template takes.

    Attributes:
        accepts_system: a system message's words arrive.
        needs_alternation: it takes user and assistant by turns only, or drops one of two neighbours.
        requires_system: without a system message it raises, or drops the question.
        accepts_assistant: earlier answers arrive.
        parts: the roles whose content it reads as `[{"type": "text", "text": …}]`; for the others it is a string.
    """

    accepts_system: bool
    needs_alternation: bool
    requires_system: bool = False
    accepts_assistant: bool = True
    parts: frozenset[Role] = frozenset()


def probe(render: Render) -> TemplateTraits:
    """Try a template's ways.

    Raises:
        TemplateSyntaxError: it cannot be read.
        TakesNoQuestion: a question does not arrive in any of them; its cause is what the template raised, if it did.
    """
    traits = _question_form(render)

    def shown(*messages: ChatMessage, parts: frozenset[Role] = traits.parts) -> bool:
        needed = (_system(_HELPER),) if traits.requires_system and messages[0].role is not Role.SYSTEM else ()
        return _shows(render, (*needed, *messages), messages, parts) is True

    for parts in _with_and_without(Role.SYSTEM, traits.parts):
        if shown(_system(_SECOND), _user(_FIRST), parts=parts):
            traits = replace(traits, accepts_system=True, parts=parts)
            break
    traits = replace(traits, needs_alternation=not shown(_user(_FIRST), _user(_SECOND), parts=traits.parts))
    for parts in _with_and_without(Role.ASSISTANT, traits.parts):
        if shown(_user(_FIRST), ChatMessage(Role.ASSISTANT, _SECOND), _user(_THIRD), parts=parts):
            return replace(traits, parts=parts)
    return replace(traits, accepts_assistant=False)


def takes_no_question(alias: str) -> ModelUnavailable:
    """What is said of a model whose template is one of those."""
    return ModelUnavailable(
        f"{alias} cannot be used: its chat template takes no question in any form that the bot knows. The operator "
        "finds more in the log, and can put another template into the model's chat_template.jinja."
    )


def adapt(messages: Sequence[ChatMessage], traits: TemplateTraits) -> Messages:
    """The same conversation in a form that a template with these traits takes."""
    adapted = tuple(messages) if traits.accepts_system else fold_system(messages)
    if not traits.accepts_assistant:
        adapted = fold_assistant(adapted)
    if traits.needs_alternation or not traits.accepts_assistant:
        adapted = alternate(adapted)
    if traits.requires_system and adapted[0].role is not Role.SYSTEM:
        adapted = (_system(_HELPER), *adapted)
    return adapted


def as_dicts(messages: Sequence[ChatMessage], parts: frozenset[Role] = frozenset()) -> list[dict[str, Any]]:
    """The form transformers takes messages in.

    Args:
        messages: a conversation.
        parts: the roles whose content is a list of parts.
    """
    return [
        {
            "role": str(message.role),
            "content": [{"type": "text", "text": message.content}]
            if message.role in parts
            else message.content,
        }
        for message in messages
    ]


def plain(messages: Sequence[ChatMessage]) -> str:
    """A prompt for a base model, which has no template: who says what, and the answer's beginning."""
    names = {Role.SYSTEM: "", Role.USER: "Question: ", Role.ASSISTANT: "Answer: "}
    return "\n\n".join([*(f"{names[m.role]}{m.content}" for m in messages), "Answer:"])


def _question_form(render: Render) -> TemplateTraits:
    """How a single question arrives; the other traits are not known yet."""
    question = _user(_FIRST)
    refusal: Exception | None = None
    for needed in ((), (_system(_HELPER),)):
        for parts in _FORMS:
            shown = _shows(render, (*needed, question), (question,), parts)
            if shown is True:
                return TemplateTraits(
                    accepts_system=False,
                    needs_alternation=False,
                    requires_system=bool(needed),
                    parts=parts,
                )
            if isinstance(shown, TemplateSyntaxError):
                raise shown
            if isinstance(shown, Exception):
                refusal = refusal or shown
    raise TakesNoQuestion("a question does not arrive in what the template writes") from refusal


def _with_and_without(role: Role, parts: frozenset[Role]) -> tuple[frozenset[Role], frozenset[Role]]:
    return parts, parts ^ {role}


def _shows(
    render: Render, messages: Sequence[ChatMessage], wanted: Iterable[ChatMessage], parts: frozenset[Role]
) -> bool | Exception:
    """Whether the wanted messages' words are in what is rendered, or what the template raised."""
    try:
        text = render(as_dicts(messages, parts)).casefold()
    except REFUSALS as error:
        return error
    return all(one.content.casefold() in text for one in wanted)


def _system(content: str) -> ChatMessage:
    return ChatMessage(Role.SYSTEM, content)


def _user(content: str) -> ChatMessage:
    return ChatMessage(Role.USER, content)

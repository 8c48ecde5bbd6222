"""Each well-known template gets every conversation in a form it takes, with nobody's words lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.exceptions import TemplateError

from bot.chat.messages import ChatMessage, Role
from bot.chat.prompt import joke_messages
from bot.inference.chat_template import TemplateTraits, adapt, as_dicts, plain, probe
from tests.inference import tiny

TAKES_ALL = TemplateTraits(accepts_system=True, needs_alternation=False)
NO_SYSTEM = TemplateTraits(accepts_system=False, needs_alternation=False)
TURNS_ONLY = TemplateTraits(accepts_system=False, needs_alternation=True)

KNOWN = {
    "ChatML, Qwen": (tiny.CHATML, TAKES_ALL),
    "Llama 3.1": (tiny.LLAMA_3, TAKES_ALL),
    "Gemma 2": (tiny.GEMMA_2, TURNS_ONLY),
    "Mixtral 0.1": (tiny.MIXTRAL_1, TURNS_ONLY),
    "early Phi-3": (tiny.PHI_3_EARLY, NO_SYSTEM),
}
of_each_kind = pytest.mark.parametrize(("template", "traits"), KNOWN.values(), ids=KNOWN)

Render = Callable[[list[dict[str, str]]], str]


def rendered(tokenizer: object, messages: list[dict[str, str]]) -> str:
    """As the loader does it: transformers' own rendering of the template."""
    text = tokenizer.apply_chat_template(  # type: ignore[attr-defined]
        messages, tokenize=False, add_generation_prompt=True
    )
    assert isinstance(text, str)
    return text


_TOKENIZER = tiny.byte_level()


def renderer(template: str) -> Render:
    def render(messages: list[dict[str, str]]) -> str:
        _TOKENIZER.chat_template = template
        return rendered(_TOKENIZER, messages)

    return render


@of_each_kind
def test_what_a_template_takes_is_found_out(template: str, traits: TemplateTraits) -> None:
    assert probe(renderer(template)) == traits


@of_each_kind
def test_a_joke_with_a_system_message_is_asked_for_in_every_template(
    template: str, traits: TemplateTraits
) -> None:
    messages = joke_messages(topic="pandas", audience="a room of data scientists")
    text = renderer(template)(as_dicts(adapt(messages, traits)))
    for message in messages:
        assert message.content in text
    assert text.index(messages[0].content) < text.index(messages[1].content)


@of_each_kind
@given(
    conversation=st.lists(
        st.builds(
            ChatMessage, st.sampled_from(Role), st.text("abcdefghijklmnop{}%<>", min_size=4, max_size=8)
        ),
        min_size=1,
        max_size=6,
    )
)
def test_any_conversation_is_taken_with_every_word_by_those_that_are_particular(
    template: str, traits: TemplateTraits, conversation: list[ChatMessage]
) -> None:
    text = renderer(template)(as_dicts(adapt(conversation, traits)))
    for message in conversation:
        assert message.content in text


def test_templates_that_refuse_would_have_refused_and_the_silent_one_lost_words() -> None:
    messages = as_dicts(joke_messages(topic="pandas", audience="data scientists"))
    for template in (tiny.GEMMA_2, tiny.MIXTRAL_1):
        with pytest.raises(TemplateError):
            renderer(template)(messages)
    assert "comedian" not in renderer(tiny.PHI_3_EARLY)(messages)


def test_a_template_that_takes_everything_gets_the_messages_as_they_are() -> None:
    messages = joke_messages(topic=None, audience="cats")
    assert adapt(messages, TAKES_ALL) == messages


def test_a_template_that_takes_turns_and_a_system_message_keeps_it() -> None:
    template = """
{%- for message in messages if message.role != "system" -%}
  {%- if message.role != ("user" if loop.index0 is even else "assistant") -%}
    {{- raise_exception("by turns") -}}
  {%- endif -%}
{%- endfor -%}
{%- for message in messages -%}{{- message.role + ": " + message.content + "\n" -}}{%- endfor -%}
"""
    traits = probe(renderer(template))
    assert traits == TemplateTraits(accepts_system=True, needs_alternation=True)
    conversation = [ChatMessage(Role.SYSTEM, "Be brief."), ChatMessage(Role.ASSISTANT, "Welcome")]
    text = renderer(template)(as_dicts(adapt(conversation, traits)))
    assert text == "system: Be brief.\nuser: Earlier you said: Welcome\n"


def test_a_fault_in_our_own_rendering_is_not_taken_for_a_templates_refusal() -> None:
    def broken(messages: list[dict[str, str]]) -> str:
        if len(messages) > 1:
            raise RuntimeError("out of order")
        return "Hello"

    with pytest.raises(RuntimeError):
        probe(broken)


def test_a_base_model_without_template_gets_questions_and_answers() -> None:
    tokenizer = tiny.byte_level()
    assert tokenizer.chat_template is None
    conversation = [
        ChatMessage(Role.SYSTEM, "Be brief."),
        ChatMessage(Role.USER, "Why?"),
        ChatMessage(Role.ASSISTANT, "Because."),
        ChatMessage(Role.USER, "Why?"),
    ]
    assert plain(conversation) == (
        "Be brief.\n\nQuestion: Why?\n\nAnswer: Because.\n\nQuestion: Why?\n\nAnswer:"
    )

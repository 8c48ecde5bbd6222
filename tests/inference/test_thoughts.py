"""However a model marks its thoughts, they arrive in the one form that the rest of the bot knows."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from bot.chat.messages import ChatMessage, Role
from bot.errors import CatalogError
from bot.inference.batches import Batches
from bot.inference.catalog import SamplingParams, load_catalog
from bot.inference.engine import Event, GenerationRequest, TextDelta
from bot.inference.loader import LoadedModel, ModelLoader
from bot.inference.run import Run
from bot.inference.thoughts import CANONICAL, HARMONY, AnswerText, Marks, ThoughtMarks
from bot.replies.think import ThinkFilter
from tests.inference import tiny
from tests.inference.saying import save_saying, spec_of, with_words

CASES = int(os.environ.get("PROPERTY_CASES", "2000"))  # continuous integration: 20,000

OPENED = tiny.CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
HARMONY_TEMPLATE = """
{%- for message in messages -%}
  {%- if message.role == "assistant" -%}
    <|start|>assistant<|channel|>final<|message|>{{ message.content }}
    {{- "<|return|>" if loop.last and not add_generation_prompt else "<|end|>" -}}
  {%- else -%}
    <|start|>{{ message.role }}<|message|>{{ message.content }}<|end|>
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}
"""
HARMONY_TOKENS = (
    "<|start|>",
    "<|channel|>",
    "<|message|>",
    "<|end|>",
    "<|constrain|>",
    "<|call|>",
    "<|return|>",
)
# One token each, so that a token is followed by the same one each time.
CHANNELS = ("analysis", "final", "commentary to=functions.search ", "json", "assistant ")


def chatml(*, begins: str = "", says: str = "") -> str:
    """ChatML with something before the first message, and something behind the beginning of the answer."""
    return begins + tiny.CHATML.replace("assistant\n{% endif", f"assistant\n{says}{{% endif")


def harmony(*, says: str = "") -> str:
    """The same with something behind the beginning of the answer."""
    return HARMONY_TEMPLATE.replace("<|start|>assistant{%- endif", f"<|start|>assistant{says}{{%- endif")


@dataclass(frozen=True)
class Way:
    """How a model writes, and what is to come of it."""

    says: list[str]
    answer: str
    thoughts: str = ""
    template: str = tiny.CHATML
    special: tuple[str, ...] = ()
    entry: dict[str, Any] = field(default_factory=dict)


WAYS = {
    "as-ever": Way(["<think>", "Hm.", "</think>", "\n\nHa."], "Ha.", "Hm."),
    "no-thoughts": Way(["Ha", " ha."], "Ha ha."),
    "opened-in-the-prompt": Way(["Hm.", "\n</think>", "\n\nHa."], "Ha.", "Hm.", OPENED),
    "opened-without-a-line": Way(["Hm.", "</think>", "Ha."], "Ha.", "Hm.", chatml(says="<think>")),
    "opened-with-words": Way(["Hm.", "</think>", "Ha."], "Ha.", "Hm.", chatml(says="<think>\nOkay, ")),
    "opened-with-words-behind-capitals": Way(
        ["Hm.", "</think>", "Ha."],
        "Ha.",
        "Hm.",
        chatml(says="<think>\nOkay, ").replace("e.content", "e.content | upper"),
    ),
    "opened-with-words-behind-letters-alone": Way(
        ["Hm.", "</think>", "Ha."],
        "Ha.",
        "Hm.",
        chatml(says="<think>\nOkay, ").replace("e.content", "e.content | replace('-', '') | title"),
    ),
    "closed-because-of-how-the-question-ends": Way(
        ["Ha."],
        "Ha.",
        "",
        chatml(says="<think>\n{% if messages[-1].content.endswith('there?') %}\n</think>\n{% endif %}"),
    ),
    "opened-because-of-how-the-question-ends": Way(
        ["Hm.", "</think>", "Ha."],
        "Ha.",
        "Hm.",
        chatml(says="{% if messages[-1].content[-1] == '?' %}<think>\n{% endif %}"),
    ),
    "opened-and-written-again": Way(["<think>", "\nHm.", "</think>", "Ha."], "Ha.", "Hm.", OPENED),
    "opened-by-special-tokens": Way(
        ["Hm.", "</think>", "Ha."], "Ha.", "Hm.", OPENED, ("<think>", "</think>")
    ),
    "special-tokens": Way(["<think>", "Hm.", "</think>", "Ha."], "Ha.", "Hm.", special=("<think>", "</think>")),
    "closing-in-many-tokens": Way(["Hm.", *"</think>", "Ha."], "Ha.", "Hm.", OPENED),
    "opened-and-closed-in-the-prompt": Way(["Ha."], "Ha.", "", chatml(says="<think>\n\n</think>\n\n")),
    "opened-elsewhere-in-the-prompt": Way(["Ha."], "Ha.", "", chatml(begins="Do not use <think> here.\n")),
    "never-closed": Way(["Hm."], "", "Hm.", OPENED),
    "thinking": Way(["<thin", "king>", "Hm.", "</thin", "king>\n", "Ha."], "Ha.", "Hm."),
    "magistral": Way(
        ["[THINK]", "Hm.", "[/THINK]", "Ha."],
        "Ha.",
        "Hm.",
        chatml(begins="Think in [THINK]...[/THINK] first.\n"),
        ("[THINK]", "[/THINK]"),
    ),
    "magistral-spelt-out": Way(["[TH", "INK]", "Hm.", "[/TH", "INK] ", "Ha."], "Ha.", "Hm."),
    "seed": Way(["<seed:think>", "Hm.", "</seed:think>", "Ha."], "Ha.", "Hm."),
    "seed-special": Way(
        ["<seed:think>", "Hm.", "</seed:think>", "Ha."],
        "Ha.",
        "Hm.",
        special=("<seed:think>", "</seed:think>"),
    ),
    "begin-of-thought": Way(
        [
            *("<|begin_of_thought|>", "Hm.", "<|end_of_thought|>", "\n\n"),
            *("<|begin_of_solution|>", "Ha.", "<|end_of_solution|>"),
        ],
        "Ha.",
        "Hm.",
    ),
    "granite-3.2": Way(
        ["Here is my thought process:", " Hm.\n", "Here is my response:", " Ha."],
        "Ha.",
        "Hm.",
        chatml(begins="Write 'Here is my thought process:' and then 'Here is my response:'.\n"),
    ),
    "granite-3.3": Way(
        ["<think>", "Hm.", "</think>", "<response>", "Ha.", "</response>"],
        "Ha.",
        "Hm.",
        chatml(begins="Use <think></think> and <response></response>.\n"),
    ),
    "command-a": Way(
        ["<|START_THINKING|>", "Hm.", "<|END_THINKING|>", "<|START_RESPONSE|>", "Ha.", "<|END_RESPONSE|>"],
        "Ha.",
        "Hm.",
        special=("<|START_THINKING|>", "<|END_THINKING|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ),
    "gemma-4": Way(
        ["<|channel>", "thought", "\nHm.\n", "<channel|>", "Ha."],
        "Ha.",
        "Hm.",
        special=("<|channel>", "<channel|>"),
    ),
    "gemma-4-without-thoughts": Way(
        ["<|channel>", "thought\n", "<channel|>", "Ha."], "Ha.", special=("<|channel>", "<channel|>")
    ),
    "gemma-4-not-marked-special": Way(
        ["<|channel>", "thou", "ght\nHm.", "<channel|>", "Ha."],
        "Ha.",
        "Hm.",
        chatml(begins="{# <|channel> #}"),
    ),
    "gemma-4-opened-in-the-prompt": Way(
        ["thoughts.", "<channel|>", "Ha."],
        "Ha.",
        "thoughts.",
        chatml(says="<|channel>thought\n"),
        ("<|channel>", "<channel|>"),
    ),
    "gemma-4-closed-in-the-prompt": Way(
        ["Ha."], "Ha.", "", chatml(says="<|channel>thought\n<channel|>"), ("<|channel>", "<channel|>")
    ),
    "longcat": Way(["<longcat_think>", "Hm.", "</longcat_think>", "Ha."], "Ha.", "Hm."),
    "exaone": Way(["Hm.", "</thought>", "Ha."], "Ha.", "Hm.", chatml(says="<thought>\n")),
    "channel-opened-in-the-prompt": Way(
        ["Hm.", "<|end|>"], "", "Hm.", harmony(says="<|channel|>analysis<|message|>"), HARMONY_TOKENS
    ),
    "from-one-channel-to-the-other": Way(
        ["Hm.", "<|end|>", "<|start|>", "assistant", "<|channel|>", "final", "<|message|>", "Ha."],
        "Ha.",
        "Hm.",
        harmony(says="<|channel|>analysis<|message|>Let me see. "),
        HARMONY_TOKENS,
    ),
    "answer-channel-opened-in-the-prompt": Way(
        ["Ha."], "Ha.", "", harmony(says="<|channel|>final<|message|>"), HARMONY_TOKENS
    ),
    "thinking-switched-off": Way(["Ha."], "Ha.", "", tiny.QWEN_3, entry={"enable_thinking": False}),
    "a-special-token-in-the-middle-of-a-line": Way(
        ["So ", "[THINK]", "Hm.", "[/THINK]", "Ha."], "So \nHa.", "Hm.", special=("[THINK]", "[/THINK]")
    ),
    "a-thought-about-the-tag": Way(
        ["[THINK]", "Use ", "</think>", " then.", "[/THINK]", "Ha."],
        "Ha.",
        "Use <\\/think> then.",
        special=("[THINK]", "[/THINK]"),
    ),
    "said-in-a-line": Way(
        ["Write ", "<think>", ", ", "[THINK]", " or ", "<thinking>", "."],
        "Write <think>, [THINK] or <thinking>.",
    ),
    "said-in-code": Way(["```html\n", "<thinking>", "\n</thinking>", "\n```"], "```html\n<thinking>\n</thinking>\n```"),
    "a-closing-tag-alone": Way(["</think>", " closes."], "</think> closes."),
    "the-operator-names-the-marks": Way(
        ["(thoughts:", " Hm. ", "end)", "\nHa."], "Ha.", "Hm.", entry={"thoughts": ["(thoughts:", "end)"]}
    ),
    "the-operator-names-the-marks-of-the-prompt": Way(
        ["Hm.", "</why>", "Ha."], "Ha.", "Hm.", chatml(says="<why>"), entry={"thoughts": ["<why>", "</why>"]}
    ),
    "the-operator-names-marks-of-several-special-tokens": Way(
        ["<|think|>", "Hm.", "<|end|>", "<|begin|>", "assistant", "<|content|>", "Ha."],
        "Ha.",
        "Hm.",
        special=("<|think|>", "<|end|>", "<|begin|>", "<|content|>"),
        entry={"thoughts": ["<|think|>", "<|end|><|begin|>assistant<|content|>"]},
    ),
    "the-operator-says-none": Way(["Hm.", "</think>", "Ha."], "Hm.</think>Ha.", "", OPENED, entry={"thoughts": "none"}),
    "the-operator-says-none-and-it-is-written": Way(
        ["<think>", "Hm.", "</think>", "Ha."], "\\<think>Hm.</think>Ha.", entry={"thoughts": "none"}
    ),
}  # fmt: skip


def saying(folder: Path, way: Way) -> LoadedModel:
    """A model that writes in this way."""
    words = [one for one in (*way.says, *CHANNELS, "<|im_start|>") if one not in way.special and len(one) > 1]
    tokenizer = with_words(tiny.byte_level(), *words, special=way.special)
    save_saying(folder / "checkpoint", tokenizer, way.says, way.template)
    return ModelLoader(folder).load(spec_of(folder / "checkpoint", **way.entry), lambda *_: None)


def request(loaded: LoadedModel, *messages: ChatMessage, **params: Any) -> GenerationRequest:
    asked = messages or (ChatMessage(Role.USER, "Why is <think> [THINK] there?"),)
    return GenerationRequest(loaded.spec, asked, SamplingParams(temperature=0.0, **params))


async def batched(loaded: LoadedModel, asked: GenerationRequest) -> list[Event]:
    async def nothing() -> None:
        pass

    batches = Batches(requests=2, make_room=nothing)
    try:
        return [event async for event in batches.generate(loaded, asked)]
    finally:
        await batches.aclose()


async def one_at_a_time(loaded: LoadedModel, asked: GenerationRequest) -> list[Event]:
    events: list[Event] = []
    await asyncio.to_thread(Run(loaded, asked).run, events.append, threading.Event())
    return events


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def apart(text: str) -> tuple[str, str]:
    """The answer, and the thoughts."""
    think = ThinkFilter()
    answer = think.feed(text) + think.flush()
    return answer.strip(), think.thoughts.strip()


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
async def test_what_a_model_thinks_is_apart_from_its_answer_in_whatever_way_it_marks_it(
    way: Way, tmp_path: Path
) -> None:
    loaded = saying(tmp_path, way)
    events = await one_at_a_time(loaded, request(loaded))
    assert apart(text_of(events)) == (way.answer, way.thoughts)


@pytest.mark.parametrize(
    "name", ["as-ever", "opened-in-the-prompt", "magistral", "from-one-channel-to-the-other"]
)
async def test_those_who_are_answered_together_are_answered_the_same(name: str, tmp_path: Path) -> None:
    loaded = saying(tmp_path, WAYS[name])
    events = await one_at_a_time(loaded, request(loaded))
    assert text_of(await batched(loaded, request(loaded))) == text_of(events)


HARMONY_TOKENIZER = with_words(tiny.byte_level(chat_template=HARMONY_TEMPLATE), special=HARMONY_TOKENS)
PLAIN = tiny.byte_level(chat_template=tiny.CHATML)
MAGISTRAL = with_words(tiny.byte_level(chat_template=tiny.CHATML), special=("[THINK]", "[/THINK]"))


def decoding(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    text = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


def written(
    tokenizer: PreTrainedTokenizerBase, text: str, opened: Marks | None = None, *, cut: bool = False
) -> str:
    """What is handed over of a text that a model with this tokenizer writes."""
    answer = AnswerText(partial(decoding, tokenizer), ThoughtMarks.find(tokenizer), opened)
    return answer.feed(tokenizer(text, add_special_tokens=False)["input_ids"]) + answer.flush(cut=cut)


ANALYSIS, FINAL = "<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{ANALYSIS}Hm.{FINAL}Ha.", ("Ha.", "Hm.")),
        ("<|channel|>final<|message|>Ha.", ("Ha.", "")),
        ("Ha.", ("Ha.", "")),
        (ANALYSIS + "Hm.", ("", "Hm.")),
        (f"{ANALYSIS}Hm.<|end|>", ("", "Hm.")),
        (f"{ANALYSIS}Hm.<|end|><|start|>assistant<|channel|>fin", ("", "Hm.")),
        (
            f"{ANALYSIS}Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>I look.{FINAL}Ha.",
            ("Ha.", "Hm.\nI look."),
        ),
        (
            "<|channel|>commentary to=functions.search <|constrain|>json<|message|>{}<|call|>",
            ("", "{}"),
        ),
        (f"{ANALYSIS}The tag </think> ends it.{FINAL}Ha.", ("Ha.", "The tag <\\/think> ends it.")),
        (f"{ANALYSIS}{FINAL}Ha.", ("Ha.", "")),
    ],
)
def test_only_the_final_channel_is_the_answer(text: str, expected: tuple[str, str]) -> None:
    assert apart(written(HARMONY_TOKENIZER, text)) == expected


def test_channels_are_known_too_where_the_vocabulary_does_not_have_their_marks() -> None:
    tokenizer = tiny.byte_level(chat_template=HARMONY_TEMPLATE)
    tokenizer.chat_template = HARMONY_TEMPLATE + "{# <|channel|>analysis<|message|> #}"
    assert apart(written(tokenizer, f"{ANALYSIS}Hm.{FINAL}Ha.")) == ("Ha.", "Hm.")
    assert apart(written(tokenizer, "<|channel|>final<|message|>Ha.")) == ("Ha.", "")


@pytest.mark.timeout(600)  # many cases, on machines that are shared
@settings(max_examples=CASES // 10, deadline=None)
@given(
    marks=st.sampled_from(["thinking", "|begin_of_thought|", "seed:think"]),
    thought=st.text("abc <>/\n`", max_size=40),
    answer=st.text("xyz <>/\n`", max_size=40),
)
def test_nothing_of_a_thought_is_in_the_answer_and_nothing_of_the_answer_is_lost(
    marks: str, thought: str, answer: str
) -> None:
    closing = "<|end_of_thought|>" if "begin" in marks else f"</{marks}>"
    text = written(PLAIN, f"<{marks}>{thought}{closing}Z{answer}")
    assert apart(text) == (f"Z{answer}".strip(), thought.strip())


@settings(max_examples=CASES // 10, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["<think>", "</think>", "<", "think", ">", "```", "\n", " ", "a", "漢", "\\", "</thinking>"]
        ),
        max_size=25,
    ).map("".join)
)
def test_what_a_model_writes_with_the_usual_tags_or_none_is_handed_over_as_it_is(text: str) -> None:
    assert written(PLAIN, text) == text


@pytest.mark.parametrize(
    "text",
    [
        "Look:\n<thinking>\nis a tag",
        "a\n[THINK] b",
        "`` `<thinking>`",
        "```\n[THINK]\n```",
        "<thi",
        "[",
        "<seed:",
    ],
)
def test_what_is_said_about_tags_in_an_answer_is_an_answer(text: str) -> None:
    assert written(PLAIN, text) == text


def test_where_an_answer_is_cut_what_may_be_half_a_mark_is_left_for_what_comes_after_it() -> None:
    tokenizer = MAGISTRAL
    marks = ThoughtMarks.find(tokenizer)
    said = tokenizer("[THINK]Hm. </thi", add_special_tokens=False)["input_ids"]
    first = written(tokenizer, "[THINK]Hm. </thi", cut=True)
    second = AnswerText(partial(decoding, tokenizer), marks, None, said)
    rest = second.feed(tokenizer("nk>[/THINK]Ha.", add_special_tokens=False)["input_ids"])
    assert apart(first + rest) == ("Ha.", "Hm. <\\/think>")


@pytest.mark.parametrize(
    "text",
    [
        "`" * 20_000,
        "[" * 20_000,
        "[THINK]" + "</think>" * 3_000,
        "\n<" * 10_000,
        "[THINK]" + "[/THIN" * 3_000,
    ],
    ids=["ticks", "brackets", "foreign-closings", "beginnings", "half-closings"],
)
def test_the_text_of_a_token_takes_no_longer_the_more_was_written(text: str) -> None:
    """What is held back, and looked at once more, is shorter than a mark."""
    answer = AnswerText(lambda ids: "".join(map(chr, ids)), ThoughtMarks.find(MAGISTRAL))
    longest = 0
    for character in text:
        answer.feed([ord(character)])
        longest = max(longest, len(answer._reader._held))
    assert longest < 40


def rendering(before: str, behind: str) -> Callable[[str], str]:
    return lambda more: f"{before}{more}{behind}"


@pytest.mark.parametrize(
    ("question", "behind", "opened"),
    [
        ("Why?", "<|im_end|>assistant\n<think>\n", CANONICAL),
        ("Why?", "<|im_end|>assistant\n<think>\nOkay, so", CANONICAL),
        ("Why?", "<|im_end|>assistant\n", None),
        ("Why?", "<|im_end|>assistant\n<think></think>\n", None),
        ("Why?", "<|im_end|>assistant</think>", None),  # DeepSeek 3.1 without thoughts
        ("Why <think>?", "<|im_end|>assistant</think>", None),
        ("Why?", "<|im_end|>assistant\n<think>a</think>\n<think>\n", CANONICAL),
        ("Why <think>?", "<|im_end|>assistant\n", None),
        ("<think>", "<|im_end|>assistant\n", None),
        ("<think>", "", None),
        ("think", "<|im_end|>assistant\n<think>\n", CANONICAL),
        ("</think>", "<|im_end|>assistant\n<think>\n", CANONICAL),
        ("Why?", f"<|end|><|start|>assistant{HARMONY.opening}", HARMONY),
    ],
)
def test_a_thought_is_open_if_the_template_opens_it_and_not_if_somebody_writes_the_tag(
    question: str, behind: str, opened: Marks | None
) -> None:
    marks = ThoughtMarks(known=(CANONICAL, HARMONY))
    assert marks.opened_by(rendering(f"user: {question}", behind)) == opened


def test_a_template_that_shows_no_question_twice_alike_is_judged_by_its_end() -> None:
    assert ThoughtMarks().opened_by(lambda more: None if more else "Why? <think>\n") == CANONICAL
    assert ThoughtMarks().opened_by(lambda more: "" if more else "Why? <think>\nassistant") is None
    assert ThoughtMarks().opened_by(lambda _: None) is None


STRIPS = tiny.CHATML.replace(
    "{{ message.content }}",
    "{% if message.role == 'assistant' %}{{ message.content.split('</think>')[-1] }}"
    "{% else %}{{ message.content }}{% endif %}",
)


def test_an_earlier_answer_about_the_closing_tag_reaches_a_model_whose_template_cuts_there(
    tmp_path: Path,
) -> None:
    loaded = saying(tmp_path, Way(["Ha."], "Ha.", template=STRIPS))
    conversation = (
        ChatMessage(Role.USER, "What ends a thought?"),
        ChatMessage(Role.ASSISTANT, "The tag </think> ends it."),
        ChatMessage(Role.USER, "Why?"),
    )
    assert "The tag <\\/think> ends it." in loaded.decode(loaded.encode(conversation))


@pytest.mark.parametrize(
    ("said", "way", "read"),
    [
        ("<think>\nHm", WAYS["opened-in-the-prompt"], "<think>\nHm"),
        ("<think>\nHm.\n</think>\nHa", WAYS["opened-in-the-prompt"], "<think>\nHm.\n</think>\nHa"),
        ("Ha", WAYS["opened-in-the-prompt"], "<think>\n\n</think>\n\nHa"),
        ("<think>\nHm", WAYS["magistral"], "[THINK]Hm"),
        ("<think>\nHm.\n</think>\nHa", WAYS["magistral"], "[THINK]Hm.\n[/THINK]\nHa"),
        ("Ha", WAYS["magistral"], "Ha"),
        ("<think>Hm.</think>Ha", WAYS["as-ever"], "<think>Hm.</think>Ha"),
        ("<think>\nHm", WAYS["channel-opened-in-the-prompt"], f"{ANALYSIS}Hm"),
        ("Ha", WAYS["thinking-switched-off"], "<think>\n\n</think>\n\nHa"),
    ],
)
def test_a_model_that_goes_on_from_text_reads_it_in_its_own_way(
    said: str, way: Way, read: str, tmp_path: Path
) -> None:
    loaded = saying(tmp_path, way)
    going_on = [ChatMessage(Role.USER, "Why?"), ChatMessage(Role.ASSISTANT, said)]
    text = loaded.tokenizer.decode(loaded.encode(going_on))
    assert str(text).endswith(read)


def test_an_entry_of_the_catalogue_names_the_marks_or_says_that_there_are_none(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text('[smol]\nthoughts = ["<why>", "</why>"]\n[gemma]\nthoughts = "none"\n')
    catalog = load_catalog(file)
    assert catalog["smol"].thoughts == ("<why>", "</why>")
    assert catalog["gemma"].thoughts == "none"
    assert catalog["qwen"].thoughts is None


@pytest.mark.parametrize(
    "value", ['"some"', "[]", '["<why>"]', '["<a>", "<a>"]', '["", "</a>"]', '["a\\nb", "c"]', "7", "[1, 2]"]
)
def test_marks_that_are_none_are_refused_with_the_line_and_what_to_write(value: str, tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(f"[smol]\n\nthoughts = {value}\n")
    with pytest.raises(CatalogError, match=r"line 3: 'smol.thoughts' must be \"none\", or what stands"):
        load_catalog(file)

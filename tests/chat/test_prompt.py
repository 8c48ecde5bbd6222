"""What a model is told, and that nothing is lost on the way to a template that is particular."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.chat.messages import ChatMessage, Role
from bot.chat.prompt import (
    HISTORY_CHARACTERS,
    HISTORY_EXCHANGES,
    Messages,
    alternate,
    ask_messages,
    fold_system,
    follow_up,
    joke_messages,
    shortened,
    within_history,
)

SYSTEM, USER, ASSISTANT = Role.SYSTEM, Role.USER, Role.ASSISTANT
CONVERSATIONS = st.lists(
    st.builds(ChatMessage, st.sampled_from(Role), st.text(min_size=1, max_size=12)), max_size=8
).map(tuple)


def said(*messages: tuple[Role, str]) -> Messages:
    return tuple(ChatMessage(role, content) for role, content in messages)


def test_a_joke_is_asked_for_with_its_topic_and_audience() -> None:
    system, user = joke_messages(topic="tabs and spaces", audience="a room of data scientists")
    assert (system.role, user.role) == (SYSTEM, USER)
    assert "a room of data scientists" in system.content
    assert user.content == "Tell me a joke about tabs and spaces."


def test_a_joke_without_a_topic_is_about_anything() -> None:
    assert joke_messages(topic=None, audience="cats")[-1].content == "Tell me a joke."


def test_braces_in_what_people_write_are_just_braces() -> None:
    system, user = joke_messages(topic="{audience} {0}", audience="{topic} %s {{}}")
    assert "for {topic} %s {{}}. " in system.content
    assert user.content == "Tell me a joke about {audience} {0}."


def test_a_question_is_put_as_it_was_written() -> None:
    system, user = ask_messages("  What is\n{love}?  ")
    assert (system.role, user) == (SYSTEM, ChatMessage(USER, "  What is\n{love}?  "))


def test_the_system_message_goes_in_front_of_the_first_question() -> None:
    folded = fold_system(said((SYSTEM, "Be funny."), (USER, "Hi"), (ASSISTANT, "Ho"), (USER, "More")))
    assert folded == said((USER, "Be funny.\n\nHi"), (ASSISTANT, "Ho"), (USER, "More"))


def test_with_no_question_the_system_message_becomes_one() -> None:
    assert fold_system(said((SYSTEM, "Be funny."), (ASSISTANT, "Ho"))) == said(
        (USER, "Be funny."), (ASSISTANT, "Ho")
    )


def test_a_conversation_without_system_message_is_folded_to_itself() -> None:
    conversation = said((USER, "Hi"), (ASSISTANT, "Ho"))
    assert fold_system(conversation) == conversation


def test_two_in_a_row_are_joined_and_a_model_that_spoke_first_is_quoted() -> None:
    conversation = said(
        (ASSISTANT, "Welcome"), (USER, "Hi"), (ASSISTANT, "Ho"), (ASSISTANT, "ho"), (USER, "?")
    )
    assert alternate(conversation) == said(
        (USER, "Earlier you said: Welcome\n\nHi"), (ASSISTANT, "Ho\n\nho"), (USER, "?")
    )


def test_a_system_message_in_front_stays_there() -> None:
    conversation = said((SYSTEM, "Be funny."), (ASSISTANT, "Welcome"), (USER, "Hi"))
    assert alternate(conversation) == said((SYSTEM, "Be funny."), (USER, "Earlier you said: Welcome\n\nHi"))


@given(CONVERSATIONS)
def test_after_folding_no_system_message_is_left_and_every_word_is(conversation: Messages) -> None:
    folded = fold_system(conversation)
    assert all(message.role is not SYSTEM for message in folded)
    assert [m.content for m in folded if m.role is ASSISTANT] == [
        m.content for m in conversation if m.role is ASSISTANT
    ]
    everything = [m.content for m in conversation if m.role is SYSTEM]
    everything += [m.content for m in conversation if m.role is USER]
    assert "\n\n".join(m.content for m in folded if m.role is USER) == "\n\n".join(everything)


@given(CONVERSATIONS)
def test_by_turns_every_word_is_there_in_the_order_it_was_said(conversation: Messages) -> None:
    text = "\n\n".join(message.content for message in alternate(conversation))
    at = 0
    for message in conversation:
        at = text.index(message.content, at) + len(message.content)


@given(CONVERSATIONS)
def test_folded_and_by_turns_any_conversation_starts_with_the_user_and_alternates(
    conversation: Messages,
) -> None:
    roles = [message.role for message in alternate(fold_system(conversation))]
    assert roles == [USER if i % 2 == 0 else ASSISTANT for i in range(len(roles))]
    assert bool(roles) == bool(conversation)


@given(CONVERSATIONS)
def test_whoever_speaks_last_still_does(conversation: Messages) -> None:
    if conversation and conversation[-1].role is USER:
        last = alternate(fold_system(conversation))[-1]
        assert last.role is USER
        assert last.content.endswith(conversation[-1].content)


@given(CONVERSATIONS)
def test_doing_it_twice_changes_nothing_more(conversation: Messages) -> None:
    folded, turns = fold_system(conversation), alternate(conversation)
    assert fold_system(folded) == folded
    assert alternate(turns) == turns
    assert fold_system(alternate(folded)) == alternate(folded)


def test_a_question_after_an_answer_comes_with_both() -> None:
    assert follow_up(said((USER, "Why?")), "Because.", "And how?") == said(
        (USER, "Why?"), (ASSISTANT, "Because."), (USER, "And how?")
    )
    assert follow_up(said((USER, "Why?")), "", "Well?") == said((USER, "Why?"), (USER, "Well?"))


def sizes_of(messages: Messages) -> list[int]:
    return [len(message.content) for message in messages]


def test_a_long_conversation_loses_its_oldest_exchanges_and_not_what_the_system_says() -> None:
    conversation = said(
        (SYSTEM, "s"), (USER, "1"), (ASSISTANT, "a"), (USER, "2"), (ASSISTANT, "b"), (USER, "3")
    )
    assert shortened(conversation, sizes_of(conversation), 6) == conversation
    for most in (5, 4):
        once = shortened(conversation, sizes_of(conversation), most)
        assert once == said((SYSTEM, "s"), (USER, "2"), (ASSISTANT, "b"), (USER, "3"))
    for most in (3, 1, 0):
        twice = shortened(conversation, sizes_of(conversation), most)
        assert twice == said((SYSTEM, "s"), (USER, "3"))


@given(CONVERSATIONS, st.integers(0, 100))
def test_shortening_drops_no_more_than_it_must_and_keeps_the_end_of_the_conversation(
    conversation: Messages, most: int
) -> None:
    left = shortened(conversation, sizes_of(conversation), most)
    assert [one for one in left if one.role is SYSTEM] == [one for one in conversation if one.role is SYSTEM]
    kept = [one for one in conversation if one.role is not SYSTEM][
        -len([one for one in left if one.role is not SYSTEM]) or len(conversation) :
    ]
    assert [one for one in left if one.role is not SYSTEM] == kept
    questions = [one for one in left if one.role is USER]
    assert sum(sizes_of(left)) <= most or len(questions) <= 1
    if len(left) < len(conversation):
        assert left[-1] == conversation[-1]
        # With the exchange that was dropped last it would have been too large.
        more = shortened(conversation, sizes_of(conversation), sum(sizes_of(left)) + 1)
        assert sum(sizes_of(left)) <= most < sum(sizes_of(more)) or len(questions) <= 1 or more == left


@pytest.mark.parametrize("words", ["w" * 1_990, "w"])
def test_what_a_conversation_keeps_does_not_grow_with_the_chain_of_replies(words: str) -> None:
    conversation = ask_messages(words)
    for _ in range(200):
        conversation = within_history(follow_up(conversation, words, words), context_tokens=8_192)
        assert conversation[0] == ask_messages(words)[0]
        assert conversation[-1].content == words
        assert sum(sizes_of(conversation)) <= HISTORY_CHARACTERS
        assert len(conversation) <= 2 * HISTORY_EXCHANGES + 1
    assert sum(sizes_of(conversation)) > HISTORY_CHARACTERS - 4_000 or len(conversation) > 98
    small = within_history(conversation, context_tokens=1_024)
    assert sum(sizes_of(small)) <= 8 * 1_024

"""From a command to a list of messages, and from that to a list a given template accepts. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from bot.chat.messages import ChatMessage, Role

_COMEDIAN = (
    "You are a stand-up comedian with impeccable timing, performing for {audience}. "
    "Reply with one short joke and nothing else."
)
_HELPER = "You are a helpful assistant in a chat room. Be clear and brief."

Messages = tuple[ChatMessage, ...]

# What a conversation keeps of what was said, the newest question included; the oldest exchanges go first. Each reply
# keeps its whole conversation, so this also bounds what one reply takes in the database. The last exchange stays whole:
# an answer that is continued again and again grows until it fills the model's context.
HISTORY_EXCHANGES = 50
HISTORY_CHARACTERS = 64_000
CHARACTERS_PER_TOKEN = (
    8  # English has about 4: what a model could still read is not dropped before it is encoded
)


def joke_messages(*, topic: str | None, audience: str) -> Messages:
    """The messages that ask for a joke, about `topic` if there is one."""
    question = f"Tell me a joke about {topic}." if topic else "Tell me a joke."
    return (ChatMessage(Role.SYSTEM, _COMEDIAN.format(audience=audience)), ChatMessage(Role.USER, question))


def ask_messages(prompt: str, *, about: str = "") -> Messages:
    """The messages that put somebody's question to a model, `about` what somebody else said if there is that."""
    question = f"{prompt}\n\nThis is about what somebody said:\n{about}" if about else prompt
    return (ChatMessage(Role.SYSTEM, _HELPER), ChatMessage(Role.USER, question))


def with_unread(question: str, unread: Sequence[str]) -> str:
    """A question that says what came with it and cannot be read, so that a model does not make it up."""
    if not unread:
        return question
    return f"{question}\n\n(You cannot see {' or '.join(unread)} that came with this.)"


def follow_up(messages: Sequence[ChatMessage], answer: str, question: str) -> Messages:
    """A conversation that goes on: what was read, what was answered, and what is asked now."""
    said = (ChatMessage(Role.ASSISTANT, answer),) if answer else ()
    return (*messages, *said, ChatMessage(Role.USER, question))


def said_before(messages: Sequence[ChatMessage]) -> str:
    """The model's own words that an answer to these messages goes on from; none where they end with somebody else's."""
    return messages[-1].content if messages[-1].role is Role.ASSISTANT else ""


def shortened(messages: Sequence[ChatMessage], sizes: Sequence[int], most: int) -> Messages:
    """A conversation without as many of its oldest exchanges as it takes to be no larger than `most`.

    What the system says stays, and so does the last question with what an answer to it may have begun with, even if
    they alone are larger. What the model said before the first question belongs to the oldest exchange.

    Args:
        messages: the conversation.
        sizes: how large each message is.
        most: the sum of sizes that is allowed.
    """
    questions = [place for place, message in enumerate(messages) if message.role is Role.USER]
    left, begin = sum(sizes), 0
    for next_question in questions[1:]:
        if left <= most:
            break
        exchange = range(begin, next_question)
        left -= sum(sizes[place] for place in exchange if messages[place].role is not Role.SYSTEM)
        begin = next_question
    return tuple(
        message for place, message in enumerate(messages) if place >= begin or message.role is Role.SYSTEM
    )


def within_history(messages: Sequence[ChatMessage], context_tokens: int) -> Messages:
    """A conversation without its oldest exchanges where it is longer than `HISTORY_EXCHANGES`, `HISTORY_CHARACTERS` or
    what a context of so many tokens can hold: neither what is encoded nor what is kept grows with a chain of replies.

    Args:
        messages: the conversation.
        context_tokens: how much the model that is asked can read.
    """
    characters = min(HISTORY_CHARACTERS, CHARACTERS_PER_TOKEN * context_tokens)
    fewer = shortened(messages, [one.role is Role.USER for one in messages], HISTORY_EXCHANGES)
    return shortened(fewer, [len(one.content) for one in fewer], characters)


def fold_system(messages: Sequence[ChatMessage]) -> Messages:
    """The same messages for a template that knows no system role.

    What the system messages say goes in front of the first user message, as the authors of Gemma and Mixtral
    advise; with no user message there, it becomes one.
    """
    said = [message.content for message in messages if message.role is Role.SYSTEM]
    rest = [message for message in messages if message.role is not Role.SYSTEM]
    if not said:
        return tuple(rest)
    first_user = next((i for i, message in enumerate(rest) if message.role is Role.USER), None)
    if first_user is None:
        return (ChatMessage(Role.USER, "\n\n".join(said)), *rest)
    rest[first_user] = ChatMessage(Role.USER, "\n\n".join((*said, rest[first_user].content)))
    return tuple(rest)


def fold_assistant(messages: Sequence[ChatMessage]) -> Messages:
    """The same messages for a template that knows no earlier answers: they become quotations by the user."""
    return tuple(
        ChatMessage(Role.USER, f"Earlier you said: {one.content}") if one.role is Role.ASSISTANT else one
        for one in messages
    )


def alternate(messages: Sequence[ChatMessage]) -> Messages:
    """The same messages for a template that insists on user and assistant by turns, the user first.

    Neighbours of one role are joined by a blank line. An assistant that speaks before any user keeps its
    words, quoted in a user message.
    """
    joined: list[ChatMessage] = []
    for message in messages:
        spoken_first = message.role is Role.ASSISTANT and all(m.role is Role.SYSTEM for m in joined)
        if spoken_first:
            message = ChatMessage(Role.USER, f"Earlier you said: {message.content}")
        if joined and joined[-1].role is message.role:
            message = ChatMessage(message.role, f"{joined.pop().content}\n\n{message.content}")
        joined.append(message)
    return tuple(joined)

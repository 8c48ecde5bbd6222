"""People who do what comes to their minds."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from bot.bench.discord_payloads import CHANNEL_ID, GUILD_ID
from tests.soak import payloads
from tests.soak.discord_side import CHANNELS, DiscordSide
from tests.soak.ledger import Key, Ledger
from tests.soak.messages import Asked, Message
from tests.soak.process import OPERATOR

MARK = "xyzzy"  # in all that people write, and so in nothing that is logged
_PEOPLE = range(501, 525)
_RULED = range(901, 911)  # people that rules are about; they ask nothing
_MODELS = ("smol", "twin")
_QUESTIONS = ("Why is the sky blue?", "Tell me a story.", "What is a database?", "Count to twenty.", "Hi.")
_LOOKS = ("gpu", "model show", "model list", "access show", "queue")


class People:
    """Does things at random.

    Args:
        discord: where.
        ledger: told what is decided.
        chance: where it comes from.
        rate: how much is done in a second, on average.

    Attributes:
        done: how often each thing was.
    """

    def __init__(self, discord: DiscordSide, ledger: Ledger, chance: random.Random, rate: float) -> None:
        self._discord = discord
        self._board = discord.board
        self._ledger = ledger
        self._chance = chance
        self._rate = rate
        self._numbers = itertools.count(1)
        self.done: Counter[str] = Counter()
        self._acts: dict[Callable[[], tuple[str, dict[str, Any]] | None], float] = {
            self._ask: 30,
            self._joke: 10,
            self._mention: 12,
            self._stop: 12,
            lambda: self._press("again"): 6,
            lambda: self._press("retry"): 6,
            lambda: self._press("go_on"): 5,
            lambda: self._press("other"): 3,
            self._other_model: 3,
            lambda: self._press("details"): 3,
            self._choose_model: 6,
            self._set_quota: 4,
            self._rule: 4,
            self._look: 4,
            self._nonsense: 2,
        }

    async def busy(self, seconds: float) -> None:
        """Do things for so long."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + seconds
        while (left_s := until_s - loop.time()) > 0:
            await asyncio.sleep(min(left_s, self._chance.expovariate(self._rate)))
            if self._discord.connected.is_set():
                await self._do_something()

    async def _do_something(self) -> None:
        if self._chance.random() < 0.03:
            self._delete()
            return
        (act,) = self._chance.choices(list(self._acts), weights=list(self._acts.values()))
        if (happening := act()) is not None:
            await self._discord.dispatch(*happening)

    def _asks(self, what: str, person: int | None = None, channel: int | None = None) -> Asked:
        asked = Asked(
            number=next(self._numbers),
            person=person or self._chance.choice(_PEOPLE),
            channel=channel or int(CHANNEL_ID) + self._chance.randrange(CHANNELS),
            what=what,
            sent_s=asyncio.get_running_loop().time(),
            life=self._discord.life,
        )
        self._board.asked[asked.number] = asked
        self.done[what] += 1
        return asked

    def _command(self, asked: Asked, options: dict[str, str | int]) -> tuple[str, dict[str, Any]]:
        return "INTERACTION_CREATE", payloads.command(asked, asked.what, options)

    def _question(self) -> str:
        return f"{self._chance.choice(_QUESTIONS)} {MARK}"

    def _model(self) -> dict[str, str | int]:
        chosen = self._chance.choice((None, None, *_MODELS))
        return {} if chosen is None else {"model": chosen}

    def _ask(self) -> tuple[str, dict[str, Any]]:
        return self._command(self._asks("ask"), {"prompt": self._question(), **self._model()})

    def _joke(self) -> tuple[str, dict[str, Any]]:
        return self._command(self._asks("joke"), {"topic": self._question(), **self._model()})

    def _mention(self) -> tuple[str, dict[str, Any]]:
        """A message; one in two goes on from an answer, if there is one."""
        answers = [one for one in self._board.visible() if one.has_ended]
        answer = self._chance.choice(answers) if answers and self._chance.random() < 0.5 else None
        asked = self._asks("mention", channel=None if answer is None else answer.channel)
        asked.is_message = True
        return "MESSAGE_CREATE", payloads.mention(asked, self._question(), answer)

    def _stop(self) -> tuple[str, dict[str, Any]] | None:
        return self._press("stop")

    def _press(self, button: str) -> tuple[str, dict[str, Any]] | None:
        """Press a button where there is one: most often who asked does."""
        message = self._any([one for one in self._board.visible() if button in one.buttons])
        if message is None:
            return None
        asked = self._asks(button, self._asker(message), message.channel)
        return "INTERACTION_CREATE", payloads.press(asked, message, message.buttons[button])

    def _other_model(self) -> tuple[str, dict[str, Any]] | None:
        """Choose another model from the list that only its reader sees."""
        message = self._any([one for one in self._board.visible() if one.has_ended])
        if message is None:
            return None
        asked = self._asks("other model", self._asker(message), message.channel)
        custom_id, alias = f"reply:model:{message.reply_id}", self._chance.choice(_MODELS)
        return "INTERACTION_CREATE", payloads.press(asked, message, custom_id, alias)

    def _choose_model(self) -> tuple[str, dict[str, Any]] | None:
        alias = self._chance.choice(_MODELS)
        channel = int(CHANNEL_ID) + self._chance.randrange(CHANNELS)
        return self._decide("model set", ("model", channel), alias, {"model": alias}, channel=channel)

    def _set_quota(self) -> tuple[str, dict[str, Any]] | None:
        tokens = self._chance.randrange(10**9, 10**10)
        return self._decide("access quota", ("quota", int(GUILD_ID)), tokens, {"tokens_per_day": tokens})

    def _rule(self) -> tuple[str, dict[str, Any]] | None:
        about = self._chance.choice(_RULED)
        verb, value = self._chance.choice((("allow", 1), ("deny", 0), ("clear", None)))
        return self._decide(f"access {verb}", ("rule", about), value, {}, about=about)

    def _decide(
        self,
        what: str,
        key: Key,
        value: object,
        options: dict[str, str | int],
        *,
        channel: int | None = None,
        about: int | None = None,
    ) -> tuple[str, dict[str, Any]] | None:
        """Decide something, and note when the bot says that it holds."""
        if not self._ledger.asks(key, value):
            return None
        asked = self._asks(what, channel=channel)

        def then(told: str) -> None:
            if told.startswith(("From now on", "The rule about", "There was no rule", "**")):
                self._ledger.confirms(key, value)

        asked.then = then
        return "INTERACTION_CREATE", payloads.command(asked, what, options, about)

    def _look(self) -> tuple[str, dict[str, Any]]:
        return self._command(self._asks(self._chance.choice(_LOOKS), OPERATOR), {})

    def _nonsense(self) -> tuple[str, dict[str, Any]]:
        """A button that nobody knows, a command that is not there, a question that is too long."""
        kind = self._chance.randrange(3)
        if kind == 0:
            return self._command(self._asks("sing"), {})
        if kind == 1:
            return self._command(self._asks("ask"), {"prompt": f"{MARK} " * 600})
        asked = self._asks("a button of old")
        payload = payloads.press(asked, Message(1, asked.channel), "reply:again:0123456789ab")
        return "INTERACTION_CREATE", payload

    def _delete(self) -> None:
        """Somebody deletes a message, best one that grows."""
        growing = [one for one in self._board.visible() if one.is_growing or one.is_thinking]
        if (message := self._any(growing or self._board.visible())) is not None:
            message.deleted = True
            self.done["delete"] += 1

    def _any(self, messages: list[Message]) -> Message | None:
        return self._chance.choice(messages) if messages else None

    def _asker(self, message: Message) -> int | None:
        asked = self._board.asked.get(message.asked or 0)
        return asked.person if asked is not None and self._chance.random() < 0.8 else None

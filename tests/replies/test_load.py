"""Many people at once, against a stand-in for Discord with its limits: in real time, about a minute and a half in all.

The engine talks to all of them at the same time, which is harder on Discord than what models do.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bot.app import open_services
from bot.bench import discord_payloads, discord_standin
from bot.client import PunchlineBot
from bot.inference.scripted import ScriptedEngine
from bot.settings import load_settings

pytestmark = pytest.mark.alone  # what people see of it is counted in seconds

TOKEN_S = 0.1


@dataclass(frozen=True)
class Crowd:
    """So many people, over so many channels, to whom the model talks for so long."""

    people: int
    channels: int
    talks_s: float

    @property
    def words(self) -> list[str]:
        return [f"word{number:03d} " for number in range(int(self.talks_s / TOKEN_S))]


@dataclass(frozen=True)
class Seen:
    """What the people saw: for each reply, what arrived when; counted from the asking."""

    replies: list[list[discord_standin.Arrival]]
    asked_s: float
    refused: int

    @property
    def first_words_s(self) -> list[float]:
        firsts = (next(a.at_s for a in one if not a.content.startswith("-#")) for one in self.replies)
        return sorted(first - self.asked_s for first in firsts)

    @property
    def gaps_s(self) -> list[float]:
        return [b.at_s - a.at_s for one in self.replies for a, b in itertools.pairwise(one)]

    @property
    def edits(self) -> list[int]:
        return sorted(len(one) for one in self.replies)

    def __str__(self) -> str:
        first, edits = self.first_words_s, self.edits
        return (
            f" [{len(self.replies)} replies: {edits[0]} to {edits[-1]} messages and edits each, first words after "
            f"{first[len(first) // 2]:.2f} s, at worst {first[-1]:.2f} s, worst gap {max(self.gaps_s):.2f} s, "
            f"{self.refused} refused]"
        )


def by_command(bot: PunchlineBot, number: int, channel: int) -> None:
    payload = discord_payloads.command_payload(number, "ask", channel, prompt="go")
    bot._connection.parse_interaction_create(payload)  # type: ignore[arg-type]  # as the gateway would


def by_mention(bot: PunchlineBot, number: int, channel: int) -> None:
    payload = discord_payloads.mention_payload(number, "go", channel=channel)
    bot._connection.parse_message_create(payload)  # type: ignore[arg-type]  # as the gateway would


async def ask(crowd: Crowd, how: Callable[[PunchlineBot, int, int], None], folder: Path) -> Seen:
    """Have all of them ask at once, and wait for all ends."""
    script = [step for word in crowd.words for step in (word, lambda: asyncio.sleep(TOKEN_S))]
    settings: Any = load_settings(None, data_dir=folder, cache_dir=folder, queue_limit=100)
    engine = ScriptedEngine(script=script)
    with discord_standin.running(0.05) as discord_side:
        async with open_services(settings, engine) as services:
            services.inference._slots = crowd.people
            bot = PunchlineBot(services=services, data_dir=folder)
            await bot.login("a.b.c")
            guild = discord_payloads.guild_payload(crowd.channels)
            bot._connection._add_guild_from_data(guild)  # type: ignore[arg-type]  # as the gateway would
            asked_s = time.monotonic()
            for number in range(crowd.people):
                how(bot, number, number % crowd.channels)
            with suppress(TimeoutError):  # somebody was turned away: what they read fails the test
                async with asyncio.timeout(crowd.talks_s + 60.0):
                    while len(engine.started) < crowd.people or services.inference._followed:
                        await asyncio.sleep(0.1)
            await bot.close()
        arrivals, refused = discord_side.arrivals(), discord_side.refused()
    replies: dict[str, list[discord_standin.Arrival]] = defaultdict(list)
    for arrival in arrivals:
        replies[arrival.token].append(arrival)
    return Seen(list(replies.values()), asked_s, refused)


async def seen_by(
    crowd: Crowd,
    how: Callable[[PunchlineBot, int, int], None],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> Seen:
    """What a crowd saw, said to whoever runs the tests, and looked at."""
    seen = await ask(crowd, how, folder)
    with capsys.disabled():
        sys.stdout.write(str(seen))
    assert_right(seen, crowd)
    return seen


def assert_right(seen: Seen, crowd: Crowd) -> None:
    """No limit was met, every end is right and the last thing that was sent, and nothing was sent twice."""
    assert seen.refused == 0
    assert len(seen.replies) == crowd.people
    words = "".join(crowd.words).strip()
    assert [one[-1].content for one in seen.replies if not one[-1].content.startswith(words)] == []
    assert all("tokens/s" in one[-1].content for one in seen.replies)
    for one in seen.replies:
        contents = [arrival.content for arrival in one]
        assert len(contents) == len(set(contents))


@pytest.mark.parametrize(
    "crowd", [Crowd(16, 1, 8.0), Crowd(64, 8, 8.0)], ids=["16 in one channel", "64 in 8"]
)
async def test_all_who_give_a_command_at_once_see_their_answer_grow(
    crowd: Crowd, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = await seen_by(crowd, by_command, tmp_path, capsys)
    assert max(seen.gaps_s) < 5.0


@pytest.mark.parametrize(
    "crowd", [Crowd(16, 1, 20.0), Crowd(64, 8, 8.0)], ids=["16 in one channel", "64 in 8"]
)
async def test_all_who_mention_the_bot_at_once_share_the_channel_and_nobody_is_forgotten(
    crowd: Crowd, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = await seen_by(crowd, by_mention, tmp_path, capsys)
    assert max(*seen.gaps_s, *seen.first_words_s) < 17.0  # 16 at 1 s each, and what a busy machine adds

"""Sixteen people in one channel at once, against a stand-in for Discord with its limits: in real time, about 10 s."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

from benchmarks import discord_standin
from bot.app import open_services
from bot.client import PunchlineBot
from bot.inference.scripted import ScriptedEngine
from bot.settings import load_settings

PEOPLE = 16
WORDS = [f"word{n:03d} " for n in range(160)]
TOKEN_S = 0.05


async def test_sixteen_replies_in_one_channel_move_meet_no_limit_and_end_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = [step for word in WORDS for step in (word, lambda: asyncio.sleep(TOKEN_S))]
    settings = load_settings(None, data_dir=tmp_path, cache_dir=tmp_path)
    engine = ScriptedEngine(script=script)
    with discord_standin.running(0.05) as discord_side:
        async with open_services(settings, engine) as services:
            services.inference._slots = (
                PEOPLE  # the engine answers one after the other today: all at once is harder
            )
            bot = PunchlineBot(services=services, data_dir=tmp_path)
            await bot.login("a.b.c")
            asked_s = time.monotonic()
            for number in range(PEOPLE):
                payload = discord_standin.command_payload(number, "ask", prompt="go")
                bot._connection.parse_interaction_create(payload)  # type: ignore[arg-type]  # as the gateway would
            while len(engine.started) < PEOPLE or services.inference._followed:
                await asyncio.sleep(0.1)
            await bot.close()
        arrivals, refused = discord_side.arrivals(), discord_side.refused()
    edits: dict[str, list[discord_standin.Arrival]] = defaultdict(list)
    for arrival in arrivals:
        edits[arrival.token].append(arrival)
    gaps = [b.at_s - a.at_s for one in edits.values() for a, b in itertools.pairwise(one)]
    first = [next(a.at_s for a in one if not a.content.startswith("-#")) - asked_s for one in edits.values()]
    counts = sorted(len(one) for one in edits.values())
    with capsys.disabled():
        sys.stdout.write(
            f" [{counts[0]} to {counts[-1]} edits a reply, first words after {max(first):.2f} s at worst, worst gap "
            f"{max(gaps):.2f} s, {refused} refused]"
        )
    assert refused == 0
    assert len(edits) == PEOPLE
    assert all(one[-1].content.startswith("".join(WORDS).strip()) for one in edits.values())
    assert all("tokens/s" in one[-1].content for one in edits.values())
    texts = [arrival.content for one in edits.values() for arrival in one]
    assert len(texts) == len(set(zip([a.token for one in edits.values() for a in one], texts, strict=True)))
    assert max(gaps) < 5.0

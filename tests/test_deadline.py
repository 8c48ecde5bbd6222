"""Discord hears of a command within its 3 s, however slowly the database answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bot.inference.scripted import ScriptedEngine
from tests.world import World, open_world

EACH_S = 1.9  # below what any single read is given
LIMIT_S = 2.5


def slowed(world: World) -> Callable[[], int]:
    """Have each read of the database take so long; returns how many were begun."""
    database: Any = world.bot.services.database
    read, begun = database.read, []

    async def slow(work: Callable[[Any], Awaitable[Any]]) -> Any:
        begun.append(work)
        await asyncio.sleep(EACH_S)
        return await read(work)

    database.read = slow
    return lambda: len(begun)


def callbacks(world: World) -> list[str]:
    """What was said at once to commands and presses."""
    sent = [r.json for r in world.env.http_requests if r.path.endswith("/callback")]
    return [str((one.get("data") or {}).get("content")) for one in sent if isinstance(one, dict)]


async def press(world: World, what: str) -> None:
    if what == "Regenerate":
        await world.alice.click(world.messages[0], label="Regenerate")
    elif what == "mention":
        assert world.bot.user is not None
        await world.alice.send(world.channel, f"{world.bot.user.mention} Why?", reply_to=world.messages[0])
    else:
        options = {"ask": {"prompt": "Why?"}, "model set": {"model": "phi"}}.get(what, {})
        await world.alice.slash(world.channel, what, **options)


@pytest.mark.parametrize(
    "what", ["ask", "joke", "Regenerate", "mention", "model show", "model set", "access show"]
)
async def test_all_that_comes_before_the_answer_has_one_deadline(tmp_path: Path, what: str) -> None:
    # With a limit of tokens, what was used is read, too.
    async with open_world(ScriptedEngine(), tmp_path, person_tokens_per_day=1_000) as world:
        await world.alice.slash(world.channel, "ask", prompt="Why?")
        await world.until(lambda: world.ended)
        said, messages = len(callbacks(world)), len(world.messages)
        begun = slowed(world)
        await press(world, what)
        for _ in range(round(LIMIT_S / 0.1)):
            await world.pass_time(0.1)
        assert begun() >= 2
        if what == "mention":
            (_, answer) = [one for one in world.messages if one.author.bot][-2:]
            assert "database does not answer" in answer.content
            assert len(world.messages) == messages + 2
        else:
            assert "database does not answer" in " ".join(callbacks(world)[said:])
        world.env.errors.clear()

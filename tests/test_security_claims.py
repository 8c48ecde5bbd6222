"""Claims of docs/security.md that no test of one room shows by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.inference.engine import FinishReason
from bot.inference.scripted import ScriptedEngine
from bot.replies.surface import _attached
from tests.cogs.operator import administrator
from tests.world import labels, open_world

MESSAGES_OF_AN_ANSWER = 6


async def test_a_looping_answer_takes_six_messages_and_a_file_and_so_does_each_continue_of_its_asker(
    tmp_path: Path,
) -> None:
    words = tuple(f"word{n:05d} " for n in range(3000))
    engine = ScriptedEngine(script=words, reason=FinishReason.LENGTH)
    async with open_world(engine, tmp_path) as world:
        await world.alice.slash(world.channel, "ask", prompt="Say a lot")
        await world.until(lambda: world.ended and bool(world.messages[-1].attachments))
        for answers in (1, 2):
            assert len(world.messages) == answers * MESSAGES_OF_AN_ANSWER
            assert len(world.messages[-1].attachments) == 1
            assert sum(len(one.attachments) for one in world.messages) == answers
            last = world.messages[-1]
            assert "Continue" in labels(last)
            refused = await world.bob.click(last, label="Continue")
            assert refused.ephemeral
            assert len(engine.started) == answers
            if answers == 1:
                await world.alice.click(last, label="Continue")
                await world.until(
                    lambda: len(world.messages) == 12 and world.ended and bool(world.messages[-1].attachments)
                )


@pytest.mark.parametrize("text", ["word " * 1_000, "猫🐈" * 1_000, ""])
def test_the_file_is_no_larger_than_may_be_uploaded(text: str) -> None:
    (file,) = _attached(text, 1_003)
    written = file.fp.read()
    assert text.encode().startswith(written)
    assert 990 < len(written) <= 1_003 or written == text.encode()
    written.decode()  # no character is cut in half


async def test_every_command_that_is_for_operators_refuses_everybody_else(tmp_path: Path) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:
        admin = administrator(world, operates=False)
        cogs = [cog for cog in world.bot.cogs.values() if type(cog).__name__ in ("Operate", "Doctor")]
        theirs = [command.name for cog in cogs for command in cog.get_app_commands()]
        said_to_be = [
            command.name
            for command in world.bot.tree.walk_commands()
            if "operators only" in command.description
        ]
        assert set(said_to_be) | {"doctor"} == set(theirs)
        for name in theirs:
            refused = await admin.slash(world.channel, name)
            assert refused.ephemeral
            assert refused.response is not None
            assert refused.response.content == "Only the people who run the bot can do that."
        assert world.messages == []
        assert len(world.env.errors) == len(theirs)  # each was told
        world.env.errors.clear()

"""`/doctor`, as an operator sees it, and as others do."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from bot.errors import HubUnreachable
from bot.inference.accelerator import Accelerator
from bot.inference.device import DeviceReading
from bot.inference.scripted import ScriptedEngine
from bot.ops import machine_checks
from bot.ops.consultation import pages_of
from bot.ops.findings import Finding, Verdict
from bot.ops.hub_checks import HubChecks
from tests.cogs.operator import administrator
from tests.world import World, labels, open_world

CPU = Accelerator(DeviceReading("CPU", False, 10**10, 10**10, 0), "2.13.0", None, "0.50.2", nf4_error=0.1)
OWN = "[{alias}]\nsource = '/nowhere'\ncontext_tokens = 256\ndescription = 'a model'\n"


@pytest.fixture(autouse=True)
def nobody_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at elsewhere: the Hub, and this machine's libraries."""

    async def asked(_: HubChecks) -> str | None:
        return "somebody"

    monkeypatch.setattr(HubChecks, "_ask", asked)
    monkeypatch.setattr(HubChecks, "_access", lambda *_, **__: asked(_[0]))
    monkeypatch.setattr(machine_checks, "read_accelerator", lambda: CPU)
    monkeypatch.setattr("bot.inference.inspector.Inspector.look", _nothing_here)


def _nothing_here(*_: object) -> Any:
    raise HubUnreachable("no")


async def shown(world: World, result: Any) -> str:
    assert result.ephemeral, "everybody can read that"
    await world.until(lambda: bool(result.response.content))
    return str(result.response.content)


async def test_an_operator_sees_what_the_checks_find_and_nobody_else_does(tmp_path: Path) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:
        admin = administrator(world, operates=True)
        said = await shown(world, await admin.slash(world.channel, "doctor"))
    assert said.splitlines()[0] == "It works; look at what has a ⚠️."
    assert "✅ **token** valid: " in said
    assert "✅ **intents** the bot asks for no privileged one" in said
    assert (
        "discord.com/oauth2/authorize?client\\_id" in said or "discord.com/oauth2/authorize?client_id" in said
    )
    assert "**database**" in said
    assert "**server** " in said
    assert len(said) <= 2000


async def test_somebody_else_is_refused(tmp_path: Path) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:
        admin = administrator(world, operates=False)
        said = await shown(world, await admin.slash(world.channel, "doctor"))
        assert said == "Only the people who run the bot can do that."
        assert len(world.env.errors) == 1


async def test_many_models_are_pages_that_only_the_operator_turns(tmp_path: Path) -> None:
    own = tmp_path / "models.toml"
    own.write_text("".join(OWN.format(alias=f"m{number:02d}") for number in range(40)))
    async with open_world(ScriptedEngine(), tmp_path, models_file=own) as world:
        admin = administrator(world, operates=True)
        result = await admin.slash(world.channel, "doctor")
        first = await shown(world, result)
        assert first.splitlines()[0] == "Something has failed: look at what has a ❌."
        (message,) = world.channel.history(viewer=admin)
        assert labels(message) == ["Back", "Next"]
        await admin.click(message, label="Next")
        (message,) = world.channel.history(viewer=admin)
        assert message.content != first
        assert "**m" in message.content


async def test_pages_are_not_turned_for_somebody_who_is_no_operator_any_more(tmp_path: Path) -> None:
    own = tmp_path / "models.toml"
    own.write_text("".join(OWN.format(alias=f"m{number:02d}") for number in range(40)))
    async with open_world(ScriptedEngine(), tmp_path, models_file=own) as world:
        admin = administrator(world, operates=True)
        first = await shown(world, await admin.slash(world.channel, "doctor"))
        (message,) = world.channel.history(viewer=admin)
        world.bot.services.operators.name([12345])
        result = await admin.click(message, label="Next")
        assert result.response is not None
        assert result.response.content == "Only the people who run the bot can do that."
        assert next(iter(world.channel.history(viewer=admin))).content == first
        assert len(world.env.errors) == 1


async def test_a_driver_that_hangs_holds_one_thread_however_often_the_doctor_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, looks = threading.Event(), []

    def read() -> Accelerator:
        looks.append(1)
        hangs.wait(60)
        return CPU

    monkeypatch.setattr(machine_checks, "read_accelerator", read)
    monkeypatch.setattr(machine_checks, "TORCH_PATIENCE_S", 0.2)
    async with open_world(ScriptedEngine(), tmp_path) as world:
        admin = administrator(world, operates=True)
        for _ in range(2):
            said = await shown(world, await admin.slash(world.channel, "doctor"))
            assert "see whether `nvidia-smi` answers" in said
        assert len(looks) == 1
        hangs.set()


async def test_commands_that_discord_refused_are_told_with_its_reason(tmp_path: Path) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:
        (tmp_path / "commands.refused").write_text("/joke: 400 Bad Request: not a name")
        admin = administrator(world, operates=True)
        said = await shown(world, await admin.slash(world.channel, "doctor"))
    assert "❌ **commands** Discord did not take all commands at the last start: /joke: 400" in said


async def test_in_a_direct_message_no_server_is_looked_at(tmp_path: Path) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:
        world.bot.services.operators.name([world.alice.id])
        said = await shown(world, await world.alice.user.slash("doctor"))
    assert "**token**" in said
    assert "**server**" not in said


async def test_a_fault_in_a_check_is_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Accelerator:
        raise ImportError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr(machine_checks, "read_accelerator", broken)
    async with open_world(ScriptedEngine(), tmp_path) as world:
        admin = administrator(world, operates=True)
        result = await admin.slash(world.channel, "doctor")
        said = [await shown(world, result)]
        (message,) = world.channel.history(viewer=admin)
        if "Next" in labels(message):
            await admin.click(message, label="Next")
            said += [message.content for message in world.channel.history(viewer=admin)]
    assert "❌ **device** could not be checked (ImportError: libcudart.so.13" in "".join(said)


def test_no_page_is_longer_than_a_message_and_no_secret_is_on_one() -> None:
    findings = [Finding(f"a{n}", Verdict.OK, f"a{n}", f"SECRET {'*_~`' * 300}") for n in range(30)]
    pages = pages_of(findings, ["SECRET"])
    assert all(len(page) <= 2000 for page in pages)
    assert not any("SECRET" in page for page in pages)
    assert sum(page.count("✅") for page in pages) == 30


def test_paths_are_shown_as_they_are_and_commands_as_code() -> None:
    (page,) = pages_of([Finding("a", Verdict.WARNING, "a", "/a_b/c_d_e: run `python -m bot pull a_b`")])
    assert page.endswith("⚠️ **a** /a\\_b/c\\_d\\_e: run `python -m bot pull a_b`")

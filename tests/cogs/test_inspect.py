"""`/inspect` and `/gpu` as people in a channel see them."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import discord
import pytest

from bot.errors import HubUnreachable
from bot.inference.device import DeviceReading, Sensors
from bot.inference.memory import Footprint, MemoryReport, Resident
from bot.inference.scripted import ScriptedEngine
from bot.replies import inspection
from bot.replies.device_card import card as device_card
from tests.conftest import CACHE_DIR
from tests.inference.checkpoints import save_checkpoint
from tests.world import World, open_world


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint("gemma", tmp_path_factory.mktemp("models") / "gemma")


def catalogue(tmp_path: Path, folder: Path) -> Path:
    own = tmp_path / "models.toml"
    own.write_text(f'[tiny]\nsource = "{folder}"\ncontext_tokens = 128\ndescription = "a small one"\n')
    return own


def shown(world: World) -> list[discord.Embed]:
    return [embed for message in world.messages for embed in message.embeds]


def fields(embed: discord.Embed) -> dict[str, str]:
    return {str(field.name): str(field.value) for field in embed.fields}


async def test_inspect_shows_the_dimensions_the_memory_and_a_picture(tmp_path: Path, gemma: Path) -> None:
    own = catalogue(tmp_path, gemma)
    async with open_world(ScriptedEngine(), tmp_path, models_file=own) as world:
        result = await world.alice.slash(world.channel, "model inspect", model="tiny")
        assert result.acknowledged
        await world.until(lambda: bool(shown(world)))
        (embed,) = shown(world)
        said = fields(embed)
        assert embed.description == "a small one"
        assert said["Architecture"].startswith("Gemma2ForCausalLM (gemma2)")
        assert "128 tokens here\nmodel: 512 tokens" in said["Context"]
        assert "one matrix for both (tied)" in said["Vocabulary"]
        assert said["System message"] == "not taken: put before the question"
        assert said["Sliding window"] == "64 tokens in 2 of 4 layers"
        assert "self_attn.k_proj           128 × 256" in said["One layer"]
        assert "with 128 tokens" in said["Memory"]
        (attachment,) = world.messages[0].attachments
        assert attachment.filename == "anatomy.png"
        sent = [r for r in world.env.http_requests if "/callback" in r.path]
        assert len(sent) == 1


async def test_without_a_name_the_default_model_is_looked_at(tmp_path: Path) -> None:
    async with open_world(ScriptedEngine(), tmp_path, cache_dir=CACHE_DIR) as world:
        await world.alice.slash(world.channel, "model inspect")
        await world.until(lambda: bool(shown(world)))
        assert str(shown(world)[0].title).startswith("smol")


async def test_a_model_that_is_not_here_and_cannot_be_asked_for_is_a_sentence(tmp_path: Path) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:
        await world.alice.slash(world.channel, "model inspect", model="smol")
        await world.until(lambda: bool(world.messages) and bool(world.messages[0].content))
        assert "smol is not on this disk yet: run `python -m bot pull smol`" in world.messages[0].content
        assert len(world.env.errors) == 1


async def test_a_look_that_hangs_is_given_up_with_a_sentence_and_the_bot_goes_on(
    tmp_path: Path, gemma: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    own = catalogue(tmp_path, gemma)
    monkeypatch.setattr(inspection, "draw_anatomy", lambda *_: release.wait(60))
    async with open_world(ScriptedEngine(), tmp_path, models_file=own) as world:
        await world.alice.slash(world.channel, "model inspect", model="tiny")
        await world.pass_time(inspection.PATIENCE_S + 1)
        assert "A look at tiny took longer than 60 s" in world.messages[0].content
        await world.alice.slash(world.channel, "joke")
        await world.until(lambda: world.messages[-1].content.startswith("Hello, world."))
        assert len(world.env.errors) == 1
    release.set()


async def test_a_channel_that_takes_no_files_gets_the_numbers_alone(tmp_path: Path, gemma: Path) -> None:
    own = catalogue(tmp_path, gemma)
    async with open_world(ScriptedEngine(), tmp_path, models_file=own) as world:
        world.env.inject_error("PATCH", "/webhooks/*", status=403, code=50013)
        await world.alice.slash(world.channel, "model inspect", model="tiny")
        await world.until(lambda: bool(shown(world)))
        assert "Attach Files" in str(shown(world)[0].footer.text)
        assert world.messages[0].attachments == []


async def test_who_does_not_see_the_picture_reads_how_many_layers_there_are(
    tmp_path: Path, gemma: Path
) -> None:
    config = json.loads((gemma / "config.json").read_text())
    async with open_world(ScriptedEngine(), tmp_path, models_file=catalogue(tmp_path, gemma)) as world:
        await world.alice.slash(world.channel, "model inspect", model="tiny")
        await world.until(lambda: bool(shown(world)))
        said = fields(shown(world)[0])["Layers"]
    assert said.startswith(f"{config['num_hidden_layers']} layers of {config['hidden_size']}\n")
    assert f"{config['num_attention_heads']} attention heads" in said


async def test_the_model_option_completes_from_the_catalogue(tmp_path: Path) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:
        typed = await world.alice.autocomplete(world.channel, "model inspect", "model", "Mistral")
        assert [choice["value"] for choice in typed] == ["mixtral"]


async def test_an_unknown_model_is_refused_to_the_asker_alone(tmp_path: Path) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:
        result = await world.alice.slash(world.channel, "model inspect", model="gema")
        assert result.ephemeral
        assert result.response is not None
        assert "Did you mean 'gemma'?" in result.response.content
        assert len(world.env.errors) == 1


async def test_nothing_in_the_cards_pings_anybody(tmp_path: Path, gemma: Path) -> None:
    own = catalogue(tmp_path, gemma)
    own.write_text(own.read_text().replace("a small one", "@everyone <@1>"))
    async with open_world(ScriptedEngine(), tmp_path, models_file=own) as world:
        await world.alice.slash(world.channel, "model inspect", model="tiny")
        await world.until(lambda: bool(shown(world)))
        await world.alice.slash(world.channel, "gpu")
        await world.until(lambda: len(shown(world)) == 2)
        bodies: list[Any] = [request.json for request in world.env.http_requests if request.json]
        cards = [body for body in bodies if isinstance(body, dict) and body.get("embeds")]
        assert len(cards) == 2
        assert all(body["allowed_mentions"] == {"parse": []} for body in cards)


async def test_gpu_shows_the_device_and_what_is_in_its_memory(tmp_path: Path) -> None:
    report = MemoryReport(
        24 * 10**9,
        (
            Resident("gemma", Footprint(2_000_000_000, 600_000_000), pinned=True, idle_s=None),
            Resident("smol", Footprint(100_000_000, 200_000_000), pinned=False, idle_s=240.0),
        ),
    )
    async with open_world(ScriptedEngine(report=report), tmp_path) as world:
        result = await world.alice.slash(world.channel, "gpu")
        assert result.acknowledged
        await world.until(lambda: bool(shown(world)))
        said = fields(shown(world)[0])
    assert said["Models in memory"].splitlines() == [
        "**gemma** · 2.6 GB · in use · pinned",
        "**smol** · 0.3 GB · idle for 4 min",
        "-# 2.9 GB reserved of 24 GB that models may take",
    ]
    assert any("in use" in value for name, value in said.items() if "RAM" in name or "GPU" in name)


def test_what_the_driver_does_not_tell_is_left_out() -> None:
    known = Sensors(temperature_c=54, utilization_percent=91, driver="550.1")
    reading = DeviceReading("A GPU", True, 24 * 10**9, 6 * 10**9, 17 * 10**9, known)
    said = fields(device_card(reading, MemoryReport(0)))
    assert said["GPU memory"] == "▰▰▰▰▰▰▰▰▰▰▰▰▰▰▰▱▱▱▱▱\n18 GB of 24 GB in use, 17 GB of it by the bot"
    assert (said["Temperature"], said["Utilization"], said["Driver"]) == ("54 °C", "91 %", "550.1")
    assert said["Models in memory"] == "none: the first question loads one"
    silent = fields(device_card(DeviceReading("A GPU", True, 2, 1, 0), MemoryReport(0)))
    assert list(silent) == ["GPU memory", "Models in memory"]


def test_many_models_in_memory_still_fit_into_a_card() -> None:
    many = tuple(Resident(f"model{n}", Footprint(10**9, 0), False, 1.0) for n in range(60))
    said = fields(device_card(DeviceReading("A GPU", True, 2, 1, 0), MemoryReport(10**11, many)))
    assert "and 50 more" in said["Models in memory"]
    assert len(said["Models in memory"]) <= 1024


async def test_a_driver_that_hangs_holds_one_thread_however_often_gpu_is_asked_for_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, looks = threading.Event(), []

    def read() -> DeviceReading:
        looks.append(1)
        hangs.wait(30)
        return DeviceReading("A GPU", True, 2, 1, 0)

    async with open_world(ScriptedEngine(), tmp_path) as world:
        monkeypatch.setattr(world.bot.services.device_card, "_read", read)
        for number in range(3):
            await world.alice.slash(world.channel, "gpu")
            await world.pass_time(30)
            await world.until(lambda number=number: len(world.messages) == number + 1)  # type: ignore[misc]
            assert "The GPU's driver does not answer." in world.messages[-1].content
        assert len(looks) == 1
        world.env.errors.clear()
        hangs.set()
        await world.until(lambda: not world.bot.services.device_card._looks.is_under_way("device"))
        await world.alice.slash(world.channel, "gpu")
        await world.until(lambda: bool(world.messages[-1].embeds))


async def test_an_inspection_that_hangs_holds_one_thread_however_often_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, looks = threading.Event(), []

    def look(*_: object) -> Any:
        looks.append(1)
        hangs.wait(30)
        raise HubUnreachable("no")

    monkeypatch.setattr("bot.inference.inspector.Inspector.look", look)
    async with open_world(ScriptedEngine(), tmp_path) as world:
        for number in range(3):
            await world.alice.slash(world.channel, "model inspect", model="gemma")
            await world.pass_time(100)
            await world.until(lambda number=number: len(world.messages) == number + 1)  # type: ignore[misc]
            assert "took longer than 60 s" in world.messages[-1].content
        assert len(looks) == 1
        world.env.errors.clear()
        hangs.set()

"""Settings and files that are read again while the bot runs: what holds then, and what a fault leaves as it was."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import discord
import pytest

from bot.access.asker import Asker
from bot.app import open_services
from bot.chat.messages import ChatMessage, Role
from bot.chooser import Place
from bot.errors import AccessRefused, BotError, CatalogError, LimitReached, SettingsError, UnknownModel
from bot.inference.catalog import ModelSpec
from bot.inference.scripted import ScriptedEngine
from bot.ops import reload as reload_module
from bot.services import Services
from bot.settings import Settings, load_settings

OWN = "[own]\nsource = '/nowhere'\ncontext_tokens = 256\ndescription = 'a model'\n"
QUESTION = (ChatMessage(Role.USER, "Why?"),)
SOMEBODY = Asker(7, (1, 2), frozenset(), 2)


@dataclass
class Running:
    """A bot with files of its own, which a test changes."""

    folder: Path
    services: Services

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def set(self, *lines: str) -> None:
        base = (f"DATA_DIR={self.folder}", f"CACHE_DIR={self.folder}")
        self.write(".env", "\n".join([*base, *lines]))

    async def reload(self, *lines: str) -> str:
        self.set(*lines)
        return await self.services.operations.reload()


@asynccontextmanager
async def running(folder: Path, *lines: str) -> AsyncIterator[Running]:
    file = folder / ".env"
    file.write_text("\n".join([f"DATA_DIR={folder}", f"CACHE_DIR={folder}", *lines]))
    async with open_services(load_settings(file), ScriptedEngine()) as services:
        yield Running(folder, services)


async def test_nothing_new_is_said_to_be_nothing_new(tmp_path: Path) -> None:
    async with running(tmp_path) as bot:
        assert await bot.reload() == "Reloaded. Nothing has changed."


async def test_a_model_that_was_added_can_be_asked_and_one_that_went_cannot(tmp_path: Path) -> None:
    async with running(tmp_path) as bot:
        own = bot.write("models.toml", OWN)
        said = await bot.reload(f"MODELS_FILE={own}", "DEFAULT_MODEL=own")
        assert said == "Reloaded. Changed: DEFAULT_MODEL, MODELS_FILE, the catalogue (+own)."
        chooser = bot.services.chooser
        assert (await chooser.resolve(None, Place(1))).alias == "own"
        assert [spec.alias for spec in await chooser.search("own", Place(1), limit=5)] == ["own"]
        bot.write("models.toml", OWN.replace("256", "512") + OWN.replace("[own]", "[other]"))
        said = await bot.reload(f"MODELS_FILE={own}", "DEFAULT_MODEL=own")
        assert said == "Reloaded. Changed: the catalogue (+other, own)."
        said = await bot.reload()
        assert said == "Reloaded. Changed: DEFAULT_MODEL, MODELS_FILE, the catalogue (-own, -other)."
        with pytest.raises(UnknownModel):
            await chooser.resolve("own", Place(1))
        assert (await chooser.resolve(None, Place(1))).alias == "smol"


async def test_a_pinned_alias_pins_what_it_stands_for_after_the_reload(tmp_path: Path) -> None:
    class Pins(ScriptedEngine):
        pinned: tuple[ModelSpec, ...] = ()

        def pin(self, models: Iterable[ModelSpec]) -> None:
            self.pinned = tuple(models)

    engine = Pins()
    own = tmp_path / "models.toml"
    own.write_text(OWN)
    (tmp_path / ".env").write_text(
        f"DATA_DIR={tmp_path}\nCACHE_DIR={tmp_path}\nMODELS_FILE={own}\nPINNED_MODELS=own"
    )
    async with open_services(load_settings(tmp_path / ".env"), engine) as services:
        assert [spec.context_tokens for spec in engine.pinned] == [256]
        own.write_text(OWN.replace("256", "512"))
        await services.operations.reload()
        assert [spec.context_tokens for spec in engine.pinned] == [512]


async def test_limits_hold_from_the_next_question_on(tmp_path: Path) -> None:
    async with running(tmp_path) as bot:
        gate = bot.services.gate
        with await gate.admit(SOMEBODY, "smol", QUESTION):
            pass
        said = await bot.reload("MAX_PROMPT_CHARACTERS=3", "PERSON_REQUESTS_PER_MINUTE=0")
        assert said == "Reloaded. Changed: PERSON_REQUESTS_PER_MINUTE, MAX_PROMPT_CHARACTERS."
        with pytest.raises(LimitReached, match="4 characters"):
            await gate.admit(SOMEBODY, "smol", QUESTION)


async def test_the_file_of_who_may_ask_is_read_again_though_no_setting_has_changed(tmp_path: Path) -> None:
    access = tmp_path / "access.toml"
    access.write_text("")
    async with running(tmp_path, f"ACCESS_FILE={access}") as bot:
        bot.write("access.toml", "[deny]\npeople = [7]\n")
        assert await bot.reload(f"ACCESS_FILE={access}") == "Reloaded. Changed: who may ask."
        with pytest.raises(AccessRefused):
            await bot.services.gate.admit(SOMEBODY, "smol", QUESTION)


async def test_operators_who_are_named_are_operators_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, "OPERATOR_IDS=1") as bot:
        await bot.reload("OPERATOR_IDS=2,3")
        operators = bot.services.operators
        assert [await operators.is_operator(discord.Object(n)) for n in (1, 2, 3)] == [False, True, True]


async def test_the_length_of_answers_and_the_queues_times_change(tmp_path: Path) -> None:
    async with running(tmp_path) as bot:
        await bot.reload("MAX_NEW_TOKENS=9", "QUEUE_LIMIT=0", "QUEUE_TIMEOUT_S=1", "GENERATION_TIMEOUT_S=2")
        queue = bot.services.inference
        assert bot.services.answers.max_new_tokens == 9
        assert (queue.limit, queue.queue_timeout_s, queue.generation_timeout_s) == (0, 1.0, 2.0)


async def test_the_level_of_the_log_changes(tmp_path: Path) -> None:
    before = logging.getLogger().level
    try:
        async with running(tmp_path) as bot:
            await bot.reload("LOG_LEVEL=ERROR")
            assert logging.getLogger("bot").getEffectiveLevel() == logging.ERROR
    finally:
        logging.getLogger().setLevel(before)


async def test_what_cannot_change_while_it_runs_is_named_each_time_and_does_not_change(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as bot:
        for _ in range(2):
            said = await bot.reload("BATCH_REQUESTS=3", "METRICS_PORT=9464")
            assert said.splitlines()[-1] == "At the next start only: BATCH_REQUESTS, METRICS_PORT."
        assert bot.services.operations.reload.settings.batch_requests == 16


async def test_a_librarys_variable_that_differs_is_named_and_one_that_is_misspelt_is_told(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, "HF_HOME=/srv/one", "WEATHER=fine") as bot:
        said = await bot.reload("HF_HOME=/srv/two", "TZ=UTC", "WEATHER=fine", "MAX_NEW_TOKN=3")
        assert said.splitlines() == [
            "Reloaded. Nothing has changed.",
            "At the next start only: HF_HOME, TZ.",
            f"MAX_NEW_TOKN in {tmp_path}/.env is not a setting: did you mean MAX_NEW_TOKENS?",
        ]


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["MAX_NEW_TOKENS=9", "QUEUE_LIMIT=many"], "QUEUE_LIMIT is malformed"),
        (["MAX_NEW_TOKENS=9", "DEFAULT_MODEL=nobody"], "DEFAULT_MODEL is 'nobody'"),
        (["MAX_NEW_TOKENS=9", "MODELS_FILE=/nowhere/models.toml"], "check MODELS_FILE"),
        (["MAX_NEW_TOKENS=9", "ACCESS_FILE=/nowhere/access.toml"], "ACCESS_FILE"),
    ],
)
async def test_a_fault_is_a_sentence_and_leaves_everything_as_it_was(
    tmp_path: Path, lines: list[str], why: str
) -> None:
    async with running(tmp_path) as bot:
        with pytest.raises((SettingsError, CatalogError), match=why):
            await bot.reload(*lines)
        assert bot.services.answers.max_new_tokens == 512
        assert await bot.reload() == "Reloaded. Nothing has changed."


async def test_a_settings_file_that_is_gone_is_no_empty_one(tmp_path: Path) -> None:
    async with running(tmp_path, "MAX_NEW_TOKENS=9") as bot:
        (tmp_path / ".env").unlink()
        with pytest.raises(SettingsError, match="is gone"):
            await bot.services.operations.reload()
        assert bot.services.answers.max_new_tokens == 9


async def test_files_that_cannot_be_read_are_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload_module, "PATIENCE_S", 0.0)
    async with running(tmp_path) as bot:
        with pytest.raises(BotError, match="could not be read within"):
            await bot.reload()


async def test_files_whose_disk_hangs_are_read_by_one_thread_however_often_a_reload_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, reads = threading.Event(), []
    async with running(tmp_path) as bot:
        reload = bot.services.operations.reload

        def read() -> Settings:
            reads.append(1)
            hangs.wait(30)
            return load_settings(tmp_path / ".env")

        monkeypatch.setattr(reload, "_reread", read)
        with monkeypatch.context() as patch:
            patch.setattr(reload_module, "PATIENCE_S", 0.0)
            for _ in range(3):
                with pytest.raises(SettingsError, match="is their disk well"):
                    await bot.reload("MAX_NEW_TOKENS=7")
        assert len(reads) == 1
        hangs.set()
        async with asyncio.timeout(10):
            while reload._looks.is_under_way("files"):
                await asyncio.sleep(0.01)
        assert "MAX_NEW_TOKENS" in await bot.reload("MAX_NEW_TOKENS=7")
        assert len(reads) == 2


async def test_two_reloads_at_once_take_turns(tmp_path: Path) -> None:
    async with running(tmp_path) as bot:
        bot.set("MAX_NEW_TOKENS=9")
        reload = bot.services.operations.reload
        said = await asyncio.gather(reload(), reload())
    assert list(said) == ["Reloaded. Changed: MAX_NEW_TOKENS.", "Reloaded. Nothing has changed."]


async def test_no_value_is_said_for_one_of_them_may_be_a_secret(tmp_path: Path) -> None:
    async with running(tmp_path) as bot:
        said = await bot.reload("HF_TOKEN=hf_very_secret")
    assert said.splitlines()[-1] == "At the next start only: HF_TOKEN."

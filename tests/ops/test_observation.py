"""What an operator reads at the local port while people use the bot: over HTTP, parsed as Prometheus does."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import discord
import pytest

from bot.app import open_services
from bot.bench import discord_payloads, discord_standin
from bot.cli import main
from bot.client import PunchlineBot
from bot.errors import ModelUnavailable, SettingsError
from bot.inference.catalog import ModelSpec
from bot.inference.engine import FinishReason
from bot.inference.memory import Footprint, MemoryReport, Resident
from bot.inference.observer import LoadEnding
from bot.inference.scripted import ScriptedEngine
from bot.ops import health
from bot.settings import load_settings
from tests.ops.looking_on import GPU, LocalPort, free_port, looking_on
from tests.world import World, open_world, over

MEMORY = MemoryReport(24 * 10**9, (Resident("smol", Footprint(100, 20, 3), pinned=False, idle_s=None),))


@asynccontextmanager
async def watched(
    engine: ScriptedEngine, port: LocalPort, folder: Path, **settings: int
) -> AsyncIterator[World]:
    async with open_world(engine, folder, observer=port.observation.observer, **settings) as world:
        ping = world.bot.services.database.ping
        port.observation.attach(world.queue, engine.memory, ping, world.bot)
        port.observation.discord.connected = True  # it was ready before anybody listened
        yield world


def answers(world: World) -> list[discord.Message]:
    return [message for message in world.messages if message.author.bot]


async def test_requests_are_counted_by_model_command_and_ending_with_their_tokens(tmp_path: Path) -> None:
    async with looking_on(tmp_path) as port, watched(ScriptedEngine(), port, tmp_path) as world:
        await world.alice.slash(world.channel, "joke", topic="tea")
        await world.until(lambda: world.ended)
        await world.bob.slash(world.channel, "ask", prompt="Why is that?", model="gemma")
        await world.until(lambda: world.ended and len(world.messages) == 2)
        await world.bob.slash(world.channel, "ask", prompt="And why is that?", model="gemma")
        await world.until(lambda: world.ended and len(world.messages) == 3)
        seen = await port.scrape()
    assert seen.value("requests_total", model="smol", command="joke", ending="stop") == 1
    assert seen.value("requests_total", model="gemma", command="ask", ending="stop") == 2
    assert seen.value("tokens_total", model="smol", kind="completion") == 3
    assert seen.value("tokens_total", model="gemma", kind="completion") == 6
    assert seen.value("tokens_total", model="gemma", kind="prompt") == 16
    for histogram in (
        "wait_seconds",
        "first_token_seconds",
        "generation_seconds",
        "answer_tokens_per_second",
    ):
        assert seen.value(f"{histogram}_count", model="gemma") == 2, histogram
    assert seen.value("answer_tokens_per_second_sum", model="gemma") == pytest.approx(40)
    assert seen.value("reply_gap_seconds_count", purpose="acknowledgement") == 3
    assert seen.value("reply_gap_seconds_count", purpose="end") == 3


async def test_mentions_and_buttons_are_commands_too(tmp_path: Path) -> None:
    async with looking_on(tmp_path) as port, watched(ScriptedEngine(), port, tmp_path) as world:
        assert world.bot.user is not None
        await world.alice.send(world.channel, f"<@{world.bot.user.id}> why?")
        await world.until(lambda: len(answers(world)) == 1 and over(answers(world)[0]))
        await world.alice.click(answers(world)[0], label="Regenerate")
        await world.until(lambda: len(answers(world)) == 2 and all(map(over, answers(world))))
        seen = await port.scrape()
    assert seen.value("requests_total", model="smol", command="mention", ending="stop") == 1
    assert seen.value("requests_total", model="smol", command="button again", ending="stop") == 1


async def test_a_line_is_seen_while_it_stands_and_a_stopped_answer_keeps_the_tokens_it_had(
    tmp_path: Path,
) -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine(script=("One", " two", gate.wait))
    async with looking_on(tmp_path) as port, watched(engine, port, tmp_path) as world:
        for _ in range(3):
            await world.alice.slash(world.channel, "joke")
        await world.until(lambda: bool(world.messages) and "One two" in world.messages[0].content)
        standing = await port.scrape()
        await world.alice.click(world.messages[0], label="Stop")
        gate.set()
        await world.until(lambda: world.ended)
        over = await port.scrape()
    assert (standing.value("queue_running"), standing.value("queue_waiting")) == (1, 2)
    assert standing.value("tokens_total", model="smol", kind="completion") == 2  # as they come
    assert (over.value("queue_running"), over.value("queue_waiting")) == (0, 0)
    assert over.value("requests_total", model="smol", command="joke", ending="cancelled") == 1
    assert over.value("requests_total", model="smol", command="joke", ending="stop") == 2
    assert over.value("tokens_total", model="smol", kind="completion") == 6


async def test_errors_are_counted_by_their_names_and_refusals_apart(tmp_path: Path) -> None:
    engine = ScriptedEngine(script=("One", ModelUnavailable("It is gone.")))
    async with looking_on(tmp_path) as port, watched(engine, port, tmp_path, queue_limit=0) as world:
        await world.alice.slash(world.channel, "joke")
        await world.until(lambda: world.ended)
        await world.alice.slash(world.channel, "joke", model="no-such-model")
        gate = asyncio.Event()
        engine.script = (gate.wait, RuntimeError("a bug"))
        await world.alice.slash(world.channel, "joke")
        await world.alice.slash(world.channel, "joke")  # one too many
        gate.set()
        await world.until(lambda: world.ended and world.queue.running == 0)
        seen = await port.scrape()
        assert len(world.env.errors) == 2  # those that people were told of at once
    assert seen.value("errors_total", where="answer", kind="ModelUnavailable") == 1
    assert seen.value("errors_total", where="answer", kind="Unexpected") == 1
    assert seen.value("errors_total", where="command", kind="UnknownModel") == 1
    assert seen.value("refusals_total", kind="QueueFull") == 1
    assert seen.value("errors_total", where="command", kind="QueueFull") is None
    assert seen.value("requests_total", model="smol", command="joke", ending="error") == 2


async def test_two_models_that_had_one_alias_before_and_after_a_reload_are_one_number(tmp_path: Path) -> None:
    engine = ScriptedEngine(report=replace(MEMORY, residents=MEMORY.residents * 2))
    async with looking_on(tmp_path) as port, watched(engine, port, tmp_path):
        seen = await port.scrape()
    assert seen.value("resident_models") == 2
    assert seen.value("model_memory_bytes", model="smol", part="weights") == 200


async def test_memory_and_the_device_are_read_when_somebody_asks(tmp_path: Path) -> None:
    engine = ScriptedEngine(report=MEMORY)
    async with looking_on(tmp_path) as port, watched(engine, port, tmp_path):
        seen = await port.scrape()
        engine.report = replace(MEMORY, residents=())
        later = await port.scrape()
    assert (seen.value("resident_models"), later.value("resident_models")) == (1, 0)
    assert seen.value("model_memory_bytes", model="smol", part="weights") == 100
    assert seen.value("model_memory_bytes", model="smol", part="cache") == 20
    assert later.value("model_memory_bytes", model="smol", part="weights") is None
    assert seen.value("memory_budget_bytes") == 24 * 10**9
    assert seen.value("device_memory_total_bytes") == 80 * 10**9
    assert seen.value("device_memory_free_bytes") == 20 * 10**9
    assert seen.value("device_temperature_celsius") == 61
    assert seen.value("device_utilization_ratio") == 0.97
    assert seen.value("device_info", name="a GPU", kind="gpu", driver="570.1") == 1


async def test_a_driver_that_hangs_costs_one_thread_and_no_other_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.ops.readings.DEVICE_PATIENCE_S", 0.05)
    hangs, looks = threading.Event(), []

    def read() -> object:
        looks.append(1)
        hangs.wait(30)
        return GPU

    async with looking_on(tmp_path, device=read) as port, watched(ScriptedEngine(), port, tmp_path):  # type: ignore[arg-type]
        for _ in range(3):
            seen = await port.scrape()
            assert seen.value("device_memory_total_bytes") is None
            assert seen.value("queue_waiting") == 0
        assert len(looks) == 1
        assert sum(thread.name == "look" for thread in threading.enumerate()) == 1
        hangs.set()
        async with asyncio.timeout(10):
            while seen.value("device_memory_total_bytes") is None:
                seen = await port.scrape()


async def test_loads_are_counted_by_how_they_ended_and_timed_when_they_succeeded(tmp_path: Path) -> None:
    spec = ModelSpec(alias="tiny", source="embedded", context_tokens=256, description="a model")
    async with looking_on(tmp_path) as port:
        observer = port.observation.observer
        observer.loaded(spec, 12.0, LoadEnding.LOADED)
        observer.loaded(spec, 3.0, LoadEnding.FAILED)
        observer.loaded(spec, 2.0, LoadEnding.ABANDONED)
        seen = await port.scrape()
    endings = [seen.value("loads_total", model="tiny", ending=ending.value) for ending in LoadEnding]
    assert endings == [1, 1, 1]
    assert (seen.value("load_seconds_count", model="tiny"), seen.value("load_seconds_sum", model="tiny")) == (
        1,
        12,
    )


@pytest.mark.parametrize(
    "accept", ["", "text/plain;version=0.0.4", "application/openmetrics-text;version=1.0.0"]
)
async def test_each_format_that_prometheus_asks_for_can_be_read(tmp_path: Path, accept: str) -> None:
    async with looking_on(tmp_path) as port, watched(ScriptedEngine(report=MEMORY), port, tmp_path):
        seen = await port.scrape(accept)
    assert seen.value("queue_waiting") == 0
    assert "punchline_build_info" in seen.names
    assert "process_resident_memory_bytes" in seen.names
    assert (seen.value("tasks") or 0) >= 1


async def test_no_label_ever_holds_who_or_where(tmp_path: Path) -> None:
    async with looking_on(tmp_path) as port, watched(ScriptedEngine(), port, tmp_path) as world:
        await world.alice.slash(world.channel, "ask", prompt="a private question")
        await world.until(lambda: world.ended)
        text = (await port.page("/metrics")).text
        assert world.channel.guild is not None
        ids = (world.channel.id, world.channel.guild.id, world.alice.id)
    assert all(str(one) not in text for one in ids)
    assert "private" not in text


async def test_it_is_not_ready_until_everything_is_there_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with looking_on(tmp_path) as port:
        starting = await port.page("/readyz")
        async with watched(ScriptedEngine(), port, tmp_path) as world:
            ready = await port.page("/readyz")
            port.observation.discord.connected = False
            cut_off = await port.page("/readyz")
            port.observation.discord.connected = True
            await world.queue.drain(0)
            draining = await port.page("/readyz")
            await world.bot.services.database.aclose()
            closed = await port.page("/readyz")
            seen = await port.scrape()
    assert (starting.status, starting.json["ready"]) == (503, False)
    assert "starting" in starting.json["reasons"][0]
    assert (ready.status, ready.json["ready"], ready.json["reasons"]) == (200, True, [])
    assert set(ready.json["checks"]) == {"start", "gateway", "database", "engine", "queue"}
    assert cut_off.status == 503
    assert cut_off.json["reasons"] == ["The bot is not connected to Discord's gateway."]
    assert "drained or stopped" in draining.json["checks"]["queue"]
    assert draining.json["checks"]["gateway"] == "ok"
    assert closed.json["checks"]["database"] == "The bot is stopping."
    assert seen.value("ready", check="database") == 0
    assert seen.value("ready", check="gateway") == 1


async def test_a_model_that_does_not_let_go_makes_it_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = asyncio.Event()

    async def hang() -> None:
        while not let_go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await let_go.wait()

    async with (
        looking_on(tmp_path) as port,
        watched(ScriptedEngine(script=("One", hang)), port, tmp_path) as world,
    ):
        await world.alice.slash(world.channel, "joke")
        await world.until(lambda: bool(world.messages) and "One" in world.messages[0].content)
        await world.alice.click(world.messages[0], label="Stop")
        await world.until(lambda: bool(world.queue.held))
        assert (await port.page("/readyz")).status == 200  # it may take a moment
        monkeypatch.setattr(health, "STUCK_AFTER_S", 0.0)
        stuck = await port.page("/readyz")
        seen = await port.scrape()
        let_go.set()
        await world.until(lambda: world.queue.running == 0)
        assert (await port.page("/readyz")).status == 200
    assert stuck.status == 503
    assert "has not let go" in stuck.json["checks"]["engine"]
    assert seen.value("queue_held") == 1


async def test_healthz_says_that_the_loop_runs_and_how_late_it_is(tmp_path: Path) -> None:
    async with looking_on(tmp_path) as port:
        page = await port.page("/healthz")
        seen = await port.scrape()
        assert (page.status, page.json["alive"]) == (200, True)
        assert 0 <= page.json["last_heartbeat_s_ago"] < 30
        assert page.json["event_loop_lag_s"] >= 0
        assert seen.value("event_loop_lag_seconds_count") is not None
        port.observation.health._heart._beating.cancel()  # it died, though the loop answers
        port.observation.health._heart.at_s -= 60
        assert (await port.page("/healthz")).status == 503


async def test_a_loop_that_was_blocked_is_seen_in_the_lag(tmp_path: Path) -> None:
    async with looking_on(tmp_path) as port:
        heart = port.observation.health._heart
        before_s = heart.at_s
        threading.Event().wait(0.8)  # the loop is blocked
        async with asyncio.timeout(10):
            while heart.at_s == before_s:
                await asyncio.sleep(0)
        assert heart.lag_s > 0.25


async def test_other_paths_and_methods_are_refused(tmp_path: Path) -> None:
    async with looking_on(tmp_path) as port:
        assert (await port.page("/")).status == 404
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://{port.address}/metrics") as answer,
        ):
            assert answer.status == 405
            async with session.head(f"http://{port.address}/healthz") as answer_to_head:
                assert answer_to_head.status == 405


@asynccontextmanager
async def on_the_gateway(
    port: LocalPort, folder: Path, memory: MemoryReport = MEMORY
) -> AsyncIterator[PunchlineBot]:
    """The bot as it is run, at the stand-in for Discord."""
    observation = port.observation
    settings = load_settings(None, data_dir=folder, cache_dir=folder)
    engine = ScriptedEngine(report=memory)
    async with open_services(settings, engine, observer=observation.observer) as services:
        bot = PunchlineBot(services=services, data_dir=folder, http_trace=observation.discord.http_trace)
        observation.attach(services.inference, engine.memory, services.database.ping, bot)
        async with bot:
            running = asyncio.create_task(bot.start("a.b.c"))
            await until(lambda: observation.discord.connected)
            yield bot
        with contextlib.suppress(asyncio.CancelledError):
            running.cancel()
            await running


async def until(true: object) -> None:
    assert callable(true)
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.02)


async def test_requests_to_discord_are_counted_those_that_it_refuses_too(tmp_path: Path) -> None:
    with discord_standin.running(0.01) as discord_side:
        async with looking_on(tmp_path) as port, on_the_gateway(port, tmp_path) as bot:
            discord_side.dispatch(discord_payloads.command_payload(1, "joke"))
            await until(lambda: any("tokens/s" in one.content for one in discord_side.arrivals()))
            channel = int(discord_payloads.CHANNEL_ID)
            url = f"{discord.http.Route.BASE}/channels/{channel}/messages/1"
            async with (
                aiohttp.ClientSession() as another
            ):  # uses the bucket up, as a second process of the bot's would
                for _ in range(5):
                    await (await another.patch(url, json={"content": "by hand"})).read()
            edit = bot.get_partial_messageable(channel).get_partial_message(1).edit(content="refused")
            refused = asyncio.create_task(edit)
            async with asyncio.timeout(30):
                while not (seen := await port.scrape()).value("discord_rate_limits_total", scope="user"):
                    await asyncio.sleep(0.02)
            refused.cancel()
    assert seen.value("discord_requests_total", kind="acknowledge", status="200") == 1
    assert seen.value("discord_requests_total", kind="edit", status="429") == 1
    assert (seen.value("discord_requests_total", kind="edit", status="200") or 0) >= 1
    assert (seen.value("discord_request_seconds_count", kind="edit") or 0) >= 2
    assert seen.value("requests_total", model="smol", command="joke", ending=FinishReason.STOP.value) == 1


async def test_a_connection_that_was_lost_and_resumed_is_counted_once(tmp_path: Path) -> None:
    with discord_standin.running(0.01) as discord_side:
        async with looking_on(tmp_path) as port, on_the_gateway(port, tmp_path):
            discord_side.drop()
            async with asyncio.timeout(30):
                while not (seen := await port.scrape()).value("gateway_reconnects_total", how="resumed"):
                    await asyncio.sleep(0.02)
            assert (await port.page("/readyz")).status == 200
    assert seen.value("gateway_disconnects_total") == 1
    assert seen.value("gateway_reconnects_total", how="resumed") == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"metrics_host": "192.0.2.1"}, "METRICS_HOST 192.0.2.1 is no address of this machine"),
        ({"metrics_host": "no.such.host.invalid"}, "METRICS_HOST no.such.host.invalid"),
    ],
)
async def test_an_address_that_cannot_be_opened_is_a_sentence(
    tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        async with looking_on(tmp_path, **settings):
            pass


def test_a_port_that_is_taken_is_one_line_and_the_exit_code_of_wrong_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        for name, value in {"METRICS_PORT": number, "DISCORD_TOKEN": "a.b.c", "DATA_DIR": tmp_path}.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.chdir(tmp_path)
        assert main(["run"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said == [f"METRICS_PORT {number} is taken by another program: write another port, or 0 for none."]


async def test_without_a_port_nothing_listens(tmp_path: Path) -> None:
    port = free_port()
    async with looking_on(tmp_path, metrics_port=0):
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", port)


async def test_a_port_that_others_can_reach_is_said_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with looking_on(tmp_path, metrics_host="0.0.0.0"):  # noqa: S104
        pass
    assert "everybody who can reach 0.0.0.0" in caplog.text

"""`bench` measures both sides in one run, and says what it found as a table, as JSON and in pictures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from bot.bench.peer import ask_peer
from bot.bench.report import draw, table
from bot.bench.run import Plan, bench
from bot.bench.work import Timeline, Work, arrivals_s, result
from bot.cli import EXIT_USAGE, main
from bot.errors import UsageError
from bot.inference.catalog import SamplingParams
from bot.settings import load_settings
from tests.inference import tiny
from tests.inference.checkpoints import save_checkpoint

WORK = Work.of(SamplingParams(temperature=0.5), 3)


def test_all_answers_have_the_same_length_and_a_seed() -> None:
    how = WORK.sampling
    assert (how.min_new_tokens, how.max_new_tokens, how.seed, how.temperature) == (3, 3, 1, 0.5)
    assert WORK.question(1) != WORK.question(2)


def test_people_come_all_at_once_or_one_after_the_other_and_the_same_in_every_run() -> None:
    assert arrivals_s(3, "once", 4.0) == [0.0, 0.0, 0.0]
    times = arrivals_s(16, "poisson", 4.0)
    assert times == sorted(times) == arrivals_s(16, "poisson", 4.0)
    assert times[0] == 0.0
    assert 1.0 < times[-1] < 12.0


def test_what_timelines_come_to() -> None:
    first = Timeline(0.0, [(0.5, 1), (1.0, 2), (2.0, 4)])
    second = Timeline(1.0, [(2.0, 1), (4.0, 4)])
    row = result("it", "once", [first, second], [0.001, 0.002, 0.05])
    assert row.tokens_per_second == 8 / 4.0
    assert row.first_token_median_s == 0.75
    assert row.between_tokens_p95_s == pytest.approx(2 / 3)
    assert (row.loop_lag_p99_s, row.loop_lag_worst_s) == (0.05, 0.05)
    assert row.as_json()["users"] == 2


@asynccontextmanager
async def server(handler: object) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", handler)  # type: ignore[arg-type]
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_a_server_that_streams_is_asked_the_same_and_timed() -> None:
    asked: list[dict[str, object]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(await request.json())
        response = web.StreamResponse()
        await response.prepare(request)
        for word in ("a ", "b ", "c "):
            line = json.dumps({"choices": [{"delta": {"content": word}}]})
            await response.write(f"data: {line}\n\n".encode())
            await asyncio.sleep(0.01)
        await response.write(b"data: [DONE]\n\n")
        return response

    async with server(handler) as url:
        row = await ask_peer(url, WORK, 4, "once")
    assert (row.system, row.users) == (url.removeprefix("http://"), 4)
    assert row.tokens_per_second > 0
    assert {one["max_tokens"] for one in asked} == {3}
    assert len({json.dumps(one["messages"]) for one in asked}) == 4


async def test_a_server_that_is_none_is_a_sentence() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response({"error": "what?"}, status=404)

    async with server(handler) as url:
        with pytest.raises(UsageError, match="does not answer as an OpenAI-compatible server"):
            await ask_peer(url, WORK, 1, "once")


@pytest.mark.parametrize("typed", ["", "four", "0", "1,,2"])
def test_users_that_are_no_numbers_are_a_sentence(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--users", typed]) == EXIT_USAGE
    assert "write numbers with commas between" in capsys.readouterr().err


@pytest.mark.timeout(300)
def test_a_run_measures_generate_and_the_whole_bot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a tiny model, so that it takes no longer where a processor has no kernel for NF4."""
    save_checkpoint("llama", tmp_path / "tiny", context_tokens=8_192)
    # Words are tokens, as in real models: the long question of one who joins is 950 words.
    words = tiny.byte_level(" word", " word", merges=4, chat_template=tiny.CHATML)
    words.save_pretrained(tmp_path / "tiny")
    models = tmp_path / "models.toml"
    models.write_text(
        f'[tiny]\nsource = "{tmp_path / "tiny"}"\ncontext_tokens = 8192\nquantization = "none"\n'
        'description = "a model"\n'
    )
    settings = load_settings(None, cache_dir=tmp_path, data_dir=tmp_path, models_file=models)
    file, plots = tmp_path / "bench.json", tmp_path / "plots"
    assert bench(settings, Plan("tiny", (1, 2), tokens=4), file, plots) == 0
    document = json.loads(file.read_text())
    rows = {(row["system"], row["users"], row["arrivals"]): row for row in document["results"]}
    for users in (1, 2):
        assert rows["generate", users, "once"]["tokens_per_second"] > 0
        assert rows["punchline", users, "once"]["tokens_per_second"] > 0
        assert rows["punchline", users, "once"]["first_token_median_s"] > 0
    assert ("punchline, after 3 changes", 2, "once") in rows
    assert document["peak_memory_bytes"] > 0
    assert sorted(path.name for path in plots.iterdir()) == [
        "bench-first-token-median-s.png",
        "bench-tokens-per-second.png",
    ]
    said = capsys.readouterr().out
    assert "tokens/s" in said.splitlines()[0]
    assert "loaded in" in said


def test_a_table_leaves_out_what_a_system_does_not_show_and_pictures_need_no_such_rows(
    tmp_path: Path,
) -> None:
    row = result("a system", "once", [Timeline(0.0, [(1.0, 1)])])
    lines = table([row]).splitlines()
    assert len(lines) == 2
    assert "a system" in lines[1]
    draw([row], tmp_path)
    assert len(list(tmp_path.iterdir())) == 2

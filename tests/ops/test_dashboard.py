"""The dashboard for Grafana: it asks for numbers that the bot really gives, under the labels that they really have."""

from __future__ import annotations

import asyncio
import json
import re
from collections import defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from bot.bench import discord_payloads, discord_standin
from bot.chooser import Place
from bot.errors import ModelUnavailable, QueueFull
from bot.inference.observer import LoadEnding
from tests.ops.looking_on import Scrape, looking_on
from tests.ops.test_observation import MEMORY, on_the_gateway

BOARD: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "deploy" / "grafana-dashboard.json").read_text(encoding="utf-8")
)
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]

_NAME = re.compile(r"\b((?:punchline|process)_[a-z_]+)")
_SELECTED = re.compile(r"\b((?:punchline|process)_[a-z_]+)\{([^}]*)\}")
_OF_PROMETHEUS = {"instance", "le"}  # labels that it adds, or that every histogram has


def asked_for() -> set[str]:
    queries = [str(one.get("definition", "")) for one in BOARD["templating"]["list"]]
    return {name for text in (*EXPRESSIONS, *queries) for name in _NAME.findall(text)}


@pytest.fixture
async def seen(tmp_path: Path) -> Scrape:
    """A scrape with something in every metric."""
    with discord_standin.running(0.01) as discord_side:
        async with looking_on(tmp_path) as port, on_the_gateway(port, tmp_path, memory=MEMORY) as bot:
            discord_side.dispatch(discord_payloads.command_payload(1, "joke"))
            while not any("tokens/s" in one.content for one in discord_side.arrivals()):
                await asyncio.sleep(0.02)
            spec = await bot.services.chooser.resolve("smol", Place(1))
            metrics = port.observation.metrics
            metrics.loaded(spec, 1.0, LoadEnding.LOADED)
            metrics.failed(QueueFull("full"))
            metrics.failed(ModelUnavailable("gone"))
            metrics.rate_limits.labels("user").inc()
            metrics.reconnects.labels("resumed").inc()
            return await port.scrape()


async def test_every_number_that_the_dashboard_asks_for_is_given(seen: Scrape) -> None:
    assert len(asked_for()) > 30
    assert asked_for() - seen.names == set()


async def test_every_number_of_ours_is_on_the_dashboard(seen: Scrape) -> None:
    shown = {re.sub("_(total|bucket|sum|count|info)$", "", name) for name in asked_for()}
    ours = {
        re.sub("_(total|info)$", "", family)
        for family in seen.families
        if family.startswith("punchline_") and not family.endswith("_created")
    }
    assert ours - shown == set()


async def test_every_label_that_the_dashboard_uses_is_there(seen: Scrape) -> None:
    labels: defaultdict[str, set[str]] = defaultdict(set)
    for name, pairs in seen.samples:
        labels[name] |= {key for key, _ in pairs}
    for panel in PANELS:
        for target in panel["targets"]:
            expression, given = target["expr"], set[str]()
            for name, selector in _SELECTED.findall(expression):
                given |= labels[name]
                used = set(re.findall(r"(\w+)\s*[=!]", selector)) - _OF_PROMETHEUS
                assert used <= labels[name], (panel["title"], name)
            grouped = {
                one.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for one in group.split(",")
            }
            written = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert grouped | written <= given | _OF_PROMETHEUS, panel["title"]


def test_rates_and_quantiles_are_put_as_prometheus_wants_them() -> None:
    for expression in EXPRESSIONS:
        assert expression.count("(") == expression.count(")")
        assert expression.count("{") == expression.count("}")
        for name in _NAME.findall(expression):
            before = expression[: expression.index(name)]
            assert name.endswith(("_total", "_bucket")) == before.endswith(("rate(", "increase(")), expression
        if "histogram_quantile" in expression:
            assert re.search(r"by \(le\b", expression), expression


def test_its_rows_read_from_people_to_discord_and_nothing_covers_anything() -> None:
    rows = [panel["title"] for panel in BOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Now", "People", "Queue", "Model", "Device", "Discord"]
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"].get("unit") or panel["type"] == "state-timeline"
    for one, other in combinations((panel["gridPos"] for panel in BOARD["panels"]), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in BOARD["panels"])


def test_it_can_be_imported_anywhere_it_names_no_data_source_of_its_own() -> None:
    assert {target["datasource"]["uid"] for panel in PANELS for target in panel["targets"]} == {
        "${datasource}"
    }
    assert {one["name"] for one in BOARD["templating"]["list"]} == {"datasource", "instance", "model"}
    assert all("$instance" in expression for expression in EXPRESSIONS)

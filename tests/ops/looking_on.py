"""Reading the local port as Prometheus and a service manager do: over HTTP, from another thread."""

from __future__ import annotations

import asyncio
import json
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from bot.inference.device import DeviceReading, Sensors
from bot.ops.observation import Observation, open_observation
from bot.ops.readings import DeviceLook
from bot.settings import load_settings

GPU = DeviceReading("a GPU", True, 80 * 10**9, 20 * 10**9, 50 * 10**9, Sensors(61, 97, "570.1"))


@dataclass(frozen=True)
class Page:
    """What was answered."""

    status: int
    content_type: str
    text: str

    @property
    def json(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.text)
        return body


async def get(url: str, accept: str = "") -> Page:
    def fetch() -> Page:
        request = urllib.request.Request(url, headers={"Accept": accept} if accept else {})  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
                return Page(answer.status, answer.headers["Content-Type"], answer.read().decode())
        except urllib.error.HTTPError as refused:
            with refused:
                return Page(refused.code, refused.headers["Content-Type"], refused.read().decode())

    return await asyncio.to_thread(fetch)


@dataclass(frozen=True)
class Scrape:
    """The samples of one scrape, by name and labels."""

    samples: dict[tuple[str, frozenset[tuple[str, str]]], float]
    families: frozenset[str]

    def value(self, name: str, /, **labels: str) -> float | None:
        return self.samples.get((f"punchline_{name}", frozenset(labels.items())))

    def labels(self, label: str) -> set[str]:
        return {value for _, pairs in self.samples for key, value in pairs if key == label}

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.samples}


@dataclass(frozen=True)
class LocalPort:
    """A bot's local port."""

    observation: Observation
    address: str

    async def page(self, path: str, accept: str = "") -> Page:
        return await get(f"http://{self.address}{path}", accept)

    async def scrape(self, accept: str = "text/plain;version=0.0.4") -> Scrape:
        page = await self.page("/metrics", accept)
        assert page.status == 200
        parse = openmetrics if "openmetrics" in page.content_type else text_string_to_metric_families
        families = list(parse(page.text))
        samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }
        return Scrape(samples, frozenset(family.name for family in families))


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@asynccontextmanager
async def looking_on(
    folder: Path, device: Callable[[], DeviceReading] = lambda: GPU, **settings: Any
) -> AsyncIterator[LocalPort]:
    """The real observation, its port open; nothing is attached yet."""
    port = free_port()
    values = {"data_dir": folder, "cache_dir": folder, "metrics_port": port, **settings}
    async with open_observation(load_settings(None, **values), DeviceLook(device)) as observation:
        yield LocalPort(observation, f"127.0.0.1:{port}")

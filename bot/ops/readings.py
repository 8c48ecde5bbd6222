"""What is read when Prometheus asks: the queue, memory, the device, the connection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

from bot.inference.device import DeviceReading, read_device
from bot.inference.memory import MemoryReport
from bot.inference.threads import SharedLooks
from bot.ops.health import Checks

DEVICE_PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class Readings:
    """How things are at one moment; what could not be read is None, and then left out.

    Attributes:
        waiting, running, held: requests, see `InferenceQueue`.
        memory: what the engine holds.
        device: what the device says.
        latency_s: to Discord's gateway and back.
        servers: how many the bot is in.
        tasks: how many are on the event loop.
        checks: what is in the way of people, by part.
    """

    checks: Checks
    waiting: int | None = None
    running: int | None = None
    held: int | None = None
    memory: MemoryReport | None = None
    device: DeviceReading | None = None
    latency_s: float | None = None
    servers: int | None = None
    tasks: int | None = None


class ReadingsCollector:
    """Gives the newest readings to a registry.

    Attributes:
        newest: the readings; set right before they are collected.
    """

    def __init__(self) -> None:
        self.newest = Readings({})

    def describe(self) -> list[Metric]:
        """Nothing is known when it is registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        now = self.newest
        checks = GaugeMetricFamily("punchline_ready", "1 for each part that works.", labels=["check"])
        for name, reason in now.checks.items():
            checks.add_metric([name], float(reason is None))
        yield checks
        yield from _gauge("queue_waiting", "Requests that wait for their turn or their model.", now.waiting)
        yield from _gauge("queue_running", "Requests that hold one of the engine's slots.", now.running)
        yield from _gauge("queue_held", "Those of them that are over, and not let go of yet.", now.held)
        yield from _gauge("gateway_latency_seconds", "To Discord's gateway and back.", now.latency_s)
        yield from _gauge("servers", "Servers that the bot is in.", now.servers)
        yield from _gauge("tasks", "Tasks on the event loop.", now.tasks)
        if now.memory is not None:
            yield from _memory(now.memory)
        if now.device is not None:
            yield from _device(now.device)


def _gauge(name: str, says: str, value: float | None) -> Iterator[Metric]:
    if value is not None:
        yield GaugeMetricFamily(f"punchline_{name}", says, value=value)


def _memory(report: MemoryReport) -> Iterator[Metric]:
    yield from _gauge("resident_models", "Models in memory.", len(report.residents))
    yield from _gauge("memory_budget_bytes", "What models may take together.", report.budget_bytes)
    taken = GaugeMetricFamily(
        "punchline_model_memory_bytes", "What is reserved for each model.", labels=["model", "part"]
    )
    # After a reload an alias may stand for another model than before, and both be in memory for a while. Prometheus
    # refuses the same labels twice, so the two are one sum.
    sums: Counter[tuple[str, str]] = Counter()
    for resident in report.residents:
        need = resident.footprint
        sums[resident.alias, "weights"] += need.weights_bytes
        sums[resident.alias, "cache"] += need.cache_bytes
        sums[resident.alias, "working"] += need.working_bytes
    for (alias, part), size_bytes in sums.items():
        taken.add_metric([alias, part], size_bytes)
    yield taken


def _device(device: DeviceReading) -> Iterator[Metric]:
    kind = "gpu" if device.is_gpu else "cpu"
    driver = device.sensors.driver or ""
    yield InfoMetricFamily(
        "punchline_device",
        "What models run on.",
        value={"name": device.name, "kind": kind, "driver": driver},
    )
    yield from _gauge("device_memory_total_bytes", "The device's memory.", device.total_bytes)
    yield from _gauge("device_memory_free_bytes", "What is free of it.", device.free_bytes)
    yield from _gauge("device_memory_process_bytes", "What the bot holds of it.", device.process_bytes)
    yield from _gauge("device_temperature_celsius", "The GPU's temperature.", device.sensors.temperature_c)
    used_percent = device.sensors.utilization_percent
    used = None if used_percent is None else used_percent / 100
    yield from _gauge("device_utilization_ratio", "The part of the time in which the GPU works.", used)


@dataclass
class DeviceLook:
    """Looks at the device on a thread; a driver that hangs holds one thread, however often it is asked.

    Args:
        read: looks at it.
    """

    read: Callable[[], DeviceReading] = read_device
    _looks: SharedLooks = field(default_factory=SharedLooks)

    async def now(self) -> DeviceReading | None:
        """What it says; None if it does not answer in time, or has not answered before."""
        try:
            return await self._looks("device", self.read, timeout_s=DEVICE_PATIENCE_S)
        except Exception:  # a driver may raise what it likes: the other numbers are read all the same
            return None

"""The composition root: opens the parts in order, and closes them in the other."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import aiohttp
import discord

from bot.access.gate import Gate
from bot.access.moderation import Moderation
from bot.access.refusals import Refusals
from bot.answers import Answers, LiveReplies
from bot.archive import Archive
from bot.chooser import ModelChooser
from bot.client import PunchlineBot
from bot.configured import limits_of, model_loader, read_access, read_catalog
from bot.errors import BotError, DeviceFailed, SettingsError
from bot.expiry import deleting_old
from bot.inference.catalog import ModelCatalog
from bot.inference.device_failure import DeviceFailure
from bot.inference.engine import Engine
from bot.inference.inspector import Inspector
from bot.inference.local import LocalEngine
from bot.inference.observer import UNOBSERVED, Observer, Several
from bot.inference.queue import InferenceQueue
from bot.inference.threads import end_the_process_within, in_own_thread
from bot.operators import Operators
from bot.ops import device_failures
from bot.ops.consultation import Consultation, room_of
from bot.ops.examination import Examination
from bot.ops.logs import configure_logging
from bot.ops.notify import Notifier
from bot.ops.observation import open_observation
from bot.ops.operations import Operations, reload_when
from bot.ops.panel import Panel
from bot.ops.panel_card import PanelCard
from bot.ops.reload import Reload, reread_settings
from bot.ops.supervision import CLOSING_S, Supervision
from bot.ops.tally import Tally
from bot.presses import Presses
from bot.replies.device_card import DeviceCard
from bot.replies.inspection import Inspections
from bot.replies.live import LiveReply
from bot.replies.shown import Shown
from bot.replies.surface import Surface
from bot.replies.traffic import Traffic
from bot.replies.typing import TypingSigns
from bot.replies.wait import Wait, just_wait
from bot.services import Services
from bot.settings import Settings
from bot.storage.access import AccessRules
from bot.storage.choices import ModelChoices
from bot.storage.database import open_database
from bot.storage.panels import Panels
from bot.storage.replies import Replies
from bot.storage.usage import UsageSpans
from bot.warm_up import made_ready_beside

log = logging.getLogger(__name__)

_SHOW_FAILURE_S = 15.0  # a channel takes five edits in five seconds
_RECORD_S = 5.0  # to keep a line on a disk


@asynccontextmanager
async def open_engine(
    settings: Settings, observer: Observer = UNOBSERVED, failure: DeviceFailure | None = None
) -> AsyncIterator[Engine]:
    """The engine that runs models in this process, with its slow imports done; `failure` hears if the device fails."""
    idle_min = settings.unload_idle_after_min
    engine = LocalEngine(
        model_loader(settings),
        budget_bytes=settings.gpu_memory_budget,
        unload_idle_after_s=None if idle_min is None else idle_min * 60,
        batch_requests=settings.batch_requests,
        cuda_graphs=settings.cuda_graphs,
        observer=observer,
        failure=failure,
    )
    try:
        await engine.prepare()
        yield engine
    finally:
        await engine.aclose()


@asynccontextmanager
async def open_services(
    settings: Settings,
    engine: Engine,
    *,
    reply_class: type[LiveReply] = LiveReply,
    wait: Wait = just_wait,
    observer: Observer = UNOBSERVED,
    reread: Callable[[], Settings] | None = None,
) -> AsyncIterator[Services]:
    """What the cogs need, around an engine.

    Args:
        settings: how they are set up.
        engine: what answers; not closed here.
        reply_class: what makes the growing replies.
        wait: how commands await what does not come from Discord, see `Wait`.
        observer: who looks on.
        reread: reads the settings for a reload; None for the file that they came from.

    Raises:
        CatalogError: the catalogue cannot be used.
        SettingsError: the file of who may ask cannot.
        StorageError: the database cannot be used.
    """
    catalog, tally = read_catalog(settings), Tally()
    observer = Several(observer, tally)
    early = dict.fromkeys((*settings.load_at_start, *settings.pinned_models))
    operator_access = read_access(settings, catalog)
    engine.pin([catalog[alias] for alias in settings.pinned_models])
    queue = InferenceQueue(
        engine,
        slots=settings.batch_requests,
        limit=settings.queue_limit,
        queue_timeout_s=settings.queue_timeout_s,
        load_timeout_s=settings.load_timeout_s,
        generation_timeout_s=settings.generation_timeout_s,
        observer=observer,
    )
    async with (
        open_database(settings.database_path) as database,
        queue,
        made_ready_beside(engine, queue, [catalog[alias] for alias in early]),
    ):
        chooser = ModelChooser(catalog, ModelChoices(database))
        archive = Archive(Replies(database), kept_days=settings.replies_kept_days)
        traffic = Traffic(observer)
        live_reply = _live_replies(settings, reply_class, wait, traffic)
        rules = AccessRules(database)
        gate = Gate(
            operator_access,
            limits_of(settings),
            rules,
            UsageSpans(database),
            clock=discord.utils.utcnow,
        )
        answers = Answers(queue, live_reply, archive, gate, max_new_tokens=settings.max_new_tokens)
        operators = Operators(settings.operator_ids)
        reload = Reload(
            settings,
            reread or partial(reread_settings, settings),
            catalog=catalog,
            gate=gate,
            operators=operators,
            answers=answers,
            queue=queue,
            pin=engine.pin,
            wait=wait,
        )
        card = PanelCard(queue, answers, gate, engine.memory, tally, now=discord.utils.utcnow, wait=wait)
        panel = Panel(card, Panels(database), traffic, wait)
        services = Services(
            chooser=chooser,
            inference=queue,
            answers=answers,
            archive=archive,
            presses=Presses(answers, archive, chooser, gate, observer),
            gate=gate,
            moderation=Moderation(rules, gate, catalog),
            refusals=Refusals(discord.utils.utcnow),
            operators=operators,
            typing=TypingSigns(wait),
            inspections=Inspections(
                Inspector(model_loader(settings), settings.hub_token), engine.memory, wait
            ),
            device_card=DeviceCard(engine.memory, wait),
            database=database,
            observer=observer,
            consultation=_consultation(settings, catalog, engine, operators, wait),
            operations=Operations(operators, gate, answers, queue, reload, panel, observer),
            default_audience=settings.default_audience,
        )
        async with deleting_old(archive.forget_old, gate.forget_old):
            yield services


def _live_replies(
    settings: Settings, reply_class: type[LiveReply], wait: Wait, traffic: Traffic
) -> LiveReplies:
    looking = asyncio.Lock()

    def live_reply(surface: Surface, reply_id: str, shown: Shown) -> LiveReply:
        return reply_class(
            surface,
            reply_id,
            traffic=traffic,
            shown=shown,
            edit_interval_s=settings.edit_interval_s,
            wait=wait,
            looking=looking,
        )

    return live_reply


def _consultation(
    settings: Settings, catalog: ModelCatalog, engine: Engine, operators: Operators, wait: Wait
) -> Consultation:
    room = room_of(engine.memory)
    examination = Examination(settings, lambda: catalog, model_loader(settings), room=room)
    return Consultation(examination, operators, settings.secrets, wait)


def run(settings: Settings, *, force_sync: bool = False) -> int:
    """Run the bot on Discord until it is told to stop; the exit code is 0 then.

    Raises:
        DeviceFailed: the GPU has failed, and everybody has been told.
        DeviceKeepsFailing: it has failed too often.
        BotError: it cannot start.
    """
    token = settings.required_token()
    device_failures.refuse_after_too_many(settings.data_dir)
    read_access(settings, read_catalog(settings))  # a fault is said before seconds of imports
    configure_logging(
        settings.log_level, settings.secrets, form=settings.log_format, content=settings.log_content
    )
    asyncio.run(_serve(settings, token, force_sync=force_sync))
    return 0


async def _serve(settings: Settings, token: str, *, force_sync: bool) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    hang_up = asyncio.Event()
    # Whose terminal is closed is not asked to read settings.
    loop.add_signal_handler(signal.SIGHUP, stop.set if os.isatty(0) else hang_up.set)
    failure = DeviceFailure()
    async with (
        Supervision(Notifier.from_environment()) as supervision,
        open_observation(settings) as observation,
        open_engine(settings, observation.observer, failure) as engine,
        open_services(settings, engine, observer=observation.observer) as services,
    ):
        bot = PunchlineBot(
            services=services,
            data_dir=settings.data_dir,
            force_sync=force_sync,
            http_trace=observation.discord.http_trace,
        )
        drained = partial(getattr, services.gate, "drained")
        observation.attach(services.inference, engine.memory, services.database.ping, bot, drained)
        async with bot:
            supervision.serving(bot, services.inference)
            connection = asyncio.create_task(bot.start(token))
            stopping = asyncio.create_task(stop.wait())
            failing = asyncio.create_task(failure.wait())
            reloading = asyncio.create_task(reload_when(hang_up, services.operations, supervision))
            await asyncio.wait((connection, stopping, failing), return_when=asyncio.FIRST_COMPLETED)
            for task in (stopping, failing, reloading):
                task.cancel()
            if failure.has_happened:
                await _leave_failed_device(settings, services.inference, supervision, failure)
            if connection.done():
                _explain_end(connection)
            log.info(
                "stopping: %d running, %d waiting", services.inference.running, services.inference.waiting
            )
            grace_s = services.operations.reload.settings.shutdown_grace_s
            supervision.stopping(services.inference, grace_s=grace_s)
            await services.inference.drain(grace_s)


async def _leave_failed_device(
    settings: Settings, queue: InferenceQueue, supervision: Supervision, failure: DeviceFailure
) -> None:
    """Tell everybody, and have the process end: the service manager starts another, whose device works again.

    Raises:
        DeviceFailed: always.
    """
    # First: closing waits for threads that the device may hold, and the disk may hang too.
    end_the_process_within(_SHOW_FAILURE_S + CLOSING_S, 1)
    with suppress(TimeoutError):
        await in_own_thread(lambda: device_failures.record(settings.data_dir), timeout_s=_RECORD_S)
    log.critical("stopping: the GPU has failed; %d running, %d waiting", queue.running, queue.waiting)
    supervision.stopping(queue, grace_s=_SHOW_FAILURE_S)
    await queue.drain(0.0, _SHOW_FAILURE_S, failure.error)
    raise DeviceFailed(
        "The GPU has failed, so this process ends; another one has to be started. The log says above what CUDA said."
    )


def _explain_end(connection: asyncio.Task[None]) -> None:
    """Turn the reason why the connection ended into a sentence.

    Raises:
        BotError: always, unless the bot was closed on purpose.
    """
    try:
        connection.result()
    except discord.LoginFailure:
        raise SettingsError(
            "DISCORD_TOKEN was refused by Discord: reset it on the application's Bot page."
        ) from None
    except discord.PrivilegedIntentsRequired:
        raise SettingsError("Discord refused an intent: allow it on the application's Bot page.") from None
    except (aiohttp.ClientError, discord.GatewayNotFound, OSError) as error:
        raise BotError(f"Discord cannot be reached ({type(error).__name__}): check the network.") from error

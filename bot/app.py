"""The composition root: opens the parts in order, and closes them in the other."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import discord

from bot.answers import Answers, LiveReplies
from bot.archive import Archive
from bot.chooser import ModelChooser
from bot.client import PunchlineBot
from bot.errors import BotError, CatalogError, SettingsError
from bot.inference.catalog import ModelCatalog, load_catalog
from bot.inference.engine import Engine
from bot.inference.inspector import Inspector
from bot.inference.loader import ModelLoader
from bot.inference.local import LocalEngine
from bot.inference.queue import InferenceQueue
from bot.ops.logs import configure_logging
from bot.presses import Presses
from bot.replies.device_card import DeviceCard
from bot.replies.inspection import Inspections
from bot.replies.live import LiveReply, Wait, just_wait
from bot.replies.shown import Shown
from bot.replies.surface import Surface
from bot.replies.traffic import Traffic
from bot.replies.typing import TypingSigns
from bot.services import Services
from bot.settings import Settings
from bot.storage.choices import ModelChoices
from bot.storage.database import open_database
from bot.storage.replies import Replies
from bot.warm_up import made_ready_beside

log = logging.getLogger(__name__)


def model_loader(settings: Settings) -> ModelLoader:
    """The loader these settings describe."""
    return ModelLoader(settings.cache_dir, settings.hub_token, keep_quantized=settings.keep_quantized)


@asynccontextmanager
async def open_engine(settings: Settings) -> AsyncIterator[Engine]:
    """The engine that runs models in this process, with its slow imports done."""
    idle_min = settings.unload_idle_after_min
    engine = LocalEngine(
        model_loader(settings),
        budget_bytes=settings.gpu_memory_budget,
        pinned=settings.pinned_models,
        unload_idle_after_s=None if idle_min is None else idle_min * 60,
        batch_requests=settings.batch_requests,
    )
    try:
        await engine.prepare()
        yield engine
    finally:
        await engine.aclose()


@asynccontextmanager
async def open_services(
    settings: Settings, engine: Engine, *, reply_class: type[LiveReply] = LiveReply, wait: Wait = just_wait
) -> AsyncIterator[Services]:
    """What the cogs need, around an engine.

    Args:
        settings: how they are set up.
        engine: what answers; not closed here.
        reply_class: what makes the growing replies.
        wait: how commands await what does not come from Discord, see `Wait`.

    Raises:
        CatalogError: the catalogue cannot be used.
        StorageError: the database cannot be used.
    """
    catalog = read_catalog(settings)
    early = dict.fromkeys((*settings.load_at_start, *settings.pinned_models))
    queue = InferenceQueue(
        engine,
        slots=settings.batch_requests,
        limit=settings.queue_limit,
        queue_timeout_s=settings.queue_timeout_s,
        load_timeout_s=settings.load_timeout_s,
        generation_timeout_s=settings.generation_timeout_s,
    )
    async with (
        open_database(settings.database_path) as database,
        queue,
        made_ready_beside(engine, queue, [catalog[alias] for alias in early]),
    ):
        chooser = ModelChooser(catalog, ModelChoices(database))
        archive = Archive(Replies(database), kept_days=settings.replies_kept_days)
        live_reply = _live_replies(settings, reply_class, wait)
        answers = Answers(queue, live_reply, archive, max_new_tokens=settings.max_new_tokens)
        yield Services(
            chooser=chooser,
            inference=queue,
            answers=answers,
            archive=archive,
            presses=Presses(answers, archive, chooser),
            typing=TypingSigns(wait),
            inspections=Inspections(
                Inspector(model_loader(settings), settings.hub_token), engine.memory, wait
            ),
            device_card=DeviceCard(engine.memory, wait),
            default_audience=settings.default_audience,
        )


def _live_replies(settings: Settings, reply_class: type[LiveReply], wait: Wait) -> LiveReplies:
    traffic = Traffic()

    def live_reply(surface: Surface, reply_id: str, shown: Shown) -> LiveReply:
        interval_s = settings.edit_interval_s
        return reply_class(
            surface, reply_id, traffic=traffic, shown=shown, edit_interval_s=interval_s, wait=wait
        )

    return live_reply


def read_catalog(settings: Settings) -> ModelCatalog:
    """The catalogue these settings describe.

    Raises:
        CatalogError: it cannot be used, or a setting names a model that is not in it.
    """
    catalog = load_catalog(settings.models_file, default=settings.default_model)
    named = (("PINNED_MODELS", settings.pinned_models), ("LOAD_AT_START", settings.load_at_start))
    for variable, aliases in named:
        if unknown := [alias for alias in aliases if alias not in catalog]:
            raise CatalogError(
                f"{variable} names '{unknown[0]}', which is not in the catalogue: {', '.join(catalog)}."
            )
    return catalog


def run(settings: Settings, *, force_sync: bool = False) -> int:
    """Run the bot on Discord until it is told to stop; the exit code is 0 then.

    Raises:
        BotError: it cannot start.
    """
    token = settings.required_token()
    read_catalog(settings)  # a fault is said before seconds of imports
    configure_logging(settings.log_level, settings.secrets)
    asyncio.run(_serve(settings, token, force_sync=force_sync))
    return 0


async def _serve(settings: Settings, token: str, *, force_sync: bool) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    async with open_engine(settings) as engine, open_services(settings, engine) as services:
        bot = PunchlineBot(services=services, data_dir=settings.data_dir, force_sync=force_sync)
        async with bot:
            connection = asyncio.create_task(bot.start(token))
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait((connection, stopping), return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if connection.done():
                _explain_end(connection)
            log.info(
                "stopping: %d running, %d waiting", services.inference.running, services.inference.waiting
            )
            await services.inference.drain(settings.shutdown_grace_s)


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

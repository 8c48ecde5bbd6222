"""Imported by every Python that finds it: points discord.py at the stand-in, and blocks the event loop on SIGUSR1."""

import contextlib
import importlib
import os
import signal
import time

import discord.http
import yarl
from discord.gateway import DiscordWebSocket

discord.http.Route.BASE = f"http://{os.environ['DISCORD_STANDIN']}"
DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(f"ws://{os.environ['DISCORD_STANDIN']}/gateway")
signal.signal(signal.SIGUSR1, lambda *_: time.sleep(600))

with contextlib.suppress(ImportError):  # `make test-avx2` has it on the path
    importlib.import_module("only_avx2")

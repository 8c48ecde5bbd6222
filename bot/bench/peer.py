"""Any server that speaks the OpenAI chat protocol, asked the same questions."""

from __future__ import annotations

import asyncio
import json
import time
from urllib.parse import urlsplit

import aiohttp

from bot.bench.work import Result, Timeline, Work, arrivals_s, result
from bot.errors import UsageError

_CONNECT_TIMEOUT_S = 30.0
_STALL_S = 600.0  # an answer may take as long as it takes on this machine, as long as something comes


async def ask_peer(url: str, work: Work, users: int, arrivals: str, within_s: float = 4.0) -> Result:
    """Have so many people ask a server at once.

    Raises:
        UsageError: it does not answer as such a server does.
    """
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=_STALL_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            began_s = time.perf_counter()
            times = arrivals_s(users, arrivals, within_s)
            asks = (_ask(session, url, work, user, began_s + at_s) for user, at_s in enumerate(times))
            timelines = await asyncio.gather(*asks)
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
        raise UsageError(
            f"{url} does not answer as an OpenAI-compatible server ({type(error).__name__}): give its address "
            "without /v1, such as http://127.0.0.1:8080."
        ) from None
    return result(urlsplit(url).netloc, arrivals, timelines)


async def _ask(session: aiohttp.ClientSession, url: str, work: Work, user: int, at_s: float) -> Timeline:
    await asyncio.sleep(max(0.0, at_s - time.perf_counter()))
    how = work.sampling
    body = {
        "model": "default",
        "messages": [{"role": str(one.role), "content": one.content} for one in work.messages(user)],
        "stream": True,
        "max_tokens": work.tokens,
        "min_tokens": work.tokens,
        "ignore_eos": True,
        "temperature": how.temperature,
        "top_p": how.top_p,
        "top_k": how.top_k,
        "seed": how.seed,
    }
    timeline = Timeline(time.perf_counter())
    async with session.post(f"{url.rstrip('/')}/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            data = line.decode().removeprefix("data:").strip()
            if not line.startswith(b"data:") or data == "[DONE]":
                continue
            for choice in json.loads(data)["choices"]:
                if choice.get("delta", {}).get("content"):
                    timeline.tokens.append((time.perf_counter(), len(timeline.tokens) + 1))
    if not timeline.tokens:
        raise ValueError("no words")
    return timeline

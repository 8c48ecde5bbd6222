"""Takes the pictures of the documentation anew, from the real page with the real model: `make pictures`."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from bot.app import open_engine
from bot.configured import model_loader
from bot.demo.page import serve_with
from bot.inference.catalog import load_catalog
from bot.inference.inspector import Inspector
from bot.replies.anatomy_plot import draw_anatomy
from bot.settings import load_settings
from tests.browser import last_reply, open_page, send, type_command

_FOLDER = Path(__file__).parent.parent / "docs" / "images"
_SEED = "[smol.sampling]\nseed = 3\n"  # one of the better evenings of a very small model


def inspect() -> None:
    """What `/model inspect model:smol` attaches, on a GPU with 24 GB."""
    settings = load_settings(None)
    spec = load_catalog()["smol"]
    found = Inspector(model_loader(settings)).look(spec)
    (_FOLDER / "inspect.png").write_bytes(draw_anatomy(found.anatomy, 24 * 10**9))


async def main() -> None:
    """Ask for a joke on the page, then something longer, and take the page while that grows."""
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models.toml"
        models.write_text(_SEED)
        settings = load_settings(None, data_dir=Path(folder), models_file=models)
        async with open_engine(settings) as engine:
            ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            server = asyncio.create_task(serve_with(settings, 0, engine, ready))
            async with open_page(await ready, width=960, height=640) as page:
                await type_command(page, "joke", topic="databases", model="smol")
                await send(page)
                await last_reply(page).get_by_text("tokens/s").wait_for(timeout=120_000)
                await type_command(page, "ask", prompt="What is a database?")
                await send(page)
                await last_reply(page).get_by_role("button", name="Stop").wait_for()
                await page.wait_for_timeout(2_600)
                await page.screenshot(path=_FOLDER / "demo.png")
            server.cancel()
            await asyncio.gather(server, return_exceptions=True)


if __name__ == "__main__":
    inspect()
    asyncio.run(main())

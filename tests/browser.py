"""A real browser on the demo page: Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Locator, Page, ViewportSize, async_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--no-sandbox",  # in a container there is no user namespace for it; the page is our own
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def browser_path() -> str | None:
    """Where a Chromium is, if there is one."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


needs_browser = pytest.mark.skipif(
    browser_path() is None,
    reason="NEEDS A BROWSER: install Chromium (Debian: apt-get install chromium) to test the demo page",
)


@asynccontextmanager
async def open_page(url: str, *, width: int = 960, height: int = 640) -> AsyncIterator[Page]:
    """The demo page, loaded."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=browser_path(), args=_FLAGS)
        page = await browser.new_page(viewport=ViewportSize(width=width, height=height))
        await page.goto(url)
        await page.wait_for_selector("#preview-app[aria-busy=false]")
        yield page
        await browser.close()


async def type_command(page: Page, name: str, **options: str) -> None:
    """Type a slash command and its options as a person does, without sending it."""
    box = page.locator("#channel-composer-input")
    await box.click()
    await box.press_sequentially(f"/{name}")
    commands = page.locator('[role=listbox][aria-label="Application commands"]')
    await commands.locator("[role=option][data-entry-key]").first.click()
    for option, value in options.items():
        field = page.locator(f'input[data-option="{option}"]')
        if not await field.count():
            choice = page.get_by_role("option", name=option)
            if not await choice.count():
                await page.locator(".command-ghost").click()
            await choice.click()
        await field.press_sequentially(value)
        completed = page.locator(f'[role=option][data-value="{value}"]')
        if option == "model":
            await completed.click()


async def send(page: Page) -> None:
    """Send what was typed."""
    await page.locator("#send-message").click()


def last_reply(page: Page) -> Locator:
    """The newest message of the channel."""
    return page.locator(".channel-message").last

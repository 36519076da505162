"""The console's page in a real Chromium, for tests that use it as a person would."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from typing import Protocol

import pytest
import pytest_asyncio
from made_traces import QUESTION
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

DESKTOP = {"width": 1280, "height": 800}
expect.set_options(timeout=5000)


class Served(Protocol):
    """Whatever serves the console."""

    @property
    def url(self) -> str: ...


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def chromium() -> AsyncIterator[Browser]:
    command = shutil.which("chromium") or shutil.which("chromium-browser")
    if command is None:
        pytest.fail("this test needs Chromium: install the package `chromium`")
    async with async_playwright() as play:
        browser = await play.chromium.launch(executable_path=command, args=["--no-sandbox"])
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def context(chromium: Browser) -> AsyncIterator[BrowserContext]:
    opened = await chromium.new_context(viewport=DESKTOP, color_scheme="light")  # type: ignore[arg-type]
    yield opened
    await opened.close()


@pytest_asyncio.fixture(loop_scope="module")
async def page(context: BrowserContext) -> AsyncIterator[Page]:
    """A page whose scripts and content policy have nothing to complain of when the test is over."""
    opened = await context.new_page()
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    yield opened
    # The browser tells of every refused request, which here is what was asked for.
    assert [said for said in complaints if not said.startswith("Failed to load resource")] == []


async def visit(page: Page, gateway: Served, view: str = "/") -> None:
    await page.goto(f"{gateway.url}/console/#{view}")


async def ask(page: Page, question: str = QUESTION, strategy: str | None = None) -> None:
    await expect(page.get_by_role("combobox", name="Model")).not_to_have_value("")
    await page.get_by_label("Question").fill(question)
    if strategy is not None:
        await page.get_by_role("radio", name="Strategy").check()
        await page.get_by_role("combobox", name="Strategy").fill(strategy)
    await page.keyboard.press("Control+Enter")

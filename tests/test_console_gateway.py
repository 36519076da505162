"""The console on the gateway it is shipped with: what its own tests show on an imitation is true of the real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from console_page import ask, chromium, context, page, visit
from playwright.async_api import Page, expect
from running_gateway import House, house, until

__all__ = ["chromium", "context", "page"]

pytestmark = pytest.mark.asyncio(loop_scope="module")

ANSWERS = {"112": 0.95, "240": 0.05}


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(tmp_path: Path) -> AsyncIterator[House]:
    stub = {"n": "ignore", "latency_s": 0.1, "token_s": 0.02}
    async with house(tmp_path, ANSWERS, stub=stub, model={"price": "1/2", "max_in_flight": 3}) as running:
        yield running


async def test_ask_watch_and_judge(page: Page, gateway: House) -> None:
    await visit(page, gateway)
    await ask(page, strategy="self-consistency:n=9")
    cards = page.locator(".card:not(.ghost)")
    counts = set()
    while not await page.get_by_text("Done").count():
        counts.add(await cards.count())
    assert len(counts - {0, 9}) >= 2  # it was watched while it came in
    await expect(cards).to_have_count(9)
    await expect(page.locator(".votes .leads .choice")).to_have_text("112")
    await expect(page.locator(".answer .big")).to_have_text("112")
    (record,) = await gateway.records()
    assert (record["samples"], record["status"]) == (9, 200)
    assert f"${record['cost_usd']:.5f}" in await page.locator('[data-meter="cost"] dd').first.inner_text()
    await page.get_by_role("button", name="right", exact=False).first.click()

    async def judged() -> bool:
        (one,) = await gateway.records()
        return one["feedback"] is not None

    async with asyncio.timeout(5):
        while not await judged():
            await asyncio.sleep(0.05)


async def test_cancel_reaches_the_backend(page: Page, gateway: House) -> None:
    await visit(page, gateway)
    await ask(page, strategy="self-consistency:n=30")
    await expect(page.locator(".card:not(.ghost)").first).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.get_by_text("Cancelled").first).to_be_visible()
    await until(lambda: gateway.stub.counters.in_flight == 0)
    assert gateway.stub.counters.calls < 30
    (record,) = await gateway.records()
    assert record["status"] == 499


async def test_a_trace_opens(page: Page, gateway: House) -> None:
    answer = await gateway.chat(inference={"strategy": "self-consistency:n=4"})
    trace_id = answer.json["thinkscale"]["trace_id"]
    await visit(page, gateway, "/requests")
    await page.locator("tbody tr").first.click()
    await expect(page.get_by_role("heading", name=trace_id)).to_be_visible()
    await expect(page.locator("main")).to_contain_text("log_content")  # what was said is not kept
    await expect(page.locator(".samples header")).to_contain_text("4")
    await visit(page, gateway, "/spend")
    await expect(page.locator("main")).to_contain_text("stub")
    await visit(page, gateway, "/policies")
    await expect(page.locator("main")).to_contain_text("adaptive-consistency:n=16")


async def test_a_wrong_key_then_the_right_one(page: Page, tmp_path: Path) -> None:
    async with house(tmp_path, require_key=True) as gateway:
        _, secret = await gateway.key("ops", admin=True)
        await visit(page, gateway, "/requests")
        dialog = page.get_by_role("dialog")
        await page.get_by_label("API key").fill("ts-00000000-wrong")
        await page.keyboard.press("Enter")
        await expect(dialog).to_contain_text("That key was not accepted.")
        await page.get_by_label("API key").fill(secret)
        await page.keyboard.press("Enter")
        await expect(dialog).to_be_hidden()
        await visit(page, gateway)
        await ask(page, strategy="self-consistency:n=2")
        await expect(page.locator(".card:not(.ghost)")).to_have_count(2)

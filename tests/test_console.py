"""The console in a real Chromium: ask and watch, cancel, look back, keys, phones, the dark, no mouse."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from console_page import ask, chromium, context, page, visit
from console_server import BUILT, FakeGateway, Refusal, bare, many, vote
from made_traces import QUESTION, Maker, rebase
from playwright.async_api import Page, expect

__all__ = ["chromium", "context", "page"]

pytestmark = pytest.mark.asyncio(loop_scope="module")

PHONE = {"width": 375, "height": 812}
HOSTILE = '</script><script>document.title = "broken"</script><img src=x onerror="document.title=1"> & {{x}}'


@pytest_asyncio.fixture(loop_scope="module")
async def gateway() -> AsyncIterator[FakeGateway]:
    """What serves the console; `url` is where."""
    fake = FakeGateway()
    async with fake.running():
        yield fake


async def meter(page: Page, name: str) -> str:
    return await page.locator(f'[data-meter="{name}"] dd').first.inner_text()


def figure(text: str) -> float:
    """The number in a meter; a dash stands before the first bill came."""
    return 0.0 if text == "–" else float(text.replace(",", "").removeprefix("$"))


async def until(holds: Callable[[], bool], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.01)


def sideways(page: Page) -> Any:
    """How far the page, or a table in it, is wider than its room."""
    return page.evaluate(
        "Math.max(...[document.documentElement, ...document.querySelectorAll('.table-box')]"
        ".map(one => one.scrollWidth - one.clientWidth))"
    )


# -- the playground ----------------------------------------------------------------------------------------------------


async def test_ask_and_watch(page: Page, gateway: FakeGateway) -> None:
    gateway.pace = 0.03
    await visit(page, gateway)
    await page.get_by_label("Tokens").fill("4000")
    await page.get_by_label("Dollars").fill("0.01")
    await ask(page, strategy="self-consistency:n=12")

    seen: list[tuple[int, float, float, str]] = []
    status = page.get_by_role("status").filter(has_text=re.compile("Done|Thinking|Writing"))
    cards = page.locator(".card:not(.ghost)")
    await expect(page.locator(".card.ghost").first).to_be_visible()
    while not (await status.inner_text()).startswith("Done"):
        tokens, cost = await meter(page, "tokens"), await meter(page, "cost")
        leading = page.locator(".answer .big")
        answer = await leading.inner_text() if await leading.count() else ""
        seen.append((await cards.count(), figure(tokens), figure(cost), answer))
    for moved in zip(*(one[:3] for one in seen), strict=True):
        assert list(moved) == sorted(moved)
        assert len(set(moved)) >= 4, moved
    assert [*dict.fromkeys(one[3] for one in seen if one[3])] == ["240", "112.5"]

    await expect(cards).to_have_count(12)
    votes = page.locator(".votes li")
    assert await votes.locator(".choice").all_inner_texts() == ["112.5", "240", "120", "no answer"]
    assert await votes.locator(".replies").all_inner_texts() == ["8", "2", "1", "1"]
    await expect(page.locator(".votes .leads .choice")).to_have_text("112.5")
    await expect(page.locator(".answer .big")).to_have_text("112.5")
    await expect(page.locator(".answer")).to_contain_text("confidence 67 %")
    await expect(page.locator(".answer")).to_contain_text("768 prompt and 1,542 output tokens")
    await expect(status).to_have_text("Done: all samples drawn")

    assert gateway.asked == [
        {
            "model": "smollm2",
            "messages": [{"role": "user", "content": QUESTION}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "inference": {
                "kind": "auto",
                "trace": True,
                "strategy": "self-consistency:n=12",
                "budget": {"tokens": 4000, "usd": 0.01},
            },
        }
    ]
    trace_id = next(iter(gateway.records))
    await page.get_by_role("button", name="Right").click()
    await until(lambda: gateway.told == [{"trace_id": trace_id, "correct": True}])
    await expect(page.get_by_role("button", name="Right")).to_have_attribute("aria-pressed", "true")
    await page.get_by_role("link", name="Trace").click()
    await expect(page.get_by_role("heading", name=trace_id)).to_be_visible()
    await expect(page.get_by_role("heading", name="Replay")).to_be_visible()


async def test_a_search_grows_as_a_tree(page: Page, gateway: FakeGateway) -> None:
    gateway.pace = 0.004
    await visit(page, gateway)
    await ask(page, strategy="rebase:width=16")
    tally = page.locator(".samples header .dim")
    sizes = []
    while await page.get_by_text("Done").count() == 0:
        found = re.match(r"(\d+) nodes", await tally.inner_text() if await tally.count() else "")
        sizes.append(int(found[1]) if found else 0)
    assert sizes == sorted(sizes)
    assert len(set(sizes)) > 5
    events = rebase()
    nodes = sum(event["event"] == "step" for event in events)
    cut = sum(len(event["paths"]) for event in events if event["event"] == "prune")
    await expect(tally).to_have_text(re.compile(f"^{nodes} nodes · {cut} cut"))

    drawn = "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(x => x)"
    assert await page.locator(".treemap").evaluate(drawn)
    tree = page.get_by_role("tree")
    await expect(tree.locator(".row.cut").first).to_be_visible()
    await page.get_by_label("Cut branches").uncheck()
    await expect(tree.locator(".row.cut")).to_have_count(0)
    await expect(tree.locator(".row.way").first).to_be_visible()

    await tree.locator(".row.way").first.click()
    detail = page.get_by_role("complementary")
    await expect(detail).to_contain_text("continued")
    await expect(detail).to_contain_text("Output tokens")


@pytest.mark.parametrize("by", ["Escape", "button"])
async def test_cancel_reaches_the_server(page: Page, gateway: FakeGateway, by: str) -> None:
    gateway.pace = 0.05
    await visit(page, gateway)
    await ask(page)
    await expect(page.locator(".card:not(.ghost)").first).to_be_visible()
    if by == "button":
        await page.get_by_role("button", name="Cancel").click()
    else:
        await page.keyboard.press("Escape")
    await until(lambda: gateway.abandoned == 1, 1)
    await expect(page.get_by_text("Cancelled").first).to_be_visible()
    await expect(page.get_by_role("button", name="Ask")).to_be_enabled()
    await expect(page.locator(".card.ghost")).to_have_count(0)
    tokens = await meter(page, "tokens")
    assert tokens.startswith("≥ ")  # what the broken off samples used is not known here
    await asyncio.sleep(0.2)
    assert await meter(page, "tokens") == tokens
    gateway.pace = 0
    await page.keyboard.press("Control+Enter")
    await expect(page.get_by_text("Done")).to_be_visible()


async def test_an_unknown_cost_is_said_to_be_unknown(page: Page, gateway: FakeGateway) -> None:
    gateway.next_events = vote(priced=False)
    await visit(page, gateway)
    await ask(page)
    await expect(page.get_by_text("Done")).to_be_visible()
    assert await meter(page, "cost") == "unknown"
    await expect(page.locator(".answer .facts")).to_contain_text("unknown")
    await page.get_by_role("link", name="Trace").click()
    await expect(page.locator(".fact-grid")).to_contain_text("unknown")
    assert "$0" not in await page.locator("main").inner_text()


@pytest.mark.parametrize(
    ("refusal", "title", "message"),
    [
        (Refusal(400, "unknown strategy 'wish'"), "The request was refused", "unknown strategy 'wish'"),
        (Refusal(402, "the key's 2 dollars of today are spent"), "The budget is spent", "2 dollars of today"),
        (Refusal(403, "this key may not use deep"), "This key may not do that", "may not use deep"),
        (Refusal(502, "the model failed", in_stream=True), "The model behind the gateway failed", "the model failed"),
        (Refusal(200, "", cut=True), "It did not work", "The connection ended before the answer was complete."),
    ],
)
async def test_errors_are_told_plainly(
    page: Page, gateway: FakeGateway, refusal: Refusal, title: str, message: str
) -> None:
    gateway.refusals.append(refusal)
    await visit(page, gateway)
    await ask(page)
    alert = page.get_by_role("alert")
    await expect(alert).to_contain_text(title)
    await expect(alert).to_contain_text(message)
    await alert.get_by_role("button", name="Try again").click()
    await expect(page.get_by_text("Done")).to_be_visible()


async def test_a_full_gateway_says_when_to_come_back(page: Page, gateway: FakeGateway) -> None:
    gateway.refusals.append(Refusal(429, "60 requests a minute", {"Retry-After": "2"}))
    await visit(page, gateway)
    await ask(page)
    again = page.get_by_role("alert").get_by_role("button")
    await expect(again).to_have_text("Try again in 2 s")
    await expect(again).to_be_disabled()
    await expect(again).to_have_text("Try again")
    await again.click()
    await expect(page.get_by_text("Done")).to_be_visible()


async def test_a_gateway_that_is_gone(page: Page) -> None:
    gateway = FakeGateway()
    async with gateway.running():
        await visit(page, gateway)
        await expect(page.get_by_role("combobox", name="Model")).to_have_value("smollm2")
    await ask(page)
    await expect(page.get_by_role("alert")).to_contain_text("The gateway cannot be reached")


async def test_a_wrong_budget_is_not_sent(page: Page, gateway: FakeGateway) -> None:
    await visit(page, gateway)
    await page.get_by_label("Tokens").fill("many")
    await ask(page)
    await expect(page.get_by_label("Tokens")).to_have_attribute("aria-invalid", "true")
    await expect(page.get_by_role("button", name="Ask")).to_be_disabled()
    assert gateway.asked == []
    await page.get_by_role("button", name="medium").click()
    assert await page.get_by_label("Calls").input_value() == "12"
    assert await page.get_by_label("Tokens").input_value() == ""
    await page.get_by_role("button", name="Ask").click()
    await until(lambda: bool(gateway.asked))
    assert gateway.asked[0]["inference"]["budget"] == {"seconds": 30, "calls": 12}


async def test_text_that_would_break_out_does_not(page: Page, gateway: FakeGateway) -> None:
    make = Maker()
    make.begin(f"self-consistency{HOSTILE}", HOSTILE)
    make.emit("call", purpose="generate", path=[0], n=2, max_tokens=10)
    make.candidate([0], HOSTILE, HOSTILE)
    make.verdict([0], 0.5, HOSTILE, [0.5])
    make.emit("failed", purpose="generate", paths=[[1]], error=HOSTILE, status=None)
    make.emit("offer", path=[0], answer=HOSTILE, value=0.5)
    make.settle([0], 1, 10, 10)
    make.result([0], HOSTILE)
    gateway.next_events = make.events
    await visit(page, gateway)
    await ask(page, HOSTILE)
    await expect(page.get_by_text("Done")).to_be_visible()
    await page.locator(".card").first.click()
    await expect(page.get_by_role("complementary")).to_contain_text(HOSTILE)
    await page.get_by_role("link", name="Trace").click()
    await expect(page.locator(".question pre")).to_have_text(HOSTILE)
    assert await page.locator("main img, main script").count() == 0
    assert "thinkscale" in await page.title()


async def test_thousands_of_events_stay_smooth(page: Page, gateway: FakeGateway) -> None:
    events = many(1800)
    assert len(events) > 5000
    gateway.pace, gateway.next_events = 0, events
    await visit(page, gateway)
    await page.evaluate(
        "window.longest = 0; new PerformanceObserver(list => list.getEntries().forEach("
        "one => window.longest = Math.max(window.longest, one.duration))).observe({ type: 'longtask' })"
    )
    await ask(page)
    await expect(page.get_by_text("Done")).to_be_visible(timeout=20_000)
    nodes = sum(event["event"] == "step" for event in events)
    await expect(page.locator(".samples header .dim")).to_contain_text(f"{nodes:,} nodes")
    assert await page.locator(".outline .row").count() < 100
    await page.get_by_role("link", name="Trace").click()
    slider = page.get_by_label("Time")
    await slider.focus()
    for _ in range(20):
        await slider.press("ArrowLeft")
    assert await page.evaluate("window.longest") < 500  # milliseconds, on a shared machine


# -- looking back ------------------------------------------------------------------------------------------------------


async def test_requests_and_a_trace(page: Page, gateway: FakeGateway) -> None:
    search = rebase(seed=1)
    gateway.keep("a" * 32, vote(), at=100.0, key="tutor")
    gateway.keep("b" * 32, search, at=200.0, key="checkout")
    gateway.keep("c" * 32, [], at=50.0, status=429)
    await visit(page, gateway, "/requests")
    rows = page.locator("tbody tr")
    await expect(rows).to_have_count(3)
    assert [await row.locator(".key").inner_text() for row in await rows.all()] == ["checkout", "tutor", "none"]

    await page.keyboard.press("/")
    await page.keyboard.type("checkout rebase")
    await expect(rows).to_have_count(1)
    await rows.first.click()
    await expect(page.get_by_role("heading", name="b" * 32)).to_be_visible()
    await expect(page.locator(".question")).to_contain_text(QUESTION)
    await expect(page.locator(".replay .leading")).to_contain_text("112.5")
    assert await page.locator(".figures tbody th").all_inner_texts() == ["generate", "verify"]

    tally, slider = page.locator(".samples header .dim"), page.get_by_label("Time")
    whole = await tally.inner_text()
    half = search[-1]["t"] / 2
    await slider.fill(str(await slider.evaluate(f"slider => Math.round({half} / slider.step) * slider.step")))
    shown = float(await slider.input_value())
    nodes = sum(event["event"] == "step" and event["t"] <= shown for event in search)
    await expect(tally).to_contain_text(f"{nodes} nodes")
    offered = any(event["event"] == "offer" and event["t"] <= shown for event in search)
    assert (await page.locator(".row.way").count() > 0) == offered
    await page.get_by_label("Speed").select_option("16")
    await page.get_by_role("button", name="Play").click()
    await expect(tally).to_have_text(whole, timeout=10_000)
    await expect(page.get_by_role("button", name="Play")).to_be_visible()


async def test_requests_come_in_by_themselves(page: Page, gateway: FakeGateway) -> None:
    gateway.keep("a" * 32, vote(n=1))
    await page.clock.install()
    await visit(page, gateway, "/requests")
    rows = page.locator("tbody tr")
    await expect(rows).to_have_count(1)
    gateway.keep("b" * 32, vote(n=1))
    await page.clock.run_for(5000)
    await expect(rows).to_have_count(2)
    await page.get_by_label("Refresh").uncheck()
    await expect(page.get_by_label("Refresh")).not_to_be_checked()
    gateway.keep("c" * 32, vote(n=1))
    await page.clock.run_for(20_000)
    await expect(rows).to_have_count(2)


async def test_a_trace_without_content(page: Page, gateway: FakeGateway) -> None:
    gateway.keep("d" * 32, bare(rebase()))
    gateway.keep("e" * 32, [], status=502)
    await visit(page, gateway, f"/requests/{'d' * 32}")
    await expect(page.get_by_text("Message content is not kept. Switch on log_content")).to_be_visible()
    await page.locator(".row").first.click()
    await expect(page.get_by_role("complementary")).to_contain_text("Its text is not kept.")
    await visit(page, gateway, f"/requests/{'e' * 32}")
    await expect(page.get_by_text("No events of this request are kept.")).to_be_visible()
    await visit(page, gateway, f"/requests/{'f' * 32}")
    await expect(page.get_by_role("alert")).to_contain_text("no such request")


async def test_older_requests(page: Page, gateway: FakeGateway) -> None:
    for place in range(70):
        gateway.keep(f"{place:032d}", vote(n=1), at=1000.0 + place)
    await visit(page, gateway, "/requests")
    rows = page.locator("tbody tr")
    await expect(rows).to_have_count(50)
    await page.get_by_role("button", name="Older requests").click()
    await expect(rows).to_have_count(70)
    await expect(page.get_by_role("button", name="Older requests")).to_have_count(0)


async def test_spend_and_policies(page: Page, gateway: FakeGateway) -> None:
    await visit(page, gateway, "/spend")
    await expect(page.locator(".chart canvas")).to_be_visible()
    main = page.locator("main")
    await expect(main).to_contain_text("The cost of 1 day is unknown and not drawn")
    await expect(page.locator("tr", has_text="smollm2")).to_contain_text("unknown")
    await page.get_by_role("radio", name="Tokens").check()
    await expect(main).not_to_contain_text("not drawn")
    await visit(page, gateway, "/policies")
    await expect(page.locator("tr", has_text="rebase:width=16")).to_contain_text("arithmetic+step-judge")
    await expect(page.locator("tr", has_text="tutor")).to_contain_text("60 requests a minute, $2.50 a day")
    await expect(page.locator("tr", has_text="trial")).to_contain_text("revoked")


# -- keys --------------------------------------------------------------------------------------------------------------


async def test_wrong_key_then_right_key(page: Page, gateway: FakeGateway) -> None:
    gateway.key = "right-key"
    gateway.keep("a" * 32, vote())
    await visit(page, gateway, "/requests")
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("This gateway asks for a key.")
    await page.get_by_label("API key").fill("wrong-key")
    await page.keyboard.press("Enter")
    await expect(dialog).to_contain_text("That key was not accepted.")
    await expect(page.locator("tbody tr")).to_have_count(0)
    await page.get_by_label("API key").fill("right-key")
    await page.keyboard.press("Enter")
    await expect(dialog).to_be_hidden()
    await expect(page.locator("tbody tr")).to_have_count(1)
    assert await page.evaluate("JSON.stringify(localStorage)") == '{"thinkscale.theme":"auto"}'
    assert "right-key" in await page.evaluate("JSON.stringify(sessionStorage)")
    assert "right-key" not in page.url
    await page.reload()
    await expect(page.locator("tbody tr")).to_have_count(1)
    await expect(dialog).to_be_hidden()


async def test_a_clients_key_may_ask_but_not_look(page: Page, gateway: FakeGateway) -> None:
    gateway.key = "right-key"
    await visit(page, gateway)
    await page.get_by_label("API key").fill("client-key")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("dialog")).to_contain_text("they need an admin key")
    await page.keyboard.press("Escape")
    await ask(page)
    await expect(page.get_by_text("Done")).to_be_visible()


async def test_a_key_that_is_revoked_meanwhile(page: Page, gateway: FakeGateway) -> None:
    await visit(page, gateway)
    await expect(page.get_by_role("combobox", name="Model")).to_have_value("smollm2")
    gateway.key = "right-key"
    await ask(page)
    await expect(page.get_by_role("dialog")).to_contain_text("This gateway asks for a key.")
    await page.get_by_label("API key").fill("right-key")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("dialog")).to_be_hidden()
    await page.get_by_role("button", name="Ask").click()
    await expect(page.get_by_text("Done")).to_be_visible()


# -- every screen and no mouse -----------------------------------------------------------------------------------------


async def test_a_phone_never_scrolls_sideways(page: Page, gateway: FakeGateway) -> None:
    await page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    gateway.keep("a" * 32, rebase())
    await visit(page, gateway)
    assert await sideways(page) == 0
    gateway.pace = 0.02
    await ask(page, f"{QUESTION} {'x' * 200}", strategy="rebase:width=16")
    await expect(page.locator(".row").first).to_be_visible()
    assert await sideways(page) == 0
    await expect(page.locator(".bottom-line")).to_be_in_viewport(ratio=1)  # the form does not hide what goes on
    await page.locator(".row").first.click()
    await expect(page.get_by_role("complementary")).to_be_in_viewport(ratio=1)
    assert await sideways(page) == 0
    await page.get_by_role("button", name="Close").click()
    await page.get_by_role("button", name="Stop").click()
    await until(lambda: gateway.abandoned == 1)
    for view in ("/requests", f"/requests/{'a' * 32}", "/spend", "/policies"):
        await visit(page, gateway, view)
        await expect(page.locator("main .panel").first).to_be_visible()
        assert await sideways(page) == 0, view


async def test_dark_and_light(page: Page, gateway: FakeGateway) -> None:
    light = "getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g).every(x => x > 200)"
    await visit(page, gateway)
    await expect(page.get_by_label("Question")).to_be_visible()
    assert await page.evaluate(light)
    await page.emulate_media(color_scheme="dark")
    assert not await page.evaluate(light)
    await page.get_by_role("button", name="Theme: auto").click()
    assert await page.evaluate(light)
    await page.reload()
    await expect(page.get_by_role("button", name="Theme: light")).to_be_visible()
    assert await page.evaluate(light)
    await page.get_by_role("button", name="Theme: light").click()
    await page.emulate_media(color_scheme="light")
    assert not await page.evaluate(light)


async def test_keyboard_only(page: Page, gateway: FakeGateway) -> None:
    gateway.pace = 0
    await visit(page, gateway)
    await expect(page.get_by_label("Question")).to_be_focused()
    await expect(page.get_by_role("combobox", name="Model")).to_have_value("smollm2")
    keys = page.keyboard
    await keys.type("What is 6 times 7?")
    await keys.press("Tab")
    await keys.press("ArrowDown")
    await keys.press("ArrowDown")
    await keys.press("Enter")
    await expect(page.get_by_role("combobox", name="Model")).to_have_value("qwen3-4b")
    await keys.press("Tab")
    await keys.press("ArrowRight")
    await keys.press("Tab")
    await keys.type("reb")
    await keys.press("ArrowDown")
    await keys.press("Enter")
    await expect(page.get_by_role("combobox", name="Strategy")).to_have_value("rebase")
    await keys.press("Control+Enter")
    await expect(page.get_by_text("Done")).to_be_visible()
    assert gateway.asked[0]["model"] == "qwen3-4b"
    assert gateway.asked[0]["inference"]["strategy"] == "rebase"

    for _ in range(30):
        if await page.evaluate("document.activeElement.role") == "tree":
            break
        await keys.press("Tab")
    for key in ("Home", "ArrowDown", "ArrowDown"):
        await keys.press(key)
    third = page.get_by_role("treeitem").nth(2)
    await expect(third).to_have_attribute("aria-selected", "true")
    tree = page.get_by_role("tree")
    assert await tree.get_attribute("aria-activedescendant") == await third.get_attribute("id")
    await expect(page.get_by_role("complementary")).to_be_visible()
    await keys.press("Escape")
    await expect(page.get_by_role("complementary")).to_have_count(0)

    await keys.press("2")
    await expect(page.get_by_role("heading", name="Requests")).to_be_visible()
    await expect(page.locator("tbody tr")).to_have_count(1)
    await page.locator("tbody tr").first.focus()
    await keys.press("Enter")
    await expect(page.get_by_role("heading", name="Replay")).to_be_visible()
    await keys.press("Escape")
    await expect(page.get_by_role("heading", name="Requests")).to_be_visible()
    await keys.press("3")
    await expect(page.get_by_role("heading", name="Spend")).to_be_visible()


async def test_the_built_page_needs_nobody_else() -> None:
    text = (BUILT / "index.html").read_text("utf-8")
    assert re.findall(r'(?:src|href)="([^"]*)"', text) == ["icon.svg", "app.css", "app.js"]
    assert "<style" not in text
    assert "url(" not in (BUILT / "app.css").read_text("utf-8")
    notes = (BUILT / "LICENSES.txt").read_text("utf-8")
    for library in ("preact", "@preact/signals", "@preact/signals-core", "uplot"):
        assert re.search(rf"^{library} \d", notes, re.MULTILINE), library

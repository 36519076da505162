"""A run as a page: what is in it, what cannot get out of it, and how it behaves in a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import browser
from made_traces import QUESTION, Event, Maker, plain, rebase

from thinkscale.cli.tree import SearchTree
from thinkscale.cli.tree_page import page

HOSTILE = (
    '</script><script>document.title = "broken"</script><img src=x onerror=alert(1)><!--<script> & {{style}} \u2028'
)


def heard(events: Sequence[Event], until: float = float("inf")) -> SearchTree:
    tree = SearchTree()
    for event in events:
        if event["t"] <= until:
            tree.hear(event)
    return tree


def hostile() -> list[Event]:
    make = Maker()
    make.begin(f"beam{HOSTILE}", HOSTILE)
    make.step([0], HOSTILE)
    make.verdict([0], 0.5, HOSTILE, [0.5])
    make.step([1], "")
    make.emit("prune", paths=[[1]], reason=HOSTILE)
    make.candidate([0, 0], HOSTILE, HOSTILE)
    make.emit("failed", purpose="generate", paths=[[2]], error=HOSTILE, status=None)
    make.result([0, 0], HOSTILE)
    return make.events


class Elements(HTMLParser):
    """The tags of a page, and the text of its scripts, as a browser would cut them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        (self.scripts if self.cdata_elem == "script" else self.words).append(data)

    def embedded(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads("".join(self.scripts).partition("\n")[0])
        return content


@pytest.mark.parametrize("events", [rebase(), plain(3), hostile()], ids=["search", "plain", "hostile"])
def test_the_page_holds_the_whole_run(events: list[Event]) -> None:
    tree = heard(events)
    found = Elements(page(tree))
    content = found.embedded()
    assert content == json.loads(json.dumps(tree.as_json()))
    assert [tuple(node["path"]) for node in content["nodes"]] == list(tree.nodes)
    words = "".join(found.words)
    for said in (tree.question, tree.answer, tree.strategy):
        assert said is not None
        assert said in words


def test_the_page_asks_for_nothing_and_no_text_breaks_out_of_it() -> None:
    clean, dirty = Elements(page(heard(plain(3)))), Elements(page(heard(hostile())))
    assert [tag for tag, _ in dirty.tags if tag in ("script", "img", "style", "meta")] == [
        tag for tag, _ in clean.tags if tag in ("script", "img", "style", "meta")
    ]
    assert not [attrs for _, attrs in dirty.tags if {"src", "href", "onerror", "style"} & attrs.keys()]
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|url\(|@import", page(heard(plain(3))))
    policy = next(attrs["content"] for tag, attrs in dirty.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


def test_a_run_without_a_result_says_so() -> None:
    assert "ended early" in page(heard(rebase()[:60]))
    assert "the trace does not tell the question" in page(SearchTree())


VISIBLE = "[...document.querySelectorAll('.node')].filter(n => getComputedStyle(n).visibility === 'visible')"


async def test_the_page_in_a_browser_replays_the_search(tmp_path: Path) -> None:
    events = rebase()
    tree = heard(events)
    file, trap = tmp_path / "tree.html", tmp_path / "hostile.html"
    file.write_text(page(tree), "utf-8")
    trap.write_text(page(heard(hostile())), "utf-8")
    async with browser(tmp_path / "profile") as tab:
        await tab.do("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
        # The whole tree, with its chosen path.
        await tab.open(f"file://{file}")
        assert await tab.value(f"{VISIBLE}.length") == len(tree.nodes) + 1
        assert await tab.value("document.querySelector('.node.best').dataset.node") == ".".join(
            map(str, tree.chosen or ())
        )
        assert await tab.value("document.querySelectorAll('.node.way').length") == len(tree.chosen or ()) + 1
        assert await tab.value("document.querySelectorAll('.node.cut').length") == tree.counts()["cut"]
        assert "112.5" in await tab.value("document.querySelector('.answer').textContent")

        # A moment of it, by its address: the same as a run that had come that far.
        pruned = next(event for event in events if event["event"] == "prune")
        for moment in (pruned["t"] - 0.0005, pruned["t"] + 0.0005):
            then = heard(events, moment)
            await tab.value(f"location.hash = '#t={moment}&node=0'")
            await tab.value("new Promise(done => setTimeout(done, 50))")
            assert await tab.value(f"{VISIBLE}.length") == len(then.nodes) + 1
            assert await tab.value(f"{VISIBLE}.filter(n => n.classList.contains('cut')).length") == then.counts()["cut"]
            scores = await tab.value(f"{VISIBLE}.map(n => n.querySelector('.chip')?.textContent).filter(Boolean)")
            assert len(scores) == sum(node.score is not None for node in then.nodes.values())
        panel = await tab.value("document.getElementById('panel').innerText")
        node = tree.nodes[0,]
        for said in (
            "Step 0",
            node.text.strip(),
            str(node.score),
            node.judgements[0].verifier,
            "samples in the request",
        ):
            assert said in panel

        # By hand: the keyboard walks and opens, play goes from the beginning to the end.
        await tab.value("document.querySelector('[data-node=\"\"]').focus()")
        for key in ("ArrowRight", "ArrowDown", "Enter"):
            await tab.press(key)
        assert "Step 1" in await tab.value("document.getElementById('panel').innerText")
        await tab.press("Escape")
        assert await tab.value("document.getElementById('panel').hidden && document.activeElement.dataset.node") == "1"
        await tab.value("location.hash = ''")
        await tab.value("new Promise(done => setTimeout(done, 50))")
        await tab.value(
            "speed.options[0].value = '1'; speed.selectedIndex = 0; document.getElementById('play').click()"
        )
        await tab.value("new Promise(done => setTimeout(done, 300))")
        early = await tab.value(f"{VISIBLE}.length")
        assert 1 < early < len(tree.nodes)
        await tab.value("new Promise(done => setTimeout(done, 1200))")
        assert await tab.value(f"{VISIBLE}.length") == len(tree.nodes) + 1
        await tab.value("cut.click()")
        assert await tab.value("[...document.querySelectorAll('.node.cut')].every(n => n.hidden)")
        assert tab.errors == []

        # Text that would break out does not.
        await tab.open(f"file://{trap}#node=0.0")
        assert HOSTILE[:40] in await tab.value("document.title")
        assert await tab.value("document.querySelectorAll('img').length") == 0
        assert HOSTILE.strip() in await tab.value("document.querySelector('#panel .this').textContent")
        assert tab.errors == []
    assert QUESTION in file.read_text("utf-8")

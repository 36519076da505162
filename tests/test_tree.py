"""A run as a tree: what is read from its events, and what is shown of it in a terminal."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_traces import QUESTION, Event, Maker, chain, numbered, plain, rebase
from rich.cells import cell_len
from rich.console import Console

from thinkscale.cli import show
from thinkscale.cli.tree import SearchTree
from thinkscale.cli.tree_rows import rows
from thinkscale.cli.tree_view import TreeView, excerpt, printable
from thinkscale.errors import UsageError
from thinkscale.testing.stub_server import StubServer

HOSTILE = "[red]not markup[/red]\x1b[31m\r\n\tsecond\u202eline " + "long " * 400 + "\x07漢字"


def heard(events: Sequence[Event]) -> SearchTree:
    tree = SearchTree()
    for event in events:
        tree.hear(event)
    return tree


def drawn(tree: SearchTree, width: int = 80, height: int = 25, *, live: bool = False, **options: Any) -> str:
    console = Console(width=width, height=height, force_terminal=False)
    with console.capture() as caught:
        console.print(TreeView(tree, live=live, **options))
    return caught.get()


# -- what is read from the events ------------------------------------------------------------------------------------


def test_a_search_is_a_tree_of_its_steps() -> None:
    events = rebase()
    tree = heard(events)
    steps = [event for event in events if event["event"] == "step"]
    assert [list(path) for path in tree.nodes] == [event["path"] for event in steps]
    for path, node in tree.nodes.items():
        assert node.parent is (tree.nodes[path[:-1]] if path[:-1] else tree.root)
    assert (tree.question, tree.strategy) == (QUESTION, "rebase:n=16")
    assert tree.budget == {"max_total_tokens": 40000, "deadline_s": 60}
    cut = [path for event in events if event["event"] == "prune" for path in event["paths"]]
    finished = [event for event in steps if event["finish_reason"] == "stop"]
    assert (tree.counts()["cut"], tree.counts()["finished"]) == (len(cut), len(finished))
    assert tree.counts()["live"] == 0
    chosen = tree.nodes[tree.chosen or ()]
    texts = {tuple(event["path"]): event["text"] for event in events if event["event"] == "candidate"}
    assert chosen.reply == texts[chosen.path]
    assert tree.answer == chosen.answer == "112.5"
    assert (tree.stop_reason, tree.confidence) == ("complete", 0.71)


def test_its_bill_is_the_sum_of_the_settlements_by_purpose() -> None:
    events = rebase()
    tree = heard(events)
    settled = [event for event in events if event["event"] == "settle"]
    for purpose in ("generate", "verify"):
        bill = tree.usage_by_purpose[purpose]
        mine = [event for event in settled if event["purpose"] == purpose]
        assert bill.output_tokens == sum(event["output_tokens"] for event in mine)
        assert bill.calls == sum(event["calls"] for event in mine)
    assert tree.usage.prompt_tokens == sum(event["prompt_tokens"] for event in settled)
    assert tree.usage.cached_tokens is None  # the verifier's server does not tell: unknown, not 0
    assert tree.in_flight == 0
    roots = tree.made_by(tree.nodes[0,])
    assert roots is not None
    assert (roots.n, roots.purpose) == (16, "generate")  # the verifier's calls have paths of their own
    assert tree.made_by(tree.nodes[15,]) is roots


def test_plain_samples_are_a_tree_of_one_level() -> None:
    tree = heard(plain(8))
    assert [node.parent for node in tree.nodes.values()] == [tree.root] * 8
    assert all(node.whole and node.state == "finished" and node.score is None for node in tree.nodes.values())
    assert dict(tree.votes) == Counter(event["answer"] for event in plain(8) if event["event"] == "candidate")
    assert [count for _, count in tree.votes] == sorted((count for _, count in tree.votes), reverse=True)
    assert tree.usage.cost_usd is None


def test_a_revision_hangs_from_what_it_revises_and_a_continuation_is_only_what_was_added() -> None:
    make = Maker()
    make.candidate([0], "It is 3.", "3")
    make.candidate([0, 0], "No, it is 4.", "4")
    make.candidate([0, 1], "It is 3. Wait, 5.", "5")
    make.candidate([0, 2], "It is 3.", "3")
    tree = heard(make.events)
    assert (tree.nodes[0, 2].text, tree.nodes[0, 2].whole) == ("It is 3.", True)
    revision, longer = tree.nodes[0, 0], tree.nodes[0, 1]
    assert (revision.parent, revision.text, revision.reply) == (tree.nodes[0,], "No, it is 4.", "No, it is 4.")
    assert (longer.text, longer.reply, longer.whole) == (" Wait, 5.", "It is 3. Wait, 5.", False)


def test_a_node_without_a_known_parent_hangs_from_its_nearest_ancestor() -> None:
    make = Maker()
    make.step([2], "a")
    make.step([2, 0, 7, 1], "b")
    make.step([9, 9], "c")
    tree = heard(make.events)
    assert tree.nodes[2, 0, 7, 1].parent is tree.nodes[2,]
    assert tree.nodes[9, 9].parent is tree.root
    assert tree.nodes[2, 0, 7, 1].reply == "ab"


def test_pruning_a_branch_cuts_what_could_still_grow_of_it_and_no_finished_reply() -> None:
    make = Maker()
    make.step([0], "a")
    make.step([0, 0], "b")
    make.step([0, 1], "c", "stop", "7")
    make.emit("prune", paths=[[0], [5]], reason="repeats")
    tree = heard(make.events)
    assert [tree.nodes[path].state for path in ((0,), (0, 0), (0, 1))] == ["cut", "cut", "finished"]
    assert tree.nodes[0, 0].cut_reason == "repeats"


def test_what_a_verifier_could_not_judge_is_unknown_and_does_not_erase_what_one_could() -> None:
    make = Maker()
    make.step([0], "a")
    make.step([1], "b")
    make.verdict([0], None, "time ran out")
    make.verdict([1], 0.0)
    make.verdict([1], None)
    make.verdict([8], 0.4)
    tree = heard(make.events)
    assert (tree.nodes[0,].score, tree.nodes[1,].score) == (None, 0.0)
    assert [one.score for one in tree.nodes[1,].judgements] == [0.0, None]
    lines = drawn(tree).splitlines()
    assert re.search(r"○    \? a", lines[1])
    assert re.search(r"○  \.00 b", lines[2])


@pytest.mark.parametrize(("reason", "said"), [("length", "out of tokens"), ("cut", "stopped early")])
def test_a_reply_that_was_cut_short_says_so(reason: str, said: str) -> None:
    make = Maker()
    make.candidate([0], "It is", None, reason)
    tree = heard(make.events)
    assert (tree.nodes[0,].state, tree.nodes[0,].cut_reason) == ("cut", said)
    assert said in drawn(tree)


def test_a_run_without_a_result_has_its_best_offer_as_incumbent() -> None:
    events = [event for event in rebase() if event["event"] != "result"]
    tree = heard(events)
    offer = [event for event in events if event["event"] == "offer"][-1]
    assert (tree.ended, tree.chosen, tree.incumbent) == (False, None, tuple(offer["path"]))
    assert "☆" in drawn(tree)


def test_unknown_events_and_fields_say_nothing() -> None:
    make = Maker()
    make.emit("weather", sky="blue")
    make.emit("step", path=[0], text="a", finish_reason="step", output_tokens=1, colour="red")
    assert list(heard(make.events).nodes) == [(0,)]


def test_as_json_holds_all_of_it_and_is_json() -> None:
    tree = heard(rebase())
    content = json.loads(orjson.dumps(tree.as_json()))
    assert [tuple(node["path"]) for node in content["nodes"]] == list(tree.nodes)
    assert content["chosen"] == list(tree.chosen or ())
    assert content["usage"]["total_tokens"] == tree.usage.total_tokens
    judged = content["nodes"][0]["verdicts"][0]
    assert judged["steps"] == [judged["score"]]


# -- which of it is shown --------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), limit=st.integers(1, 120), width=st.integers(1, 24))
def test_a_screen_too_small_keeps_the_chosen_reply_and_counts_the_rest(seed: int, limit: int, width: int) -> None:
    tree = heard(rebase(5, width, seed))
    lines = rows(tree, limit)
    shown = {row.node for row in lines[1:]}
    assert lines[0].node is tree.root
    assert len(shown) == len(lines) - 1 == min(limit, len(tree.nodes))
    assert tree.nodes[tree.chosen or ()] in shown
    passed = {above for node in shown for above in node.ancestors()} - shown - {tree.root}
    assert len(shown) + len(passed) + sum(row.hidden for row in lines) == len(tree.nodes)
    for row in lines:  # the fork that two lines have in common is the line that they hang from
        for one in row.children:
            for other in row.children:
                common = set(one.node.ancestors()) & set(other.node.ancestors())
                if one is not other:
                    assert max(common, key=lambda node: len(node.path)) is row.node


def test_all_of_a_tree_is_shown_where_there_is_room() -> None:
    tree = heard(rebase())
    lines = rows(tree)
    assert {row.node for row in lines[1:]} == set(tree.nodes.values())
    assert [row.node.path for row in lines[1:]] == sorted(tree.nodes)
    assert not any(row.hidden or row.skipped for row in lines)


def test_a_long_reply_is_a_column_and_does_not_drift_to_the_right() -> None:
    tree = heard(chain(60))
    guides = [row.guides for row in rows(tree, 20)[1:]]
    assert {cell_len(guide) for guide in guides} == {3}


# -- the terminal ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [12, 20, 40, 80, 200])
@pytest.mark.parametrize(
    "events", [rebase(), plain(), plain(judged=True), chain(40)], ids=["search", "plain", "n", "deep"]
)
def test_no_line_is_wider_than_the_screen(events: list[Event], width: int) -> None:
    for line in drawn(heard(events), width, limit=None).splitlines():
        assert cell_len(line) <= width, line


@pytest.mark.parametrize("width", [16, 40, 80, 300])
def test_hostile_text_is_shown_as_it_is_on_one_line_and_cannot_steer_the_terminal(width: int) -> None:
    make = Maker()
    make.begin("beam:[bold]", HOSTILE)
    make.step([0], HOSTILE)
    make.step([0, 0], "")
    make.candidate([0, 0], HOSTILE, HOSTILE)
    make.step([1], "   \n\n ")
    make.verdict([0], 0.5, HOSTILE)
    make.emit("prune", paths=[[1]], reason=HOSTILE)
    make.emit("failed", purpose="generate", paths=[[2]], error=HOSTILE, status=None)
    make.result([0, 0], HOSTILE)
    text = drawn(heard(make.events), width)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", text)
    assert len([line for line in text.splitlines() if re.match(r"\?|[├│└ ]", line)]) == 4
    assert "[red]"[: max(1, width - 12)] in text


def test_a_terminal_gets_the_score_as_a_number_and_as_a_colour() -> None:
    make = Maker()
    for place, score in enumerate((0.0, 0.5, 1.0)):
        make.step([place], "a")
        make.verdict([place], score)
    make.step([3], "b")
    make.emit("prune", paths=[[3]], reason="outscored")
    console = Console(width=80, force_terminal=True, color_system="truecolor", no_color=False)
    with console.capture() as caught:
        console.print(TreeView(heard(make.events)))
    red, amber, green = re.findall(r"38;2;(\d+);(\d+);(\d+)m *(\S+?)\s", caught.get())
    assert re.search(r"\x1b\[2mb +\x1b", caught.get())  # what was cut is dim, and nothing else is
    assert re.search(r"\x1b\[0ma$", caught.get(), re.MULTILINE)
    assert (red[3], amber[3], green[3]) == (".00", ".50", "1.00")
    assert int(red[0]) > int(red[1])
    assert int(green[1]) > int(green[0])


@pytest.mark.parametrize("height", [6, 12, 24, 60])
def test_a_live_view_fits_the_screen_and_tells_what_it_leaves_out(height: int) -> None:
    tree = heard(rebase()[:-1])
    text = drawn(tree, 80, height, live=True)
    assert len(text.splitlines()) <= max(height, 10)
    shown = len(re.findall(r"[●○✓✗☆]", text))
    assert f"{len(tree.nodes) - shown:,} not shown" in text


def test_a_view_hears_the_run_and_draws_what_it_heard() -> None:
    tree, console = SearchTree(), Console(width=100)
    view = TreeView(tree, live=True)
    with console.capture() as caught:
        console.print(view)
    assert caught.get().strip() == ""
    for event in plain(3)[:-1]:
        view.hear(event)
    with console.capture() as caught:
        console.print(view)
    assert "3 nodes · 3 finished · 3 calls" in caught.get()
    view.hear(plain(3)[-1])
    view.catch_up()
    assert tree.answer == "112.5"


def test_an_excerpt_fills_its_cells_exactly() -> None:
    for text in ("", "short", "漢字漢字漢字", HOSTILE):
        for width in range(12):
            assert cell_len(excerpt(text, width, fill=True)) == width
            assert cell_len(excerpt(text, width)) <= width
    assert printable("a\x1b[2Jb\nc\u202e") == "a\N{REPLACEMENT CHARACTER}[2Jb\nc"


# -- thinkscale show, and solve --tree -------------------------------------------------------------------------------


def kept(path: Path, events: Sequence[Event]) -> Path:
    path.write_bytes(b"".join(orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE) for event in events))
    return path


def shown(file: Path, capsys: pytest.CaptureFixture[str], **options: Any) -> tuple[str, str]:
    defaults: dict[str, Any] = {"id": None, "html": None, "all": False, "json": False}
    show.run(show.Options(file, **{**defaults, **options}))
    return capsys.readouterr()


def test_show_prints_the_tree_the_answer_the_bill_and_why_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    out, err = shown(kept(tmp_path / "trace.jsonl", rebase()), capsys)
    assert err == ""
    assert "\x1b" not in out
    assert out.startswith("? A tank holds 240 litres.")
    assert "★" in out
    assert "\nanswer: 112.5\n" in out
    assert "confidence 71% · all samples drawn" in out
    for purpose in ("generate", "verify", "in all"):
        assert re.search(rf"^{purpose}\s+\d", out, re.MULTILINE)
    everything, _ = shown(tmp_path / "trace.jsonl", capsys, all=True)
    assert len(re.findall("✗", everything)) == heard(rebase()).counts()["cut"]


def test_show_gives_the_nodes_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = shown(kept(tmp_path / "trace.jsonl", rebase()), capsys, json=True)
    content = json.loads(out)
    assert content["torn"] is False
    assert [len(trace["nodes"]) for trace in content["traces"]] == [len(heard(rebase()).nodes)]


def test_a_trace_that_was_torn_off_is_shown_as_far_as_it_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = kept(tmp_path / "trace.jsonl", rebase())
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:30]) + lines[30][:30])
    out, err = shown(file, capsys)
    assert "16 live" in out
    assert "holds no result" in out
    assert "ended early" in err
    assert json.loads(shown(file, capsys, json=True)[0])["torn"] is True


def test_of_several_traces_each_is_shown_or_the_one_that_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = kept(tmp_path / "traces.jsonl", numbered(plain(3), rebase(3, 4)))
    out, _ = shown(file, capsys)
    assert out.index("self-consistency:n=3") < out.index("rebase:n=4")
    out, _ = shown(file, capsys, id="2")
    assert "rebase:n=4" in out
    assert "self-consistency" not in out
    with pytest.raises(UsageError, match="holds no trace 9: choose with --id 1bbb"):
        shown(file, capsys, id="9")
    with pytest.raises(UsageError, match=r"shows one run .* holds 2"):
        shown(file, capsys, html=tmp_path / "page.html")
    shown(file, capsys, html=tmp_path / "page.html", id="1")
    assert "self-consistency:n=3" in (tmp_path / "page.html").read_text()


GOOD = b'{"v": 1, "trace": "a", "t": 0, "event": "plan", "strategy": "single", "budget": {}}\n'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty: it holds no event"),
        (b"\n\n", "is empty"),
        (b"question,answer\n1,2\n", "line 1 is not JSON"),
        (GOOD + b'{"v": 1, "tra\n', "line 2 is not JSON"),
        (b'{"v": 1, "tra', "line 1 is not JSON"),
        (GOOD + b"\xff\xfe\n" + GOOD, "line 2 is not JSON"),
        (GOOD + b"[1, 2]\n", "line 2 is not an event"),
        (b'{"question": "3 + 4?"}\n', "line 1 is not an event"),
        (b'{"v": 1, "event": "plan"}\n', 'line 1, a \'plan\' event, lacks its "trace" or "t"'),
        (GOOD.replace(b'"v": 1', b'"v": 2'), "line 1 has version 2 of the format"),
        (
            GOOD + b'{"v": 1, "trace": "a", "t": 1, "event": "step", "path": [0]}\n',
            "line 2, a 'step' event, lacks 'text'",
        ),
        (
            GOOD + b'{"v": 1, "trace": "a", "t": 1, "event": "step", "path": 3}\n',
            "line 2, a 'step' event, is malformed",
        ),
        (
            GOOD + b'{"v": 1, "trace": "a", "t": 1, "event": "step", "path": ["x"], "text": ""}\n',
            "line 2, a 'step' event, is malformed",
        ),
    ],
)
def test_a_file_that_is_no_trace_is_refused_with_the_line_that_is_wrong(
    content: bytes, said: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UsageError, match=re.escape(said)):
        show.read(tmp_path / "file")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*missing: No such file"):
        show.read(tmp_path / "missing")
    with pytest.raises(UsageError, match="Is a directory"):
        show.read(tmp_path)


async def thinkscale(*words: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "thinkscale.cli", *words, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=os.environ | {"COLUMNS": "100"},
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode or 0, out.decode(), err.decode()


async def test_solve_with_tree_leaves_the_tree_above_the_bill_and_show_prints_it_again(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    async with StubServer({"7": 1.0}) as server:
        status, out, err = await thinkscale(
            "solve", "What is 3 + 4?", "--model", server.base_url, "--strategy", "best-of-n:n=4", "--verifier", "judge",
            "--tree", "--trace", str(trace),
        )  # fmt: skip
    assert status == 0, err
    assert "answer: 7" in out
    assert "\x1b" not in err
    assert err.index("best-of-n:n=4 · 4 nodes · 4 finished") < err.index("spent on")
    assert len(re.findall(r"= 7$", err, re.MULTILINE)) == 4
    status, out, _ = await thinkscale("show", str(trace))
    assert status == 0
    tree_and_bill = [line for line in err.splitlines() if re.match(r"[├└]|generate|verify|in all", line)]
    assert [line for line in out.splitlines() if re.match(r"[├└]|generate|verify|in all", line)] == tree_and_bill


async def test_show_of_a_wrong_file_is_one_line_and_status_2(tmp_path: Path) -> None:
    status, out, err = await thinkscale("show", str(tmp_path / "missing"))
    assert (status, out) == (2, "")
    assert re.fullmatch(r"thinkscale: cannot read .*: No such file or directory\n", err)

"""A run as the tree of what was sampled: read from the trace events, one by one, while it happens or long after.

A step search is a tree of steps, a refinement search a tree of whole replies, and plain sampling a tree of one level.
Nothing here draws: `tree_view` shows it in a terminal, `tree_page` as a page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from thinkscale.trace import Event
from thinkscale.types import Usage

SamplePath = tuple[int, ...]
State = Literal["live", "grown", "finished", "cut"]

_CUT_SHORT = {"length": "out of tokens", "cut": "stopped early"}
_ENDS_NOTHING = ("step", *_CUT_SHORT, None)
_VERIFYING = "verify"  # such calls number their own samples: their paths name no node


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verifier's word on a node, `t` seconds into the run. `steps` are the step scores of the reply so far."""

    t: float
    verifier: str
    score: float | None
    passed: bool | None
    reason: str
    steps: tuple[float | None, ...]


@dataclass(eq=False, slots=True)
class Node:
    """One step, or one whole reply where `whole` is true. Times are seconds into the run, `None` for "not yet"."""

    path: SamplePath
    parent: Node | None
    born: float
    text: str = ""
    whole: bool = False
    finish_reason: str | None = None
    ended: float | None = None
    answer: str | None = None
    output_tokens: int | None = None
    cut_at: float | None = None
    cut_reason: str | None = None
    children: list[Node] = field(default_factory=list)
    judgements: list[Judgement] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return self.finish_reason not in _ENDS_NOTHING

    @property
    def state(self) -> State:
        """`live` may still grow, `grown` has, `finished` is a reply's end, `cut` grows no further."""
        if self.cut_reason is not None:
            return "cut"
        if self.finished:
            return "finished"
        return "grown" if self.children else "live"

    @property
    def score(self) -> float | None:
        """The latest score that a verifier could give."""
        return next((one.score for one in reversed(self.judgements) if one.score is not None), None)

    @property
    def reply(self) -> str:
        """The whole reply up to and with this node."""
        parts = [self.text]
        node = self
        while not node.whole and node.parent is not None:
            node = node.parent
            if node.path:
                parts.append(node.text)
        return "".join(reversed(parts))

    def ancestors(self) -> Iterator[Node]:
        """From its parent up to the root."""
        node = self.parent
        while node is not None:
            yield node
            node = node.parent

    def below(self) -> Iterator[Node]:
        """Every node under it, in the order of the paths."""
        stack = self.children[::-1]
        while stack:
            node = stack.pop()
            yield node
            stack += node.children[::-1]


@dataclass(frozen=True, slots=True)
class Spending:
    """What one request used, `t` seconds into the run; `paths` are those of its samples."""

    t: float
    purpose: str
    paths: tuple[SamplePath, ...]
    usage: Usage

    @property
    def n(self) -> int:
        """How many samples travelled together."""
        return len(self.paths)


class SearchTree:
    """What is known of a run so far. `hear` takes its events in their order; unknown ones say nothing.

    `nodes` maps paths to nodes in the order in which they appeared, without the root, which is the question. `chosen`
    is what the run returned, `incumbent` what it would return if it ended now; `None` before either is known. `samples`
    counts whole replies, `in_flight` those that are being written.
    """

    def __init__(self) -> None:
        self.id = ""
        self.question: str | None = None
        self.strategy = ""
        self.budget: dict[str, float] = {}
        self.root = Node((), None, 0.0)
        self.nodes: dict[SamplePath, Node] = {}
        self.offers: list[tuple[float, SamplePath, float | None]] = []
        self.failures: list[tuple[float, int, str]] = []
        self.spendings: list[Spending] = []
        self.in_flight = 0
        self.samples = 0
        self.chosen: SamplePath | None = None
        self.answer: str | None = None
        self.confidence: float | None = None
        self.stop_reason: str | None = None
        self.seconds = 0.0
        self.version = 0
        self._made_by: dict[SamplePath, Spending] = {}

    def hear(self, event: Event) -> None:
        """Raises `KeyError`, `TypeError` or `ValueError` where the event is not one that a run writes."""
        t = float(event["t"])
        self.id = self.id or event["trace"]
        self.seconds = max(self.seconds, t)
        self.version += 1
        match event["event"]:
            case "request":
                self.question = event.get("prompt")
            case "plan":
                self.strategy = event["strategy"]
                self.budget = {name: limit for name, limit in event["budget"].items() if limit is not None}
            case "call":
                self.in_flight += event["n"]
            case "settle":
                self._settle(t, event)
            case "failed":
                self.failures.append((t, len(event["paths"]), str(event["error"])))
            case "step":
                self._step(t, event)
            case "candidate":
                self._candidate(t, event)
            case "verdict":
                self._verdict(t, event)
            case "prune":
                self._prune(t, event)
            case "offer":
                self.offers.append((t, tuple(event["path"]), event["value"]))
            case "result":
                self.chosen = tuple(event["path"])
                self.answer = event["answer"]
                self.confidence = event["confidence"]
                self.stop_reason = event["stop_reason"]

    @property
    def incumbent(self) -> SamplePath | None:
        return self.offers[-1][1] if self.offers else None

    @property
    def ended(self) -> bool:
        """Whether the run came to a result; false too of one that failed or was killed."""
        return self.stop_reason is not None

    @property
    def usage(self) -> Usage:
        return sum((one.usage for one in self.spendings), Usage())

    @property
    def usage_by_purpose(self) -> dict[str, Usage]:
        bill: dict[str, Usage] = {}
        for one in self.spendings:
            bill[one.purpose] = bill.get(one.purpose, Usage()) + one.usage
        return bill

    @property
    def votes(self) -> list[tuple[str | None, int]]:
        """Final answers with how many replies gave them, most first; `None` for replies that ended without one."""
        votes = Counter(node.answer for node in self.nodes.values() if node.finished or node.answer is not None)
        return votes.most_common()

    def counts(self) -> Counter[State]:
        return Counter(node.state for node in self.nodes.values())

    def made_by(self, node: Node) -> Spending | None:
        """The request that sampled it (it and its `n - 1` siblings); `None` where the trace does not tell."""
        return self._made_by.get(node.path)

    def as_json(self) -> dict[str, Any]:
        """Everything, for scripts and for the page. A node's `text` is its own part of the reply unless `whole`."""
        return {
            "trace": self.id,
            "question": self.question,
            "strategy": self.strategy,
            "budget": self.budget,
            "answer": self.answer,
            "chosen": self.chosen,
            "confidence": self.confidence,
            "stop_reason": self.stop_reason,
            "seconds": self.seconds,
            "samples": self.samples,
            "counts": dict(self.counts()),
            "votes": [{"answer": answer, "replies": replies} for answer, replies in self.votes],
            "usage": _bill(self.usage),
            "usage_by_purpose": {purpose: _bill(usage) for purpose, usage in self.usage_by_purpose.items()},
            "spendings": [
                {"t": one.t, "purpose": one.purpose, "n": one.n, **_bill(one.usage)} for one in self.spendings
            ],
            "offers": [{"t": t, "path": path, "value": value} for t, path, value in self.offers],
            "failures": [{"t": t, "samples": samples, "error": error} for t, samples, error in self.failures],
            "nodes": [self._node_as_json(node) for node in self.nodes.values()],
        }

    def _node_as_json(self, node: Node) -> dict[str, Any]:
        request = self.made_by(node)
        return {
            "path": node.path,
            "parent": node.parent.path if node.parent else (),
            "t": node.born,
            "text": node.text,
            "whole": node.whole,
            "state": node.state,
            "score": node.score,
            "finish_reason": node.finish_reason,
            "ended": node.ended,
            "answer": node.answer,
            "output_tokens": node.output_tokens,
            "cut_at": node.cut_at,
            "cut_reason": node.cut_reason,
            "verdicts": [asdict(one) for one in node.judgements],
            "request": None if request is None else {"n": request.n, **_bill(request.usage)},
        }

    # -- events --------------------------------------------------------------------------------------------------

    def _step(self, t: float, event: Event) -> None:
        node = self._node(tuple(event["path"]), t)
        node.text = event["text"]
        self._end(node, t, event)

    def _candidate(self, t: float, event: Event) -> None:
        self.samples += 1
        path = tuple(event["path"])
        known = self.nodes.get(path)
        node = known or self._node(path, t)
        if known is None:  # no step: the node is the whole reply, or what was added to its parent's
            before = node.parent.reply if node.parent and node.parent.path else ""
            continued = bool(before) and event["text"].startswith(before) and event["text"] != before
            node.text, node.whole = event["text"][len(before) :] if continued else event["text"], not continued
        self._end(node, t, event)

    def _end(self, node: Node, t: float, event: Event) -> None:
        node.finish_reason = event["finish_reason"]
        node.answer = node.answer if event.get("answer") is None else event["answer"]
        if node.output_tokens is None:
            node.output_tokens = event["output_tokens"]
        if node.finish_reason != "step" and node.ended is None:
            node.ended = t
        if node.finish_reason in _CUT_SHORT and node.cut_reason is None:
            node.cut_at, node.cut_reason = t, _CUT_SHORT[node.finish_reason]

    def _verdict(self, t: float, event: Event) -> None:
        node = self.nodes.get(tuple(event["path"]))
        if node:
            score, steps = event["score"], event.get("steps") or ()
            node.judgements.append(
                Judgement(t, event["verifier"], score, event["passed"], event["reason"] or "", tuple(steps))
            )

    def _prune(self, t: float, event: Event) -> None:
        for path in event["paths"]:
            node = self.nodes.get(tuple(path))
            if node is None:
                continue
            for one in (node, *(under for under in node.below() if under.state == "live")):
                if one.cut_reason is None:
                    one.cut_at, one.cut_reason = t, event["reason"]

    def _settle(self, t: float, event: Event) -> None:
        paths = tuple(map(tuple, event["paths"]))
        usage = Usage(
            prompt_tokens=event["prompt_tokens"],
            output_tokens=event["output_tokens"],
            calls=event["calls"],
            requests=event["requests"],
            cached_tokens=event["cached_tokens"],
            cost_usd=event["cost_usd"],
            counted=event.get("counted", False),
        )
        spending = Spending(t, event["purpose"], paths, usage)
        self.spendings.append(spending)
        self.in_flight = max(0, self.in_flight - len(paths))
        if spending.purpose != _VERIFYING:
            self._made_by.update(dict.fromkeys(paths, spending))

    def _node(self, path: SamplePath, t: float) -> Node:
        """The node of a path, made if it is new, under its nearest known ancestor."""
        if not all(type(place) is int for place in path):
            raise ValueError(f"path {list(path)} is not a list of whole numbers")
        if path in self.nodes or not path:
            return self.nodes.get(path, self.root)
        above = (self.nodes[path[:depth]] for depth in range(len(path) - 1, 0, -1) if path[:depth] in self.nodes)
        node = Node(path, next(above, self.root), t)
        siblings = node.parent.children if node.parent else []
        place = len(siblings)
        while place and siblings[place - 1].path > path:
            place -= 1
        siblings.insert(place, node)
        self.nodes[path] = node
        return node


def _bill(usage: Usage) -> Mapping[str, Any]:
    return {**asdict(usage), "total_tokens": usage.total_tokens}

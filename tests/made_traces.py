"""Traces as runs write them, made up: to draw trees without a model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import exp
from random import Random
from typing import Any

Event = dict[str, Any]

QUESTION = "A tank holds 240 litres. Two pipes fill it in 3 and 5 hours. How long, in minutes, do both take together?"
_OPENINGS = (
    "First, find the rate of each pipe: 240/3 = 80 and 240/5 = 48 litres an hour.",
    "Let t be the time in hours. Then t/3 + t/5 = 1.",
    "Add the times and halve them: (3 + 5)/2 = 4 hours.",
    "The combined rate is 80 + 48 = 128 litres an hour.",
    "So t = 15/8 hours, which is 1.875 hours.",
    "Divide the volume by the rate: 240 / 128 = 1.875 hours.",
    "Multiply by 60 to get minutes: 1.875 · 60 = 112.5.",
    "Check: 128 litres an hour for 1.875 hours gives 240 litres, as it must.",
    "Wait, the second pipe is slower, so the time is closer to 3 hours.",
    "Hence both pipes together need about two hours.",
)


class Maker:
    """Collects events with a clock that goes on a little with each."""

    def __init__(self, trace: str = "a" * 32, seed: int = 0) -> None:
        self.rng = Random(seed)
        self.events: list[Event] = []
        self._id = trace
        self._clock = 0.0

    def emit(self, event: str, **fields: Any) -> None:
        self.events.append({"v": 1, "trace": self._id, "t": round(self._clock, 6), "event": event, **fields})
        self._clock += self.rng.uniform(0.001, 0.01)

    def wait(self, seconds: float) -> None:
        self._clock += seconds

    def begin(self, strategy: str, prompt: str | None = QUESTION, **budget: float) -> None:
        asked = {} if prompt is None else {"prompt": prompt}
        self.emit("request", id="request", kind="number", seed=0, **asked)
        limits = dict.fromkeys(("max_output_tokens", "max_total_tokens", "max_cost_usd", "deadline_s", "max_calls"))
        self.emit("plan", strategy=strategy, budget={**limits, **budget})

    def settle(self, path: Sequence[int], n: int, prompt: int, output: int, **more: Any) -> None:
        self.emit(
            "settle", **{
                "purpose": "generate", "paths": [[*path[:-1], path[-1] + place] for place in range(n)], "calls": n,
                "requests": 1, "reserved_tokens": 4096, "prompt_tokens": prompt, "output_tokens": output,
                "cached_tokens": prompt // 2, "cost_usd": (prompt + 4 * output) / 1e7, "counted": False, **more,
            },
        )  # fmt: skip

    def step(self, path: Sequence[int], text: str, finish_reason: str = "step", answer: str | None = None) -> None:
        tokens = max(1, len(text) // 4)
        fields = {"text": text, "finish_reason": finish_reason, "output_tokens": tokens, "answer": answer}
        self.emit("step", path=list(path), **fields)

    def candidate(self, path: Sequence[int], text: str, answer: str | None, finish_reason: str = "stop") -> None:
        fields = {"answer": answer, "text": text, "finish_reason": finish_reason, "output_tokens": len(text) // 4}
        self.emit("candidate", path=list(path), **fields)

    def verdict(self, path: Sequence[int], score: float | None, reason: str = "", steps: Sequence[float] = ()) -> None:
        passed = None if score is None else score > 0.5
        fields = {"verifier": "steps", "score": score, "passed": passed, "reason": reason, "steps": list(steps)}
        self.emit("verdict", path=list(path), **fields)

    def result(self, path: Sequence[int], answer: str | None, confidence: float | None = 0.8) -> None:
        fields = {"answer": answer, "path": list(path), "confidence": confidence, "stop_reason": "complete"}
        self.emit("result", **fields, usage={})


def rebase(levels: int = 8, width: int = 16, seed: int = 0, temperature: float = 0.1) -> list[Event]:
    """A search that shares its width among the branches by the softmax of their scores, step after step."""
    make = Maker(seed=seed)
    rng = make.rng
    make.begin(f"rebase:n={width}", max_total_tokens=40000, deadline_s=60)
    texts: dict[tuple[int, ...], list[str]] = {(): []}
    scores: dict[tuple[int, ...], list[float]] = {(): []}
    growing: list[tuple[tuple[int, ...], int]] = [((), width)]
    finished: list[tuple[tuple[int, ...], str, float]] = []
    for level in range(levels):
        born: list[tuple[int, ...]] = []
        for parent, n in growing:
            make.emit("call", purpose="generate", path=[*parent, 0], n=n, max_tokens=128)
        for parent, n in growing:
            make.wait(rng.uniform(0.1, 0.5))
            for place in range(n):
                path = (*parent, place)
                ends = level == levels - 1 or (level > 2 and rng.random() < 0.12)
                answer = rng.choice(["112.5", "112.5", "112.5", "240", "120"]) if ends else None
                text = rng.choice(_OPENINGS) + (f"\n\nSo the answer is \\boxed{{{answer}}}." if ends else "")
                texts[path] = [*texts[parent], text if not parent else f"\n\n{text}"]
                make.step(path, texts[path][-1], "stop" if ends else "step", answer)
                if answer is not None:
                    make.candidate(path, "".join(texts[path]), answer)
                    finished.append((path, answer, 0.0))
                born.append(path)
            make.settle((*parent, 0), n, 80 + 30 * level, 25 * n)
        make.wait(0.2)
        open_branches = []
        for path in born:
            before = scores[path[:-1]][-1] if path[:-1] else 0.5
            score = min(0.99, max(0.01, before + rng.gauss(0.04, 0.16)))
            scores[path] = [*scores[path[:-1]], round(score, 3)]
            make.verdict(
                path, round(score, 3), rng.choice(["", "the rates add up", "times are averaged"]), scores[path]
            )
            if path not in {one for one, _, _ in finished}:
                open_branches.append(path)
        make.emit("settle", purpose="verify", paths=[[level, place] for place in range(len(born))], calls=len(born),
                  requests=1, reserved_tokens=999, prompt_tokens=900, output_tokens=len(born), cached_tokens=None,
                  cost_usd=0.0001, counted=True)  # fmt: skip
        if finished:
            best = max(finished, key=lambda one: scores[one[0]][-1])
            make.emit("offer", path=list(best[0]), answer=best[1], value=None)
        room = width - len(finished)
        weights = [exp(scores[path][-1] / temperature) for path in open_branches]
        shares = [round(room * weight / sum(weights)) for weight in weights]
        growing = [(path, share) for path, share in zip(open_branches, shares, strict=True) if share > 0]
        pruned = [list(path) for path, share in zip(open_branches, shares, strict=True) if share == 0]
        if pruned:
            make.emit("prune", paths=pruned, reason="outscored")
        if not growing:
            break
    best = max(finished, key=lambda one: (one[1] == "112.5", scores[one[0]][-1]))
    make.result(best[0], best[1], 0.71)
    return make.events


def plain(n: int = 16, seed: int = 0, *, judged: bool = False) -> list[Event]:
    """Self-consistency or, `judged`, best of n: a tree of one level."""
    make = Maker(trace="b" * 32, seed=seed)
    make.begin(f"self-consistency:n={n}")
    make.emit("call", purpose="generate", path=[0], n=n, max_tokens=1024)
    answers = ["112.5", *(make.rng.choice(["112.5", "112.5", "240", None]) for _ in range(n - 1))]
    for index, answer in enumerate(answers):
        make.wait(make.rng.uniform(0.05, 0.4))
        body = "\n\n".join(make.rng.sample(_OPENINGS, 3))
        make.candidate([index], f"{body}\n\nAnswer: {answer}", answer)
    make.settle([0], n, 60, 80 * n, cached_tokens=None, cost_usd=None)
    if judged:
        for index in range(n):
            make.verdict([index], round(make.rng.random(), 2), "looks plausible")
    make.result([0], "112.5", 0.6)
    return make.events


def chain(steps: int) -> list[Event]:
    """One reply of many steps, each with one sibling that was cut: deep and thin."""
    make = Maker(trace="c" * 32)
    make.begin("beam:n=2,m=2")
    path: tuple[int, ...] = ()
    for level in range(steps):
        good, bad = (*path, 0), (*path, 1)
        last = level == steps - 1
        make.step(good, f"\n\nStep {level}: go on.", "stop" if last else "step", "7" if last else None)
        make.step(bad, f"\n\nStep {level}: go astray.")
        make.verdict(good, 0.9)
        make.verdict(bad, 0.2)
        make.emit("prune", paths=[list(bad)], reason="outscored")
        path = good
    make.result(path, "7")
    return make.events


def numbered(*runs: list[Event]) -> list[Event]:
    """Several runs as one file's events, each under its own trace id."""
    return [
        {**event, "trace": f"{number}{event['trace'][1:]}"}
        for number, run in zip(itertools.count(1), runs, strict=False)
        for event in run
    ]

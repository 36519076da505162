"""Named, seeded sources of problems, and grading.

linear    countdown:numbers=4    chain_sum?terms=2..3&shots=4    game24:path=FILE
gsm8k:PATH    math500:PATH    jsonl:PATH?question=q&answer=a&kind=number    hf:NAME?split=test
gym:DATASET?option=value
"""

from __future__ import annotations

from pathlib import Path

from thinkscale.errors import UsageError
from thinkscale.options import arguments, build, near
from thinkscale.tasks.base import INSTRUCTIONS, Problem, Task
from thinkscale.tasks.grading import Equivalent, PassesTests, grade

GENERATORS = ("linear", "countdown", "game24", "chain_sum")
SOURCES = ("gsm8k:FILE", "math500:FILE", "jsonl:FILE", "hf:DATASET", "gym:DATASET")
"""What a task can be: made on the spot, or read from somewhere."""


def parse_task(spec: str) -> Task:
    """Make a task from `name`, `name:key=value,...` or `name:SOURCE?key=value&...`.

    In the last form a value may hold commas, and percent escapes are decoded. Raises `UsageError` naming what is wrong.
    Files are read, and packages looked for, only when problems are asked for.
    """
    head, _, query = spec.strip().partition("?")
    name, _, rest = head.partition(":")
    if name in GENERATORS:
        return _generator(name, arguments(f"task {name}", rest, ",") | arguments(f"task {name}", query, "&"))
    usage = {source.partition(":")[0]: source for source in SOURCES}
    if name not in usage:
        known = (*GENERATORS, *usage)
        raise UsageError(f"unknown task {name!r}{near(name, known)}; known: {', '.join((*GENERATORS, *SOURCES))}")
    if not rest:
        raise UsageError(f"task {name} does not say which: write {usage[name]}")
    return _source(name, rest, arguments(f"task {name}", query, "&"))


def _generator(name: str, options: dict[str, str]) -> Task:
    from thinkscale.tasks.game24 import Game24
    from thinkscale.tasks.generators import ChainSum, Countdown, Generator, Linear

    kinds: tuple[type[Generator], ...] = (Linear, Countdown, Game24, ChainSum)
    return build(next(kind for kind in kinds if kind.label == name), f"task {name}", options)


def _source(name: str, which: str, options: dict[str, str]) -> Task:
    if name == "gym":
        from thinkscale.tasks.gym import Gym

        return Gym(which, options)
    from thinkscale.tasks.files import Gsm8k, Hub, JsonLines, Math500

    if name == "hf":
        return build(Hub, f"task {name}", options, dataset=which)
    kinds: dict[str, type[JsonLines]] = {"gsm8k": Gsm8k, "math500": Math500, "jsonl": JsonLines}
    return build(kinds[name], f"task {name}", options, path=Path(which))


__all__ = [
    "GENERATORS",
    "INSTRUCTIONS",
    "SOURCES",
    "Equivalent",
    "PassesTests",
    "Problem",
    "Task",
    "grade",
    "parse_task",
]

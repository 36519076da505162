"""A run told while it happens, in lines for people: what is being tried, and the incumbent as it changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from thinkscale.trace import Event

_LONGEST = 80


class Narrator:
    """Turns a run's events into progress text; several that come together make few lines."""

    def __init__(self) -> None:
        self._votes: Counter[str] = Counter()
        self._samples = self._steps = self._pruned = self._judged = self._failed = 0

    def tell(self, events: Iterable[Event]) -> str:
        """What is worth saying of these events, as whole lines; often nothing."""
        lines: list[str] = []
        news = False
        for event in events:
            match event["event"]:
                case "plan":
                    lines.append(f"Strategy: {event['strategy']}.")
                case "candidate":
                    self._samples += 1
                    news = True
                    if event["answer"] is not None:
                        self._votes[event["answer"]] += 1
                case "step":
                    self._steps += 1
                    news = True
                case "prune":
                    self._pruned += len(event["paths"])
                case "verdict":
                    self._judged += 1
                    news = True
                case "failed":
                    self._failed += len(event["paths"])
                    news = True
                case "offer":
                    lines.append(f"Best so far: {_short(event['answer'])}{_sure(event['value'])}.")
        if news:
            lines.append(self._standing())
        return "".join(f"{line}\n" for line in lines)

    def _standing(self) -> str:
        counts = {
            "samples": self._samples,
            "steps": self._steps,
            "judged": self._judged,
            "pruned": self._pruned,
            "failed": self._failed,
        }
        said = ", ".join(f"{count} {what if count > 1 else _one[what]}" for what, count in counts.items() if count)
        if self._votes:
            answer, votes = self._votes.most_common(1)[0]
            said += f"; {votes} of {self._votes.total()} say {_short(answer)}"
        return said[:1].upper() + said[1:] + "."


_one = {"samples": "sample", "steps": "step", "judged": "judged", "pruned": "pruned", "failed": "failed"}


def _short(answer: str | None) -> str:
    if answer is None:
        return "a reply without a short answer"
    line = " ".join(answer.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def _sure(value: float | None) -> str:
    return "" if value is None else f" (confidence {value:.2f})"

"""Which settings of which strategies a bank can tell about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from thinkscale.optimize.table import Table

_SIZES = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 192, 256, 384, 512)
_CAPS = (5, 10, 20, 40)
_CONFIDENCES = (0.8, 0.9, 0.95, 0.99)
_WINDOWS = (2, 3, 4, 5, 8, 10)
_SCHEDULES = ("1", "2", "4", "8", "1/3/12/48")
_KEPT = (10, 50)  # percent of the traces that vote in DeepConf


@dataclass(frozen=True)
class Setting:
    """A strategy's words, and the verifier whose recorded scores it uses, `None` for one that needs none."""

    strategy: str
    verifier: str | None = None

    @property
    def family(self) -> str:
        """What its curve is called: the strategy's name, with what makes it another one."""
        name, _, rest = self.strategy.partition(":")
        name = f"{name}, weighted" if "weighted=true" in rest else name
        return f"{name} by {self.verifier}" if self.verifier else name

    @property
    def name(self) -> str:
        return f"{self.strategy} by {self.verifier}" if self.verifier else self.strategy


def settings(table: Table, n: int) -> list[Setting]:
    """The usual settings that a table can tell about, with one sample up to `n` of them."""
    found = [Setting("single"), *_votes(n), *_stop_rules(n)]
    if table.confidences is not None:
        found += [Setting(f"deepconf:n={size},eta={eta}") for eta in _KEPT for size in sizes(n)]
    for verifier in sorted(table.scores or {}):
        found += [Setting(words, verifier) for words in _verified(n, table.max_n)]
    return found


def sizes(n: int) -> list[int]:
    """Numbers of samples from 2 to `n`, as dense as their effect is."""
    return [size for size in _SIZES if size < n] + ([n] if n > 1 else [])


def _votes(n: int) -> Iterator[Setting]:
    for size in sizes(n):
        yield Setting(f"self-consistency:n={size}")


def _stop_rules(n: int) -> Iterator[Setting]:
    caps = [*(cap for cap in _CAPS if cap < n), n] if n > 1 else []
    for cap in caps:
        for confidence in _CONFIDENCES:
            for batches in (1, 4):
                if batches < cap:
                    yield Setting(f"adaptive-consistency:n={cap},confidence={confidence},batches={batches}")
    for cap in caps:
        for window in _WINDOWS:
            if window < cap:
                yield Setting(f"esc:n={cap},window={window},batches={window}")


def _verified(n: int, max_n: int) -> Iterator[str]:
    for size in sizes(n):
        yield f"best-of-n:n={size},batches={size}"
    for size in sizes(n):
        yield f"self-consistency:n={size},weighted=true"
    for schedule in dict.fromkeys((*_SCHEDULES, str(max_n))):  # max_n: as many as share a prompt
        first = int(schedule.partition("/")[0])
        for size in sizes(n):
            if first < size:
                yield f"first-verified:n={size},batches={schedule}"

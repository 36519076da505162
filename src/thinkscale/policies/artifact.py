"""A fitted policy as a file that people can read: what it does, for which model, and where it comes from."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, Self

from thinkscale.errors import UsageError
from thinkscale.types import Controller, Request

FORMAT = "thinkscale-policy"
VERSION = 1

KINDS = {
    "stopping": "thinkscale.policies.stopping:StoppingPolicy",
    "plans": "thinkscale.policies.plans:PlansPolicy",
    "risk": "thinkscale.policies.risk:RiskPolicy",
    "allocation": "thinkscale.policies.allocation:AllocationPolicy",
    "bandit": "thinkscale.policies.bandit:BanditPolicy",
}
"""What can be fitted, and the class that holds it."""


_SCALAR = r'(?:"(?:[^"\\\n]|\\.)*"|[-+.\w]+)'
_LIST = re.compile(rf"\[\n( +){_SCALAR}(?:,\n +{_SCALAR})*\n( *)\]")
_WIDTH = 120


class FittedPolicy(Protocol):
    """What was learned: immutable, pure Python, without the packages that fitting needs."""

    def controller(self, request: Request) -> Controller:
        """A controller for one request."""
        ...

    def body(self) -> dict[str, Any]:
        """All of it, as JSON holds it."""
        ...

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """The same from its body. Raises `KeyError`, `TypeError` or `ValueError` for a body that is not one."""
        ...


@dataclass(frozen=True)
class Artifact:
    """A policy with its kind, the model it was fitted for, and its provenance (bank, problems, samples, objective,
    what was measured, versions, command).
    """

    kind: str
    model: str
    policy: FittedPolicy
    provenance: Mapping[str, Any]

    def text(self) -> str:
        """The file's content."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "kind": self.kind,
            "model": self.model,
            "policy": self.policy.body(),
            "provenance": dict(self.provenance),
        }
        return _LIST.sub(_filled, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)) + "\n"

    @classmethod
    def parse(cls, text: str, where: str = "the policy") -> Artifact:
        """Raises `UsageError` for what is not a policy, or one of a version or kind that is not known here."""
        try:
            content = json.loads(text)
        except ValueError as error:
            raise UsageError(f"{where} is not JSON ({error})") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise UsageError(f"{where} is not a policy: thinkscale policy fit makes one")
        if content.get("version") != VERSION:
            raise UsageError(f"{where} has format {content.get('version')}, this thinkscale reads {VERSION}")
        kind = content.get("kind")
        if kind not in KINDS:
            raise UsageError(f"{where} is of the kind {kind!r}; known: {', '.join(KINDS)}")
        module, _, name = KINDS[kind].partition(":")
        try:
            policy = getattr(import_module(module), name).of(content["policy"])
            return cls(kind, str(content["model"]), policy, dict(content["provenance"]))
        except (KeyError, TypeError, ValueError) as error:
            why = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise UsageError(f"{where} is damaged: {why}") from None

    @classmethod
    def load(cls, path: Path) -> Artifact:
        try:
            return cls.parse(path.read_text(encoding="utf-8"), str(path))
        except OSError as error:
            raise UsageError(f"cannot read the policy {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise UsageError(f"{path} is not a policy: it is not text") from None


def _filled(found: re.Match[str]) -> str:
    """A list of strings and numbers, which JSON writes with a line for each, on as few lines as hold it."""
    first, *rest = (line.strip() for line in found[0].split("\n")[1:-1])
    lines = [first]
    for item in rest:
        if len(found[1]) + len(lines[-1]) + len(item) < _WIDTH:
            lines[-1] += f" {item}"
        else:
            lines.append(item)
    if len(lines) == 1:
        return f"[{lines[0]}]"
    return "[\n" + "\n".join(found[1] + line for line in lines) + f"\n{found[2]}]"

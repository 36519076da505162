"""Which strategy, with which parameters, under which budget: decided once per request, before anything is spent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from thinkscale.policies.allocation import BatchAllocator, StreamAllocator
from thinkscale.policies.artifact import Artifact
from thinkscale.types import Budget, Plan, Request


class Policy(Protocol):
    """Pure, fast, serializable."""

    def plan(self, request: Request, budget: Budget) -> Plan: ...


@dataclass(frozen=True)
class Fixed:
    """The same strategy for every request, under the tighter of the policy's and the request's budget."""

    strategy: str = "self-consistency:n=16"
    budget: Budget = field(default_factory=Budget)

    def plan(self, request: Request, budget: Budget) -> Plan:
        return Plan(self.strategy, self.budget.within(budget))


__all__ = ["Artifact", "BatchAllocator", "Fixed", "Policy", "StreamAllocator"]

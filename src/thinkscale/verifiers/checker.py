"""A task's own check as a verifier."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from thinkscale.types import Candidate, Request, Verdict
from thinkscale.verifiers.answers import answer_of
from thinkscale.verifiers.base import Generate


class CheckerVerifier:
    """Passes candidates whose answer satisfies `check`, which knows what is asked but not the reference answer.

    `check` gets the answer as the candidate wrote it, and runs in a thread; `None` from it means that it cannot tell.
    What it raises is raised.
    """

    name = "checker"

    def __init__(self, check: Callable[[str], bool | None]) -> None:
        self._check = check

    async def verify(self, request: Request, candidates: Sequence[Candidate], _generate: Generate) -> Sequence[Verdict]:
        return [await self._verify_one(answer_of(candidate, request.kind)) for candidate in candidates]

    async def _verify_one(self, answer: str | None) -> Verdict:
        if answer is None:
            return Verdict(None, reason="no answer in the reply")
        passed = await asyncio.to_thread(self._check, answer)
        if passed is None:
            return Verdict(None, reason="the check cannot tell")
        return Verdict(float(passed), bool(passed), "the check passed" if passed else "the check failed")

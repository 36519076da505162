"""Which samples a session asks for: their paths, their place among all drawn from a prompt, and at whose price."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from thinkscale.accounting import Claim, Price
from thinkscale.models.base import Model, prompt_key
from thinkscale.session.fanout import Job, Watch
from thinkscale.types import Candidate, Params, Prompt, Request

Through = Callable[[Model], Model]


class Jobs:
    """Makes the jobs of one request. No path is given twice, and no sample of a prompt is drawn twice.

    `min_tokens` is the least that a sample must have room for.
    """

    def __init__(
        self, request: Request, model: Model, *, price_for: Callable[[Model], Price | None], through: Through
    ) -> None:
        self.min_tokens = 1
        self._request = request
        self._model = model
        self._price_for = price_for
        self._through = through
        self._children: Counter[tuple[int, ...]] = Counter()
        self._drawn: Counter[tuple[str, str]] = Counter()

    def paths(self, parent: Candidate, n: int) -> list[tuple[int, ...]]:
        """New places for `n` samples that grow from `parent`."""
        first = self._children[parent.path]
        self._children[parent.path] += n
        return [(*parent.path, first + index) for index in range(n)]

    def claim(self, prompt_tokens: int) -> Claim:
        """What samples of the request's prompt that travel together may cost at most."""
        model = self._model
        return Claim(
            prompt_tokens,
            self._request.params.max_tokens,
            max(1, model.capabilities.max_n),
            price=self._price_for(model),
        )

    def job(
        self,
        prompt: Prompt,
        params: Params | None,
        paths: list[tuple[int, ...]] | None = None,
        *,
        n: int = 1,
        model: Model | None = None,
        purpose: str = "generate",
        watch: Watch | None = None,
        prompt_tokens: int | None = None,
    ) -> Job:
        """A job for `paths`, or for `n` paths that count the samples drawn from this prompt."""
        model = model or self._model
        key = (model.name, prompt_key(prompt))
        first = self._drawn[key]
        paths = paths or [(first + index,) for index in range(n)]
        self._drawn[key] += len(paths)
        return Job(
            model=self._through(model),
            prompt=prompt,
            params=params or self._request.params,
            paths=paths,
            first=first,
            seed=self._request.seed,
            min_tokens=self.min_tokens,
            purpose=purpose,
            price=self._price_for(model),
            watch=watch,
            prompt_tokens=prompt_tokens,
        )

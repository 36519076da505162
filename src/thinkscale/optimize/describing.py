"""What is in a bank: how many samples of what, how often they are right, and what the record tells of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from statistics import fmean, median_low
from typing import Any

from thinkscale.banks import Bank, BankSample
from thinkscale.optimize.stats import wilson

Figures = dict[str, Any]


def described(bank: Bank) -> Figures:
    """`task`, `problems`, `samples`, `history`, and a row for each of `models`.

    A model's `n` is the median of its samples per problem, and `n_problems` says how many problems have as many: the
    `majority` of their first n samples (ties go to the answer seen first) and their oracle `coverage` (some sample is
    right) are over those, `pass_at_1` is over all. Each `..._ci` is a 95% Wilson interval with a problem as a trial,
    which for pass@1, a mean of shares, is wide enough. `prompt_tokens` and `output_tokens` are means of a sample.
    `unanswered`, `cut` (ended at the token cap) and the values of `recorded` and `scores` are shares of the samples.
    What is not known of every sample is `None`.
    """
    return {
        "task": bank.task,
        "problems": len(bank.problems),
        "samples": len(bank),
        "models": [_model(bank, name) for name in bank.models],
        "history": list(bank.history),
    }


def _model(bank: Bank, name: str) -> Figures:
    settings = bank.models[name]
    sampled = [samples for problem in bank.problems if (samples := bank.samples(name, problem))]
    counts = sorted(len(samples) for samples in sampled) or [0]
    n = median_low(counts)
    full = [samples[:n] for samples in sampled if len(samples) >= n]
    samples = [sample for of_problem in sampled for sample in of_problem]
    graded = all(sample.correct is not None for sample in samples)
    words = sorted({word for sample in samples for word in sample.scores})
    return {
        "name": name,
        "price": None if settings.price is None else asdict(settings.price),
        "max_n": settings.max_n,
        "params": dict(settings.params),
        "estimated_tokens": settings.estimated,
        "problems": len(sampled),
        "samples": len(samples),
        "samples_per_problem": {"min": counts[0], "median": n, "max": counts[-1]},
        "n": n,
        "n_problems": len(full),
        **_share("pass_at_1", [_right(one) for one in sampled] if graded else []),
        **_share("majority", [_majority_right(one) for one in full] if graded else []),
        **_share("coverage", [float(_right(one) > 0) for one in full] if graded else []),
        "prompt_tokens": _mean(sample.prompt_tokens for sample in samples),
        "output_tokens": _mean(sample.output_tokens for sample in samples),
        "seconds": _mean(sample.seconds for sample in samples),
        "unanswered": _portion([sample.answer is None for sample in samples]),
        "cut": _portion([sample.finish_reason == "length" for sample in samples]),
        "recorded": {
            "texts": _portion([sample.text is not None for sample in samples]),
            "logprobs": _portion([len(sample.logprobs) > 0 for sample in samples]),
            "confidences": _portion([len(sample.confidences) > 0 for sample in samples]),
            "seconds": _portion([sample.seconds is not None for sample in samples]),
            "steps": _portion([len(sample.steps) > 0 for sample in samples]),
        },
        "scores": {word: _portion([sample.scores.get(word) is not None for sample in samples]) for word in words},
    }


def _right(samples: Sequence[BankSample]) -> float:
    return fmean(bool(sample.correct) for sample in samples)


def _majority_right(samples: Sequence[BankSample]) -> float:
    """Whether the answer of most samples is right, the first seen of equally many; no answer at all is wrong."""
    votes = Counter(sample.answer for sample in samples if sample.answer is not None)
    winner = max(votes, key=lambda answer: votes[answer], default=None)  # a Counter keeps the order of first sight
    return float(any(sample.correct for sample in samples if sample.answer == winner))


def _share(name: str, values: Sequence[float]) -> Figures:
    """A mean over problems with its interval; `None` for both where there is nothing to say."""
    if not values:
        return {name: None, f"{name}_ci": None}
    return {name: fmean(values), f"{name}_ci": list(wilson(sum(values), len(values)))}


def _mean(values: Iterable[float | None]) -> float | None:
    known = list(values)
    present = [value for value in known if value is not None]
    return fmean(present) if present and len(present) == len(known) else None


def _portion(facts: Sequence[bool]) -> float | None:
    return fmean(facts) if facts else None

"""Votes of many requests at once: the two largest counts after every sample, and who leads."""

from __future__ import annotations

import numpy as np

from thinkscale.optimize.table import Bools, Floats, Ints


def top_two(answers: Ints) -> tuple[Ints, Ints]:
    """The votes of the leading answer and of the runner-up, after 0, 1, ..., N samples: two arrays of [N + 1, M].

    `answers` [M, N] are in the order in which they came; a negative one does not vote. A vote makes a count c of c - 1:
    the leader's where that was the largest, else one that may overtake the runner-up.
    """
    requests, samples = answers.shape
    width = int(answers.max(initial=-1)) + 2  # the last column takes what is no vote
    counts = np.zeros(requests * width, np.int32)
    rows = np.arange(requests) * width
    first = np.zeros((samples + 1, requests), np.int64)
    second = np.zeros((samples + 1, requests), np.int64)
    for sample in range(samples):
        answer = answers[:, sample]
        votes = answer >= 0
        cell = rows + np.where(votes, answer, width - 1)
        count = counts[cell] + 1
        counts[cell] = count
        count = np.where(votes, count, 0)
        leads = count > first[sample]
        first[sample + 1] = np.where(leads, count, first[sample])
        second[sample + 1] = np.where(leads, second[sample], np.maximum(count, second[sample]))
    return first, second


def totals(answers: Ints, among: Bools, weights: Floats | None = None) -> Floats:
    """For each sample the total weight of its answer among the samples of its request that `among` picks; -1 for one
    that does not vote. All are [M, N]; the sums add up in the samples' order, as `selection.tally` does.
    """
    requests, _ = answers.shape
    width = int(answers.max(initial=-1)) + 1
    votes = among & (answers >= 0)
    cells = np.arange(requests)[:, None] * width + answers
    cast = cells[votes]
    sums = np.bincount(cast, None if weights is None else weights[votes], minlength=requests * width)
    own = np.full(answers.shape, -1.0)
    own[votes] = sums[cast]
    return own


def upto(drawn: Ints) -> Bools:
    """Which samples are among the first `drawn` [M] of each request: [M, as many as any has drawn]."""
    return np.arange(int(drawn.max(initial=0))) < drawn[:, None]


def leading(answers: Ints, finished: Bools | None, among: Bools, weights: Floats | None = None) -> Ints:
    """The place of the candidate that `selection.majority` takes from those that `among` picks, one per request [M].

    That is the first finished one of the answer with the largest total, ties to the answer seen first; where nobody
    votes, the first finished of all. `finished=None`: all are. Rows of which nothing is picked give 0.
    """
    own = totals(answers, among, weights)
    rows = np.arange(len(answers))
    top = own.argmax(axis=1)
    decided = own[rows, top] > 0
    place: Ints = np.where(decided, top, among.argmax(axis=1))
    if finished is None:
        return place
    good = among & finished & ((answers == answers[rows, top][:, None]) | ~decided[:, None])
    return np.where(good.any(axis=1), good.argmax(axis=1), place).astype(np.int64)


def leaders(answers: Ints, weights: Floats | None = None) -> Ints:
    """The leading answer after 0, 1, ..., N samples [N + 1, M], ties to the one seen first; -1 where none voted.
    `weights` [M, N] are those of the votes, above 0.
    """
    requests, samples = answers.shape
    width = int(answers.max(initial=-1)) + 1
    rows = np.arange(requests)
    counts = np.zeros((requests, width + 1))
    since = np.full((requests, width + 1), samples, np.int64)
    leader = np.full((samples + 1, requests), -1, np.int64)
    for sample in range(samples):
        answer = answers[:, sample]
        votes = answer >= 0
        counts[rows, answer] += votes if weights is None else votes * weights[:, sample]
        since[rows, answer] = np.minimum(since[rows, answer], sample)
        old = leader[sample]
        ahead = counts[rows, answer] - np.where(old < 0, 0, counts[rows, old])
        earlier = since[rows, answer] < since[rows, old]
        takes = votes & ((old < 0) | (ahead > 0) | ((ahead == 0) & earlier))
        leader[sample + 1] = np.where(takes, answer, old)
    return leader

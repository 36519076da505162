"""A server's memory of the texts it has read and written, which saves it reading their beginnings again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class PrefixCache:
    """Knows every beginning of what was entered, token by token. It forgets nothing: real ones evict, and work in
    blocks of tokens, so that this is the most that can be saved.
    """

    def __init__(self) -> None:
        self._known: set[int] = set()

    def enter(self, prompt: Sequence[str], replies: Iterable[Sequence[str]] = ()) -> int:
        """Remember a prompt with each of its replies. Returns how many of the prompt's tokens need no computing.

        The last token of a prompt is always computed: it says how the reply begins.
        """
        state, cached, known = 0, 0, True
        for token in prompt:
            state = hash((state, token))
            known = known and state in self._known
            cached += known
            self._known.add(state)
        for reply in replies:
            end = state
            for token in reply:
                end = hash((end, token))
                self._known.add(end)
        return min(cached, max(0, len(prompt) - 1))

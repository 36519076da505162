"""Work that must not be cut off half-way, whoever waits for it and goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


async def whole(work: Coroutine[Any, Any, _T]) -> _T:
    """Do the work to its end. Cancelled, it waits for that end first, so that nothing is left running behind.

    Transactions are done so: one that is cancelled in the middle of a statement may keep SQLite's write lock, since the
    statement goes on in the driver's thread and nobody is there to end what it began.
    """
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # nobody else hears of it: whoever asked is gone
        raise

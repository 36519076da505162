"""What commands need beside the core, told in words where it is missing."""

from __future__ import annotations

from thinkscale.errors import UsageError


def need_optimize(what: str) -> None:
    """Raises `UsageError` where the extra `optimize` is not installed; `what` is what needs it."""
    try:
        import numpy as np  # noqa: F401
        import pyarrow as pa  # noqa: F401
    except ImportError:
        raise UsageError(f"{what} needs the extra optimize: pip install 'thinkscale[optimize]'") from None

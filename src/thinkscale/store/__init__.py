"""What outlives the process."""

from thinkscale.store.recorder import Recorder
from thinkscale.store.runs import RunStore

__all__ = ["Recorder", "RunStore"]

"""The one seam a strategy sees."""

from thinkscale.session.growth import as_written
from thinkscale.session.jobs import Through
from thinkscale.session.session import Canonical, Session, as_it_is

__all__ = ["Canonical", "Session", "Through", "as_it_is", "as_written"]

"""Who may spend what, and what was spent: the ledger and the prices."""

from thinkscale.accounting.ledger import Claim, Ledger, Reservation
from thinkscale.accounting.prices import Price, price_of

__all__ = ["Claim", "Ledger", "Price", "Reservation", "price_of"]

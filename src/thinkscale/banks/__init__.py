"""Banks of recorded samples: one Parquet file each, replayed by every strategy, and what policies are fitted on.

`banks.parquet` reads and writes them, `banks.jsonl` exports them, `banks.importing` takes what others recorded.
"""

from __future__ import annotations

from thinkscale.banks.bank import VERSION, Bank, BankModel, BankProblem, BankSample

__all__ = ["VERSION", "Bank", "BankModel", "BankProblem", "BankSample"]

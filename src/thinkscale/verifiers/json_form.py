"""One way to write each JSON value, so that values that mean the same are written alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal, DecimalException
from typing import Any
from unicodedata import normalize


def read_json(text: str) -> Any:
    """The value of a JSON text, its numbers as exact decimals. Raises `ValueError` for all that is not JSON."""
    try:
        return json.loads(text, parse_int=Decimal, parse_float=Decimal, parse_constant=_refuse)
    except (RecursionError, DecimalException):
        raise ValueError("a JSON value nested too deeply, or a number too large") from None


def canonical_json(value: Any) -> str:
    """Equal texts exactly for equal values: keys in order, no spaces, 1.0 as 1, letters in their composed form (NFC).

    `value` is what `read_json` gives, or what any other reader of JSON does. Raises `ValueError` for what cannot be
    written in UTF-8: half of a surrogate pair.
    """
    try:
        text = _written(value)
    except RecursionError:
        raise ValueError("a JSON value nested too deeply") from None
    text.encode()
    return text


def _written(value: Any) -> str:
    match value:
        case Mapping():
            return "{" + ",".join(sorted(f"{_written(str(key))}:{_written(item)}" for key, item in value.items())) + "}"
        case list() | tuple():
            return "[" + ",".join(map(_written, value)) + "]"
        case None | bool():
            return json.dumps(value)
        case int() | float() | Decimal():
            return _number(Decimal(repr(value)) if isinstance(value, float) else Decimal(value))
    return json.dumps(normalize("NFC", str(value)), ensure_ascii=False)


def _number(value: Decimal) -> str:
    if not value.is_finite():
        raise ValueError(f"JSON has no number {value}")
    sign, digits, exponent = value.as_tuple()
    figures = "".join(map(str, digits)).rstrip("0")
    if not figures:
        return "0"
    shortest = Decimal((sign, tuple(map(int, figures)), int(exponent) + len(digits) - len(figures)))
    return f"{shortest:f}" if abs(shortest.adjusted()) < 20 else f"{shortest:E}"  # not a thousand zeros for 1e1000


def _refuse(constant: str) -> Any:
    raise ValueError(f"JSON has no {constant}")

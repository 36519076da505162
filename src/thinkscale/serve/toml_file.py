"""A TOML file read table by table into dataclasses, with every fault told by its line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from thinkscale.errors import UsageError
from thinkscale.options import near
from thinkscale.serve import toml_lines
from thinkscale.serve.toml_lines import Place

_T = TypeVar("_T")
_WHERE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


class TomlFile:
    """A file's `document`, and the faults found in it so far.

    Raises `UsageError` where it cannot be read or is not TOML.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._faults: list[tuple[int, str]] = []
        text = _text(path)
        try:
            self.document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise UsageError(_syntax(path, text, str(error))) from None
        self._lines = toml_lines.lines(text)

    def fault(self, place: Place, message: str) -> None:
        line = toml_lines.line_of(place, self._lines)
        where = ".".join(part for part in place if isinstance(part, str))
        self._faults.append((line, f"{self._path}:{line}: {where + ': ' if where else ''}{message}"))

    def finish(self) -> None:
        """Raises `UsageError` with all faults, in the order of the file, where there were any."""
        if self._faults:
            raise UsageError("\n".join(message for _, message in sorted(self._faults, key=lambda fault: fault[0])))

    def keys(self, place: Place, given: Collection[str], known: Collection[str]) -> None:
        """Refuse the keys of a table that mean nothing."""
        for key in given:
            if key not in known:
                hint = near(key, known) or f"; known: {', '.join(known)}"
                self.fault((*place, key), f"unknown key{hint}")

    def table(self, name: str) -> dict[str, Any]:
        """The table `[name]` of the document; empty where there is none, or something else under its name."""
        value = self.document.get(name, {})
        if isinstance(value, dict):
            return value
        self.fault((name,), f"expected a table: write [{name}]")
        return {}

    def tables(self, name: str) -> list[Any]:
        """The tables `[[name]]`; empty where there are none, or something else under their name."""
        value = self.document.get(name, [])
        if isinstance(value, list):
            return value
        self.fault((name,), f"expected an array of tables: write [[{name}]] over each")
        return []

    def read(self, kind: type[_T], place: Place, table: object) -> _T | None:
        """The dataclass that a table describes; `None`, and faults, where it does not."""
        if not isinstance(table, dict):
            self.fault(place, "expected a table")
            return None
        self.keys(place, table, known := _keys(kind))
        try:
            return TypeAdapter(kind).validate_python({key: table[key] for key in table if key in known})
        except ValidationError as error:
            for fault in error.errors():
                self.fault((*place, *fault["loc"]), _message(cast(dict[str, Any], fault)))
            return None


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: {error}") from None


def _syntax(path: Path, text: str, message: str) -> str:
    at = _WHERE.search(message)
    line, column = (at[1], at[2]) if at and at[1] else (str(text.count("\n") + 1), None)
    return f"{path}:{line}{f':{column}' if column else ''}: not TOML: {_WHERE.sub('', message)}"


def _keys(kind: type[Any]) -> list[str]:
    """A dataclass's fields, by their names in a file."""
    hints = get_type_hints(kind, include_extras=True)
    return [
        next((info.alias for info in get_args(hints[f.name]) if isinstance(info, FieldInfo) and info.alias), f.name)
        for f in fields(kind)
    ]


_EXPECTED = {
    "string_type": "expected text in quotes",
    "bool_type": "expected true or false",
    "int_type": "expected a whole number",
    "float_type": "expected a number",
    "tuple_type": "expected a list",
}


def _message(fault: dict[str, Any]) -> str:
    if fault["type"] == "missing":
        return "missing"
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    message = _EXPECTED.get(fault["type"]) or fault["msg"].replace("Input should be", "it should be")
    given = repr(fault["input"])
    return f"{message}, not {given if len(given) <= 60 else given[:59] + '…'}"

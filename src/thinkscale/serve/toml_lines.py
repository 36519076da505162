"""On which line of a TOML file each key stands, for messages about values that are valid TOML but wrong."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

Place = tuple[str | int, ...]
"""Where a value is in the document: `("models", 1, "price")` is the price of the second of `[[models]]`."""

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_ONE_LINE = re.compile(r"\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*'")
# Up to two quotes may stand right before the three that close.
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}(?!")|' + r"'''.*?'{3,5}(?!')|" + _ONE_LINE.pattern,
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}\n#]+")


def lines(text: str) -> dict[Place, int]:
    """The line, from 1, of every key, table and array element. A table that is spread out stands where its own header
    is, else where it is first mentioned.

    `text` must be valid TOML: read it with tomllib first.
    """
    return _Scan(text).document()


def line_of(path: Place, known: dict[Place, int]) -> int:
    """The line of `path`, or of the nearest table around it: that of a key which is missing."""
    return next((known[path[:end]] for end in range(len(path), 0, -1) if path[:end] in known), 1)


class _Scan:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._found: dict[Place, int] = {}
        self._tables: dict[Place, int] = {}
        """How many tables each array of tables has so far."""

    def document(self) -> dict[Place, int]:
        table: Place = ()
        while not self._ended():
            if self._takes("[["):
                table = self._element(self._key())
                self._take("]]")
            elif self._takes("["):
                line = self._line
                table = self._within(self._key())
                self._note(table, line)
                self._take("]")
            else:
                self._pair(table)
        return self._found

    def _element(self, key: list[str]) -> Place:
        array = (*self._within(key[:-1]), key[-1])
        place = self._tables.get(array, 0)
        self._tables[array] = place + 1
        self._found.setdefault(array, self._line)
        self._note((*array, place), self._line)
        return (*array, place)

    def _within(self, key: list[str]) -> Place:
        """The path of a header's key: where it passes through an array of tables it means the last one so far."""
        path: Place = ()
        for part in key:
            path = (*path, part)
            if path in self._tables:
                path = (*path, self._tables[path] - 1)
        return path

    def _pair(self, table: Place) -> None:
        line = self._line
        path = (*table, *self._key())
        self._note(path, line)
        self._take("=")
        self._value(path)

    def _note(self, path: Place, line: int) -> None:
        for end in range(1, len(path)):
            self._found.setdefault(path[:end], line)
        self._found[path] = line

    def _value(self, path: Place) -> None:
        self._blank()
        if self._takes("{"):
            for _ in self._items("}"):
                self._pair(path)
        elif self._takes("["):
            for place, line in enumerate(self._items("]")):
                self._note((*path, place), line)
                self._value((*path, place))
        elif not self._match(_STRING):
            self._match(_SCALAR)

    def _items(self, closing: str) -> Iterator[int]:
        """The line of each item up to the closing bracket; the caller reads the item."""
        while True:
            self._blank()
            if self._takes(closing):
                return
            yield self._line
            self._blank()
            self._takes(",")

    def _key(self) -> list[str]:
        parts = []
        while True:
            self._blank()
            part = self._match(_BARE_KEY) or self._match(_ONE_LINE)
            parts.append(part if part[0] not in "\"'" else tomllib.loads(f"key = {part}")["key"])
            self._blank()
            if not self._takes("."):
                return parts

    def _ended(self) -> bool:
        self._blank()
        return self._at == len(self._text)

    def _blank(self) -> None:
        self._match(_BLANK)

    def _match(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        found = match[0] if match else ""
        self._at += len(found)
        self._line += found.count("\n")
        return found

    def _takes(self, mark: str) -> bool:
        taken = self._text.startswith(mark, self._at)
        self._at += len(mark) * taken
        return taken

    def _take(self, mark: str) -> None:
        self._blank()
        if not self._takes(mark):
            raise ValueError(f"line {self._line}: expected {mark}: the text is not valid TOML")

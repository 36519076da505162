"""On which line each key of a TOML file is found, however the file is written."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from thinkscale.serve.toml_lines import Place, line_of, lines


def test_places() -> None:
    text = '''# [not.a.table]
top = 1
[a]  # = "x"
b.c = """
[still.a.string]
x = 1 \\""" # """
d = { e = 1, f = { "g.h" = [
    1,
    [2, 3],  # ]
  ] } }
[[a.list]]
x = \'\'\'
"""\'\'\'
[[a.list]]
[a.list.sub]
'y' = '#'
[ a . "list" . sub2 ]
[[a.list.deep]]
[[a.list.deep]]
z = 1979-05-27 07:32:00 # z = 2
[late.one]
[late]
'''
    assert tomllib.loads(text)
    assert lines(text) == {
        ("top",): 2,
        ("a",): 3,
        ("a", "b"): 4,
        ("a", "b", "c"): 4,
        ("a", "d"): 7,
        ("a", "d", "e"): 7,
        ("a", "d", "f"): 7,
        ("a", "d", "f", "g.h"): 7,
        ("a", "d", "f", "g.h", 0): 8,
        ("a", "d", "f", "g.h", 1): 9,
        ("a", "d", "f", "g.h", 1, 0): 9,
        ("a", "d", "f", "g.h", 1, 1): 9,
        ("a", "list"): 11,
        ("a", "list", 0): 11,
        ("a", "list", 0, "x"): 12,
        ("a", "list", 1): 14,
        ("a", "list", 1, "sub"): 15,
        ("a", "list", 1, "sub", "y"): 16,
        ("a", "list", 1, "sub2"): 17,
        ("a", "list", 1, "deep"): 18,
        ("a", "list", 1, "deep", 0): 18,
        ("a", "list", 1, "deep", 1): 19,
        ("a", "list", 1, "deep", 1, "z"): 20,
        ("late",): 22,
        ("late", "one"): 21,
    }


def test_what_is_missing_stands_where_its_table_does() -> None:
    known = lines("\n[a]\nb = 1\n")
    assert line_of(("a", "b"), known) == 3
    assert line_of(("a", "c", 0), known) == 2
    assert line_of(("c",), known) == 1


class Author:
    """Writes TOML at random in every way it can be written, and notes on which line each key was written."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        self._draw = draw
        self._fresh = count()
        self.text = ""
        self.places: dict[Place, int] = {}
        self._open: list[tuple[Place, list[str]]] = [((), [])]  # tables that headers may go into, and how to name them
        self._last: dict[Place, tuple[int, list[str]]] = {}

    def document(self) -> str:
        self._pairs((), "\n")
        for _ in range(self._draw(st.integers(0, 5))):
            self._header()
        return self.text

    def _line(self) -> int:
        return self.text.count("\n") + 1

    def _one(self, *choices: str) -> str:
        return str(self._draw(st.sampled_from(choices)))

    def _header(self) -> None:
        self.text += self._one("", "\n", "  # [x] = [[\n", "\t")
        repeated = self._last and self._draw(st.booleans())
        if repeated:  # one more table of an array; what was open inside the last one stays behind
            array = self._draw(st.sampled_from(sorted(self._last, key=str)))
            index, words = self._last[array]
            self._open = [(at, named) for at, named in self._open if at[: len(array)] != array]
            self._last = {at: one for at, one in self._last.items() if at[: len(array)] != array or at == array}
            place: Place = (*array, index + 1)
        else:
            parent, before = self._draw(st.sampled_from(self._open))
            keys = [self._key() for _ in range(self._draw(st.integers(1, 2)))]
            words = [*before, *(word for word, _ in keys)]
            path = (*parent, *(key for _, key in keys))
            array, index = path, -1
            place = (*path, 0) if self._draw(st.booleans()) else path
        for end in range(1, len(place)):
            self.places.setdefault(place[:end], self._line())
        self.places[place] = self._line()
        name = self._one(".", " . ").join(words)
        if isinstance(place[-1], int):
            self._last[array] = (index + 1, words)
            self.text += f"[[{name}]]"
        else:
            self.text += f"[{self._one('', ' ')}{name} ]"
        self.text += self._one("\n", " # ]]\n", "\n\n")
        self._open.append((place, words))
        self._pairs(place, "\n")

    def _key(self) -> tuple[str, str]:
        name = f"k{next(self._fresh)}"
        forms = [(name, name), (f'"{name}.\\"# ]"', f'{name}."# ]'), (f"'{name}\\ [='", f"{name}\\ [=")]
        return forms[int(self._draw(st.integers(0, 2)))]

    def _pairs(self, table: Place, end: str) -> None:
        for _ in range(self._draw(st.integers(0, 3))):
            self.text += self._one("", "  ", '# k = 1 """\n', "\n")
            self._pair(table)
            self.text += self._one("", " ", " # '''") + end

    def _pair(self, table: Place) -> None:
        keys = [self._key() for _ in range(self._draw(st.sampled_from([1, 1, 2, 3])))]
        place = (*table, *(key for _, key in keys))
        for length in range(1, len(place) + 1):
            self.places.setdefault(place[:length], self._line())
        self.text += self._one(".", " . ").join(word for word, _ in keys) + self._one("=", " = ")
        self._value(place)

    def _value(self, place: Place) -> None:
        kind = self._one("plain", "plain", "list", "table")
        if kind == "plain":
            self.text += self._one(
                "1", "true", "1.5e3", "1979-05-27 07:32:00", "1979-05-27T07:32:00Z", '""', "''", '"a # \\" [b] = {"',
                "'c:\\'", '"""\n[x]\ny = \\""" \\\\"""', '"""a""b"""""', '""""q"""', "'''\n# '' x = 1\n\\'''",
                "'''''q'''",
                '""""""', "''''''", '"""\\\n   x"""',
            )  # fmt: skip
        elif kind == "list":
            self.text += "["
            for index in range(self._draw(st.integers(0, 3))):
                self.text += self._one("", " ", "\n", "# ]\n")
                self.places[(*place, index)] = self._line()
                self._value((*place, index))
                self.text += self._one(",", "\n ,", " # ,\n,")
            self.text += self._one("]", " ]", "\n# ]\n]")
        else:
            self.text += "{ "
            for index in range(self._draw(st.integers(0, 3))):
                self.text += ", " if index else ""
                self._pair(place)
            self.text += "}"


def places_in(value: Any, place: Place = ()) -> Iterator[Place]:
    if place:
        yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places_in(item, (*place, key))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_every_key_of_any_file_is_found_on_its_line(data: st.DataObject) -> None:
    author = Author(data.draw)
    text = author.document()
    assert set(author.places) == set(places_in(tomllib.loads(text)))  # the author writes what TOML readers read
    ends = data.draw(st.sampled_from(["\n", "\r\n"]))
    assert lines(text.replace("\n", ends)) == author.places

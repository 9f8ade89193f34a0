"""Programs with marked regions, and exact edits inside them.

A source marks what may change, and everything else is fixed::

    def priority(item, bins):
        # EVOLVE-BLOCK-START
        return item - bins
        # EVOLVE-BLOCK-END

An edit is applied exactly or not at all: the lines searched for must be there once in the whole source, as they are or
but for spaces at their ends, and lie inside one region, and what is outside must mean what it meant. There is no guess
at what an edit meant; who asked for it gets the reason and may ask again. Form of the marks and of SEARCH/REPLACE
blocks: AlphaEvolve (Novikov et al. 2025, arXiv:2506.13131), section 2.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

from blackbox.errors import SettingError

_START = re.compile(r"(\s*)#\s*EVOLVE-BLOCK-START\b")
_END = re.compile(r"\s*#\s*EVOLVE-BLOCK-END\b")
_MARK = re.compile(r"#\s*EVOLVE-BLOCK-(START|END)\b")
_SEARCH, _DIVIDE, _REPLACE = (re.compile(rf"{sign}\s*") for sign in (r"<{5,9} ?SEARCH", r"={5,9}", r">{5,9} ?REPLACE"))
_FENCED = re.compile(r"^ *```[\w+-]*[ \t]*\n(.*?)^ *```", re.DOTALL | re.MULTILINE)

_LONGEST, _DEEPEST = 200_000, 100  # of sources, in characters and levels of the syntax tree
_WIDEST = 2048  # bits of a whole number: Python writes none of more than 640 digits where that is its limit


class Region(NamedTuple):
    """Lines that may change, between two marks."""

    first: int
    """Number of the first line, from 0."""
    last: int
    """Number of the line behind the last one, which is the mark of the end."""
    indent: str
    """Spaces before the mark, which are those of the region's code."""


class Edit(NamedTuple):
    """Lines to be found, and lines to be put in their place."""

    search: str
    replace: str


class Edited(NamedTuple):
    """What became of a source."""

    source: str
    """The new one; the old one if the edit was refused."""
    reason: str
    """Why the edit was refused; "" if it was not."""


def regions(source: str) -> tuple[Region, ...]:
    """The regions of a source, in order.

    Raises:
        SettingError: it has none, or marks that are no pairs.
    """
    found, begin, indent = [], -1, ""
    for number, line in enumerate(source.split("\n")):
        if start := _START.match(line):
            if begin >= 0:
                raise SettingError(
                    f"source must close an EVOLVE-BLOCK before the next; line {number + 1} opens another"
                )
            begin, indent = number + 1, start[1]
        elif _END.match(line):
            if begin < 0:
                raise SettingError(f"source closes an EVOLVE-BLOCK in line {number + 1} that it did not open")
            found.append(Region(begin, number, indent))
            begin = -1
    if begin >= 0 or not found:
        raise SettingError("source must mark what may change by lines # EVOLVE-BLOCK-START and # EVOLVE-BLOCK-END")
    return tuple(found)


def lines_of(text: str) -> list[str]:
    """Its lines as Python counts them, whatever ends them."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def parsed(source: str) -> ast.Module:
    """The syntax tree of a source that anybody may have written.

    Raises:
        SyntaxError: it is no Python, or longer, nested deeper or with larger numbers than what is handled here.
    """
    if len(source) > _LONGEST:
        raise SyntaxError(f"it is longer than {_LONGEST} characters")
    try:
        tree = ast.parse(source)
    except (ValueError, RecursionError, MemoryError) as error:
        raise SyntaxError(f"{type(error).__name__}: {error}") from None
    level: list[ast.AST] = [tree]
    for _ in range(_DEEPEST):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return tree
        if any(isinstance(node, ast.Constant) and _is_huge(node.value) for node in level):
            raise SyntaxError(f"it has a whole number of more than {_WIDEST} bits")
    raise SyntaxError(f"it is nested more than {_DEEPEST} deep")


def _is_huge(value: object) -> bool:
    return isinstance(value, int) and value.bit_length() > _WIDEST


def region_text(source: str, region: int = 0) -> str:
    """The code of a region, without its indentation."""
    first, last, _ = regions(source)[region]
    return textwrap.dedent("\n".join(source.split("\n")[first:last]))


def parse_edits(text: str) -> tuple[tuple[Edit, ...], str]:
    """The SEARCH/REPLACE blocks of an answer, and why there are none if so, or if one is malformed."""
    edits: list[Edit] = []
    search: list[str] | None = None
    replace: list[str] | None = None
    for line in lines_of(text):
        if _SEARCH.fullmatch(line):
            if search is not None:
                return (), "a SEARCH block begins before the last one has ended"
            search = []
        elif search is not None and replace is None and _DIVIDE.fullmatch(line):
            replace = []
        elif search is not None and replace is not None and _REPLACE.fullmatch(line):
            edits.append(Edit("\n".join(search), "\n".join(replace)))
            search = replace = None
        elif replace is not None:
            replace.append(line)
        elif search is not None:
            search.append(line)
    if search is not None:
        return (), "a SEARCH block does not end"
    return tuple(edits), "" if edits else "there is no SEARCH/REPLACE block"


def apply_edits(source: str, edits: Sequence[Edit]) -> Edited:
    """The source after all edits, one after the other; unchanged, with the reason, if one of them is refused."""
    text = source
    for number, edit in enumerate(edits, 1):
        done = _apply(text, edit)
        if done.reason:
            return Edited(source, f"edit {number} of {len(edits)}: {done.reason}")
        text = done.source
    if text == source:
        return Edited(source, "the edits change nothing")
    return _checked(source, text)


def rewrite_region(source: str, body: str, region: int = 0) -> Edited:
    """The source with the whole code of a region replaced; ``body`` is indented as the region is."""
    lines = lines_of(body)
    starts = [number for number, line in enumerate(lines) if _START.match(line)]
    ends = [number for number, line in enumerate(lines) if _END.match(line)]
    if len(starts) == len(ends) == 1 and starts[0] < ends[0]:  # the marks were repeated around the new code
        lines = lines[starts[0] + 1 : ends[0]]
    if any(_MARK.search(line) for line in lines):
        return Edited(source, "the new code must not contain marks of regions")
    text = textwrap.dedent("\n".join(lines)).strip("\n")
    if not text.strip():
        return Edited(source, "the new code is empty")
    first, last, indent = regions(source)[region]
    old = source.split("\n")
    new = "\n".join([*old[:first], textwrap.indent(text, indent), *old[last:]])
    return Edited(source, "the new code is the old one") if new == source else _checked(source, new)


def code_block(text: str) -> tuple[str, str]:
    """The one fenced block of an answer, and why there is none if so."""
    blocks = _FENCED.findall("\n".join(lines_of(text)))
    if len(blocks) == 1:
        return blocks[0], ""
    return "", f"the answer must have one block of code between lines of ```, it has {len(blocks)}"


def _apply(source: str, edit: Edit) -> Edited:
    lines, wanted = source.split("\n"), lines_of(edit.search)
    if not edit.search.strip():
        return Edited(source, "there is nothing to search for")
    if _MARK.search(edit.replace):
        return Edited(source, "the new lines must not contain marks of regions")
    places = _places(lines, wanted) or _places([line.rstrip() for line in lines], [line.rstrip() for line in wanted])
    if not places:
        return Edited(source, "the lines to search for are not in the source, as they are written")
    if len(places) > 1:
        return Edited(source, f"the lines to search for are there {len(places)} times; they must be there once")
    begin, end = places[0], places[0] + len(wanted)
    if not any(region.first <= begin and end <= region.last for region in regions(source)):
        return Edited(source, f"lines {begin + 1} to {end} are not inside a region that may change")
    new = lines_of(edit.replace) if edit.replace else []
    return Edited("\n".join([*lines[:begin], *new, *lines[end:]]), "")


def _checked(source: str, new: str) -> Edited:
    """``new``, unless lines outside of the regions mean something else in it, though they are the same.

    A string that begins in one region and ends in another one takes what is between out of the program; code that is
    indented less than its region ends the function that the region is in.
    """
    try:
        before, after = parsed(source), parsed(new)
    except SyntaxError:
        return Edited(new, "")  # it does not run at all, and its evaluation says why
    spans = regions(new)
    if _outside(before, regions(source)) != _outside(after, spans):
        return Edited(source, "the new lines change what lines outside of the region mean")
    for node in ast.walk(after):
        span = _region_of(node, spans)
        if span is not None and isinstance(node, ast.stmt) and node.col_offset < len(span.indent):
            return Edited(source, f"line {node.lineno} is indented less than the region that it is in")
    return Edited(new, "")


def _outside(node: Any, spans: Sequence[Region]) -> Any:
    """The syntax tree without what lies in the regions, as nested tuples."""
    if isinstance(node, list):
        return tuple(_outside(one, spans) for one in node if _region_of(one, spans) is None)
    if not isinstance(node, ast.AST):
        return repr(node)
    if _region_of(node, spans) is not None:
        return None
    return type(node).__name__, tuple((name, _outside(value, spans)) for name, value in ast.iter_fields(node))


def _region_of(node: Any, spans: Sequence[Region]) -> Region | None:
    """The region that has all lines of a node, if there is one."""
    first, last = getattr(node, "lineno", 0), getattr(node, "end_lineno", 0)
    return next((span for span in spans if span.first < first and last <= span.last), None)


def _places(lines: Sequence[str], wanted: Sequence[str]) -> list[int]:
    return [i for i in range(len(lines) - len(wanted) + 1) if lines[i : i + len(wanted)] == wanted]

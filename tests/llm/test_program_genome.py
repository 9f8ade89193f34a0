"""Edits of programs: applied exactly and inside the regions, or not at all."""

from __future__ import annotations

import re
import textwrap

import numpy as np
import pytest

import blackbox as bb
from blackbox.errors import SettingError
from blackbox.llm.program import (
    Edit,
    ProgramEvolution,
    apply_edits,
    code_block,
    digest,
    impure,
    parse_edits,
    regions,
    rewrite_region,
)
from blackbox.llm.program.feedback import shown
from blackbox.llm.program.genome import parsed, region_text
from blackbox.llm.program.prompts import child

SOURCE = """\
import numpy as np

LIMIT = 3


def f(x):
    y = x + 1
    # EVOLVE-BLOCK-START
    y = y * 2
    if y > 3:
        y = y * 2
    z = y  \t
    # EVOLVE-BLOCK-END
    y = y * 3
    return z


# EVOLVE-BLOCK-START free
def g(x):
    return x - 1
# EVOLVE-BLOCK-END
"""
LINES = SOURCE.split("\n")


def test_regions_are_the_lines_between_the_marks() -> None:
    first, second = regions(SOURCE)
    assert LINES[first.first : first.last] == ["    y = y * 2", "    if y > 3:", "        y = y * 2", "    z = y  \t"]
    assert (first.indent, second.indent) == ("    ", "")
    assert region_text(SOURCE, 1) == "def g(x):\n    return x - 1"
    assert region_text(SOURCE).startswith("y = y * 2\nif y > 3:\n    y")


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        ("", "must mark"),
        ("# EVOLVE-BLOCK-START\n", "must mark"),
        ("# EVOLVE-BLOCK-END\n", "line 1 that it did not open"),
        ("# EVOLVE-BLOCK-START\n\n# EVOLVE-BLOCK-START\n# EVOLVE-BLOCK-END\n", "line 3 opens another"),
    ],
)
def test_marks_that_are_no_pairs_are_refused(marks: str, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        regions(marks)


def test_an_exact_edit_changes_its_lines_and_nothing_else() -> None:
    edited = apply_edits(
        SOURCE, [Edit("    if y > 3:\n        y = y * 2", "    if y > 4:\n        y = 0\n        y += 1")]
    )
    assert edited == (SOURCE.replace("if y > 3:\n        y = y * 2", "if y > 4:\n        y = 0\n        y += 1"), "")
    assert apply_edits(SOURCE, [Edit("    z = y", "    z = 2")]).source == SOURCE.replace("z = y  \t", "z = 2")
    assert apply_edits(SOURCE, [Edit("    if y > 3:   \n        y = y * 2  ", "    y = 5")]).source == SOURCE.replace(
        "    if y > 3:\n        y = y * 2", "    y = 5"
    )
    removed = apply_edits(SOURCE, [Edit("    z = y  \t", "")]).source
    assert removed.split("\n") == [line for line in LINES if line != "    z = y  \t"]
    twice = apply_edits(
        SOURCE, [Edit("    return x - 1", "    return x - 2"), Edit("    return x - 2", "    return x - 3")]
    )
    assert twice.source == SOURCE.replace("x - 1", "x - 3")


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (Edit("LIMIT = 3", "LIMIT = 9"), "line.* 3 to 3 are not inside"),
        (Edit("    y = y * 3\n    return z", "    return 0"), "not inside"),
        (Edit("    y = x + 1\n    # EVOLVE-BLOCK-START\n    y = y * 2", "    y = 1"), "not inside"),
        (Edit("    # EVOLVE-BLOCK-END", "    pass"), "not inside"),
        (Edit("    z = y  \t\n    # EVOLVE-BLOCK-END", "    z = 1"), "not inside"),
        (Edit("y = y * 2", "y = 0"), "not in the source"),  # without its indentation
        (Edit("    y = y *2", "    y = 0"), "not in the source"),
        (Edit("    y = y *", "    y = 0"), "not in the source"),  # part of a line
        (Edit("    y = y + 9", "    y = 0"), "not in the source"),
        (Edit("", "    y = 0"), "nothing to search for"),
        (Edit(" \n\t", "    y = 0"), "nothing to search for"),
        (Edit("    z = y  \t", "    z = y\n    # EVOLVE-BLOCK-END\n    import os"), "must not contain marks"),
        (Edit("    z = y  \t", "    z = y  \t"), "change nothing"),
    ],
)
def test_what_is_not_exact_or_not_inside_is_refused_and_changes_nothing(edit: Edit, said: str) -> None:
    fine = Edit("    return x - 1", "    return x - 2")
    edits = [edit] if "nothing" in said and "search" not in said else [fine, edit]
    edited = apply_edits(SOURCE, edits)
    assert edited.source == SOURCE
    assert re.search(said, edited.reason)


def test_an_ambiguous_edit_is_refused() -> None:
    source = "# EVOLVE-BLOCK-START\na = 1\nb = 2\na = 1\n# EVOLVE-BLOCK-END\n"
    assert apply_edits(source, [Edit("a = 1", "a = 2")]) == (
        source,
        "edit 1 of 1: the lines to search for are there 2 times; they must be there once",
    )
    assert apply_edits(source, [Edit("b = 2\na = 1", "b = 3")]).source == source.replace("b = 2\na = 1", "b = 3")
    outside = f"a = 1\n{source}"
    assert apply_edits(outside, [Edit("a = 1", "a = 2")]).source == outside


@pytest.mark.parametrize(
    "text",
    ["-" * 3000 + "1", "-" * 90 + "-" * 90 + "1", "not " * 100_000 + "1", "lambda: " * 3000 + "1", "1" + " + 1" * 400,
     "\x00", "x = '" + "a" * 300_000 + "'", "\ud800", "x = 0x" + "f" * 5000],
)  # fmt: skip
def test_text_that_python_cannot_handle_is_no_program_and_nothing_worse(text: str) -> None:
    source = f"# EVOLVE-BLOCK-START\n{text}\n# EVOLVE-BLOCK-END\n"
    with pytest.raises(SyntaxError):
        parsed(source)
    assert impure(source).startswith("it is no Python")
    assert len(digest(source)) == 32
    parent = "# EVOLVE-BLOCK-START\npass\n# EVOLVE-BLOCK-END\n"
    refused = child("rewrite", parent, f"```\n{text}\n```")
    assert refused.source == parent
    assert refused.reason.startswith("the new program is no Python")


def test_whatever_is_edited_the_lines_outside_stay() -> None:
    rng = np.random.default_rng(0)
    first, second = regions(SOURCE)
    outside = [
        line for i, line in enumerate(LINES) if not (first.first <= i < first.last or second.first <= i < second.last)
    ]
    applied = 0
    for _ in range(300):
        begin = int(rng.integers(0, len(LINES)))
        search = "\n".join(LINES[begin : begin + int(rng.integers(1, 4))])
        edited = apply_edits(SOURCE, [Edit(search, "\n".join(["new"] * int(rng.integers(0, 3))))])
        applied += not edited.reason
        if edited.reason:
            assert edited.source == SOURCE
            continue
        one, other = regions(edited.source)
        lines = edited.source.split("\n")
        kept = [
            line for i, line in enumerate(lines) if not (one.first <= i < one.last or other.first <= i < other.last)
        ]
        assert kept == outside
    assert 30 < applied < 270


def test_blocks_of_an_answer_are_read_as_they_are() -> None:
    answer = textwrap.dedent("""\
        I change two lines.
        <<<<<<< SEARCH
            z = y
        =======
            z = y + 1

        >>>>>>> REPLACE
        and
        <<<<<<< SEARCH
            a
        =======
        >>>>>>> REPLACE
        """)
    assert parse_edits(answer) == ((Edit("    z = y", "    z = y + 1\n"), Edit("    a", "")), "")
    assert parse_edits(answer.replace("\n", "\r\n"))[0] == parse_edits(answer)[0]
    for broken, said in (
        ("no block", "no SEARCH"),
        ("<<<<<<< SEARCH\na\n=======\nb\n", "does not end"),
        ("<<<<<<< SEARCH\na\n<<<<<<< SEARCH\nb\n=======\nc\n>>>>>>> REPLACE\n", "begins before"),
    ):
        edits, reason = parse_edits(broken)
        assert not edits
        assert said in reason


def test_a_region_is_rewritten_whole_and_indented() -> None:
    edited = rewrite_region(SOURCE, "z = 1\nif z:\n    z = 2\n")
    assert "    # EVOLVE-BLOCK-START\n    z = 1\n    if z:\n        z = 2\n    # EVOLVE-BLOCK-END" in edited.source
    assert rewrite_region(edited.source, "    z = 1\n    if z:\n        z = 2").reason == "the new code is the old one"
    marked = "# EVOLVE-BLOCK-START\nz = 1\nif z:\n    z = 2\n# EVOLVE-BLOCK-END"
    assert rewrite_region(SOURCE, marked) == edited
    assert rewrite_region(SOURCE, "def g(x):\n    return 1", 1).source.endswith(
        "free\ndef g(x):\n    return 1\n# EVOLVE-BLOCK-END\n"
    )
    for bad in ("", " \n ", "a\n# EVOLVE-BLOCK-END\nb", f"{marked}\n{marked}"):
        refused = rewrite_region(SOURCE, bad)
        assert refused.source == SOURCE and refused.reason
    assert code_block("text\n```python\na = 1\n```\nmore")[0] == "a = 1\n"
    assert code_block("```\na\n```\n```\nb\n```")[1].endswith("it has 2")
    assert code_block("nothing")[1].endswith("it has 0")


def test_what_a_program_printed_is_shown_without_secrets_and_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_API_KEY", "correct-horse-battery")
    text = (
        "token=abc123def OPENAI_API_KEY: 'xyz secret' Authorization: Bearer q.w.e\n"
        "sk-proj-abcdefghijklmnop123 ghp_abcdefghijklmnopqrst https://user:pass@host/x correct-horse-battery\n"
        "\x1b[31mZeroDivisionError: division by zero (line 3)\x00"
    )
    said = shown(text)
    for secret in (
        "abc123def",
        "xyz secret",
        "q.w.e",
        "abcdefghijklmnop",
        "user:pass",
        "correct-horse",
        "\x1b",
        "\x00",
    ):
        assert secret not in said
    assert said.endswith("ZeroDivisionError: division by zero (line 3)")
    long = shown("a" * 5000 + "the end", 100)
    assert len(long) <= 101
    assert long.endswith("the end")
    assert long.startswith("aaa")
    for endless in ("token-" * 2000, "secret" * 100_000, "-----BEGIN PRIVATE KEY-----" * 5000, "eyJ" + "a-eyJ" * 4000):
        assert len(shown(endless)) <= 2001  # and does end
    assert "hidden" not in shown("x-" * 30 + "-my_api_key_of_mine = hidden")


TWO = """LIMIT = 3
def f(x):
    y = x
    # EVOLVE-BLOCK-START
    y = y + 1
    # EVOLVE-BLOCK-END
    check = 1 / LIMIT
    # EVOLVE-BLOCK-START
    y = y * 2
    # EVOLVE-BLOCK-END
    return y
"""


@pytest.mark.parametrize(
    ("edits", "reason"),
    [
        (
            [Edit("    y = y + 1", '    return 42\n    y = """'), Edit("    y = y * 2", '    """')],
            "change what lines outside",
        ),
        (
            [Edit("    y = y + 1", "    pass\nLIMIT = 9\ndef f(x):\n    y = 1")],
            "change what lines outside|indented less",
        ),
        (
            [Edit("    y = y * 2", "    return y\nLIMIT = 9\ndef g(y):\n    pass")],
            "change what lines outside|indented less",
        ),
        ([Edit("    y = y + 1", "    y = (")], ""),
        ([Edit("    y = y + 1", "    for i in range(3):\n        y += i"), Edit("    y = y * 2", "    y -= 1")], ""),
    ],
)
def test_what_is_outside_keeps_its_meaning(edits: list[Edit], reason: str) -> None:
    edited = apply_edits(TWO, edits)
    assert re.search(reason, edited.reason) if reason else not edited.reason
    assert (edited.source == TWO) == bool(reason)


def test_code_at_column_0_does_not_leave_its_function() -> None:
    source = "LIMIT = 3\ndef f(x):\n    # EVOLVE-BLOCK-START\n    return x\n    # EVOLVE-BLOCK-END\n"
    edited = apply_edits(source, [Edit("    return x", "    return x\nLIMIT = 9\ndef f(y):\n    return 0")])
    assert "indented less" in edited.reason
    assert edited.source == source


def test_a_region_within_an_expression_may_change() -> None:
    source = "TABLE = {\n    # EVOLVE-BLOCK-START\n    1: 2,\n    # EVOLVE-BLOCK-END\n}\n"
    assert not apply_edits(source, [Edit("    1: 2,", "    1: 3,\n    2: 4,")]).reason


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_lines_may_end_as_on_any_machine(end: str) -> None:
    parent = "def f(x):\n    # EVOLVE-BLOCK-START\n    a = 1\n    return x\n    # EVOLVE-BLOCK-END\n"
    wanted = parent.replace("a = 1", "a = 2\n    a = 3\n    a = 4")
    assert apply_edits(parent, [Edit("    a = 1", f"    a = 2{end}    a = 3{end}    a = 4")]).source == wanted
    assert rewrite_region(parent, end.join(["a = 2", "a = 3", "a = 4", "return x"])).source == wanted
    assert code_block(end.join(["```", "a = 2", "```"])) == ("a = 2\n", "")
    assert parse_edits(end.join(["<<<<<<< SEARCH", "a", "=======", "b", ">>>>>>> REPLACE"]))[0] == (Edit("a", "b"),)
    started = ProgramEvolution().init(bb.key(0), parent.replace("\n", end))
    assert started.start == parent


def test_names_of_inner_scopes_are_not_those_around() -> None:
    def same(one: str, other: str) -> bool:
        both = [f"LOW = 1\nHIGH = 2\n\n\ndef f(x):\n    {line}\n" for line in (one, other)]
        return digest(both[0]) == digest(both[1])

    assert same("a = x; return a", "b = x; return b")
    assert same("a = x; return [a for a in a]", "b = x; return [b for b in b]")
    assert not same("return [LOW for LOW in x] + [LOW]", "return [HIGH for HIGH in x] + [HIGH]")
    assert not same("g = lambda LOW: x; return LOW", "g = lambda HIGH: x; return HIGH")
    assert not same("return [a for a in x]", "return [LOW for a in x]")
    assert not same("import math as a; a = a or x; return a.pi", "import math as a; b = a or x; return b.pi")

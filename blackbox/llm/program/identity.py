"""When two programs are the same, or nearly: before either is evaluated.

Two tests, cheapest first. Equal digests: the same syntax tree but for the names of local variables, comments, layout
and docstrings; constants count. Similar tokens: MinHash (Broder 1997, "On the resemblance and containment of
documents") estimates the Jaccard similarity of the sets of four consecutive tokens of the regions.
"""

from __future__ import annotations

import ast
import hashlib
import re
import zlib
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from blackbox.llm.program.genome import Region, parsed, regions

HASHES = 64
_PRIME = (1 << 31) - 1
_MULTIPLY, _ADD = (
    np.array([zlib.crc32(f"{name} {i}".encode()) % (_PRIME - 1) + 1 for i in range(HASHES)], np.uint64)
    for name in ("multiply", "add")
)
_TOKEN = re.compile(r"\d+\.?\d*(?:e[+-]?\d+)?|\w+|[^\w\s]")
_WIDTH = 4  # tokens of a shingle
_SCOPES = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp,
    ast.GeneratorExp,
)  # fmt: skip


@lru_cache(4096)
def digest(source: str, *, constants: bool = True) -> str:
    """32 hexadecimal digits that programs have in common which differ in names of local variables and layout only.

    Args:
        source: a program; one that is no Python has the digest of its text.
        constants: whether numbers count; without them, programs of one form and different constants are the same.
    """
    try:
        text = ast.dump(canonical(source, constants=constants))
    except SyntaxError:
        text = f"no program: {source}"
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:32]


def canonical(source: str, *, constants: bool = True) -> ast.Module:
    """The syntax tree with local variables named by their order, and without docstrings.

    Raises:
        SyntaxError: ``source`` is no Python.
    """
    tree = parsed(source)
    _rename(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and len(node.body) > 1:
                del node.body[0]
        if not constants and isinstance(node, ast.Constant) and type(node.value) in (int, float):
            node.value = 0
    return tree


@lru_cache(4096)
def signature(source: str) -> tuple[int, ...]:
    """The least of each of 64 hashes of the four-token shingles of the regions: equal shares estimate similarity."""
    shingles = _shingles(source)
    if not shingles:
        return (0,) * HASHES
    hashed = np.array(
        [zlib.crc32(shingle.encode(errors="backslashreplace")) % _PRIME for shingle in sorted(shingles)], np.uint64
    )
    table = (hashed[:, None] * _MULTIPLY + _ADD) % np.uint64(_PRIME)
    return tuple(table.min(axis=0).tolist())


def similarity(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """Estimate of the Jaccard similarity, from 0 to 1, by two signatures; its standard error is at most 1/16."""
    return sum(a == b for a, b in zip(one, other, strict=True)) / HASHES


def statements(tree: ast.AST, region: Region) -> list[ast.stmt]:
    """The outermost statements of a tree that lie inside a region."""
    found: list[ast.stmt] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.stmt) and region.first < node.lineno and (node.end_lineno or 0) <= region.last:
            found.append(node)
        else:
            found += statements(node, region)
    return found


def changeable(source: str, tree: ast.AST) -> list[ast.stmt]:
    """The outermost statements of a source's tree that lie inside any of its regions, in order."""
    return [node for region in regions(source) for node in statements(tree, region)]


def _shingles(source: str) -> set[str]:
    try:
        tree = canonical(source)
        code = "\n".join(map(ast.unparse, changeable(source, tree)))
    except SyntaxError:
        code = source
    tokens = _TOKEN.findall(code)
    return {" ".join(tokens[i : i + _WIDTH]) for i in range(max(1, len(tokens) - _WIDTH + 1))} if tokens else set()


def _rename(tree: ast.Module) -> None:
    """Give the local variables of each outermost function names that no program can have.

    What only a function, a lambda or a comprehension inside it binds keeps its name: beside it, the name is another's.
    """
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inner = {id(node) for function in functions for node in ast.walk(function) if node is not function}
    for function in functions:
        if id(function) in inner:
            continue
        nodes = list(ast.walk(function))
        shared = {name for node in nodes if isinstance(node, ast.Global | ast.Nonlocal) for name in node.names}
        shared |= {node.arg for node in nodes if isinstance(node, ast.keyword) and node.arg}  # names of parameters
        shared |= {name for node in nodes for name in _otherwise_bound(node)}
        names: dict[str, str] = {}
        for node in _own(function):
            if isinstance(node, ast.arg):
                names.setdefault(node.arg, f"·{len(names)}")
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.setdefault(node.id, f"·{len(names)}")
        for name in shared:
            names.pop(name, None)
        for node in nodes:
            if isinstance(node, ast.arg):
                node.arg = names.get(node.arg, node.arg)
            elif isinstance(node, ast.Name):
                node.id = names.get(node.id, node.id)


def _otherwise_bound(node: ast.AST) -> list[str]:
    """Names that a node binds without being one: of imports, exceptions and patterns."""
    if isinstance(node, ast.alias):
        return [(node.asname or node.name).partition(".")[0]]
    if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
        return [node.name] if node.name else []
    return [node.rest] if isinstance(node, ast.MatchMapping) and node.rest else []


def _own(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.AST]:
    """The nodes of a function that are in no scope inside it, breadth first."""
    level: list[ast.AST] = [function.args, *function.body]
    while level:
        yield from level
        level = [child for node in level if not isinstance(node, _SCOPES) for child in ast.iter_child_nodes(node)]

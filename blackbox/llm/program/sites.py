"""The expressions of a program's regions that can be replaced, with their kinds and what is defined where they are."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from blackbox.draws import Draws
from blackbox.llm.program.genome import parsed, regions, rewrite_region
from blackbox.llm.program.identity import changeable, statements
from blackbox.llm.program.primitives import Primitives


class Site(NamedTuple):
    """An expression that can be replaced."""

    parent: ast.AST
    name: str
    place: int
    """In the parent's field, -1 where it is no list."""
    kind: str
    variables: Mapping[str, str]
    """What is defined there, with kinds."""

    def get(self) -> ast.expr:
        """The expression."""
        value = getattr(self.parent, self.name)
        return value if self.place < 0 else value[self.place]

    def put(self, node: ast.expr) -> None:
        """Replace it."""
        if self.place < 0:
            setattr(self.parent, self.name, node)
        else:
            getattr(self.parent, self.name)[self.place] = node


@dataclass
class Part:
    """The code of one region as a tree that is about to change."""

    source: str
    region: int
    written: list[ast.stmt]
    """All statements of the region."""
    body: list[ast.stmt]
    """Those that are varied: the region's, or those of a function inside it."""
    outside: dict[str, str]
    """Variables from before, with kinds."""
    primitives: Primitives

    def sites(self) -> list[Site]:
        """Every expression of a known kind, in order."""
        found: list[Site] = []
        variables = dict(self.outside)
        for statement in self.body:
            self._visit(statement, variables, found)
        return found

    def end(self) -> dict[str, str]:
        """Variables after the last statement."""
        variables = dict(self.outside)
        for statement in self.body:
            self._visit(statement, variables, [])
        return variables

    def text(self) -> str:
        """The source with the changed region."""
        code = "\n".join(ast.unparse(ast.fix_missing_locations(statement)) for statement in self.written)
        return rewrite_region(self.source, code, self.region).source

    def _visit(self, node: ast.AST, variables: dict[str, str], found: list[Site]) -> None:
        if isinstance(
            node, ast.FunctionDef | ast.Lambda | ast.ListComp | ast.GeneratorExp | ast.DictComp | ast.SetComp
        ):
            return
        before = dict(variables)
        for name, value in ast.iter_fields(node):
            for index, item in enumerate(value) if isinstance(value, list) else [(-1, value)]:
                if not isinstance(item, ast.AST) or name in ("func", "annotation", "slice", "test"):
                    continue  # "test": of an array no condition can be made
                if isinstance(item, ast.expr) and isinstance(getattr(item, "ctx", None), ast.Store):
                    continue
                if isinstance(item, ast.expr) and (kind := self.primitives.kind(item, before)):
                    found.append(Site(node, name, index, kind, before))
                self._visit(item, variables, found)
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        for target in targets:
            if isinstance(target, ast.Name) and node.value is not None:  # type: ignore[attr-defined]
                variables[target.id] = self.primitives.kind(node.value, before)  # type: ignore[attr-defined]


def take(source: str, primitives: Primitives, draws: Draws) -> Part | None:
    """One region of a program, or of several one that has statements; None if there is none.

    Raises:
        SyntaxError: ``source`` is no Python.
    """
    tree = parsed(source)
    marked = regions(source)
    number = draws.integer(len(marked)) if len(marked) > 1 else 0
    written = statements(tree, marked[number])
    functions = [node for node in written if isinstance(node, ast.FunctionDef)]
    if functions:
        function = draws.choose(functions) if len(functions) > 1 else functions[0]
        body, before = function.body, list[ast.stmt]()
    elif written:
        within = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and written[0] in ast.walk(node)]
        if not within:
            return None
        function = within[-1]
        body = written
        before = [node for node in function.body if node.lineno < written[0].lineno]
    else:
        return None
    arguments = function.args
    outside = {argument.arg: "n" for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
    outside = Part(source, number, [], before, outside, primitives).end()
    return Part(source, number, written, body, outside, primitives)


def unbound(source: str) -> set[str]:
    """Names that a function reads and nothing defines."""
    tree = parsed(source)
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    defined = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    defined |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            defined |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return {node.id for node in names if isinstance(node.ctx, ast.Load)} - defined - set(dir(builtins))


def size(source: str) -> int:
    """Number of nodes of the syntax trees of the regions: a program's length, whatever its layout."""
    inside = changeable(source, parsed(source))
    return sum(not isinstance(node, ast.expr_context | ast.operator) for top in inside for node in ast.walk(top))

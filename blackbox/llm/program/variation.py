"""Operators without a language model: small changes of the expressions and statements of a program's regions.

They are those of tree-based genetic programming (Koza 1992, "Genetic Programming"; Poli, Langdon & McPhee 2008, "A
Field Guide to Genetic Programming", chapters 2 and 5), applied to Python's own syntax trees: what replaces an
expression has its kind, and variables that it does not find become others, so that most children run. Layout and
comments inside the regions are lost.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Mapping

from blackbox.draws import Draws
from blackbox.llm.program.primitives import ARITHMETIC, COMPARISONS, Primitives, rounded
from blackbox.llm.program.sites import Part, Site, take, unbound

OPERATORS: Mapping[str, float] = {
    "subtree": 0.15, "point": 0.15, "crossover": 0.2, "grow": 0.15, "hoist": 0.05, "shrink": 0.05, "constants": 0.15,
    "insert": 0.05, "delete": 0.05,
}  # fmt: skip
"""The operators, and how often each is chosen before anything is known of them."""


def vary(source: str, operator: str, primitives: Primitives, draws: Draws, donor: str = "") -> str:
    """A child of a program; "" where the operator finds nothing to change, or has made something that does not parse.

    Args:
        source: the parent, with marked regions.
        operator: one of :data:`OPERATORS`.
        primitives: what children may use.
        draws: the decisions.
        donor: the second parent of a crossover.
    """
    try:
        part = take(source, primitives, draws)
        if part is None:
            return ""
        done = _crossover(part, draws, donor) if operator == "crossover" else _CHANGES[operator](part, draws)
        if not done:
            return ""
        text = part.text()
        return "" if unbound(text) else text
    except SyntaxError:
        return ""


def _subtree(part: Part, draws: Draws) -> bool:
    if site := _any_site(part, draws):
        site.put(part.primitives.expression(site.kind, site.variables, draws))
    return site is not None


def _shrink(part: Part, draws: Draws) -> bool:
    if site := _any_site(part, draws):
        site.put(part.primitives.terminal(site.kind, site.variables, draws))
    return site is not None


def _hoist(part: Part, draws: Draws) -> bool:
    """Put one of its own parts in the place of an expression."""
    sites = [(site, inner) for site in part.sites() if (inner := _below(site, part.primitives))]
    if sites:
        site, inner = draws.choose(sites)
        site.put(draws.choose(inner))
    return bool(sites)


def _grow(part: Part, draws: Draws) -> bool:
    """Keep an expression, inside a new one."""
    site = _any_site(part, draws)
    if site is None:
        return False
    primitives, old = part.primitives, site.get()

    def new(kind: str) -> ast.expr:
        return primitives.expression(kind, site.variables, draws, max(1, primitives.depth - 1))

    if site.kind == "b":
        site.put(ast.BinOp(old, draws.choose((ast.BitAnd, ast.BitOr))(), new("b")))
        return True
    names = [name for name, kinds in primitives.functions.items() if kinds[-1] == "n" and "n" in kinds[:-2]]
    name = primitives.function(names, draws)
    if name:
        kinds = primitives.functions[name][:-2]
        here = draws.choose([i for i, kind in enumerate(kinds) if kind == "n"])
        made = [old if i == here else new(kind) for i, kind in enumerate(kinds)]
        site.put(ast.Call(ast.parse(name, mode="eval").body, made, []))
    else:
        pair = (old, new("n")) if draws.uniform() < 0.5 else (new("n"), old)
        site.put(ast.BinOp(pair[0], ARITHMETIC[draws.choose(primitives.operators)](), pair[1]))
    return True


def _point(part: Part, draws: Draws) -> bool:
    """Another variable, function, operator or comparison in the place of one."""
    options: list[Callable[[], None]] = []
    functions = part.primitives.functions
    for site in part.sites():
        node = site.get()
        if isinstance(node, ast.Name):
            names = [name for name, kind in site.variables.items() if kind == site.kind and name != node.id]
            options += [lambda s=site, n=name: s.put(ast.Name(n, ast.Load())) for name in names]  # type: ignore[misc]
        elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC.values():
            operators = [
                ARITHMETIC[sign] for sign in part.primitives.operators if ARITHMETIC[sign] is not type(node.op)
            ]
            options += [lambda n=node, o=operator: setattr(n, "op", o()) for operator in operators]  # type: ignore[misc]
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS.values():
            signs = [sign for sign in COMPARISONS.values() if sign is not type(node.ops[0])]
            options += [lambda n=node, s=sign: n.ops.__setitem__(0, s()) for sign in signs]  # type: ignore[misc]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            same = [other for other in functions if functions[other] == functions[name] and other != name]
            options += [lambda n=node, o=other: setattr(n, "func", ast.parse(o, mode="eval").body) for other in same]  # type: ignore[misc]
    if options:
        draws.choose(options)()
    return bool(options)


def _constants(part: Part, draws: Draws) -> bool:
    """Other numbers in the place of one or some."""
    sites = [site for site in part.sites() if isinstance(site.get(), ast.Constant) and site.kind == "n"]
    if not sites:
        return False
    first = draws.integer(len(sites))
    for i, site in enumerate(sites):
        if i == first or draws.uniform() < 0.2:
            value = float(site.get().value)  # type: ignore[attr-defined]
            if draws.uniform() < 0.8:
                new = value * 2.0 ** (draws.normal() / 2) + (0.1 * draws.normal() if value == 0 else 0.0)
            else:
                new = float(part.primitives.constant(draws).value)  # type: ignore[attr-defined]
            site.put(ast.Constant(rounded(new)))
    return True


def _insert(part: Part, draws: Draws) -> bool:
    """A new variable before a statement, which some expression behind it uses."""
    place = draws.integer(len(part.body))
    name = next(name for i in range(1, 1000) if (name := f"x{i}") not in part.end() and name not in part.outside)
    earlier = Part(part.source, part.region, [], part.body[:place], part.outside, part.primitives).end()
    behind = Part(part.source, part.region, [], part.body[place:], earlier, part.primitives).sites()
    numbers = [site for site in behind if site.kind == "n"]
    if not numbers:
        return False
    site = draws.choose(numbers)
    used = ast.Name(name, ast.Load())
    operator = ARITHMETIC[draws.choose(part.primitives.operators)]()
    site.put(used if draws.uniform() < 0.3 else ast.BinOp(site.get(), operator, used))
    value = part.primitives.expression("n", earlier, draws)
    _put(part, place, ast.Assign([ast.Name(name, ast.Store())], value))
    return True


def _delete(part: Part, draws: Draws) -> bool:
    """Without an assignment; what read it reads something else, or the value itself."""
    places = [i for i, node in enumerate(part.body) if isinstance(node, ast.Assign | ast.AugAssign)]
    if not places:
        return False
    place = draws.choose(places)
    gone = part.body[place]
    target = gone.targets[0] if isinstance(gone, ast.Assign) else gone.target  # type: ignore[attr-defined]
    _put(part, place, None)
    if isinstance(target, ast.Name) and target.id not in part.end():
        inline = isinstance(gone, ast.Assign) and draws.uniform() < 0.5
        for site in _reads(part, target.id):
            old = part.primitives.terminal("n", site.variables, draws)
            site.put(copy.deepcopy(gone.value) if inline else old)  # type: ignore[attr-defined]
    return True


def _crossover(part: Part, draws: Draws, donor: str) -> bool:
    """An expression of the donor in the place of one of the same kind."""
    other = take(donor, part.primitives, draws) if donor else None
    site = _any_site(part, draws)
    if other is None or site is None:
        return False
    gifts = [gift for gift in other.sites() if gift.kind == site.kind]
    if not gifts:
        return False
    gift = draws.choose(gifts)
    site.put(_settled(copy.deepcopy(gift.get()), gift.variables, site.variables, part.primitives, draws))
    return True


def _settled(
    node: ast.expr, there: Mapping[str, str], here: Mapping[str, str], primitives: Primitives, draws: Draws
) -> ast.expr:
    """``node`` with variables that are not defined here replaced by some of their kind."""
    if isinstance(node, ast.Name):
        kind = there.get(node.id, "")
        return primitives.terminal(kind, here, draws) if kind and here.get(node.id) != kind else node
    for name, value in ast.iter_fields(node):
        if name == "func":
            continue
        if isinstance(value, list):
            value[:] = [
                _settled(item, there, here, primitives, draws) if isinstance(item, ast.expr) else item for item in value
            ]
        elif isinstance(value, ast.expr):
            setattr(node, name, _settled(value, there, here, primitives, draws))
    return node


def _any_site(part: Part, draws: Draws) -> Site | None:
    sites = part.sites()
    return draws.choose(sites) if sites else None


def _below(site: Site, primitives: Primitives) -> list[ast.expr]:
    nodes = [node for node in ast.walk(site.get()) if isinstance(node, ast.expr) and node is not site.get()]
    return [node for node in nodes if primitives.kind(node, site.variables) == site.kind]


def _reads(part: Part, name: str) -> list[Site]:
    """Where a variable is read that nothing defines any more."""
    sites = Part(part.source, part.region, [], part.body, {**part.outside, name: "n"}, part.primitives).sites()
    reading = [site for site in sites if isinstance(site.get(), ast.Name) and site.get().id == name]  # type: ignore[attr-defined]
    return [site._replace(variables={k: v for k, v in site.variables.items() if k != name}) for site in reading]


def _put(part: Part, place: int, statement: ast.stmt | None) -> None:
    """Insert a statement into the body, or take one out."""
    new = [] if statement is None else [statement]
    part.body[place : place + (statement is None)] = new


_CHANGES: dict[str, Callable[[Part, Draws], bool]] = {
    "subtree": _subtree, "point": _point, "grow": _grow, "hoist": _hoist, "shrink": _shrink, "constants": _constants,
    "insert": _insert, "delete": _delete,
}  # fmt: skip

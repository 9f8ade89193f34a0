"""Programs that plainly compute: an allow-list of syntax, decided without running anything.

A plain program has assignments, conditions and expressions of numbers and arrays: no loops, no imports but NumPy's and
math's, no attribute that is not listed, no function that is not. So it cannot reach the process it runs in, its frames
or its files, and ends after as many steps as it has lines; many may share a process. This comes before the sandbox, not
in its place: a plain program can still exhaust memory, or the time of one huge power.
"""

from __future__ import annotations

import ast

from blackbox.llm.program.genome import parsed

BUILTINS = frozenset({"abs", "bool", "float", "int", "len", "max", "min", "round", "sum"})
MODULES = {"numpy": "np", "math": "math"}
NUMPY = frozenset({
    "abs", "absolute", "add", "all", "any", "arange", "arctan", "argmax", "argmin", "argsort", "array",
    "asarray", "cbrt", "ceil", "clip", "cos", "cosh", "cumsum", "diff", "divide", "e", "equal", "exp", "exp2",
    "expm1", "fabs", "float64", "floor", "floor_divide", "full_like", "greater", "greater_equal", "heaviside",
    "hypot", "inf", "int64", "isclose", "isfinite", "isnan", "less", "less_equal", "log", "log10", "log1p",
    "log2", "logical_and", "logical_not", "logical_or", "logical_xor", "max", "maximum", "mean", "median",
    "min", "minimum", "mod", "multiply", "nan", "nan_to_num", "ndarray", "negative", "not_equal", "ones_like",
    "percentile", "pi", "power", "prod", "ptp", "quantile", "reciprocal", "rint", "round", "select", "sign",
    "sin", "sinh", "sort", "sqrt", "square", "std", "subtract", "sum", "tan", "tanh", "trunc", "var", "where",
    "zeros_like",
})  # fmt: skip
MATH = frozenset({
    "ceil", "cos", "e", "exp", "expm1", "fabs", "floor", "hypot", "inf", "isfinite", "isnan", "log", "log10",
    "log1p", "log2", "pi", "pow", "sin", "sqrt", "tan", "tanh",
})  # fmt: skip
ARRAYS = frozenset({
    "all", "any", "argmax", "argmin", "argsort", "astype", "clip", "copy", "cumsum", "max", "mean", "min",
    "ndim", "prod", "round", "shape", "size", "std", "sum", "var",
})  # fmt: skip

_NODES = (
    ast.Module, ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Expr,
    ast.If, ast.Pass, ast.IfExp, ast.Compare, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Call, ast.keyword, ast.Attribute,
    ast.Subscript, ast.Slice, ast.Tuple, ast.List, ast.Constant, ast.Name, ast.Import, ast.alias, ast.expr_context,
    ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip
_UNARY = frozenset({
    "abs", "absolute", "arctan", "cbrt", "ceil", "cos", "cosh", "exp", "exp2", "expm1", "fabs", "floor", "isfinite",
    "isnan", "log", "log10", "log1p", "log2", "logical_not", "negative", "reciprocal", "rint", "sign", "sin", "sinh",
    "sqrt", "square", "tan", "tanh", "trunc",
})  # fmt: skip
_THREE = frozenset({"arange", "clip", "diff", "isclose", "percentile", "quantile", "select", "where"})
"""Functions that take so many arguments by position before one that is written to; all others of NumPy take two."""
_KEYWORDS = frozenset({"axis", "prepend", "append", "keepdims", "nan", "posinf", "neginf", "default"})


def impure(source: str) -> str:
    """Why a source is no plain program; "" if it is one."""
    try:
        tree = parsed(source)
    except SyntaxError as error:
        return f"it is no Python: {error}"
    for statement in tree.body:
        if reason := _outermost(statement):
            return _at(statement, reason)
    functions = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    types = _annotations(tree)
    said = types | {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    strange = _strange(tree)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and node.attr == "ndarray"
            and (id(node) not in types or id(node) in functions)
        ):
            return _at(node, "np.ndarray is allowed in annotations only: it makes arrays of memory as it was left")
        if not isinstance(node, _NODES):
            return _at(node, f"{type(node).__name__} is not allowed")
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            return _at(node, "text is allowed in remarks and annotations only")
        if isinstance(node, ast.Name) and id(node) in strange:
            return _at(node, f"the name {node.id} is not allowed")
        reason = _reason(node, id(node) in functions)
        if reason:
            return _at(node, reason)
    return ""


def _reason(node: ast.AST, called: bool) -> str:
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name not in MODULES or (alias.asname or alias.name) != MODULES[alias.name]:
                return f"import {alias.name} is not allowed; numpy as np and math are"
    elif isinstance(node, ast.FunctionDef):
        if not all(map(_scalar, [*node.args.defaults, *filter(None, node.args.kw_defaults)])):
            return f"function {node.name} has a default that is no number"
        if node.decorator_list or node.name.startswith("__") or node.name in BUILTINS | {"np", "math"}:
            return f"function {node.name} has a decorator, or a name that is taken"
    elif isinstance(node, ast.Name):
        if node.id.startswith("__") or (isinstance(node.ctx, ast.Store) and node.id in BUILTINS | {"np", "math"}):
            return f"the name {node.id} is not allowed"
        if called and node.id not in BUILTINS:
            return f"a call of {node.id} is not allowed"
    elif isinstance(node, ast.Attribute):
        owner = node.value.id if isinstance(node.value, ast.Name) else ""
        allowed = {"np": NUMPY, "math": MATH}.get(owner, ARRAYS)
        if node.attr not in allowed or not isinstance(node.ctx, ast.Load):
            return f"the attribute {node.attr} is not allowed"
    elif isinstance(node, ast.Call):
        if not isinstance(node.func, ast.Name | ast.Attribute):
            return "a call of what is no name is not allowed"
        if any(isinstance(argument, ast.Starred) for argument in node.args) or len(node.args) > _most(node.func):
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            return f"so many arguments of {name} are not allowed: one may be written to"
    elif isinstance(node, ast.keyword):
        if node.arg not in _KEYWORDS:
            return f"the argument {node.arg} is not allowed"
    elif isinstance(node, ast.arg) and (node.arg.startswith("__") or node.arg in BUILTINS | {"np", "math"}):
        return f"the parameter {node.arg} is not allowed"
    elif isinstance(node, ast.Constant):
        return "" if isinstance(node.value, int | float | str | None) else f"the constant {node.value!r} is not allowed"
    return ""


def _most(function: ast.Name | ast.Attribute) -> int:
    """How many arguments a function takes by position before one that results are written to."""
    if isinstance(function, ast.Name):
        return 255
    if isinstance(function.value, ast.Name) and function.value.id == "np":
        return 1 if function.attr in _UNARY else 3 if function.attr in _THREE else 2
    if isinstance(function.value, ast.Name) and function.value.id == "math":
        return 2
    return 2 if function.attr == "clip" else 1


def _strange(tree: ast.Module) -> set[int]:
    """Identities of names that are neither listed nor bound where they stand: Python would look for them elsewhere."""
    own = [_bound(statement) for statement in tree.body]
    outer = {*BUILTINS, *MODULES.values()}
    for statement, names in zip(tree.body, own, strict=True):
        outer |= {statement.name} if isinstance(statement, ast.FunctionDef) else names
    return {
        id(node)
        for statement, names in zip(tree.body, own, strict=True)
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and node.id not in outer and node.id not in names
    }


def _bound(statement: ast.stmt) -> set[str]:
    """Names that a statement, or what is in it, binds or takes as parameters."""
    stored = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return stored | {n.arg for n in ast.walk(statement) if isinstance(n, ast.arg)}


def _outermost(node: ast.stmt) -> str:
    """What a module does beside imports, functions and numbers could be kept from call to call."""
    if isinstance(node, ast.Assign | ast.AnnAssign):
        number = node.value is not None and _scalar(node.value)
        return "" if number else "only numbers are allowed as a module's variables"
    if isinstance(node, ast.FunctionDef):
        inner = sum(isinstance(part, ast.FunctionDef) for part in ast.walk(node)) > 1
        return f"a function in the function {node.name} is not allowed" if inner else ""
    if isinstance(node, ast.Import) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        return ""
    return f"{type(node).__name__} is not allowed outside of functions"


def _scalar(node: ast.expr) -> bool:
    return isinstance(node.operand if isinstance(node, ast.UnaryOp) else node, ast.Constant)


def _annotations(tree: ast.Module) -> set[int]:
    """Identities of the nodes of annotations."""
    found = [getattr(node, name, None) for node in ast.walk(tree) for name in ("annotation", "returns")]
    return {id(node) for top in found if top is not None for node in ast.walk(top)}


def _at(node: ast.AST, reason: str) -> str:
    line = getattr(node, "lineno", None)
    return f"{reason} (line {line})" if line else reason

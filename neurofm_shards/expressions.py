"""A small, safe language for choosing rows of a table: ``subject == "M1" and condition in ("left", "right")``.

Python's syntax, none of its reach: names of columns, numbers, texts, ``True`` and ``False``; comparisons (also
chained), ``in`` and ``not in`` a list of constants, ``is None``, ``and``, ``or``, ``not``, and ``+ - * / // %``. Three
functions: ``startswith(subject, "M")``, ``matches(subject, "M[0-9]+")`` (a regular expression for the whole text) and
``between(rate, 0.5, 2)`` (the ends included), also written as methods: ``subject.startswith("M")``. Names that Python
could not read (with spaces, dots, or keywords) are put in backquotes. No other calls, attributes or subscripts. A
missing value (None, NaN) makes a comparison neither true nor false, as in SQL, so such a row is chosen by neither
``x == 1`` nor ``not x == 1``; ``x is None`` asks for it.
"""

from __future__ import annotations

import ast
import keyword
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from neurofm_shards._typing import Bools
from neurofm_shards.errors import ConfigError, did_you_mean
from neurofm_shards.values import EXACT_INTEGERS, exact_numbers

Columns = Mapping[str, npt.NDArray[Any]]

MAX_LENGTH = 4096
#: How much of a text messages repeat.
_SHOWN = 200
MAX_NODES = 1000
MAX_DEPTH = 60

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.true_divide,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.mod,
}
#: Functions of the language, and how they are called.
_FUNCTIONS = {
    "startswith": "startswith(name, 'text')",
    "matches": "matches(name, 'regular expression')",
    "between": "between(name, lowest, highest)",
}
#: A text in quotes, which is left alone, or a name in backquotes.
_QUOTED = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`([^`]+)`""")
_BARE = (ast.expr_context, ast.boolop, ast.cmpop, ast.operator, ast.unaryop)


@dataclass(frozen=True)
class _Values:
    """Values of a sub-expression: data, where they are known, and ``number``, ``text``, ``bool`` or ``mixed``."""

    data: npt.NDArray[Any]
    known: Bools
    kind: str
    source: str


@dataclass(frozen=True)
class _Truth:
    """Where a condition holds and where it does not; neither where a value is missing."""

    true: Bools
    false: Bools


class Expression:
    """A checked expression; call it with columns. Picklable. Made by :func:`compile_expression`.

    Attributes
    ----------
    text : str
        As written.
    names : frozenset of str
        Columns that it uses.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        tree = _parsed(text)
        called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        names = (node for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called)
        self.names = frozenset(node.id for node in names)

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    def __call__(self, columns: Columns) -> Bools:
        """Return which rows are chosen.

        Parameters
        ----------
        columns : mapping of str to numpy.ndarray, shape (n,)
            Numbers, booleans, or objects (texts; None where missing). NaN is missing.

        Returns
        -------
        numpy.ndarray of bool, shape (n,)

        Raises
        ------
        ConfigError
            A column is not there (the message lists those that are), or values cannot be compared.
        """
        for name in sorted(self.names):
            if name not in columns:
                raise ConfigError(f"{self._where()}: {unknown_name('column', name, columns)}")
        chosen = _Evaluation(columns, self._where()).truth(_parsed(self.text)).true
        length = len(columns[next(iter(self.names or columns))]) if self.names or len(columns) else 0
        return np.array(np.broadcast_to(chosen, (length,)))

    def _where(self) -> str:
        return f"in {_short(self.text)!r}"


def _short(text: str) -> str:
    """Return a text as it is shown in messages."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def compile_expression(text: str) -> Expression:
    """Check an expression and return it, ready to be called with columns.

    Raises
    ------
    ConfigError
        It is not of the language; the message says what is not allowed.

    Examples
    --------
    >>> import numpy as np
    >>> good = compile_expression('quality == "good" and rate > 0.5')
    >>> good({"quality": np.array(["good", "good", "mua"], object), "rate": np.array([1.0, 0.1, 9.0])}).tolist()
    [True, False, False]
    """
    return Expression(text)


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Say that there is no such column (or other thing), what was probably meant, and what there is."""
    names = sorted(known)
    return f"there is no {what} {name!r}{did_you_mean(name, names)}; there are: {', '.join(names) or 'none'}"


def _parsed(text: str) -> ast.expr:
    if not isinstance(text, str) or len(text) > MAX_LENGTH:
        raise ConfigError(f"an expression is a text of at most {MAX_LENGTH} characters")
    readable, names = _without_backquotes(text.strip())
    try:
        tree: ast.expr = _Names(names).visit(ast.parse(readable, mode="eval").body)
        nodes = list(ast.walk(tree))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        detail = error.msg if isinstance(error, SyntaxError) else type(error).__name__
        raise ConfigError(f"cannot read the expression {text[:200]!r}: {detail}; {_remedy(readable)}") from error
    if len(nodes) > MAX_NODES or _depth(tree) > MAX_DEPTH:
        raise ConfigError(f"the expression {text[:60]!r}... is too large or too deeply nested")
    for node in nodes:
        _check(node, text)
    return tree


#: Words of Python that expressions have.
_OPERATORS = {"and", "or", "not", "in", "is", "None", "True", "False"}


def _remedy(text: str) -> str:
    """Return the remedy for a text that is no expression."""
    words = re.findall(r"[A-Za-z_]\w*", re.sub(r"'[^']*'|\"[^\"]*\"", "", text))
    taken = next((word for word in words if keyword.iskeyword(word) and word not in _OPERATORS), None)
    if taken is not None:
        return f"{taken!r} is a word of Python: write the name in backquotes, `{taken}`"
    return "write it like subject == 'M1' and between(trial, 1, 9), and names with spaces or dots in backquotes"


def _without_backquotes(text: str) -> tuple[str, dict[str, str]]:
    """Return the text with a word for each name in backquotes, and the names of these words."""
    names: dict[str, str] = {}

    def word(found: re.Match[str]) -> str:
        if found[1] is None:
            return found[0]
        names[f"_backquoted_{len(names)}_"] = found[1]
        return list(names)[-1]

    return _QUOTED.sub(word, text), names


class _Names(ast.NodeTransformer):
    """Puts names back that were in backquotes; writes ``x.startswith(y)`` as a function, ``-1`` as a number."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """Put a name back."""
        return ast.Name(self._names.get(node.id, node.id), node.ctx)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        """Make a negative number one constant, which is compared as it is."""
        self.generic_visit(node)
        match node:
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)) if value is not True:
                return ast.Constant(-value)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Write a method as a function."""
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr in _FUNCTIONS:
            return ast.Call(ast.Name(node.func.attr, ast.Load()), [node.func.value, *node.args], node.keywords)
        return node


def _check_call(node: ast.Call, text: str) -> None:
    """Refuse what is no function of the language, or has other arguments than it takes."""
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    form = _FUNCTIONS.get(name)
    if form is None:
        raise ConfigError(f"in the expression {text[:200]!r}, {unknown_name('function', name[:60], _FUNCTIONS)}")
    if node.keywords or len(node.args) != form.count(",") + 1:
        raise ConfigError(f"{ast.unparse(node)[:60]!r} in the expression {text[:200]!r}: write {form}")


def _depth(tree: ast.AST) -> int:
    depth, level = 0, [tree]
    while level:
        depth, level = depth + 1, [child for node in level for child in ast.iter_child_nodes(node)]
    return depth


def _check(node: ast.AST, text: str) -> None:
    """Refuse what is not of the language."""
    match node:
        case ast.Constant(value=bool() | None | str()):
            return
        case ast.Constant(value=int() | float() as value) if abs(value) < (2**64 if isinstance(value, int) else 2**63):
            return
        case ast.BinOp(op=op) if type(op) in _ARITHMETIC:
            return
        case ast.Call(func=ast.Name()):
            _check_call(node, text)
            return
        case (
            ast.UnaryOp(op=ast.Not() | ast.USub())
            | ast.Tuple()
            | ast.List()
            | ast.Set()
            | ast.Name()
            | ast.BoolOp()
            | ast.Compare()
        ):
            return
        case _ if isinstance(node, _BARE):
            return
    what = ast.unparse(node)[:60] if isinstance(node, ast.expr) else type(node).__name__
    raise ConfigError(
        f"{what!r} in the expression {text[:200]!r} is not allowed: use columns, numbers, texts, comparisons, "
        "in, is None, and, or, not, + - * / // %, startswith(), matches(), between(); put names with spaces or dots in "
        "backquotes"
    )


class _Evaluation:
    """One walk over a checked expression."""

    def __init__(self, columns: Columns, where: str) -> None:
        self._columns = columns
        self._where = where

    def truth(self, node: ast.expr) -> _Truth:
        match node:
            case ast.BoolOp(op=op, values=operands):
                parts = [self.truth(each) for each in operands]
                true, false = [part.true for part in parts], [part.false for part in parts]
                both, one = np.logical_and.reduce, np.logical_or.reduce
                shaped = [np.broadcast_arrays(*true), np.broadcast_arrays(*false)]
                if isinstance(op, ast.And):
                    return _Truth(both(shaped[0]), one(shaped[1]))
                return _Truth(one(shaped[0]), both(shaped[1]))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                found = self.truth(operand)
                return _Truth(found.false, found.true)
            case ast.Compare(left=left, ops=ops, comparators=rights):
                return self._chain(left, ops, rights)
            case ast.Call(func=ast.Name(id=name), args=[value, *others]):
                return self._called(name, value, others)
        values = self.values(node)
        if values.kind != "bool":
            raise ConfigError(
                f"{self._where}: {values.source} is not a boolean; compare it, as in {values.source} == 1"
            )
        data = values.data.astype(bool)
        return _Truth(values.known & data, values.known & ~data)

    def _called(self, name: str, value: ast.expr, others: Sequence[ast.expr]) -> _Truth:
        if name == "between":
            return self._chain(others[0], [ast.LtE(), ast.LtE()], [value, others[1]])
        return self._of_texts(name, self.values(value), others[0])

    def _of_texts(self, name: str, values: _Values, wanted: ast.expr) -> _Truth:
        """Return where texts start with another, or match a regular expression as a whole."""
        if not (isinstance(wanted, ast.Constant) and isinstance(wanted.value, str)):
            raise ConfigError(f"{self._where}: {name} needs a text in quotes as its last argument")
        if values.kind not in ("text", "mixed"):
            raise ConfigError(f"{self._where}: {values.source} is no text ({values.kind}), which {name} needs")
        try:
            pattern = re.compile(re.escape(wanted.value) + r"(?s:.*)" if name == "startswith" else wanted.value)
        except re.error as error:
            raise ConfigError(f"{self._where}: {wanted.value!r} is no regular expression: {error}") from error
        found = {text: pattern.fullmatch(text) is not None for text in set(map(str, values.data[values.known]))}
        data = np.broadcast_to(values.data, values.known.shape)
        holds = np.zeros(values.known.shape, bool)
        holds[values.known] = [found[str(text)] for text in data[values.known]]
        return _Truth(holds, values.known & ~holds)

    def _chain(self, left: ast.expr, ops: Sequence[ast.cmpop], rights: Sequence[ast.expr]) -> _Truth:
        found = _Truth(np.array(True), np.array(False))
        for op, right in zip(ops, rights, strict=True):
            one = self._comparison(left, op, right)
            found = _Truth(found.true & one.true, found.false | one.false)
            left = right
        return found

    def _comparison(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> _Truth:
        if isinstance(op, (ast.Is, ast.IsNot)):
            if not (isinstance(right, ast.Constant) and right.value is None):
                raise ConfigError(f"{self._where}: 'is' asks for None only; use == for values")
            known = self.values(left).known
            return _Truth(~known, known) if isinstance(op, ast.Is) else _Truth(known, ~known)
        if isinstance(op, (ast.In, ast.NotIn)):
            if not isinstance(right, (ast.Tuple, ast.List, ast.Set)):
                raise ConfigError(f"{self._where}: 'in' needs constants in brackets, as in (1, 2)")
            found = _Truth(np.array(False), self.values(left).known)
            for each in right.elts:
                one = self._comparison(left, ast.Eq(), each)
                found = _Truth(found.true | one.true, found.false & one.false)
            return found if isinstance(op, ast.In) else _Truth(found.false, found.true)
        return self._compared(self.values(left), op, self.values(right))

    def _compared(self, left: _Values, op: ast.cmpop, right: _Values) -> _Truth:
        kinds = {"number" if each.kind == "bool" else each.kind for each in (left, right)}
        if kinds == {"number", "text"}:
            named = " and ".join(f"{each.source} ({each.kind})" for each in (left, right))
            raise ConfigError(f"{self._where}: {named} cannot be compared; write texts in quotes, numbers without")
        known = np.asarray(left.known & right.known)
        sides = _exact([np.broadcast_to(each.data, known.shape)[known] for each in (left, right)])
        try:
            holds = np.asarray(_COMPARE[type(op)](*sides), dtype=bool)
        except TypeError as error:
            raise ConfigError(
                f"{self._where}: {left.source} and {right.source} have values without an order"
            ) from error
        true, false = np.zeros(known.shape, bool), np.zeros(known.shape, bool)
        true[known], false[known] = holds, ~holds
        return _Truth(true, false)

    def values(self, node: ast.expr) -> _Values:
        source = _short(ast.unparse(node))
        match node:
            case ast.Name(id=name):
                return _column(np.asarray(self._columns[name]), name)
            case ast.Constant(value=None):
                raise ConfigError(f"{self._where}: nothing equals None; write 'is None' or 'is not None'")
            case ast.Constant(value=value):
                kind = "bool" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"
                return _Values(np.array(value, object if kind == "text" else None), np.array(True), kind, source)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                inner = self._number(operand)
                return _Values(-inner.data, inner.known, "number", source)
            case ast.BinOp(left=left, op=op, right=right):
                return self._arithmetic(self._number(left), op, self._number(right), source)
            case ast.Tuple() | ast.List() | ast.Set():
                raise ConfigError(f"{self._where}: {source} may only follow 'in'")
        truth = self.truth(node)
        return _Values(truth.true, truth.true | truth.false, "bool", source)

    def _number(self, node: ast.expr) -> _Values:
        found = self.values(node)
        if found.kind not in ("number", "bool"):
            raise ConfigError(f"{self._where}: {found.source} is no number ({found.kind})")
        data = found.data
        if data.dtype == object:  # whole numbers and others, as they are
            data = exact_numbers(np.where(found.known, data, 0).tolist())
        if data.dtype == object:
            raise ConfigError(
                f"{self._where}: {found.source} has numbers that 64 bits do not hold exactly, so it cannot be "
                "calculated with; compare it"
            )
        if data.dtype.kind != "f":
            self._refuse_beyond(data, found.source)
            data = data.astype(np.int64)
        return _Values(data, found.known, "number", found.source)

    def _refuse_beyond(self, data: npt.NDArray[Any], source: str) -> None:
        """Refuse whole numbers that would wrap around in 64 bits; what is exactly at the edge is refused as well."""
        about = data.astype(np.float64)
        if bool((np.isfinite(about) & (np.abs(about) >= 2.0**63)).any()):
            raise ConfigError(f"{self._where}: {source} goes beyond 64 bits, so it cannot be calculated with")

    def _arithmetic(self, left: _Values, op: ast.operator, right: _Values, source: str) -> _Values:
        calculate = _ARITHMETIC[type(op)]
        with np.errstate(all="ignore"):
            data = np.asarray(calculate(left.data, right.data))
            if data.dtype.kind == "i":
                about = calculate(left.data.astype(np.float64), right.data.astype(np.float64))
                self._refuse_beyond(np.asarray(about), source)
        known = left.known & right.known
        if isinstance(op, (ast.Div, ast.FloorDiv, ast.Mod)):
            known = known & (right.data != 0)
        return _Values(data, np.asarray(known), "number", source)


def _exact(sides: Sequence[npt.NDArray[Any]]) -> Sequence[npt.NDArray[Any]]:
    """Return both sides of a comparison so that it is exact: large integers meet fractions as Python's numbers."""
    kinds = {side.dtype.kind for side in sides}
    if len(kinds) == 1 or not kinds <= set("iuf"):
        return sides
    whole = [side for side in sides if side.dtype.kind in "iu" and side.size]
    if kinds == {"i", "u"} or any(max(-int(side.min()), int(side.max())) > EXACT_INTEGERS for side in whole):
        return [side.astype(object) for side in sides]
    return sides


def _column(data: npt.NDArray[Any], name: str) -> _Values:
    """Find out what a column holds and where it says nothing."""
    match data.dtype.kind:
        case "b":
            return _Values(data, np.ones(data.shape, bool), "bool", name)
        case "i" | "u":
            return _Values(data, np.ones(data.shape, bool), "number", name)
        case "f":
            return _Values(data, ~np.isnan(data), "number", name)
        case "U" | "T":
            return _Values(data.astype(object), np.ones(data.shape, bool), "text", name)
        case "O":
            return _objects(data, name)
    raise ConfigError(f"column {name!r} has values of type {data.dtype}, which expressions cannot compare")


def _objects(data: npt.NDArray[Any], name: str) -> _Values:
    known = np.asarray(
        np.not_equal(data, np.array(None)) & np.equal(data, data), dtype=np.bool_
    )  # NaN is unlike itself
    types = set(map(type, data[known]))
    kinds = {
        "bool" if issubclass(each, (bool, np.bool_)) else "text" if issubclass(each, str) else "number"
        for each in types
        if issubclass(each, (bool, np.bool_, str, int, float, np.number))
    }
    scalar = all(issubclass(each, (bool, np.bool_, str, int, float, np.number)) for each in types)
    if not types:
        return _Values(data, known, "mixed", name)
    return _Values(data, known, kinds.pop() if scalar and len(kinds) == 1 else "mixed", name)

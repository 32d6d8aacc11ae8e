"""Conditions on the rows of a table, as they are written: "correct and deletion < 0.3"."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any, Protocol

from deepviz.results.shards import library

_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "less",
    ast.LtE: "less_equal",
    ast.Gt: "greater",
    ast.GtE: "greater_equal",
    ast.Eq: "equal",
    ast.NotEq: "not_equal",
}
_SIGNS: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}


def chosen_rows(table: Any, condition: str) -> Any:
    """The rows of a `pyarrow.Table` for which a condition holds.

    Raises:
        ValueError: for what is no condition on its columns.
    """
    return table.filter(holds(table, condition))


class Columns(Protocol):
    """Columns by name: a `pyarrow.Table`, or what reads them as they are asked for."""

    @property
    def column_names(self) -> list[str]:
        """All that there are."""

    def __getitem__(self, name: str, /) -> Any:
        """One, as a `pyarrow.ChunkedArray`."""


def holds(columns: Columns, condition: str) -> Any:
    """Where a condition holds, a Boolean for each row.

    Raises:
        ValueError: for what is no condition on the columns.
    """
    try:
        tree = ast.parse(condition.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        raise ValueError(f'{condition!r} is no condition: write one such as "correct and score > 2"') from None
    except (RecursionError, MemoryError):  # by which Python refuses it, with its version
        raise ValueError(_NESTED) from None
    try:
        return _Reader(columns, condition).truth(tree)
    except RecursionError:
        raise ValueError(_NESTED) from None


_NESTED = "the condition is nested too deeply: write a shorter one"


class _Reader:
    """Reads one condition."""

    def __init__(self, table: Columns, condition: str) -> None:
        self.table, self.condition = table, condition
        self.columns = {_bare(name): name for name in table.column_names}
        self.compute = library("pyarrow.compute")
        self.arrow = library("pyarrow")

    def truth(self, node: ast.expr) -> Any:
        """Where it holds, for each row."""
        compute = self.compute
        match node:
            case ast.BoolOp(op, values):
                first, *others = map(self.truth, values)
                for other in others:
                    first = compute.and_(first, other) if isinstance(op, ast.And) else compute.or_(first, other)
                return first
            case ast.UnaryOp(ast.Not(), operand):
                return self._not(operand)
            case ast.Compare(left, ops, comparators):
                sides = [left, *comparators]
                found = [self._compared(one, op, other) for one, op, other in zip(sides, ops, sides[1:], strict=False)]
                first, *others = found
                for other in others:
                    first = compute.and_(first, other)
                return first
        return self._known(self._holds(self._column(node)))

    def _not(self, operand: ast.expr) -> Any:
        """Where it does not hold: of a single column that is not known, neither does."""
        name = self._named(operand)
        values = None if name is None else self.table[name]
        if values is not None and self.arrow.types.is_boolean(values.type):
            return self._known(self.compute.invert(values))
        return self.compute.invert(self.truth(operand))

    def _known(self, found: Any) -> Any:
        return self.compute.fill_null(found, False)

    def _holds(self, values: Any) -> Any:
        """Of a column that is no condition: where it is there, not empty and not zero."""
        types, compute = self.arrow.types, self.compute
        if types.is_boolean(values.type):
            return values
        if types.is_list(values.type):
            return compute.greater(compute.list_value_length(values), 0)
        return compute.not_equal(values, "" if types.is_string(values.type) else 0)

    def _compared(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Any:
        compute = self.compute
        if isinstance(op, (ast.In, ast.NotIn)):
            found = self._within(left, right)
            return compute.invert(found) if isinstance(op, ast.NotIn) else found
        if self._named(left) is None and self._named(right) is None:
            raise self._wrong(ast.Compare(left, [op], [right]))
        one, other = self._side(left), self._side(right)
        equal = isinstance(op, (ast.Eq, ast.Is))
        if other is None or one is None:
            if not isinstance(op, (ast.Eq, ast.Is, ast.NotEq, ast.IsNot)) or one is other:
                raise self._wrong(ast.Compare(left, [op], [right]))
            missing = compute.is_null(one if other is None else other)
            return missing if equal else compute.invert(missing)
        if type(op) not in _COMPARISONS:
            raise self._wrong(ast.Compare(left, [op], [right]))
        try:
            return self._known(getattr(compute, _COMPARISONS[type(op)])(one, other))
        except (self.arrow.ArrowInvalid, self.arrow.ArrowNotImplementedError, self.arrow.ArrowTypeError):
            raise self._wrong(ast.Compare(left, [op], [right])) from None

    def _within(self, left: ast.expr, right: ast.expr) -> Any:
        """`column in (values)`, or `'part' in column`."""
        compute, arrow = self.compute, self.arrow
        if isinstance(right, (ast.Tuple, ast.List, ast.Set)):
            values = self._column(left)
            given = [self._constant(one) for one in right.elts]
            try:
                return self._known(compute.is_in(values, arrow.array(given, values.type)))
            except (arrow.ArrowInvalid, arrow.ArrowTypeError, arrow.ArrowNotImplementedError):
                raise self._wrong(right) from None
        values, part = self._column(right), self._constant(left)
        if arrow.types.is_list(values.type) and isinstance(part, str):
            values = compute.binary_join(values, "\n")
        if not isinstance(part, str) or not arrow.types.is_string(values.type):
            raise self._wrong(left)
        return self._known(compute.match_substring(values, part))

    def _side(self, node: ast.expr) -> Any:
        return self._column(node) if self._named(node) is not None else self._constant(node)

    def _constant(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(None | bool() | float() | str() as value):
                return value
            case ast.Constant(int() as value) if abs(value) < 2**63:
                return value
            case ast.UnaryOp(op, ast.Constant(int() | float() as value) as number) if type(op) in _SIGNS:
                self._constant(number)
                return _SIGNS[type(op)](value)
        raise self._wrong(node)

    def _named(self, node: ast.expr) -> str | None:
        """The column that is meant: max_sensitivity, max-sensitivity or deletion(steps=20)."""
        return None if isinstance(node, ast.Constant) else self.columns.get(_bare(ast.unparse(node)))

    def _column(self, node: ast.expr) -> Any:
        name = self._named(node)
        if name is None:
            raise self._wrong(node)
        values, compute = self.table[name], self.compute
        if self.arrow.types.is_floating(values.type):  # NaN is a value that is not known
            values = compute.if_else(compute.is_nan(values), self.arrow.scalar(None, values.type), values)
        return values

    def _wrong(self, node: ast.expr) -> ValueError:
        return ValueError(
            f"{ast.unparse(node)!r} in {self.condition!r} is no condition on the columns: there are "
            f"{', '.join(self.columns)}"
        )


def _bare(name: str) -> str:
    return name.replace(" ", "").replace("-", "_")

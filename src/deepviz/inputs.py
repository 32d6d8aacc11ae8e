"""What goes into a model: the tensors that are explained, and what goes along with them, row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

Rows = slice | Tensor
"""Some of the rows of a batch: a slice, or their numbers (n,), which may repeat."""
MOST_SPATIAL = 3


class Leaves(tuple[Tensor, ...]):
    """The explained tensors of one batch, in the order in which the model takes them, each (N, ...)."""

    __slots__ = ()

    def map(self, function: Callable[..., Tensor], *others: tuple[Tensor, ...]) -> Leaves:
        """`function` of each tensor, and of those at the same place in `others`."""
        return Leaves(function(*each) for each in zip(self, *others, strict=True))

    def rows(self, rows: Rows) -> Leaves:
        """Some of the rows of each."""
        return self.map(lambda leaf: leaf[rows])


@dataclass(frozen=True)
class Shared:
    """A part of `extra` that is the same for all rows; see `shared`."""

    value: Any


def shared(value: Any) -> Shared:
    """Mark a part of `extra` as the same for all images: a camera matrix, a vocabulary, a table of anchors.

    Example:
        >>> import torch
        >>> from deepviz import Inputs, shared
        >>> inputs = Inputs(torch.rand(4, 3, 8, 8), extra={"camera": shared(torch.eye(3))})
        >>> inputs.rows(slice(0, 2)).arguments()[1]["camera"].shape
        torch.Size([3, 3])
    """
    return Shared(value)


@dataclass(frozen=True, eq=False)
class Inputs:
    """The inputs of one call of a model: `x`, which is explained, and `extra`, which is passed along.

    Args:
        x: a tensor (N, ...); a tuple of them, given by position; or a mapping, given by keyword. Floating tensors are
            explained, others (token ids, masks) are carried along. Image-like tensors are (N, C, *space) with one to
            three spatial axes; any other floating tensor (a table) has gradients, but no picture.
        extra: what the model takes beside `x`: a tuple follows `x` by position, a mapping goes by keyword. Its tensors
            have one row per image and stay with their rows wherever those go; what is the same for all rows is
            `shared(value)`.
        columns: the names of a table's columns, for pictures: a sequence of them if `x` is the table, else a mapping
            from its position or keyword in `x`.

    Raises:
        TypeError: if `x` holds something else than tensors.
        ValueError: if there is nothing to explain, a tensor has not N rows, or holds NaN or infinity; if `columns` does
            not fit a table (N, F).

    Example:
        >>> import torch
        >>> from deepviz import Inputs
        >>> inputs = Inputs((torch.rand(2, 3, 8, 8), torch.rand(2, 5)), extra={"age": torch.tensor([30.0, 60.0])})
        >>> [tuple(leaf.shape) for leaf in inputs.leaves]
        [(2, 3, 8, 8), (2, 5)]
    """

    x: Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]
    extra: tuple[Any, ...] | Mapping[str, Any] | None = None
    columns: Sequence[str] | Mapping[int | str, Sequence[str]] | None = None

    def __post_init__(self) -> None:
        with torch.inference_mode(False):
            self._check()

    def _check(self) -> None:
        if isinstance(self.x, Inputs):
            raise TypeError("x is an Inputs already: give its tensors, or the Inputs itself where x is asked for")
        parts = self._parts()
        for name, part in parts.items():
            if not isinstance(part, Tensor):
                raise TypeError(
                    f"{name} must be a tensor (N, C, H, W), got {type(part).__name__}; for pictures use deepviz.explain"
                )
        plain = {name: plain_tensor(part) for name, part in parts.items()}
        self._put(list(plain.values()))
        if not self.leaves:
            first = next(iter(plain.values()), None)
            kind = "nothing" if first is None else str(first.dtype).removeprefix("torch.")
            raise ValueError(f"x must be floating point, got {kind}")
        for name, part in plain.items():
            _check_leaf(name, part)
            if len(part) != self.n:
                raise ValueError(f"{name} has {len(part)} rows, {next(iter(plain))} has {self.n}: give one per image")
        if isinstance(self.extra, (Tensor, Shared)):
            object.__setattr__(self, "extra", (self.extra,))
        if self.extra is not None:
            if not isinstance(self.extra, (tuple, list, Mapping)):
                raise TypeError(f"extra must be a tuple or a mapping, got {type(self.extra).__name__}")
            object.__setattr__(self, "extra", _checked_extra(self.extra, "extra", self.n))
        if isinstance(self.x, Mapping) and isinstance(self.extra, Mapping) and (both := set(self.x) & set(self.extra)):
            raise ValueError(f"{', '.join(sorted(both))} stand both in x and in extra")
        if self.columns is not None:
            self._check_columns()

    def _check_columns(self) -> None:
        """Keep `columns` as a mapping from the names of tensors."""
        given = self.columns if isinstance(self.columns, Mapping) else {None: self.columns}
        found = {}
        parts = self._parts()
        for key, names in given.items():
            name = "x" if key is None else f"x[{key!r}]"
            if name not in parts:
                known = ", ".join(repr(key) for key in (self.x if isinstance(self.x, Mapping) else range(len(parts))))
                raise ValueError(f"columns names no tensor of x: give a mapping with {known} as keys")
            if isinstance(names, str) or not all(isinstance(one, str) for one in names or ()):
                raise TypeError(f"the columns of {name} must be a sequence of names, got {names!r:.60}")
            shape = tuple(parts[name].shape)
            if shape[1:] != (len(names or ()),):
                raise ValueError(
                    f"{name} has {len(names or ())} columns' names, but is {shape}: give one for each of F"
                )
            found[name] = tuple(names or ())
        object.__setattr__(self, "columns", found)

    def columns_of(self, name: str) -> tuple[str, ...]:
        """The names of a table's columns, by one of `names`; nothing if they are not known.

        Example:
            >>> import torch
            >>> inputs = Inputs((torch.rand(2, 3, 8, 8), torch.rand(2, 2)), columns={1: ["age", "weight"]})
            >>> inputs.columns_of("x[1]"), inputs.columns_of("x[0]")
            (('age', 'weight'), ())
        """
        return tuple(self.columns.get(name, ())) if isinstance(self.columns, Mapping) else ()

    @property
    def n(self) -> int:
        """How many rows."""
        return len(next(iter(self._parts().values())))

    @property
    def leaves(self) -> Leaves:
        """The explained tensors."""
        return Leaves(part for part in self._parts().values() if part.is_floating_point())

    @property
    def names(self) -> tuple[str, ...]:
        """What errors and captions call each explained tensor: "x", "x[1]" or "x['left']"."""
        return tuple(name for name, part in self._parts().items() if part.is_floating_point())

    @property
    def alone(self) -> bool:
        """Whether `x` is a single tensor."""
        return isinstance(self.x, Tensor)

    @property
    def has_extra_rows(self) -> bool:
        """Whether `extra` holds tensors with a row per image."""
        found = []

        def note(tensor: Tensor) -> Tensor:
            found.append(tensor)
            return tensor

        _mapped(self.extra, note)
        return bool(found)

    def rows(self, rows: Rows) -> Inputs:
        """Some of the rows, each with its own part of `extra`."""
        return self._with([part[_on(rows, part)] for part in self._parts().values()], rows)

    def put(self, leaves: tuple[Tensor, ...]) -> Inputs:
        """The same with other values for the explained tensors."""
        new = iter(leaves)
        return self._with([next(new) if part.is_floating_point() else part for part in self._parts().values()])

    def at(self, leaves: tuple[Tensor, ...], rows: Rows) -> Inputs:
        """Other values (n, ...) for the explained tensors, each made of one row; the rest of that row goes along."""
        new = iter(leaves)
        parts = [next(new) if part.is_floating_point() else part[_on(rows, part)] for part in self._parts().values()]
        return self._with(parts, rows)

    def to(self, device: torch.device, dtype: torch.dtype) -> Inputs:
        """The same on a device, the explained tensors in a type."""
        moved = object.__new__(Inputs)
        object.__setattr__(moved, "x", self.x)
        object.__setattr__(moved, "extra", _moved(self.extra, device))
        object.__setattr__(moved, "columns", self.columns)
        moved._put([part.to(device, dtype if part.is_floating_point() else None) for part in self._parts().values()])
        return moved

    def map(self, function: Callable[[Tensor], Tensor]) -> Inputs:
        """The same with `function` of each explained tensor."""
        return self.put(self.leaves.map(function))

    def restore(self, leaves: tuple[Any, ...]) -> Any:
        """A value for each explained tensor in the structure of `x`; None where a tensor is only carried along."""
        new = iter(leaves)
        parts = [next(new) if part.is_floating_point() else None for part in self._parts().values()]
        if isinstance(self.x, Tensor):
            return parts[0]
        return dict(zip(self.x, parts, strict=True)) if isinstance(self.x, Mapping) else tuple(parts)

    def arguments(self, copy: bool = False) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The positional and keyword arguments of the model's call; as copies that it may write to, if asked for."""
        fresh = [part.clone() if copy else part for part in self._parts().values()]
        extra = _mapped(self.extra, lambda tensor: tensor.clone() if copy else tensor, unwrap=True)
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        if isinstance(self.x, Mapping):
            kwargs.update(zip(self.x, fresh, strict=True))
        else:
            args.extend(fresh)
        if isinstance(extra, Mapping):
            kwargs.update(extra)
        elif extra is not None:
            args.extend(extra)
        return tuple(args), kwargs

    def signature(self) -> tuple[Any, ...]:
        """What a batch is like apart from its values and the number of its rows."""
        names = tuple(self.x) if isinstance(self.x, Mapping) else len(self._parts())
        return names, *(_like(part) for part in self._parts().values()), *_signature(self.extra)

    def _parts(self) -> dict[str, Tensor]:
        if isinstance(self.x, Mapping):
            return {f"x[{name!r}]": part for name, part in self.x.items()}
        if isinstance(self.x, (tuple, list)):
            return {f"x[{place}]": part for place, part in enumerate(self.x)}
        return {"x": self.x}

    def _put(self, parts: list[Tensor]) -> None:
        x: Any = parts[0] if not isinstance(self.x, (tuple, list, Mapping)) else tuple(parts)
        if isinstance(self.x, Mapping):
            x = dict(zip(self.x, parts, strict=True))
        object.__setattr__(self, "x", x)

    def _with(self, parts: list[Tensor], rows: Rows | None = None) -> Inputs:
        """Unchecked: what is derived from checked inputs is right."""
        inputs = object.__new__(Inputs)
        object.__setattr__(inputs, "x", self.x)
        extra = self.extra if rows is None else _mapped(self.extra, lambda tensor: tensor[_on(rows, tensor)])
        object.__setattr__(inputs, "extra", extra)
        object.__setattr__(inputs, "columns", self.columns)
        inputs._put(parts)
        return inputs


def plain_tensor(tensor: Tensor) -> Tensor:
    """The values as a `torch.Tensor` proper, outside any graph: subclasses keep their type through most operators."""
    with torch._C.DisableTorchFunctionSubclass():
        if tensor.is_inference():
            tensor = tensor.clone()
        tensor = tensor.detach()
        return tensor if type(tensor) is Tensor else tensor.as_subclass(Tensor)


def is_image_like(leaf: Tensor) -> bool:
    """Whether a tensor is (N, C, *space) with one to three spatial axes."""
    return 1 <= leaf.ndim - 2 <= MOST_SPATIAL


def _check_leaf(name: str, part: Tensor) -> None:
    if part.ndim == 0 or 0 in part.shape:
        raise ValueError(f"{name} must be (N, C, H, W), got {tuple(part.shape)}")
    if part.is_complex():
        raise ValueError(f"{name} must be real, got {str(part.dtype).removeprefix('torch.')}")
    if part.is_floating_point() and not all(bool(torch.isfinite(extreme)) for extreme in part.aminmax()):
        raise ValueError(f"{name} holds NaN or infinity")


def _checked_extra(value: Any, name: str, n: int) -> Any:
    """`extra` with its tensors as plain ones, after a check that each has a row per image."""
    if isinstance(value, Shared):
        return replace(value, value=_mapped(value.value, plain_tensor))
    if isinstance(value, Mapping):
        return {key: _checked_extra(inner, f"{name}[{key!r}]", n) for key, inner in value.items()}
    if isinstance(value, (tuple, list)):
        parts = [_checked_extra(inner, f"{name}[{place}]", n) for place, inner in enumerate(value)]
        if name != "extra" and len(parts) == n > 1 and not any(isinstance(p, (Tensor, Shared)) for p in parts):
            raise ValueError(
                f"{name} is a list of as many values as there are images: give a tensor with one row per image, or "
                "deepviz.shared(value) if it is the same for all"
            )
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts) if name == "extra" else parts
    if isinstance(value, Tensor):
        if value.ndim > 0 and len(value) != n:
            raise ValueError(
                f"{name} has {len(value)} rows for {n} image{'s' if n > 1 else ''}, in {tuple(value.shape)}: give one "
                "row per image, or deepviz.shared(value) if it is the same for all"
            )
        return plain_tensor(value)
    if hasattr(value, "__array__") and getattr(value, "ndim", 0) > 0:
        raise TypeError(f"{name} is an array: give a tensor with one row per image, or deepviz.shared(value)")
    return value


def _mapped(value: Any, function: Callable[[Tensor], Tensor], unwrap: bool = False) -> Any:
    """`function` of every tensor that has rows; what is shared is left as it is, or unwrapped."""
    if isinstance(value, Shared):
        return _mapped(value.value, function) if unwrap else value
    if isinstance(value, Tensor):
        return function(value) if value.ndim > 0 else value
    if isinstance(value, Mapping):
        return {key: _mapped(inner, function, unwrap) for key, inner in value.items()}
    if isinstance(value, (tuple, list)):
        parts = [_mapped(inner, function, unwrap) for inner in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def _moved(value: Any, device: torch.device) -> Any:
    """`extra` with all of its tensors on a device."""
    if isinstance(value, Shared):
        return replace(value, value=_moved(value.value, device))
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _moved(inner, device) for key, inner in value.items()}
    if isinstance(value, (tuple, list)):
        parts = [_moved(inner, device) for inner in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def _signature(value: Any) -> Iterator[Any]:
    if isinstance(value, Shared):
        yield "shared"
        value = value.value
    if isinstance(value, Tensor):
        yield _like(value)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield key
            yield from _signature(inner)
    elif isinstance(value, (tuple, list)):
        for inner in value:
            yield from _signature(inner)
    else:
        yield type(value)


def _like(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape[1:]), tensor.dtype, tensor.device


def _on(rows: Rows, tensor: Tensor) -> Rows:
    return rows.to(tensor.device) if isinstance(rows, Tensor) else rows

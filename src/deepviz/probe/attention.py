"""Attention, found where it is computed: softmax(q k^T) v, in whatever way and under whatever name a model does it.

`Attending` sees every torch operator that is called inside it. `scaled_dot_product_attention`, fused or not, is run in
its explicit form, `multi_head_attention_forward` by its parts, and of a softmax over the last axis it is followed
until it multiplies values (`matmul`, `bmm`, `@`, `einsum`); so there is a matrix A, (n, heads, queries, keys), in the
graph. Which of them are layers of a transformer on the image's tokens is found once per model, input shape and kind of
question (`attentions_of`), and checked: the explicit form must give the model's scores, the tokens must lie on the
image as `deepviz.probe.places` checks it, in the first layer and in the last.
"""

from __future__ import annotations

import math
import types
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from deepviz.errors import DeepVizError, NoAttention
from deepviz.probe.capture import answering, spatial_tensor, with_tensor
from deepviz.probe.gradient import Independent, differentiate, fresh_leaf
from deepviz.probe.grid import Grid, Size
from deepviz.probe.layers import on_noise
from deepviz.probe.operators import POINTWISE, operator_name, tensors_in
from deepviz.probe.places import place
from deepviz.probe.seen import Seen
from deepviz.probe.state import Memory
from deepviz.probe.watch import Watch, hooked

if TYPE_CHECKING:
    from deepviz.probe.session import Session

_SAME_NUMBERS = POINTWISE | {"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "expand"}
"""Operators after which a softmax is still followed."""

# the function's own code, without the question whether somebody overrides it, which would be asked again and again
_MULTI_HEAD = types.FunctionType(
    F.multi_head_attention_forward.__code__,
    {**vars(F), "has_torch_function": lambda _: False},
    "multi_head_attention_forward",
    F.multi_head_attention_forward.__defaults__,
)
_MULTI_HEAD.__kwdefaults__ = F.multi_head_attention_forward.__kwdefaults__


@dataclass(frozen=True, eq=False)
class Attended:
    """One computation of attention: the matrix, and the values that it multiplies.

    Args:
        number: which one of the forward pass, from 0 up.
        A: (..., queries, keys).
        v: the values; one of its axes holds the keys.
        axis: that axis.
    """

    number: int
    A: Tensor
    v: Tensor
    axis: int

    @property
    def tokens(self) -> Tensor:
        """The values (keys, D) of one image."""
        return self.v.movedim(self.axis, 0).flatten(1)


class Attending(TorchFunctionMode):
    """Inside this scope, `respond` hears of every attention, and returns the matrix that multiplies the values.

    Args:
        respond: called with each `Attended`.
    """

    def __init__(self, respond: Callable[[Attended], Tensor]) -> None:
        super().__init__()
        self.respond = respond
        self.count = 0
        self._softmaxes = 0
        self._softmax: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._unused: dict[int, tuple[int, ...]] = {}

    @property
    def unused(self) -> list[tuple[int, ...]]:
        """Shapes of square softmaxes that multiplied no values as they were."""
        return list(self._unused.values())

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        name = operator_name(func)
        if name == "multi_head_attention_forward":
            with self:
                return _MULTI_HEAD(*args, **given)
        if name == "scaled_dot_product_attention":
            return self._fused(*args, **given)
        if self._softmax and name in ("matmul", "bmm", "einsum"):
            args = self._multiplied(name, args)
        result = func(*args, **given)
        self._follow(name, args, given, result)
        return result

    def _fused(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
        **_: Any,
    ) -> Tensor:
        A = weights(query, key, attn_mask, is_causal, scale, enable_gqa).to(value.dtype)
        if enable_gqa:
            value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
        return F.dropout(self._heard(A, value, value.ndim - 2), dropout_p) @ value

    def _heard(self, A: Tensor, v: Tensor, axis: int) -> Tensor:
        self.count += 1
        return self.respond(Attended(self.count - 1, A, v, axis))

    def _multiplied(self, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The operands of a product, with what `respond` makes of a softmax that multiplies values."""
        first = 1 if name == "einsum" else 0
        operands = args[first:]
        if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
            operands = tuple(operands[0])
        if len(operands) != 2:
            return args
        A, v = operands
        if not isinstance(A, Tensor) or not isinstance(v, Tensor) or A not in self._softmax:
            return args
        axis = v.ndim - 2 if name != "einsum" else _summed(args[0], A.ndim, v.ndim)
        if axis is None or axis < 0 or v.shape[axis] != A.shape[-1]:
            return args
        self._unused.pop(self._softmax[A], None)
        return (*args[:first], self._heard(A, v, axis), v)

    def _follow(self, name: str, args: tuple[Any, ...], given: dict[str, Any], result: Any) -> None:
        if name in ("softmax", "safe_softmax") and isinstance(result, Tensor):
            dim = given.get("dim", args[1] if len(args) > 1 else None)
            if result.ndim >= 3 and result.shape[-1] > 1 and dim in (-1, result.ndim - 1):
                self._softmaxes += 1
                self._softmax[result] = number = self._softmaxes
                if result.shape[-1] == result.shape[-2]:
                    self._unused[number] = tuple(result.shape)
        elif self._softmax and name in _SAME_NUMBERS and isinstance(result, Tensor):
            for operand in tensors_in(args):
                if operand in self._softmax and result.shape[-1] == operand.shape[-1]:
                    self._softmax[result] = self._softmax[operand]


def weights(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    grouped: bool = False,
) -> Tensor:
    """softmax(q k^T), the matrix that `scaled_dot_product_attention` multiplies the values with.

    Args:
        query: (..., queries, d).
        key: (..., keys, d).
        mask: boolean, True where a query may see a key, or what is added.
        causal: whether a query sees no later key.
        scale: of the products; None for 1/sqrt(d).
        grouped: whether several heads of queries share one head of keys.
    """
    if grouped:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scores = query * (query.shape[-1] ** -0.5 if scale is None else scale) @ key.transpose(-2, -1)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is None:
        return scores.softmax(-1)
    scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    # zero, as in the fused operator, for a query that may see nothing
    return torch._safe_softmax(scores, -1)


def _summed(equation: Any, left: int, right: int) -> int | None:
    """The axis of the right operand over which it is summed with the last axis of the left one; None if another is."""
    if not isinstance(equation, str) or "->" not in equation or "." in equation:
        return None
    operands, result = equation.replace(" ", "").split("->")
    a, v = operands.split(",")
    if (len(a), len(v)) != (left, right) or [letter for letter in a if letter in v and letter not in result] != [a[-1]]:
        return None
    return v.index(a[-1])


@dataclass(frozen=True)
class AttentionLayer:
    """One layer of a transformer.

    Args:
        number: which attention of the forward pass it is.
        name: the module that computes it.
        block: the outermost module that computes this attention alone and returns its tokens; "" if there is none.
        heads: how many matrices there are for an image.
    """

    number: int
    name: str
    block: str
    heads: int


@dataclass(frozen=True)
class Attentions:
    """The layers of a transformer, and how their tokens lie on the image.

    Args:
        layers: those in which T tokens attend to each other, in their order.
        pool: the one after them, in which a few learned queries attend to the tokens, if there is one.
        grid: where the tokens lie.
        read: positions of the tokens that the score reads after the last layer: a class token, or all that are
            averaged; () where `pool` reads them.
        known: how the grid is known.
        total: computations of attention in a forward pass, others included (of a text, for instance).
    """

    layers: tuple[AttentionLayer, ...]
    pool: AttentionLayer | None
    grid: Grid
    read: tuple[int, ...]
    known: str
    total: int

    @property
    def tokens(self) -> int:
        """How many there are, those that are not the image's included."""
        return self.grid.cells + len(self.grid.skip)

    @property
    def numbers(self) -> list[int]:
        """Of all layers, the pooling one last."""
        return [layer.number for layer in (*self.layers, *([self.pool] if self.pool else []))]

    def __str__(self) -> str:
        heads = sorted({layer.heads for layer in self.layers})
        said = []
        if heads:
            number = str(heads[0]) if len(heads) == 1 else f"{heads[0]} to {heads[-1]}"
            layers = "1 layer" if len(self.layers) == 1 else f"{len(self.layers)} layers"
            said.append(f"{layers} of {number} head{'s' * (number != '1')}")
        if self.pool is not None:
            said.append("a pooling layer")
        if self.read and len(self.read) < self.tokens:
            plural = "s" * (len(self.read) > 1)
            several = len(self.read) > 4
            said.append(
                f"{len(self.read)} tokens are read"
                if several
                else f"the score reads token{plural} {', '.join(map(str, self.read))}"
            )
        elif self.read:
            said.append("the score reads all tokens")
        return ", ".join(said)

    def on_image(self, values: Tensor) -> Tensor:
        """A number for each token, (n, T), as maps (n, 1, *grid)."""
        return self.grid.maps(values.unsqueeze(-1))


_found: Memory[Attentions | str] = Memory()


def attentions_of(session: Session) -> Attentions:
    """The model's layers of attention between the image and the score; found with noise, once.

    It costs two forward passes of one image, a backward pass, and the place checks of the first layer and the last, at
    most 12 backward passes each.

    Raises:
        NoAttention: if there are none, or they are of a kind that these methods are not defined for.
    """
    key = (session.state, session.inputs.signature(), session.score.question)
    found = _found.once(session.model, key, lambda: _search(session))
    if isinstance(found, str):
        raise NoAttention(found)
    return found


def attended(
    session: Session, found: Attentions, respond: Callable[[Attended], Tensor] | None = None
) -> tuple[Seen, list[Tensor]]:
    """One forward pass of the rows of a chunk.

    Args:
        session: the chunk.
        found: the layers of its model.
        respond: returns the matrix to go on with; by default the same.

    Returns:
        What the pass showed, and A of each layer, the pooling one last, as the model lays it out (see `by_head`) and
        part of the graph, if there is one.

    Raises:
        NoAttention: if the model computes another number of attentions than in the search.
    """
    heard: list[Tensor] = []
    numbers = set(found.numbers)

    def hear(one: Attended) -> Tensor:
        if one.number not in numbers:
            return one.A
        A = one.A if respond is None else respond(one)
        heard.append(A)
        return A

    with Attending(hear) as mode:
        seen = session.look()
    _check_count(mode, found)
    return seen, heard


def gradients(values: Tensor, A: list[Tensor]) -> Iterator[list[Tensor]]:
    """dS/dA of each layer, for one objective after the other.

    Args:
        values: the scores, (n,) or (n, K).
        A: the matrices, with a graph up to the scores.

    Raises:
        Independent: if a score depends on none of them.
    """
    if not all(one.requires_grad for one in A):
        raise Independent("the model's attention has no gradient")
    columns = values.unbind(1) if values.ndim == 2 else (values,)
    for k, column in enumerate(columns):
        if not column.requires_grad:
            raise Independent("the score does not depend on the input in a differentiable way")
        found = differentiate(column.sum(), A, k < len(columns) - 1)
        if all(gradient is None for gradient in found):
            raise Independent("the score does not depend on the model's attention in a differentiable way")
        yield [torch.zeros_like(one) if gradient is None else gradient for one, gradient in zip(A, found, strict=True)]


def by_head(A: Tensor, rows: int) -> Tensor:
    """A matrix, or the gradient at it, as (n, heads, queries, keys), in float32 at least."""
    return A.reshape(rows, -1, *A.shape[-2:]).to(torch.promote_types(A.dtype, torch.float32))


def tokens_of(session: Session, found: Attentions) -> Tensor:
    """The tokens that the last layer returns for the rows of a chunk, (n, T, D), in float32 at least.

    Raises:
        NoAttention: if it is in no module of its own.
    """
    (block,) = _blocks(found)[-1:]
    Z: list[Tensor] = []

    def remember(inputs: Any, output: Any) -> None:
        answer = spatial_tensor(output)
        assert answer is not None
        # a copy: what follows may work in place
        Z.append(_rows_first(answer, session.n, found).clone())

    # the scope keeps PyTorch's own transformer layers from skipping their parts
    with answering(session.model, block, remember), Attending(lambda one: one.A):
        check_target(session, session.look())
    return Z[0].to(torch.promote_types(Z[0].dtype, torch.float32))


def check_target(session: Session, seen: Seen) -> None:
    """Refuse a class that the model does not have, for methods that do not read the score."""
    if session.score.decided:
        session.read(seen)


def layer_scores(session: Session, found: Attentions) -> Iterator[list[Tensor]]:
    """dS_l/dA_l of each layer, as the model lays it out, for one objective after the other.

    S_l is the score of layer l's own tokens: what follows the last layer is given the mean of them in the place of
    every token. Where a layer pools the tokens, it is given the tokens, and A_l is its matrix. No layer's tokens have a
    graph to the layer before. What follows the last layer gets those of all layers as rows of one batch, so that it
    takes one forward and one backward pass; one layer at a time where that gives other scores.

    Raises:
        NoAttention: if a layer is in no module of its own that returns its tokens.
    """
    every = range(len(_blocks(found)))
    if _batched(session, found):
        try:
            values, A = _ending(session, found, every)
        except DeepVizError:
            pass  # what follows may know how many rows there are
        else:
            yield from gradients(values, A)
            return
    objectives: list[list[Tensor]] = []
    for number in every:
        values, A = _ending(session, found, [number])
        objectives.append([one for (one,) in gradients(values, A)])
    for layers in zip(*objectives, strict=True):
        yield list(layers)


_batches: Memory[bool] = Memory()


def _batched(session: Session, found: Attentions) -> bool:
    """Whether what follows the last layer gives the same scores for the tokens of all layers in one batch; found once,
    in two passes of the first row."""
    if session.habits.most is not None:
        return False
    key = (session.state, session.inputs.signature(), session.score.question)

    def look() -> bool:
        one, last = session.take(torch.tensor([0])), len(found.layers) - 1
        try:
            with torch.no_grad():
                together, _ = _ending(one, found, range(last + 1))
                apart, _ = _ending(one, found, [0])
        except DeepVizError:
            return False
        return bool((together[:1] - apart).abs().max() <= session.rounding * apart.abs().max())

    return _batches.once(session.model, key, look)


def _ending(session: Session, found: Attentions, numbers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """The scores of the tokens of some layers, (layers * n,) or (layers * n, K), and the matrices that are their
    leaves; of a pooling layer, a part of its matrix for each layer."""
    blocks, n = _blocks(found), session.n
    Z: list[Tensor] = []
    A: list[Tensor] = []
    wanted = {found.pool.number} if found.pool else {found.layers[number].number for number in numbers}
    returns = 0

    def hear(one: Attended) -> Tensor:
        if one.number not in wanted:
            return one.A
        if found.pool is None:
            A.append(fresh_leaf(one.A))
            return A[-1]
        # with a leaf for each layer's rows, so that each has a gradient of its own
        A.extend(fresh_leaf(part) for part in one.A.chunk(len(numbers)))
        return torch.cat(A)

    def returned(inputs: Any, output: Any) -> Any:
        nonlocal returns
        answer = spatial_tensor(output)
        assert answer is not None
        if returns in numbers:
            Z.append(answer)
        returns += 1
        if returns < len(blocks):
            # a copy: the next layer may work in place
            return with_tensor(output, answer.detach().clone())
        tokens = torch.cat([_rows_first(one, n, found) for one in Z])
        if found.pool is None:
            tokens = tokens.mean(1, keepdim=True).expand_as(tokens)
        return with_tensor(output, tokens if answer.shape[0] == n else tokens.transpose(0, 1))

    with ExitStack() as stack:
        for block in blocks:
            stack.enter_context(answering(session.model, block, returned))
        mode = stack.enter_context(Attending(hear))
        output = session.call.run(session.inputs)
    _check_count(mode, found)
    rows = torch.arange(n).repeat(len(numbers))
    wide = session.at(session.x.map(lambda leaf: leaf[rows.to(leaf.device)]), rows)
    return wide.read(Seen(output, wide.x, {}, wide.kind)), A


def _blocks(found: Attentions) -> list[str]:
    for layer in found.layers:
        if not layer.block:
            raise NoAttention(
                f"{layer.name} is in no module that computes its attention alone and returns its {found.tokens} "
                "tokens, so the layer's tokens cannot be read; use GenericAttention"
            )
    return [layer.block for layer in found.layers]


def _rows_first(tokens: Tensor, rows: int, found: Attentions) -> Tensor:
    """Tokens (n, T, D), of a module that may return (T, n, D).

    Raises:
        NoAttention: for another shape.
    """
    if tuple(tokens.shape[:2]) == (rows, found.tokens):
        return tokens
    if tuple(tokens.shape[:2]) == (found.tokens, rows):
        return tokens.transpose(0, 1)
    raise NoAttention(f"a layer returns {tuple(tokens.shape)} for {rows} images of {found.tokens} tokens")


def _check_count(mode: Attending, found: Attentions) -> None:
    if mode.count != found.total:
        raise NoAttention(
            f"the model computes attention {mode.count} times for these images, and {found.total} times for noise of "
            "the same shape: its layers depend on the image, so they cannot be told apart"
        )


@dataclass(frozen=True)
class _Placed:
    """A grid, and how it is known."""

    grid: Grid
    known: str


@dataclass(frozen=True, eq=False)
class _Heard:
    """One attention in the search, and the modules that it was computed in, the outermost first."""

    one: Attended
    modules: list[nn.Module]
    depends: bool


def _search(session: Session) -> Attentions | str:
    for name, module in session.model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            return (
                f"{name or 'the model'} is a scripted or traced module, whose attention cannot be seen; use the "
                "original nn.Module, or another method (Gradient, GradCAM)"
            )
    try:
        return on_noise(session, _look)
    except NoAttention as error:
        return str(error)


def _look(part: Session) -> Attentions:
    """One forward pass, in which all attentions and all modules are heard.

    Raises:
        NoAttention: as `attentions_of` does.
    """
    with torch.no_grad():
        part.find_grids()
        plain = part.read(part.look())
    leaves = part.x.map(fresh_leaf)
    laid = replace(part, inputs=part.inputs.put(leaves))
    image = laid.image()
    watch = Watch()
    watch.start(image)
    heard: list[_Heard] = []
    names: dict[nn.Module, str] = {}
    returned: dict[nn.Module, tuple[int, ...]] = {}
    known: list[Size] = []

    def hear(one: Attended) -> Tensor:
        heard.append(_Heard(one, list(watch.running), watch.depends(one.v)))
        return one.A

    def answered(name: str, module: nn.Module, output: Any) -> None:
        tensor = spatial_tensor(output)
        names.setdefault(module, name)
        if tensor is None:
            return
        returned[module] = tuple(tensor.shape)
        if watch.depends(tensor) and tensor.ndim == image.ndim and len(tensor) == 1 and tensor[0, 0].numel() > 1:
            known.append(tuple(tensor.shape[2:]))

    with hooked(part.model, watch, answered), watch, Attending(hear) as mode:
        seen = laid.look()
    values = laid.read(seen)
    _check_same(part, plain, values)
    chosen, arriving = _on_the_way(heard, values, mode)
    named = {one: names[one.modules[-1]] if one.modules else "the model" for one in chosen}
    shapes = {one: _shape(one.one, named[one]) for one in chosen}
    layers, pool = _layers(chosen, shapes, named)
    _check_sequence(chosen, named)
    ends = [layers[-1], layers[0]] if layers else chosen
    length = shapes[ends[0]][2]
    last, *others = [_placed(one, named[one], image, known) for one in dict.fromkeys(ends)]
    for other in others:
        if other.grid != last.grid:
            raise NoAttention(f"its tokens lie as {other.grid} in the first layer and as {last.grid} in the last")
    runs = Counter(module for one in chosen for module in one.modules)

    def layer(one: _Heard) -> AttentionLayer:
        alone = [module for module in one.modules if runs[module] == 1]
        outer = (names[module] for module in alone if _holds(returned.get(module, ()), length))
        return AttentionLayer(one.one.number, named[one], next(outer, ""), shapes[one][0])

    return Attentions(
        layers=tuple(map(layer, layers)),
        pool=None if pool is None else layer(pool),
        grid=last.grid,
        read=_read(arriving[layers[-1]], length) if pool is None else (),
        known=last.known,
        total=mode.count,
    )


def _check_same(part: Session, plain: Tensor, values: Tensor) -> None:
    """The explicit form of attention gives the scores of the model as it is.

    Raises:
        NoAttention: with the size of the difference.
    """
    scale = plain.abs().max().clamp_min(torch.finfo(plain.dtype).tiny)
    unlike = float((values.detach() - plain).abs().max() / scale)
    if unlike <= part.rounding:
        return
    with torch.no_grad():
        again = part.read(part.look())
    if unlike > 10 * float((again - plain).abs().max() / scale):  # else the model itself is not repeatable
        raise NoAttention(
            f"with its attention in explicit form, softmax(q k^T) v, the model's scores differ by {unlike:.2g} of "
            "their scale: it computes something else"
        )


def _on_the_way(heard: list[_Heard], values: Tensor, mode: Attending) -> tuple[list[_Heard], dict[_Heard, Tensor]]:
    """The attentions between the image and the score, and the gradients that arrive at their matrices.

    Raises:
        Independent: if none has a gradient, though there are some.
        NoAttention: if there is none, or not all were heard.
    """
    if mode.unused:
        shape = mode.unused[0]
        raise NoAttention(
            f"it goes on to change {len(mode.unused)} of its attention matrices, such as one {shape}, after the "
            "softmax (talking heads?), or multiplies no values with them, which these methods are not defined for"
        )
    on_image = [one for one in heard if one.depends]
    if not on_image:
        raise NoAttention(
            "it computes no attention on the image that can be seen, softmax(q k^T) v; use another method (Gradient, "
            "GradCAM)"
        )
    alive = [one for one in on_image if one.one.A.requires_grad]
    if not alive or not values.requires_grad:
        raise Independent("the score does not depend on the image's attention in a differentiable way")
    # of one target: the sum of several may be a constant
    found = differentiate(values.flatten()[0], [one.one.A for one in alive], keep=True)
    arriving = {one: gradient for one, gradient in zip(alive, found, strict=True) if gradient is not None}
    if not arriving:
        raise NoAttention("the score does not depend on its attention to the image; use another method")
    return list(arriving), arriving


def _shape(one: Attended, name: str) -> tuple[int, int, int]:
    """Heads, queries and keys of one image.

    Raises:
        NoAttention: if the image's tokens are in several windows.
    """
    *lead, queries, keys = one.A.shape
    if len(lead) == 1:
        return lead[0], queries, keys
    windows = math.prod(lead[:1] + lead[2:])
    if windows > 1:
        raise NoAttention(
            f"{name} computes attention within {windows} windows of {keys} tokens, which methods of "
            "attention between all tokens are not defined for; use GradCAM"
        )
    return math.prod(lead[1:2]), queries, keys


def _layers(
    chosen: list[_Heard], shapes: dict[_Heard, tuple[int, int, int]], named: dict[_Heard, str]
) -> tuple[list[_Heard], _Heard | None]:
    """The layers in which T tokens attend to each other, and the one that pools them.

    Raises:
        NoAttention: if tokens are merged, or there are others.
    """
    layers = [one for one in chosen if shapes[one][1] == shapes[one][2]]
    others = [one for one in chosen if shapes[one][1] != shapes[one][2]]
    lengths = list(dict.fromkeys(shapes[one][2] for one in layers))
    if len(lengths) > 1:
        raise NoAttention(
            f"it merges or adds tokens between its layers ({', '.join(map(str, lengths))} tokens), which methods of "
            "attention between all tokens are not defined for; use GradCAM"
        )
    if not others:
        return layers, None
    pool = others[-1]
    if len(others) > 1 or pool is not chosen[-1] or (lengths and shapes[pool][2] != lengths[0]):
        other = next((one for one in others if one is not pool), pool)
        _, queries, keys = shapes[other]
        raise NoAttention(
            f"in {named[other]} {queries} queries attend to {keys} keys: only layers in which all tokens attend to "
            "each other, and one that pools them at the end, are followed; use GradCAM"
        )
    return layers, pool


def _check_sequence(chosen: list[_Heard], named: dict[_Heard, str]) -> None:
    """Each layer attends to what the one before it returned.

    Raises:
        NoAttention: if two are computed side by side, as of two crops of an image, or the queries of a decoder attend
            to the tokens again.
    """
    for before, after in pairwise(chosen):
        # not the sum, which is the same whatever is attended to
        (gradient,) = differentiate(after.one.A.square().sum(), [before.one.A], keep=True)
        if gradient is None:
            raise NoAttention(
                f"{named[before]} and {named[after]} are computed side by side, and only layers that follow each other "
                "are followed; use GradCAM"
            )
        v = after.one.v
        (gradient,) = differentiate(v.square().sum(), [before.one.A], keep=True) if v.requires_grad else (None,)
        if gradient is None:
            raise NoAttention(
                f"the queries of {named[after]} come from {named[before]}, but the tokens that they attend to do not "
                "(a decoder?), and only layers that follow each other are followed; use GradCAM"
            )


def _placed(one: _Heard, name: str, image: Tensor, known: Sequence[Size]) -> _Placed:
    """How the tokens that a layer attends to lie on the image.

    Raises:
        NoAttention: if they do not, as far as can be told.
    """
    found = place(one.one.tokens[None], image, known, kind="tokens")
    if found.grid is None:
        raise NoAttention(
            f"the {one.one.A.shape[-1]} tokens that {name} attends to were not found on the image: {found.reason}; use "
            "another method (Gradient, GradCAM)"
        )
    return _Placed(found.grid, found.known)


def _read(arriving: Tensor, length: int) -> tuple[int, ...]:
    """The tokens whose row of the last matrix has a gradient: those that the score reads.

    Raises:
        NoAttention: if there are none.
    """
    at = arriving.abs().reshape(-1, length, length).amax((0, 2))
    if not bool(at.any()):
        raise NoAttention("no gradient arrives at its last layer of attention: is its classifier untrained, all zeros?")
    least = 8 * torch.finfo(at.dtype).eps * at.max()
    return tuple(torch.nonzero(at > least).flatten().tolist())


def _holds(shape: tuple[int, ...], length: int) -> bool:
    """Whether an answer for one image, (1, T, D) or (T, 1, D), holds all tokens."""
    return len(shape) == 3 and sorted(shape[:2]) == sorted((1, length))

"""One borrowed model, one batch of inputs, and what is explained of them: values, gradients, in chunks of rows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from deepviz.diagnostics import Diagnostics
from deepviz.errors import LayerError, ModelError
from deepviz.inputs import Inputs, Leaves, Rows, is_image_like
from deepviz.options import Baseline
from deepviz.probe.border import PastNoGrad, contiguous_at_batch_norm, refuse_inference_tensors
from deepviz.probe.borrow import borrowed, original
from deepviz.probe.call import Call
from deepviz.probe.capture import answering, layer_name, refuse_graphs, spatial_tensor
from deepviz.probe.chunks import RowBuffer, chunk_rows, in_chunks
from deepviz.probe.fast import FACT, FastCopy, fast_copy, refuse
from deepviz.probe.gradient import Independent, backward, broken, coverage_of, fresh_leaf, note_coverage
from deepviz.probe.grid import Grid, as_maps
from deepviz.probe.held import Held
from deepviz.probe.layer_names import path_of
from deepviz.probe.layers import grids_of
from deepviz.probe.outputs import Kind, check_kind, stated_kind
from deepviz.probe.precision import rounding
from deepviz.probe.reference import reference
from deepviz.probe.rows import Habits, habits_of
from deepviz.probe.rules import Override, Rule, refuse_scripted
from deepviz.probe.seen import Seen
from deepviz.probe.state import Memory, State, Survey, survey

T = TypeVar("T")
Value = Literal["probability", "score"]
"""What of the model's output is read: the probability of the explained class, or its score, the logit."""
VALUES: tuple[Value, Value] = ("score", "probability")
Precision = Literal["full", "bfloat16"]
"""The forward passes as the model is, or under bfloat16 autocast: faster, with three significant digits."""

_odd_layouts: Memory[bool] = Memory()


@dataclass(eq=False)
class Known:
    """What one call found out about its model, shared by every session that is made of another.

    Args:
        survey: what the model is like.
        habits: how the model treats the rows of a batch.
        past_no_grad: whether gradients are taken past the model's own `no_grad`.
        has_no_grad: False once it is known that the model has none on its way.
        looked: whether the inputs were looked at as they are.
        values: what was found of them.
        fast: whether fast copies of the model may be used.
        copies: those that were asked for, by kind of inputs; None where there is none.
        held: a pass of the inputs as they are, if one was made before the call.
    """

    survey: Survey | None = None
    habits: Habits | None = None
    past_no_grad: bool = False
    has_no_grad: bool = True
    looked: bool = False
    values: dict[tuple[Any, ...], Tensor] = field(default_factory=dict)
    grids: dict[str, Grid | None] = field(default_factory=dict)
    fast: bool = True
    copies: dict[Hashable, FastCopy | None] = field(default_factory=dict)
    held: Held | None = None


@dataclass(frozen=True, eq=False)
class Session:
    """A borrowed model, a batch of inputs, and what is explained of each row.

    Everything that a method or metric asks of a model goes through it: chunks, memory layout, extra inputs and
    targets that stay with their rows, and models that mix the rows of a batch.

    Args:
        call: the borrowed model and the notes of the result.
        inputs: N rows; `x` are the explained tensors.
        score: what is explained of each row, (N,) values or (N, K) for K objectives.
        known: what was found out about the model; not to be given.
        copy: the fast copy that `call` holds in place of the model; not to be given.
    """

    call: Call
    inputs: Inputs
    score: Any
    kind: Kind = "auto"
    known: Known = field(default_factory=Known)
    copy: FastCopy | None = None

    @property
    def model(self) -> nn.Module:
        """The borrowed module."""
        return self.call.model

    @property
    def notes(self) -> Diagnostics:
        """Where findings and warnings go."""
        return self.call.notes

    @property
    def x(self) -> Leaves:
        """The explained tensors, each (N, ...)."""
        return self.inputs.leaves

    @property
    def n(self) -> int:
        """How many rows."""
        return self.inputs.n

    @property
    def several(self) -> bool:
        """Whether K objectives are explained, so that results are (N, K, ...)."""
        return len(self.score.shape) > 0

    @property
    def rounding(self) -> float:
        """How far values of the model that should be the same may be apart, of their scale."""
        parameters = {parameter.dtype for parameter in self.model.parameters()}
        return max(rounding(leaf, *parameters) for leaf in self.x)

    def image(self) -> Tensor:
        """The image-like input (N, C, *space) that the map of a layer, or of masks, lies on.

        Raises:
            LayerError: if there is none, or more than one.
        """
        images = [leaf for leaf in self.x if is_image_like(leaf)]
        if len(images) != 1:
            shapes = ", ".join(str(tuple(leaf.shape)) for leaf in self.x)
            raise LayerError(
                f"this map lies on one image-like input (N, C, *space), and {len(images)} of these are: {shapes}; "
                "give the others as extra="
            )
        return images[0]

    def beside(self, leaf: Tensor) -> Tensor:
        """An explained tensor (N, ...) so that it multiplies a gradient of it: (N, 1, ...) for K objectives."""
        return leaf.unsqueeze(1) if self.several else leaf

    # other rows, other values

    def take(self, rows: Rows) -> Session:
        """The session of some of the rows; what a slice of them decides (the predicted class) is decided here too."""
        return replace(self, inputs=self.inputs.rows(rows), score=self.score.take(rows))

    def at(self, x: tuple[Tensor, ...], rows: Rows) -> Session:
        """The session of other values for some of the rows: points of a path, noisy copies.

        Args:
            x: the explained tensors, (n, ...) each.
            rows: (n,), the row that each was made of; its extra inputs and its target go along.
        """
        return replace(self, inputs=self.inputs.at(x, rows), score=self.score.take(rows))

    def with_image(self, image: Tensor) -> Session:
        """The same rows with another image, of the same shape."""
        rows = torch.arange(self.n)
        return self.at(self._around(image, rows), rows)

    def aside(self) -> Session:
        """The same for a method inside another: its findings by row are not ours."""
        return replace(self, call=self.call.aside())

    def each(self) -> list[Session]:
        """K sessions of one objective each."""
        return [replace(self, score=one) for one in self.score.each()]

    def with_notes(self, notes: Diagnostics) -> Session:
        """The same with other notes."""
        return replace(self, call=replace(self.call, notes=notes))

    def of_model(self, model: nn.Module) -> Session:
        """The same question to another model, which must be in eval mode: a copy with other weights."""
        # its weights change too often for a fast copy
        known = replace(self.known, survey=None, looked=False, values={}, fast=False, held=None)
        return replace(self, call=Call(model, Diagnostics()), known=known)

    def to_layout(self) -> Session:
        """The same with inputs in the memory layout that suits machine and model."""
        return replace(self, inputs=self.inputs.map(self.call.to_layout))

    # chunks

    @property
    def habits(self) -> Habits:
        """Whether rows may go through the model together; found once per model, shape and kind of question."""
        if self.known.habits is None:
            self.find_grids()
            self.known.habits = habits_of(self)
        return self.known.habits

    def quickly(self, compute: Callable[[Session], T], *layers: str) -> T:
        """`compute` of a session whose model is the fast copy, or of this one where there is none.

        Args:
            compute: may be called again, with this session, if it fails on the copy.
            layers: those that it looks at, beside those of the objectives.
        """
        copy = self._fast_copy()
        if copy is None or not copy.changed.isdisjoint(map(path_of, (*layers, *self.score.layers))):
            return compute(self)
        try:
            found = compute(replace(self, copy=copy, call=replace(self.call, model=copy.model)))
        except torch.OutOfMemoryError:
            raise
        except Exception:
            failed = True
        else:
            self.notes.facts[FACT] = copy.remark
            return found
        # outside the handler, so that the failed attempt's tensors are no longer held by its traceback
        found = compute(self)
        if failed:
            refuse(self)
            self.known.fast = False
        return found

    def _fast_copy(self) -> FastCopy | None:
        if self.copy is not None or not self.known.fast:
            return None
        kind = self.inputs.signature()
        if kind not in self.known.copies:
            self.known.copies[kind] = fast_copy(self)
        return self.known.copies[kind]

    @property
    def survey(self) -> Survey:
        """What the model is like, as one walk through it finds."""
        if self.copy is not None:
            return self.copy.survey
        if self.known.survey is None:
            self.known.survey = survey(self.model)
        return self.known.survey

    @property
    def state(self) -> State:
        """What findings about the model are remembered by."""
        return self.survey.state

    def chunk(self, graph: bool = True) -> int:
        """Rows that go through the model together."""
        most = self.habits.most
        rows = min(chunk_rows(self.model, leaf, graph) for leaf in self.x)
        return rows if most is None else min(rows, most)

    def by_rows(self, compute: Callable[[Session], Sequence[Tensor]], graph: bool = True) -> list[Tensor]:
        """What `compute` finds for chunks of the rows, joined, each (N, ...).

        Args:
            compute: called with the session of a chunk, its inputs laid out for speed; it may be called again.
            graph: whether it keeps a graph of all layers, which takes more memory.
        """
        joined: dict[int, RowBuffer] = {}
        most = self.habits.most

        def work(rows: slice) -> None:
            part = self if self.n == rows.stop - rows.start else self.take(rows)
            found = part.in_layout(compute)
            for place, value in enumerate(found):
                joined.setdefault(place, RowBuffer(self.n)).put(rows, value)

        in_chunks(self.model, _largest(self.x), work, graph, most)
        return [joined[place].whole for place in sorted(joined)]

    def in_layout(self, compute: Callable[[Session], T]) -> T:
        """`compute` with the inputs laid out for speed, or contiguous where the model needs that."""
        return self.call.in_layout(self.inputs, lambda inputs: compute(replace(self, inputs=inputs)))

    def depending(self, compute: Callable[[], T]) -> T:
        """`compute()`; again past the model's own `no_grad` where that cuts every way to what is explained.

        A stop-gradient on one of several ways is deliberate, and stays.
        """
        if not self.known.past_no_grad:
            try:
                return compute()
            except Independent as error:
                cut = error
            with PastNoGrad() as past:
                try:
                    found = compute()
                except Independent:
                    past.met = 0
            if not past.met:
                raise cut
            self.known.past_no_grad = True
            self._note_past_no_grad()
            return found
        self._note_past_no_grad()
        with PastNoGrad():
            return compute()

    def _note_past_no_grad(self) -> None:
        self.notes.warn(
            "a part of the model runs under torch.no_grad(), so the score has no gradient path to the input: gradients "
            "were computed through that part anyway"
        )

    # forward

    def look(self, keep: bool = True) -> Seen:
        """What one forward pass of all rows shows; `keep`: whether the inputs are needed as they are afterwards."""
        maps: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for layer in sorted(self.score.layers):
                stack.enter_context(answering(self.model, layer, self._remembering(maps, layer)))
            output = self.call.run(self.inputs, keep)
        return Seen(output, self.x, maps, self.kind)

    def find_grids(self) -> None:
        """Find out how the layers that are read lie on the image: before a pass, since that takes one of its own."""
        new = [layer for layer in sorted(self.score.layers) if layer not in self.known.grids]
        if new:
            self.known.grids.update(dict.fromkeys(new))
            self.known.grids.update(grids_of(self, new))

    def _remembering(self, maps: dict[str, Tensor], layer: str) -> Callable[[Any, Any], None]:
        def remember(_: Any, output: Any) -> None:
            answer = spatial_tensor(output)
            # a copy: the next layer may be an in-place ReLU
            grid = self.known.grids.get(layer)
            maps[layer] = as_maps(layer, None if answer is None else answer.clone(), self.image().shape[2:], grid)

        return remember

    def read(self, seen: Seen) -> Tensor:
        """The explained scores, (n,) or (n, K), checked to be finite."""
        values: Tensor = self.score(seen)
        return self.call.check(values if type(values) is Tensor else values.as_subclass(Tensor))

    def decide(self) -> None:
        """Choose what is still to be chosen (the predicted class), on the inputs as they are."""
        if not self.score.decided:
            self.values()

    def values(self) -> Tensor:
        """The explained scores of all rows, detached: (N,) or (N, K)."""
        return self.by_rows(lambda part: part.quickly(lambda fast: (fast.values_at_once(),)), not self.score.decided)[0]

    def values_at_once(self) -> Tensor:
        """The same in a single pass of all rows, as they are laid out."""
        # which class is predicted may depend on the output's last operation, which only a graph tells
        graph = not self.score.decided
        with nullcontext() if graph else torch.no_grad():
            inputs = self.inputs.map(fresh_leaf) if graph else self.inputs
            return self.read(replace(self, inputs=inputs).look()).detach()

    def ask(
        self,
        rows: Tensor,
        make: Callable[[slice], Tensor | Leaves],
        value: Value = "score",
        precision: Precision = "full",
    ) -> Tensor:
        """The values of changed inputs, (M,) or (M, K), float32 or wider, from forward passes alone.

        Args:
            rows: (M,), the row that each changed input was made of: its target and its extra inputs go along.
            make: from a slice of 0..M to those changed inputs, (m, ...), in memory of their own, since a model may
                write to them; only one chunk is held at a time.
            value: what is read.
            precision: of the forward passes.
        """
        self._look_once()
        joined = RowBuffer(len(rows))
        like = _largest(self.x)[:1]

        def work(chunk: slice) -> None:
            def compute(session: Session) -> Tensor:
                part = session.at(self._around(make(chunk), rows[chunk]), rows[chunk])
                # the first chunk is kept, to be tried again in another layout
                return part.in_layout(lambda laid: laid.value(laid.look(chunk.start == 0), value))

            with _forward_only(like.device.type, precision):
                joined.put(chunk, self.quickly(compute) if precision == "full" else compute(self))

        most = self.habits.most
        in_chunks(self.model, like.expand(len(rows), *like.shape[1:]), work, graph=False, most=most)
        return joined.whole

    def clean(self, value: Value = "probability", precision: Precision = "full") -> Tensor:
        """The values of the inputs as they are, (N,) or (N, K); found once."""
        if value == "probability":
            self.warn_of_values()
        self._look_once()
        return self._once(("clean", value, precision), lambda: self._of(self.image(), value, precision))

    def warn_of_values(self) -> None:
        """Warn of what is explained and has no probability, where that is to be read."""
        without = self.score.without_probability
        if len(without) == len(self.score.objectives):
            self.notes.warn("what is explained is no class: its score is measured, not a probability")
        elif without:
            self.notes.warn(f"{', '.join(without)} is no class: its score is measured, not a probability")

    def without(self, baseline: Baseline, value: Value = "probability", precision: Precision = "full") -> Tensor:
        """The values of the baseline of each image, (N,) or (N, K); found once."""
        start = self.reference(baseline)
        return self._once(_key("without", baseline, value, precision), lambda: self._of(start, value, precision))

    def reference(self, baseline: Baseline) -> Tensor:
        """The baseline of each image, (N, C, *space); found once."""
        return self._once(_key("reference", baseline), lambda: reference(self.image(), baseline))

    def _around(self, image: Tensor | Leaves, rows: Tensor) -> Leaves:
        """All explained tensors, of which the image is a changed one and the others are as they are."""
        if isinstance(image, Leaves):
            return image
        if len(self.x) == 1:
            return Leaves((image,))
        own = self.image()
        return self.x.map(lambda leaf: image if leaf is own else leaf[rows.to(leaf.device)])

    def value(self, seen: Seen, value: Value) -> Tensor:
        """What was asked for of one pass: (n,) or (n, K), float32 or wider."""
        values = self.read(seen)
        classes = self.score.classes
        if value == "probability" and any(one is not None for one in classes):
            outputs = self.call.check(seen.scores())
            chances = self.score.reading.probabilities(outputs)
            if chances is not None:
                own = values.reshape(self.n, -1).unbind(1)
                found = [
                    score if of is None else chances.gather(1, of.to(chances.device)[:, None])[:, 0]
                    for score, of in zip(own, classes, strict=True)
                ]
                values = torch.stack(found, 1).reshape(values.shape)
        return values.to(torch.promote_types(values.dtype, torch.float32))

    def _of(self, image: Tensor, value: Value, precision: Precision) -> Tensor:
        return self.ask(torch.arange(self.n), lambda chunk: image[chunk].clone(), value, precision)

    def _look_once(self) -> None:
        """Choose the class of every row, see whether the outputs are probabilities already, and keep the values of
        the inputs as they are: one forward pass, with the graph that tells."""
        if self.known.looked:
            return

        def both(part: Session) -> tuple[Tensor, Tensor]:
            laid = replace(part, inputs=part.inputs.map(fresh_leaf))
            seen = laid.look()
            score = laid.value(seen, "score").detach()  # first: it chooses the class
            return score, laid.value(seen, "probability").detach()

        for value, found in zip(VALUES, self.by_rows(lambda part: part.quickly(both)), strict=True):
            self.known.values["clean", value, "full"] = found
        self.known.looked = True

    def _once(self, key: tuple[Any, ...] | None, compute: Callable[[], Tensor]) -> Tensor:
        if key is None:
            return compute()
        if key not in self.known.values:
            self.known.values[key] = compute()
        return self.known.values[key]

    # backward

    @contextmanager
    def right_layouts(self, way: Hashable) -> Iterator[None]:
        """Inside, gradients of one row come to batch normalisation in a layout that torch gets right.

        `way` is where the gradient is taken to. Hooks that see to it slow a pass down, so they are left out from the
        second pass on where the first met no other layout.
        """
        if not self._may_meet_odd_layouts(way):
            yield
            return
        with contiguous_at_batch_norm(self.survey.batch_norms) as met:
            yield
        _odd_layouts.put(self.model, self._layouts_key(way), bool(met))

    def _may_meet_odd_layouts(self, way: Hashable) -> bool:
        if self.n > 1 or not self.survey.batch_norms or self.x[0].device.type != "cpu":
            return False
        return _odd_layouts.get(self.model, self._layouts_key(way)) is not False

    def _layouts_key(self, way: Hashable) -> Hashable:
        return self.state, self.inputs.signature(), self.score.question, way

    def gradient(self, rule: Rule | None = None) -> Leaves:
        """dS/dx of every row, (N, ...) or (N, K, ...) for each explained tensor; through `rule` at rectifiers."""
        return self.gradient_and_values(rule)[0]

    def gradient_and_values(self, rule: Rule | None = None) -> tuple[Leaves, Tensor]:
        """dS/dx and S, from the same passes."""
        found = self._of_held() if rule is None and self.known.held is not None else None
        if found is not None:
            return found

        def chunk(part: Session) -> tuple[Tensor, ...]:
            leaves = part.x.map(fresh_leaf)
            with part.right_layouts(rule is not None):
                values = part.forward_with_rule(leaves, rule)
                coverage = coverage_of(values, rule, leaves)
                gradients = part.backward(values, leaves)
            note_coverage(part.call, coverage)
            return (*gradients, values.detach())

        *gradients, values = self.by_rows(lambda part: part.quickly(lambda fast: fast._also_past_no_grad(chunk)))
        return Leaves(gradients), values

    def _of_held(self) -> tuple[Leaves, Tensor] | None:
        """dS/dx and S of a pass that was made before; None if there is none, or it does not tell all."""
        assert self.known.held is not None
        seen = self.known.held.take(self.model, self.state, self.inputs, self.kind)
        if seen is None or not self.score.layers <= seen.maps.keys() or self._fast_copy() is not None:
            return None
        if self.known.past_no_grad or self._may_meet_odd_layouts(False):
            return None
        try:
            values = self.read(seen)
            gradients = Leaves(backward(values, list(seen.x)))
        except (ModelError, torch.OutOfMemoryError):
            return None  # a pass of its own shows how it fails, or that it needs another layout
        if bool(torch.stack([(G.flatten(values.ndim) == 0).all(-1) for G in gradients]).all(0).any()):
            return None  # the model's own no_grad may be why
        return gradients, values.detach()

    def _also_past_no_grad(self, chunk: Callable[[Session], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """The gradients, and S at the end; past the model's own `no_grad` for the scores that have none otherwise."""
        found = self.depending(lambda: chunk(self))
        if self.known.past_no_grad or not self.known.has_no_grad:
            return found
        *gradients, values = found
        dead = torch.stack([(G.flatten(values.ndim) == 0).all(-1) for G in gradients]).all(0)
        if not bool(dead.any()):
            return found
        with PastNoGrad() as past:
            *other, _ = chunk(self)
        self.known.has_no_grad = past.met > 0
        alive = torch.stack([(G.flatten(values.ndim) != 0).any(-1) for G in other]).any(0)
        if not past.met or not bool((dead & alive).any()):
            return found
        self._note_past_no_grad()
        joined = [
            torch.where(dead.view(*dead.shape, *[1] * (G.ndim - dead.ndim)), past_it, G)
            for G, past_it in zip(gradients, other, strict=True)
        ]
        return (*joined, values)

    def forward_with_rule(self, leaves: Leaves, rule: Rule | None) -> Tensor:
        """The scores with their graph, through `rule` if there is one.

        Raises:
            NothingOverridden: if the model is scripted, so that no rule can be applied.
        """
        session = replace(self, inputs=self.inputs.put(leaves))
        scope: Any = nullcontext()
        if rule is not None:
            refuse_scripted(self.model)
            scope = Override(rule)
        with scope:
            seen = session.look()
        return session.read(seen)

    def backward(self, values: Tensor, leaves: Leaves, keep: bool = False) -> Leaves:
        """d(values)/d(leaves), each (n, ...) or (n, K, ...); zero for a tensor that the scores do not depend on.

        Raises:
            ModelError: if the scores depend on none of them, naming the module where the graph breaks off.
        """
        try:
            return Leaves(backward(values, list(leaves), keep))
        except Independent as error:
            raise Independent(broken(self.call, self.inputs)) from error


def _key(*parts: Any) -> tuple[Any, ...] | None:
    """What a value is remembered by; None if a tensor is part of it, which nothing is known by."""
    return None if any(isinstance(part, Tensor) for part in parts) else parts


def _forward_only(device: str, precision: Precision) -> AbstractContextManager[Any]:
    stack = ExitStack()
    # not inference mode, which is no faster: a module that keeps a tensor for later would keep one without a gradient
    stack.enter_context(torch.no_grad())
    stack.enter_context(torch.autocast(device, torch.bfloat16) if precision == "bfloat16" else nullcontext())
    return stack


def _largest(leaves: Leaves) -> Tensor:
    return max(leaves, key=lambda leaf: leaf[0].numel())


@contextmanager
def opened(
    model: nn.Module, inputs: Inputs, score: Any, kind: Kind = "auto", check: bool = True, held: Held | None = None
) -> Iterator[Session]:
    """The model borrowed for one call; its warnings are issued when the call has succeeded.

    `check`: whether the rows are checked at once, before any of them is asked for alone or changed; if not, at the
    first pass of all rows, for what may not ask the model at all. `held`: a pass of these inputs, if one was made.
    """
    module = original(model)
    notes = Diagnostics()
    whole = survey(module)
    if whole.inference:
        refuse_inference_tensors(module)
    for layer in sorted(score.layers):
        if whole.graphs:
            refuse_graphs(module, layer)
        layer_name(module, layer)  # one that is not there is named before any work
    with borrowed(module, whole.modules):
        kind = stated_kind(module) if kind == "auto" else check_kind(kind)
        session = Session(Call(module, notes), inputs, score, kind, Known(survey=whole, held=held))
        session.find_grids()
        if check:
            session.known.habits = habits_of(session)
        yield session
    notes.issue()

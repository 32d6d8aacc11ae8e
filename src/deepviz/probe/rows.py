"""Whether the rows of a batch are independent, and the model's output repeatable, checked before either is assumed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deepviz.diagnostics import Diagnostics
from deepviz.errors import DeepVizError, ModelError, ModelFailed, TargetError
from deepviz.probe.chunks import chunk_rows, no_room
from deepviz.probe.gradient import differentiate, fresh_leaf
from deepviz.probe.seeds import generator_of
from deepviz.probe.state import Memory

if TYPE_CHECKING:
    from deepviz.probe.session import Session

NUDGE = 0.05
"""Noise that makes a second row of a single one, of its range."""


@dataclass(frozen=True)
class Habits:
    """How a model treats the rows of a batch.

    Args:
        most: rows that may go through it together; None: any number, 1: one at a time.
        unlike: by how much two passes of the same rows differ, of their scale; 0 for a repeatable model.
    """

    most: int | None = None
    unlike: float = 0.0


_known: Memory[Habits] = Memory()


def habits_of(session: Session) -> Habits:
    """The habits of the session's model, for inputs of this shape and this kind of question.

    Three forward passes (of one row, of two, and of a full chunk that repeats these two in the other order) and one
    backward, once; remembered as long as the model's tensors stay as they are. A row's values must be the same alone,
    beside another and anywhere in a chunk, up to rounding (1e-4 of their scale; 5e-2 in half precision, in TF32 and
    under autocast, where a smaller mixture that has no gradient is not seen), and the gradient of one row's score (of a
    class: of all classes at once) with respect to the other row exactly zero; else rows go one at a time. Rows that are
    told apart by their place in the batch hold side information that does not follow them.

    Branches that depend on values are seen only as far as these rows take them, and those that depend on the number of
    rows only for one, two and a full chunk.

    Raises:
        ModelError: for side information on the model that does not follow the rows, naming `extra=`; and for extra
            inputs that are not one per row.
    """
    question = (session.state, session.inputs.signature(), session.kind, session.score.question)
    # what was found for one image holds for several, unless its rows could not go together
    of_one, of_several = (*question, 1), (*question, 2)
    known = _known.get(session.model, of_one)
    if known is not None and known.most is None:
        of_several = of_one
    habits = _known.once(
        session.model,
        of_several if session.n > 1 else of_one,
        lambda: session.with_notes(Diagnostics()).quickly(_found),
    )
    if habits.unlike > 0:
        session.notes.warn(
            f"the model is random in eval mode: two passes of the same input differ by {habits.unlike:.2g} of their "
            "size (F.dropout without training=self.training?), so this map is one draw of many"
        )
    return habits


def _found(session: Session) -> Habits:
    n = session.n
    first, second = (0, 1) if n > 1 else (0, 0)
    one = session.take(torch.tensor([second])).with_notes(Diagnostics())
    pair = session.take(torch.tensor([first, second])).with_notes(one.notes)
    try:
        alone = _values(one)
    except torch.OutOfMemoryError as error:
        raise no_room(max(one.x, key=lambda leaf: leaf[0].numel())) from error
    except (ModelError, TargetError):
        if n > 1:
            # what fails as a whole too says so of the whole; in the layout in which it just failed
            session.with_notes(one.notes).values_at_once()
            if session.survey.graphs:
                raise ModelError(
                    f"the model takes {n} rows and not one: it was traced or exported for that number, so its rows "
                    "cannot be changed one by one; export it for one row, or any number (dynamic_shapes)"
                ) from None
            raise ModelError(_by_place(f"it takes these {n} rows together and fails on one of them alone")) from None
        raise
    if n == 1:
        pair = replace(pair, score=one.score.take(torch.tensor([0, 0])))
    if n == 1 or all(torch.equal(leaf[0], leaf[1]) for leaf in pair.x):
        pair = replace(pair, inputs=pair.inputs.put(pair.x.map(_nudged)))
        if n > 1:
            # from the session again: `one` has chosen its predicted class before it was moved, the pair chooses after
            moved = session.take(torch.tensor([second])).with_notes(one.notes)
            one = replace(moved, inputs=pair.inputs.rows(slice(1, 2)))
            alone = _values(one)
    tolerance = session.rounding
    try:
        both, mixed = _values_and_mixing(pair)
    except (DeepVizError, RuntimeError):
        # what takes one row and not two, for want of memory or for another reason, takes one row at a time
        if n > 2:
            _check_whole(session.with_notes(one.notes), second, alone)
        unlike = _apart(alone, _values(one))
        return Habits(most=1, unlike=unlike if unlike > tolerance else 0.0)
    most: int | None = None
    other_order = torch.tensor([1, 0])
    repeats = max(1, min(chunk_rows(session.model, leaf, graph=False) for leaf in session.x) // 2)
    turned = None
    while turned is None:
        try:
            turned = _values(pair.take(other_order.repeat(repeats)))
        except torch.OutOfMemoryError:
            if repeats == 1:
                raise
            repeats //= 2
        except (DeepVizError, RuntimeError):
            if most is not None:
                raise
            # a full chunk may be more than it takes
            most, repeats = 2, 1
    if _apart(both[other_order.repeat(repeats)], turned) > tolerance:
        again = _values(pair)
        unlike = _apart(both, again)
        if unlike > tolerance:
            return Habits(most=1 if mixed else most, unlike=unlike)
        # a row that sees those before it, or others further away, is explained alone; else what it is told apart by
        # is its place
        near = repeats > 1 and _apart(both.flip(0), _values(pair.take(other_order))) <= tolerance
        if mixed or near or _values_and_mixing(pair, of=1)[1]:
            if n > 1 and not mixed:
                _check_extra(pair.take(other_order.repeat(repeats)))
            return Habits(most=1)
        raise ModelError(_by_place("what it returns for a row depends on the row's place in the batch"))
    apart = _apart(both[second : second + 1], alone)
    if apart > tolerance and not mixed and _apart(alone, _values(one)) > tolerance:
        return Habits(most=most, unlike=apart)
    if n > 1 and not mixed and apart > tolerance:
        _check_extra(pair.take(other_order.repeat(repeats)))
    return Habits(most=1 if mixed or apart > tolerance else most)


def _check_whole(session: Session, row: int, alone: Tensor) -> None:
    """Of a model that takes one row, and not two: that it does not take all of them in another sense.

    Raises:
        ModelError: if what all rows give for `row` is not what it gives alone.
    """
    try:
        whole = _values(session)[row : row + 1]
    except (DeepVizError, RuntimeError):
        return
    if _apart(whole, alone) > session.rounding:
        raise ModelError(_by_place("it returns something else for a row alone than among all, and refuses two"))


def _check_extra(chunk: Session) -> None:
    """Of a model whose rows do not go together: that it is not for want of `shared`.

    Raises:
        ModelError: if a row's score changes with the rows beside it, and not with the images of these.
    """
    if chunk.inputs.has_extra_rows and not _values_and_mixing(chunk, of=chunk.n // 2)[1]:
        raise ModelError(
            "a row's score depends on the rows of extra= beside its own, and not on the images of those rows: what is "
            "the same for all images (a matrix that happens to have as many rows) is given as deepviz.shared(value)"
        )


def _by_place(what: str) -> str:
    return (
        f"the model, or the target, holds side information that does not follow the rows ({what}), so maps would be of "
        "other images' information: give it as extra=, a tensor with one row per image, or deepviz.shared(value) "
        "if it is the same for all"
    )


def _values(session: Session) -> Tensor:
    """The scores of all rows in one pass, (n,) or (n, K)."""
    return session.in_layout(lambda laid: laid.values_at_once())


def _values_and_mixing(session: Session, of: int = 0) -> tuple[Tensor, bool]:
    """The scores of all rows, and whether that of one depends on any other."""

    def forward(laid: Session) -> tuple[Tensor, bool]:
        leaves = laid.x.map(fresh_leaf)
        seen = replace(laid, inputs=laid.inputs.put(leaves)).look()
        values = laid.read(seen)
        # of all classes at once, since what is found holds for each of them
        scores = seen.mixture() if laid.score.question == "class" else values
        if not scores.requires_grad:
            return values.detach(), False
        try:
            gradients = differentiate(scores[of].sum(), list(leaves))
        except ModelFailed:  # what asks for gradients will hear of it
            return values.detach(), False
        others = torch.arange(laid.n) != of
        mixed = any(gradient is not None and bool(gradient.cpu()[others].any()) for gradient in gradients)
        return values.detach(), mixed

    return session.in_layout(forward)


def _nudged(leaf: Tensor) -> Tensor:
    """Two rows of which the second is moved a little."""
    row = leaf[1].to(torch.promote_types(leaf.dtype, torch.float32))
    span = row.max() - row.min()
    size = NUDGE * torch.where(span > 0, span, 1 + row.abs().max())
    noise = torch.randn(row.shape, generator=generator_of(0), dtype=torch.float32).to(row)
    return torch.stack([leaf[0], (row + size * noise).to(leaf.dtype)])


def _apart(one: Tensor, other: Tensor) -> float:
    """The largest difference, of the largest value."""
    one, other = one.double(), other.double()
    scale = float(torch.maximum(one.abs().max(), other.abs().max()))
    return float((one - other).abs().max()) / scale if scale > 0 else 0.0

"""A private copy of a borrowed model that computes the same in less time: evaluated batch normalisation is folded into
the convolutions before it, whose weights lie as the images do.

What may be folded is proved by a forward pass of one row, watched at the level of torch's kernels: the result of a
convolution is read by one evaluated batch normalisation and by nothing else, at each of its calls, and is no part of
the model's output. The copy is then run on the same row, watched in the same way, and compared with the model.
"""

from __future__ import annotations

import os
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from threading import RLock
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deepviz.probe.attributes import Plain, Unlike, copyable, is_as_before, is_hooked
from deepviz.probe.folded import fixed, fold, rest, shadow
from deepviz.probe.folds import SAME, Fold, Run, folds, watched_run
from deepviz.probe.state import State, Survey, survey

if TYPE_CHECKING:
    from deepviz.probe.session import Session

SWITCH = "DEEPVIZ_FAST"
"""The environment variable that turns fast copies on, if it is 1."""
FACT = "fast copy"
"""The fact about a copy that was used."""
LEAST = 0.25
"""The share of convolutions of which the normalisation must be folded."""

_switch: ContextVar[bool | None] = ContextVar("fast", default=None)
_making = RLock()


@contextmanager
def fast_copies(on: bool | None) -> Iterator[None]:
    """Inside, models are explained on fast copies or, with `on` False, as they are; None: as outside."""
    before = _switch.set(_switch.get() if on is None else on)
    try:
        yield
    finally:
        _switch.reset(before)


def _is_on() -> bool:
    on = _switch.get()
    return os.environ.get(SWITCH) == "1" if on is None else on


@dataclass(eq=False)
class FastCopy:
    """A copy of a model, and how it is known to be still right.

    Attributes:
        model: the copy, always in eval mode; its modules have the names of the model's.
        survey: what it is like.
        changed: the names of the modules whose output it does not compute.
        folded: the names of the normalisations that are folded, and of the layers into which they are.
        state: of the model when the copy was made.
        plain: the attributes of its modules then; they are held, so that none is confused with a later one.
        right_for: the kinds of inputs for which the copy was compared with the model.
    """

    model: nn.Module
    survey: Survey
    changed: frozenset[str]
    folded: dict[str, str]
    state: State
    plain: Plain
    right_for: dict[Any, bool] = field(default_factory=dict)

    @property
    def remark(self) -> str:
        """What results say of it."""
        count = len(self.folded)
        return f"{count} normalisation{'s' if count > 1 else ''} folded"


@dataclass(eq=False)
class _Known:
    """What is known of a model's copy: the copy, or the state in which there is none."""

    copy: FastCopy | None = None
    refused: State | None = None


_known: weakref.WeakKeyDictionary[nn.Module, _Known] = weakref.WeakKeyDictionary()


def fast_copy(session: Session) -> FastCopy | None:
    """The copy of the session's model, made or found; None if there is none, or it is not to be used."""
    if not _is_on() or not _may_pay(session):
        return None
    if any(map(is_hooked, session.survey.modules)):
        return None
    with _making:
        known = _known.setdefault(session.model, _Known())
        state = session.state
        if known.refused == state:
            return None
        if known.copy is not None and (known.copy.state != state or not is_as_before(known.copy.plain)):
            known.copy = None
        kind = (session.inputs.signature(), session.kind)
        if known.copy is not None and kind in known.copy.right_for:
            return known.copy if known.copy.right_for[kind] else None
        try:
            plain = list(map(copyable, session.survey.modules))
            run = watched_run(session)
            if survey(session.model).state != state or not is_as_before(plain):
                raise Unlike  # it changes with every pass
            if known.copy is None:
                known.copy = _made(session, run, plain)
            known.copy.right_for[kind] = _is_right(session, known.copy, run)
            return known.copy if known.copy.right_for[kind] else None
        except Exception:  # whatever a model does when it is copied: it is explained as it is
            known.copy, known.refused = None, state
            return None


def refuse(session: Session) -> None:
    """Use no copy of the session's model any more, as long as that is as it is."""
    with _making:
        known = _known.setdefault(session.model, _Known())
        known.copy, known.refused = None, session.state


def _may_pay(session: Session) -> bool:
    """Whether model and inputs are of a kind for which copies were measured to pay: convolutions in single or double
    precision on a CPU, whose batch normalisation uses running statistics."""
    whole = session.survey
    if whole.graphs or whole.inference or not whole.batch_norms or torch.is_autocast_enabled("cpu"):
        return False
    # a function may read what the model keeps of its passes; hooks for all modules may, too
    if session.score.calls_functions or nn.modules.module._has_any_global_hook():
        return False
    return all(leaf.device.type == "cpu" and leaf.dtype in SAME for leaf in session.x)


def _made(session: Session, run: Run, plain: Plain) -> FastCopy:
    """A copy of the session's model, as a watched pass shows what may be folded.

    Raises:
        Unlike: if there is too little to fold, or the model takes views of its feature maps, which then cannot lie as
            is fastest.
    """
    model = session.model
    found = folds(model, run)
    if not _pays(found, run) or not session.call.takes_channels_last:
        raise Unlike
    pairs: dict[nn.Module, nn.Module] = {}
    copy = shadow(model, pairs)
    for one in found:
        fold(one, pairs)
    left = {pairs[one.norm]: rest(pairs[one.norm]) for one in found}
    convolved = {product.weight for product in run.watch.products.values()}
    for module in pairs.values():
        weight = module._parameters.get("weight")
        if isinstance(module, nn.Conv2d) and weight is not None and weight.data_ptr() in convolved:
            module._parameters["weight"] = fixed(weight.contiguous(memory_format=torch.channels_last))
        for name, child in module._modules.items():
            if child in left:
                module._modules[name] = left[child]
    weights = {one.layer._parameters["weight"].data_ptr() for one in found}  # type: ignore[union-attr]
    changed = frozenset(name for name, returned in run.returned.items() if returned & weights)
    return FastCopy(copy, survey(copy), changed, _names(model, found), session.state, plain)


def _pays(found: list[Fold], run: Run) -> bool:
    """Whether enough of the convolutions have a normalisation less to follow them."""
    convolutions = sum(product.convolves for product in run.watch.products.values())
    return bool(found) and sum(one.calls for one in found) >= LEAST * convolutions


def _names(model: nn.Module, found: list[Fold]) -> dict[str, str]:
    names = {module: name for name, module in model.named_modules()}
    return {names[one.norm]: names[one.layer] for one in found}


def _is_right(session: Session, copy: FastCopy, of_model: Run) -> bool:
    """Whether the copy does on the first row what the model does, by the weights that it was given."""
    found = folds(session.model, of_model)
    if _names(session.model, found) != copy.folded:
        return False  # in other sizes a model may take other ways
    of_copy = watched_run(replace(session, copy=copy, call=replace(session.call, model=copy.model)))
    used = Counter((product.weight, product.bias) for product in of_copy.watch.products.values())
    for one, layer in zip(found, copy.folded.values(), strict=True):
        own = copy.model.get_submodule(layer)._parameters
        if used[own["weight"].data_ptr(), own["bias"].data_ptr()] != one.calls:  # type: ignore[union-attr]
            return False
    return len(of_model.outputs) == len(of_copy.outputs) > 0 and all(map(_agree, of_model.outputs, of_copy.outputs))


def _agree(one: Tensor, other: Tensor) -> bool:
    """Whether two outputs are the same but for rounding, their largest score in the same place."""
    if one.shape != other.shape or one.dtype != other.dtype or not bool(one.isfinite().all()):
        return False
    if one.dtype not in SAME:
        return torch.equal(one, other)
    if one.numel() == 0:
        return True
    near = float((one - other).abs().max()) <= SAME[one.dtype] * float(one.abs().max())
    return near and (one.ndim != 2 or torch.equal(one.argmax(1), other.argmax(1)))

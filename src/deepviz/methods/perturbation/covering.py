"""What a model says where windows of an image are covered, computed only where that changes its feature maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from deepviz.errors import DeepVizError
from deepviz.methods.perturbation.masking import Masking
from deepviz.probe.black_box import black_box_of
from deepviz.probe.incremental import Changed, Trace
from deepviz.probe.state import Memory

LEAST_GAIN = 1.5
"""Operations that must be saved for it to pay: a plain pass has so many times as many."""
CHECKED = 4
"""Windows that are computed in both ways first."""
TOLERANCE = 1e-4
"""Of the largest score: by how much windows may differ from plain passes, by rounding."""
NOT_SO = (DeepVizError, RuntimeError, TypeError, NotImplementedError)
"""What a model may raise for a tensor that is none in memory."""
Window = tuple[slice, ...]
_unfit: Memory[bool] = Memory()


class Covering:
    """An image of which windows are covered by its baseline, batch by batch.

    A few windows are first computed in both ways. Where these differ, or hardly any operations are saved, all are
    computed by plain passes, of later images too, as long as the model stays as it is.
    """

    def __init__(self, image: Masking) -> None:
        self.image = image
        self.x = image.x  # the same one in all passes, by which what is known of it is found
        self.trace = Trace() if _may_pay(image) else None
        self._checked = False

    def values(self, windows: Sequence[Window]) -> Tensor:
        """f of the image with each window covered, (n, K) in float64 on the CPU."""
        if self.trace is not None and not self._checked:
            self._checked = True
            self._check(windows)
        if self.trace is None:
            return self._plain(windows)
        try:
            return self._incremental(windows)
        except NOT_SO:  # plain passes tell whether it is the model itself
            self.trace = None
            return self._plain(windows)

    def _check(self, windows: Sequence[Window]) -> None:
        """Go over to plain passes, unless a few of the windows show that less work gives the same."""
        assert self.trace is not None
        session = self.image.session
        sizes = tuple(part.stop - part.start for part in windows[0])
        key = (session.state, session.inputs.signature(), sizes)
        if _unfit.get(session.model, key):
            self.trace = None
            return
        last = len(windows) - 1
        some = [windows[place] for place in sorted({last * k // (CHECKED - 1) for k in range(CHECKED)})]
        try:
            found = self._incremental(some)
        except NOT_SO:
            fits = False
        else:
            with FlopCounterMode(display=False) as plain:
                expected = self._plain(some)
            gain = self.trace.gain(plain.get_total_flops() / len(some))
            apart = float((found - expected).abs().max())
            fits = apart <= TOLERANCE * float(expected.abs().max()) and gain >= LEAST_GAIN
        if not fits:
            self.trace = None
            _unfit.put(session.model, key, True)
            return
        session.notes.facts["incremental"] = f"{gain:.1f} times fewer operations than whole passes"

    def _incremental(self, windows: Sequence[Window]) -> Tensor:
        return self.image.of_copies(len(windows), lambda chunk: self._changed(windows[chunk]))

    def _changed(self, windows: Sequence[Window]) -> Tensor:
        assert self.trace is not None
        b = self.image.baseline
        assert b is not None
        part = torch.cat([b[(slice(None), slice(None), *window)] for window in windows])
        top, left = (torch.tensor([window[axis].start for window in windows]) for axis in (0, 1))
        self.trace.copies += len(part)
        return Changed(self.x, part, top, left, self.trace)

    def _plain(self, windows: Sequence[Window]) -> Tensor:
        def masks(chunk: slice) -> Tensor:
            covered = torch.ones((), dtype=torch.bool, device=self.x.device)
            for axis, side in enumerate(self.image.space):
                start, stop = (
                    torch.tensor(ends, device=self.x.device)[:, None]
                    for ends in zip(
                        *((window[axis].start, window[axis].stop) for window in windows[chunk]), strict=True
                    )
                )
                place = torch.arange(side, device=self.x.device)
                along = (start <= place) & (place < stop)  # (n, side)
                covered = covered[..., None] & along.view(len(along), *[1] * axis, side)
            return (~covered).unsqueeze(1)

        return self.image.values(len(windows), masks)


def _may_pay(image: Masking) -> bool:
    """Whether the image is a picture on a CPU in full precision, and the model one whose operations can be seen."""
    x, session = image.x, image.session
    return (
        x.ndim == 4
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and image.baseline is not None
        and not session.score.layers
        and not session.survey.graphs
        and session.habits.most is None
        and black_box_of(session.model) is None
    )

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

LEAST_GAIN = 1.5
"""Operations that must be saved for it to pay: a plain pass has so many times as many."""
CHECKED = 4
TOLERANCE = 1e-4
"""Of the largest score: by how much the first windows may differ from plain passes, by rounding."""
Window = tuple[slice, ...]


class Covering:
    """An image of which windows are covered by its baseline, batch by batch.

    The first few windows are also computed by plain passes. Where these differ, or hardly any operations are saved, all
    windows are.
    """

    def __init__(self, image: Masking) -> None:
        self.image = image
        self.x = image.x  # the same one in all passes, by which what is known of it is found
        self.trace = Trace() if _may_pay(image) else None
        self._checked = False

    def values(self, windows: Sequence[Window]) -> Tensor:
        """f of the image with each window covered, (n, K) in float64 on the CPU."""
        if self.trace is None:
            return self._plain(windows)
        try:
            found = self.image.of_copies(len(windows), lambda chunk: self._changed(windows[chunk]))
        except (DeepVizError, RuntimeError, TypeError, NotImplementedError):
            # what a model does to a tensor that is none in memory; plain passes tell whether it is the model itself
            self.trace = None
            return self._plain(windows)
        if not self._checked:
            self._checked = True
            with FlopCounterMode(display=False) as plain:
                expected = self._plain(windows[:CHECKED])
            gain = self.trace.gain(plain.get_total_flops() / len(expected))
            apart = float((found[:CHECKED] - expected).abs().max())
            if apart > TOLERANCE * float(expected.abs().max()) or gain < LEAST_GAIN:
                self.trace = None
                return torch.cat([expected, self._plain(windows[CHECKED:])]) if windows[CHECKED:] else expected
            self.image.session.notes.facts["incremental"] = f"{gain:.1f} times fewer operations than whole passes"
        return found

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

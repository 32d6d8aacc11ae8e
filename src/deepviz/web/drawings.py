"""Feature visualisations of channels, generated in the background: paused, resumed, stopped."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Condition, Lock, Thread
from time import monotonic, sleep
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from deepviz.errors import DeepVizError
from deepviz.probe.grid import as_maps
from deepviz.probe.seen import Seen
from deepviz.synthesis import Channel, Generated, ImageGenerator, Step
from deepviz.synthesis.generated import as_bytes, as_picture
from deepviz.web.files import data_url, jpeg
from deepviz.web.limits import Limits
from deepviz.web.model_service import Busy, ModelService

State = Literal["running", "paused", "done", "failed", "stopped"]
LAST: tuple[State, ...] = ("done", "failed", "stopped")
PATIENCE = 60.0
"""Seconds after which a drawing without requests is stopped."""
BETWEEN = 0.15
"""Seconds between two intermediate images."""
TURN = 0.002
"""Seconds in which a waiting request takes the model: without a pause the lock returns to the thread that had it."""
SIDE = 256
"""Pixels of the longer side of an intermediate image."""
ROUNDING = 1
"""Levels by which an image that is not drawn on may differ from the first: a canvas keeps its limits inexactly."""
KEPT = 32
"""Drawings that can still be asked for."""


class _Stopped(Exception):
    """Ends a drawing between two steps."""


@dataclass(eq=False)
class Drawing:
    """Images of some channels of a layer, under way or finished.

    Args:
        id: random; whoever has it may watch, pause and stop.
        service: the model.
        layer: its name.
        channels: which, in the order asked for.
        generator: draws them.
        patience: seconds without a request after which it stops.
    """

    id: str
    service: ModelService
    layer: str
    channels: tuple[int, ...]
    generator: ImageGenerator
    patience: float = PATIENCE
    state: State = "running"
    error: str = ""
    step: int = 0
    scores: tuple[float, ...] = ()
    version: int = 0
    _pixels: Tensor | None = None
    _first: Tensor | None = None
    _pictured: int = 0
    _still: list[bool] = field(default_factory=list)
    _drawn: float = 0.0
    _asked: float = field(default_factory=monotonic)
    _changed: Condition = field(default_factory=Condition)

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.state in LAST

    def status(self) -> dict[str, Any]:
        """The status, with the intermediate images."""
        with self._changed:
            self._asked = monotonic()
            found = {
                "id": self.id,
                "version": self.version,
                "state": self.state,
                "error": self.error,
                "layer": self.layer,
                "step": self.step,
                "steps": self.generator.steps,
                "seed": self.generator.seed,
            }
            pixels, scores, still = self._pixels, self.scores, self._still
        pictures = [] if pixels is None else [data_url(jpeg(as_picture(one), SIDE)) for one in pixels]
        empty = len(self.channels) * [None]
        return found | {
            "channels": [
                {"channel": channel, "score": score, "picture": picture, "still": bool(unmoved)}
                for channel, score, picture, unmoved in zip(
                    self.channels, scores or empty, pictures or empty, still or empty, strict=True
                )
            ]
        }

    def image(self, channel: int) -> Image.Image | None:
        """A channel's image as it is now, whole; None before the first step, or for a channel that is not drawn."""
        with self._changed:
            pixels = self._pixels
        if pixels is None or channel not in self.channels:
            return None
        return as_picture(pixels[self.channels.index(channel)])

    def pause(self) -> None:
        """Pause after the current step."""
        self._change("paused", only="running")

    def resume(self) -> None:
        """Continue."""
        self._change("running", only="paused")

    def stop(self) -> None:
        """End after the current step; the images are kept."""
        self._change("stopped")

    def run(self) -> None:
        """Generate the images, each step with exclusive use of the model."""
        try:
            with self.service.alone() as others:

                def between(step: Step) -> None:
                    self._take(step)
                    with others():
                        self._let_others(step)

                made = self.generator(progress=between)
            self._finish(made)
        except _Stopped:
            pass
        except DeepVizError as error:
            self._change("failed", error=" ".join(str(error).split()))
        except Exception as error:  # a bug must not go unseen because it was in a thread
            self._change("failed", error=f"this is a bug, please report it: {type(error).__name__}: {error}")

    def _take(self, step: Step) -> None:
        """Record a step, and its images if enough time has passed."""
        with self._changed:
            self.step, self.scores = step.number, tuple(step.scores.tolist())
            if monotonic() - self._drawn > BETWEEN:
                self._show(step)

    def _show(self, step: Step) -> None:
        """Keep the images of a step, if they are not those that are kept."""
        if self._pictured != step.number:
            self._pixels = as_bytes(step.pixels())
            if self._first is None:
                self._first = self._pixels
            else:
                self._still = (_far(self._pixels, self._first) <= ROUNDING).tolist()
            self._pictured, self._drawn = step.number, monotonic()
            self.version += 1

    def _let_others(self, step: Step) -> None:
        """Between two steps: release the model to waiting requests, and wait while paused.

        Raises:
            _Stopped: if it was stopped, or its status was not asked for within `patience`.
        """
        self.service.give_way()
        sleep(TURN)
        with self._changed:
            while not self.over:
                left = self.patience - (monotonic() - self._asked)
                if left <= 0:
                    self.state, self.version = "stopped", self.version + 1
                elif self.state == "running":
                    return
                else:
                    self._show(step)  # it may stay for long, and be saved
                    self._changed.wait(left)
            self._show(step)
        raise _Stopped

    def _finish(self, made: Generated) -> None:
        with self._changed:
            if not self.over:
                self._pixels = as_bytes(made.tensor)
                self._still = [not slope.any() for slope in made.importance]
                self.state, self.version = "done", self.version + 1
                self._changed.notify_all()

    def _change(self, state: State, *, only: State | None = None, error: str = "") -> None:
        with self._changed:
            if self.over or (only is not None and self.state != only):
                return
            self.state, self.error, self.version = state, error, self.version + 1
            self._changed.notify_all()


class Drawings:
    """The running drawings, and the last ones."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._drawings: OrderedDict[str, Drawing] = OrderedDict()
        self._threads: list[Thread] = []
        self._lock = Lock()

    def start(self, service: ModelService, layer: str, channels: tuple[int, ...], steps: int, seed: int) -> Drawing:
        """Begin to draw.

        Raises:
            Busy: if too many are drawn already.
            DeepVizError: if the layer or the model cannot be drawn for, or a channel is not there.
        """
        objective = [Channel(layer, channel) for channel in channels]
        generator = ImageGenerator(service.loaded, objective=objective, steps=steps, seed=seed)
        _check_channels(service, layer, objective)
        drawing = Drawing(secrets.token_hex(16), service, layer, channels, generator)
        with self._lock:
            if sum(not one.over for one in self._drawings.values()) >= self.limits.drawings:
                raise Busy(f"{self.limits.drawings} drawings are running already; stop one, or try again soon")
            self._drawings[drawing.id] = drawing
            while len(self._drawings) > KEPT:
                self._forget_one()
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            thread = Thread(target=drawing.run, name=f"deepviz drawing {layer}", daemon=True)
            self._threads.append(thread)
            thread.start()
        return drawing

    def _forget_one(self) -> None:
        oldest = next(name for name, one in self._drawings.items() if one.over)
        del self._drawings[oldest]

    def find(self, drawing_id: str) -> Drawing | None:
        """A drawing that was begun not too long ago."""
        with self._lock:
            return self._drawings.get(drawing_id)

    def stop(self) -> None:
        """End them all."""
        with self._lock:
            for drawing in self._drawings.values():
                drawing.stop()
            threads, self._threads = self._threads, []
        for thread in threads:
            thread.join(timeout=10)


def _far(pixels: Tensor, others: Tensor) -> Tensor:
    """The most by which any pixel of an image differs, (N,)."""
    return (pixels.int() - others.int()).abs().flatten(1).amax(1)


def _check_channels(service: ModelService, layer: str, objective: Sequence[Channel]) -> None:
    """Refuse channels that the layer does not have, without running the model again.

    Raises:
        LayerError: as the drawing would.
    """
    with service.admitted():
        tree = service.layers()
    shape = next((row.shape for row in tree if row.name == layer), None)
    if shape is not None:
        maps = as_maps(layer, torch.empty(shape, device="meta"), tree.input[2:])
        seen = Seen(maps, (maps,), {layer: maps})
        for channel in objective:
            channel(seen)

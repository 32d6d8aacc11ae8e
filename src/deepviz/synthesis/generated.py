"""`Generated`: generated images, their intermediate steps, and the settings that reproduce them."""

from __future__ import annotations

import base64
import io
import itertools
import json
import math
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from deepviz.diagnostics import warn
from deepviz.files import encoded, versions, write_bytes, write_picture
from deepviz.models import LoadedModel
from deepviz.models.weights import weights_hash
from deepviz.render.contact import Thumbnail, contact_sheet
from deepviz.render.text import percent

STRIP = 8
"""Pictures on a strip of the steps."""
LONGEST_NAME = 60
"""Characters of a title in a file's name, which may hold 255 bytes."""
SECONDS = 4.0
"""Length of an animation, without the rest on its last picture."""


class _NoFilm(Exception):
    """Why ffmpeg made no film."""


@dataclass(frozen=True)
class Frame:
    """The images after one step, 8-bit pixels (N, H, W, C)."""

    step: int
    pixels: Tensor


@dataclass(frozen=True, eq=False)
class Generated:
    """The images of an `ImageGenerator` or a `DeepDream`.

    Args:
        tensor: the images (N, C, H, W), float32 pixels from 0 to 1, on the CPU.
        titles: the target of each: a label, or an objective in words.
        targets: its class, or None.
        scores: the objective at each step (steps, N), of the augmented image that the network saw.
        probabilities: of its class (steps, N), of the same; NaN without a class.
        final_scores: the objective (N,) of the finished image, without augmentation, in 8-bit pixels.
        final_probabilities: the probability of its class (N,), of the same; NaN without a class, and of a dream, whose
            picture may be larger than what the network sees at once.
        importance: (N, 1, H, W), the size of d(objective)/d(pixel), mean over channels, summed over the steps.
        frames: intermediate images.
        settings: everything that determines the images, as plain values (`ImageGenerator.from_json`).
        complete: whether all steps were taken.
        output: what the model's outputs were read as, and how it was known; None if no objective is about a class.
        predicted: of each finished image that is drawn for a class alone, the class that the model predicts and its
            probability; None for another.
        without_slope: of each finished image whether the score of its class does not depend on it.
        notes: what has to be known of how the images came about, one sentence each.
    """

    tensor: Tensor
    titles: tuple[str, ...]
    targets: tuple[int | None, ...]
    scores: Tensor
    probabilities: Tensor
    final_scores: Tensor
    final_probabilities: Tensor
    importance: Tensor
    frames: tuple[Frame, ...]
    settings: dict[str, Any]
    complete: bool
    output: dict[str, str] | None = None
    predicted: tuple[tuple[int, float] | None, ...] = ()
    without_slope: tuple[bool, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def still(self) -> tuple[bool, ...]:
        """Of each image whether its objective had no slope at any step, so that it is what it was at the start; or a
        penalty's alone."""
        if not len(self.scores):
            return (False,) * len(self.titles)
        flat = self.without_slope or (False,) * len(self.titles)
        return tuple(
            not bool(slope.any()) or (of_class and float(chance) <= 0.5)
            for slope, of_class, chance in zip(self.importance, flat, self.final_probabilities, strict=True)
        )

    @property
    def missed(self) -> tuple[bool, ...]:
        """Of each image whether it is drawn for a class and the model predicts another one for it."""
        predictions = self.predicted or (None,) * len(self.targets)
        return tuple(
            found is not None and found[0] != target for target, found in zip(self.targets, predictions, strict=True)
        )

    @cached_property
    def images(self) -> tuple[Image.Image, ...]:
        """One picture per target and copy."""
        return tuple(as_picture(pixels) for pixels in as_bytes(self.tensor))

    def caption(self, row: int) -> str:
        """What image `row` was generated for, with the probability of its class or the score."""
        return f"{self.titles[row]} · {self._detail(row)}"

    def transparent(self, row: int = 0, keep: float = 0.5) -> Image.Image:
        """Image `row`, transparent where the objective's gradient was small (Fel et al. 2023).

        Args:
            row: which image.
            keep: the fraction of the pixels that stay opaque.
        """
        if not 0 < keep < 1:
            raise ValueError(f"keep must be a fraction between 0 and 1, got {keep}")
        importance = torch.nn.functional.avg_pool2d(self.importance[row], 9, 1, 4, count_include_pad=False)[0]
        opaque = float(importance.flatten().quantile(1 - keep))
        alpha = (importance / opaque if opaque > 0 else torch.ones_like(importance)).clamp(0, 1)
        picture = self.images[row].convert("RGB")
        picture.putalpha(as_picture(as_bytes(alpha[None, None])[0]))
        return picture

    def sheet(self) -> Image.Image:
        """All images with their captions on one page."""
        thumbnails = [Thumbnail(image, self.titles[row], self._detail(row)) for row, image in enumerate(self.images)]
        return contact_sheet(thumbnails, footer=self._footer)

    def strip(self, row: int = 0) -> Image.Image:
        """Image `row` at some of the steps, the last one among them.

        Raises:
            ValueError: if no frames were kept: call the generator with `every` or `save_dir`.
        """
        frames = self._some_frames()
        thumbnails = [Thumbnail(as_picture(frame.pixels[row]), f"step {frame.step}") for frame in frames]
        return contact_sheet(thumbnails, title=self.titles[row], footer=self._footer, columns=len(thumbnails))

    def save(self, folder: str | Path) -> list[Path]:
        """Write `generated.json`, the images, their strips and animations: GIF, and MP4 where ffmpeg is installed.

        Where ffmpeg fails there is no MP4, and a `DeepVizWarning` says why.

        Raises:
            OutputError: if something cannot be written.
        """
        folder, stems = Path(folder), self._stems()
        # first: whatever cannot be written after it can be reproduced from it
        written = [write_bytes(folder / "generated.json", self._json())]
        written += [write_picture(folder / f"{stem}.png", self.images[row]) for row, stem in enumerate(stems)]
        if len(self.images) > 1:
            written.append(write_picture(folder / "sheet.png", self.sheet()))
        if self.frames:
            for row, stem in enumerate(stems):
                written.append(write_picture(folder / f"{stem}_steps.png", self.strip(row)))
                written.append(write_bytes(folder / f"{stem}.gif", self._gif(row)))
            written += self._films(folder, stems)
        return written

    def _some_frames(self) -> Sequence[Frame]:
        if not self.frames:
            raise ValueError("no frames were kept: call the generator with every=... or a save_dir")
        last = len(self.frames) - 1
        # closer together at the start, where more happens
        wanted = {round(last * (index / (STRIP - 1)) ** 1.5) for index in range(STRIP)}
        return [self.frames[index] for index in sorted(wanted)]

    def _gif(self, row: int) -> bytes:
        pictures = [as_picture(frame.pixels[row]).convert("RGB") for frame in self.frames]
        palette = pictures[-1].quantize(256)  # one palette for all: otherwise the colours flicker
        drawn = [picture.quantize(palette=palette) for picture in pictures]
        moment = round(1000 * SECONDS / len(drawn))
        durations = [moment] * (len(drawn) - 1) + [1500]
        buffer = io.BytesIO()
        drawn[0].save(buffer, "GIF", save_all=True, append_images=drawn[1:], duration=durations, loop=0)
        return buffer.getvalue()

    def _films(self, folder: Path, stems: Sequence[str]) -> list[Path]:
        ffmpeg = shutil.which("ffmpeg")
        films: list[Path] = []
        try:
            for row, stem in enumerate(stems if ffmpeg else ()):
                films.append(write_bytes(folder / f"{stem}.mp4", self._mp4(str(ffmpeg), row)))
        except _NoFilm as error:
            warn(
                f"ffmpeg could not make {stem}.mp4: {error}; generated.json, the pictures and the GIF animations are "
                f"in {folder}"
            )
        return films

    def _mp4(self, ffmpeg: str, row: int) -> bytes:
        first = as_picture(self.frames[0].pixels[row]).convert("RGB")
        raw = b"".join(as_picture(frame.pixels[row]).convert("RGB").tobytes() for frame in self.frames)
        rate = max(1.0, len(self.frames) / SECONDS)
        # an even number of pixels each way, which the codec wants
        command = [ffmpeg, "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]
        command += ["-s", f"{first.width}x{first.height}", "-r", f"{rate:g}", "-i", "-"]
        command += ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
        try:
            # elsewhere first, so that a film that fails leaves no half of one behind
            with tempfile.TemporaryDirectory() as room:
                film = Path(room) / "film.mp4"
                done = subprocess.run([*command, str(film)], input=raw, capture_output=True, check=False)
                if done.returncode == 0:
                    return film.read_bytes()
        except OSError as error:
            raise _NoFilm(error.strerror or str(error)) from error
        raise _NoFilm(" ".join(done.stderr.decode(errors="replace").split()) or f"exit code {done.returncode}")

    def _json(self) -> bytes:
        record = {
            "settings": self.settings,
            "output": self.output,
            "notes": list(self.notes),
            "complete": self.complete,
            "steps taken": len(self.scores),
            "images": [
                {
                    "file": f"{stem}.png",
                    "title": self.titles[row],
                    "class": self.targets[row],
                    "score": number(self.final_scores[row]),
                    "probability": number(self.final_probabilities[row]),
                    "predicted": self.predicted[row] if self.predicted else None,
                }
                for row, stem in enumerate(self._stems())
            ],
        }
        return (json.dumps(record, indent=2) + "\n").encode()

    def _stems(self) -> list[str]:
        """A name for each image's files, no two alike on any file system, nor like the sheet's."""
        plain = [re.sub(r"[^\w.-]+", "_", title)[:LONGEST_NAME].strip("_.") or "image" for title in self.titles]
        alike = [stem.casefold() for stem in plain]
        stems: list[str] = []
        taken = {"sheet"} | {stem for stem in alike if alike.count(stem) == 1}
        for stem, folded in zip(plain, alike, strict=True):
            numbered = (f"{stem}_{count}" for count in itertools.count(1))
            unique = folded != "sheet" and alike.count(folded) == 1
            stems.append(stem if unique else next(name for name in numbered if name.casefold() not in taken))
            taken.add(stems[-1].casefold())
        return stems

    def _detail(self, row: int) -> str:
        """The probability of image `row`'s class, or the score where it is drawn for no class."""
        chance = float(self.final_probabilities[row])
        return f"score {float(self.final_scores[row]):.3g}" if math.isnan(chance) else percent(chance)

    @property
    def model(self) -> str:
        """The model and its weights, as captions name them."""
        model = self.settings["model"]
        return f"{model['name']} ({model['weights']})"

    @property
    def _footer(self) -> str:
        return f"{self.model} · {len(self.scores)} steps{'' if self.complete else ' · stopped early'}"

    def __repr__(self) -> str:
        drawn = "; ".join(self.caption(row) for row in range(min(4, len(self.titles))))
        more = f"; and {len(self.titles) - 4} more" if len(self.titles) > 4 else ""
        return f"Generated({drawn}{more}, {self._footer})"

    def _repr_png_(self) -> bytes:
        return encoded(self.sheet())

    def _repr_html_(self) -> str:
        data = base64.b64encode(encoded(self.sheet())).decode()
        return f'<img style="max-width:100%" alt="{escape(repr(self))}" src="data:image/png;base64,{data}">'


def warn_of_stillness(generated: Generated) -> None:
    """Warn of images that the ascent left as they were, since their objective has no slope there."""
    still = [title for title, alike in zip(generated.titles, generated.still, strict=True) if alike]
    if still:
        warn(
            f"zero gradient at every step for {_listed(still)}, so the starting image is shown (a channel that never "
            "fires, or rounding inside the model?); try another seed, start or layer"
        )


def warn_of_other_classes(generated: Generated, label: Callable[[int], str]) -> None:
    """Warn of finished images that the model does not predict as the class that they are drawn for."""
    missed = [
        f"{generated.titles[row]} {percent(float(generated.final_probabilities[row]))}, predicted is "
        f"{label(found[0])} {percent(found[1])}"
        for row, found in enumerate(generated.predicted)
        if found is not None and generated.missed[row] and not generated.still[row]
    ]
    if missed:
        warn(
            f"the finished image is not predicted as its class: {_listed(missed, '; ')}; try more steps, another lr, "
            "seed or preset"
        )


def _listed(words: Sequence[str], between: str = ", ") -> str:
    """The first of several, each once."""
    return between.join(dict.fromkeys(words[:3])) + (f"{between}..." if len(words) > 3 else "")


def as_bytes(pixels: Tensor) -> Tensor:
    """Pixels (N, C, H, W) from 0 to 1 as (N, H, W, C) of 8 bits, on the CPU."""
    return pixels.detach().clamp(0, 1).mul(255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).contiguous()


def as_picture(pixels: Tensor) -> Image.Image:
    """8-bit pixels (H, W, C) as a picture, grey if C = 1."""
    return Image.fromarray(pixels.squeeze(-1).numpy())


def model_record(loaded: LoadedModel) -> dict[str, Any]:
    """The model, the threads and the versions that results depend on, as plain values."""
    return {
        "model": {
            "name": loaded.name,
            "source": loaded.source,
            "weights": loaded.weights,
            "sha256": weights_hash(loaded.module),
            "output": loaded.output,
        },
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def number(value: Tensor) -> float | None:
    """A number for JSON, which has neither NaN nor infinity."""
    found = float(value)
    return found if math.isfinite(found) else None

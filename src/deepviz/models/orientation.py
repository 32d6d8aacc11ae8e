"""Which side of the body the axes of a volume run to, and volumes in another orientation."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from deepviz.models.stored import Stored

PAIRS = ("RL", "AP", "SI")
SIDES = {"R": "right", "L": "left", "A": "anterior", "P": "posterior", "S": "superior", "I": "inferior"}


def is_orientation(code: str) -> bool:
    """Whether it names one side of each pair of sides.

    Example:
        >>> is_orientation("SPL"), is_orientation("RAR")
        (True, False)
    """
    return len(code) == 3 and all(sum(letter in pair for letter in code) == 1 for pair in PAIRS)


def directions_of(axes: NDArray[np.float64]) -> str:
    """The sides that axes run to.

    Args:
        axes: (3, 3), row i the direction of array axis i, in a world whose axes run right, anterior and superior.

    Example:
        >>> directions_of(np.array([[0, 0, 1.0], [0.1, -2, 0], [-1, 0, 0]]))
        'SPL'
    """
    unit = axes / np.linalg.norm(axes, axis=1, keepdims=True).clip(1e-12)
    order = max(permutations(range(3)), key=lambda one: sum(abs(unit[axis, world]) for axis, world in enumerate(one)))
    return "".join(PAIRS[world][int(unit[axis, world] < 0)] for axis, world in enumerate(order))


def oriented(stored: Stored, orientation: str) -> Stored:
    """The volume with its axes reversed and in the order that `orientation` asks for."""
    order = [
        next(axis for axis, letter in enumerate(stored.directions) if letter in pair) for pair in _pairs(orientation)
    ]
    values = stored.values.transpose(0, *(axis + 1 for axis in order))
    turned = [
        axis + 1
        for axis, (source, wanted) in enumerate(zip(order, orientation, strict=True))
        if stored.directions[source] != wanted
    ]
    spacing = None if stored.spacing is None else tuple(stored.spacing[axis] for axis in order)
    flipped = np.ascontiguousarray(np.flip(values, tuple(turned)))
    return replace(stored, values=flipped, spacing=spacing, directions=orientation)


def _pairs(orientation: str) -> list[str]:
    return [next(pair for pair in PAIRS if letter in pair) for letter in orientation]

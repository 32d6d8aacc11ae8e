"""The place check: whether what a layer returns at a cell comes from that cell's place on the image.

A shape does not tell. (1, 100, 256) may be patches, a detector's queries or the words of a sentence; 49 tokens may run
along rows, down columns or window by window. So a grid is used only after a check: for 12 cells c, spread over
the grid, with a random direction v,

    E_c(p) = sum over channels of (d <v, A_c> / d x_p)^2,    P_c = E_c / sum_p E_c

is how much of what the cell sees is at each pixel p. What all cells see alike (attention and pooling mix everything
everywhere) is taken off, Q_c = max(0, P_c - mean_{b != c} P_b), and then, on every axis longer than 1,

    the centroids of Q_c must correlate with the cells' places, r >= 0.9,
    and those of P_c must move with the places, by at least a tenth of the way;

tokens that all see much of some others drag the centroids: there r >= 0.7 is enough, if at the places of at least 10
in 12 cells no other of these cells has a larger P_c.

Tokens may be shifted, which r hardly shows: a class token in the middle of 24 x 24 leaves r at 1.00. Each layout of the
others (first, last, in between, one stretch in the middle) is scored by what the cells see at their own places,

    sum_c log(P_c(own place) / mean of P_c),

where tokens left out count a part of what image tokens usually gain, and shifts that no layout explains take part. The
best one must be ahead of all others; where layouts with tokens in the middle are open, passes go to where they differ.

Measured, r: CNNs 0.94 to 1.00 (down to 4 x 6 cells; on 2 x 3, where each cell sees the whole image, random
EfficientNets fail), ViT, DeiT, Swin, DINOv2, BEiT, hybrids, PVT, MViT 0.99 to 1.00, MLP-Mixer 0.99, DETR's encoder
0.98; Hiera's unrolled tokens, object queries, words, time steps: at most 0.7, or moved by 0.03. With attention made up
to 16 times as strong right layouts are refused more and more, but no wrong one is accepted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deepviz.probe.grid import Grid, Kind, Size, flattened, follows, ordered, orders, skipped, spread_cells, token_sizes
from deepviz.probe.seeds import generator_of

NO_GRADIENT = "it returns a result without a gradient"
NO_MAP = "no spatial map"
INDEPENDENT = "it does not depend on the image"
FEW_DEPEND = "many of its cells do not depend on the image (does the model pad it?)"
CELLS = 12
"""Backward passes that a check takes at most."""
FIRST = 8
"""Those after which it ends if there is no hope, or turns to where other tokens may lie."""
CORRELATION = 0.9
OWN = 0.83
"""The part of the cells whose place no other may see more of, where the correlation is not reached."""
CORRELATION_OF_OWN = 0.7
"""The correlation that is enough then; without any, one axis may be another than is thought."""
MOVES = 0.1
MOVES_OF_FEW = 0.25
"""The same where fewer than 8 cells were compared, among which a high correlation may be chance."""
HOPE = 0.5
"""The correlation after the first passes below which no more are spent."""
FLOOR = 0.01
"""Added to a share of the mean before its logarithm: what a cell far from everything it sees costs at most."""
UNLIKELY = 3.0
"""Nats by which a grid falls behind that is not looked at any more."""
DOUBT = 0.5
"""Nats by which the layout of a sequence must be likelier than any other."""
MOST_IN_ORDER = 16
"""Other tokens that are looked for in the middle too."""
CRISP = 0.4
"""The part of all that an image token sees that must usually be at its own place for that."""
BETWEEN = 0.6
"""Of what an image token gains at its place, what a token must gain somewhere to be taken for one."""
NEXT = 2
"""Cells before and after a token's own, in reading order, that may not show more of it."""
CONFIRMED = 10 / 12
"""Of the image tokens that were looked at, the part of which that must be true."""
CLEARLY = 0.5
"""Of how far image tokens usually are ahead of those next to them, what each must be."""
STEP = 0.7
"""Nats of evidence against other tokens in the middle."""


@dataclass(frozen=True)
class Agreement:
    """How well cells see their own places.

    Args:
        r: the least correlation over the axes longer than 1.
        slope: the least slope.
        own: the part of the cells whose place no other cell sees more of.
        cells: how many were compared.
        reached: the part of the cells that see anything of their own places: of a model that cuts its image, or pads
            it by a lot, cells lie where they see nothing.
    """

    r: float = 0.0
    slope: float = 0.0
    own: float = 0.0
    cells: int = 0
    reached: float = 1.0

    @property
    def accepted(self) -> bool:
        """Whether that is enough."""
        if self.reached < CONFIRMED:
            return False
        if self.cells < FIRST:
            return self.r >= CORRELATION and self.slope >= MOVES_OF_FEW
        return self.r >= (CORRELATION_OF_OWN if self.own >= OWN else CORRELATION) and self.slope >= MOVES

    @property
    def hopeless(self) -> bool:
        """Whether no more cells need be looked at."""
        return self.r < HOPE and self.own < HOPE

    @property
    def words(self) -> str:
        """As the result says it."""
        said = f"r = {self.r:.2f}, {round(self.own * self.cells)} of {self.cells} cells"
        if self.reached < CONFIRMED:
            said += "; others see nothing of their places: does the model crop or pad its image?"
        return said


@dataclass(frozen=True)
class Place:
    """What a place check found.

    Args:
        grid: the accepted one, or None.
        reason: why not, else "".
        agreement: how well cells see their own places, if that was looked at.
        backwards: passes that it took.
        shape: of the answer.
        told: how it is known, where no check was needed: "given", "by construction".
    """

    grid: Grid | None
    reason: str = ""
    agreement: Agreement | None = None
    backwards: int = 0
    shape: Size = ()
    told: str = ""

    @property
    def known(self) -> str:
        """How the grid is known, in words."""
        return self.told or (f"checked: {self.agreement.words}" if self.agreement else "")


@dataclass(frozen=True)
class Answer:
    """What a layer answered: its shape and where its gradient arrives, whatever was done to the tensor since."""

    shape: Size
    dtype: torch.dtype
    device: torch.device
    edge: Any

    @classmethod
    def of(cls, tensor: Tensor) -> Answer:
        """Of a tensor with a graph, as it is now."""
        return cls(tuple(tensor.shape), tensor.dtype, tensor.device, torch.autograd.graph.get_gradient_edge(tensor))


def place(
    answer: Tensor | Answer,
    image: Tensor,
    known: Sequence[Size] = (),
    *,
    size: Size | None = None,
    skip: Sequence[int] | None = None,
    kind: Kind | None = None,
) -> Place:
    """Find how a layer's answer for one image lies on it, and check that it does.

    Costs at most 12 backward passes from the answer to the image, whose graph is kept.

    Args:
        answer: (1, ...), or (L, 1, D), with a graph down to `image`.
        image: (1, C, *space), one to three axes, a leaf.
        known: grids of earlier layers, in their order, such as the patch embedding's.
        size: the grid, where it is given.
        skip: the positions that are no image tokens, where they are given; negative ones count from the end.
        kind: of the layout, where it is known.
    """
    axes = image.ndim - 2
    if not 1 <= axes <= 3:
        return Place(None, f"the input {tuple(image.shape)} has no spatial axes, or more than three")
    if isinstance(answer, Tensor):
        if not answer.requires_grad:
            return Place(None, NO_GRADIENT)
        answer = Answer.of(answer)
    proposals = proposed(answer.shape, tuple(image.shape[2:]), known, size, skip)
    if kind is not None:
        proposals = [grid for grid in proposals if grid.kind == kind]
    if not proposals:
        return Place(None, NO_MAP)
    used, best = 0, Place(None)
    kinds = list(dict.fromkeys(grid.kind for grid in proposals))
    sizes = {tuple(one) for one in ([size] if size is not None else known)}
    for waiting, kind in zip(range(len(kinds), 0, -1), kinds, strict=True):
        look = _Look(answer, image, (CELLS - used) // waiting)
        same = [grid for grid in proposals if grid.kind == kind]
        try:
            found = _cells(look, same) if kind.startswith("channels") else _tokens(look, same, sizes, skip is None)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            found = Place(None, f"its gradient cannot be taken ({' '.join(str(error).split())[:80]})")
        used += look.backwards
        if found.grid is not None:
            return replace(found, backwards=used)
        best = found if not best.reason or _r(found) > _r(best) else best
    return replace(best, backwards=used)


def _r(found: Place) -> float:
    return found.agreement.r if found.agreement else -1.0


def proposed(
    shape: Size,
    space: Size,
    known: Iterable[Size] = (),
    size: Size | None = None,
    skip: Sequence[int] | None = None,
) -> list[Grid]:
    """The layouts that an answer of this shape to one image may have, the likely ones first.

    The sizes of answers with an axis per image axis are as the answer lists them; which image axis each of them runs
    along is left open, as is, unless `skip` is given, where in a sequence the other tokens are (`skip` holds as many).
    """
    axes = len(space)
    found: list[Grid] = []
    if len(shape) == axes + 2 and shape[0] == 1:
        pair: list[tuple[Kind, Size]] = [("channels first", shape[2:])]
        if axes > 1 and (size is not None or follows(shape[1:-1], space)):  # (N, L, D) are tokens
            pair.append(("channels last", shape[1:-1]))
        pair.sort(key=lambda one: not follows(one[1], space))
        found = [Grid(kind, listed) for kind, listed in pair if math.prod(listed) > 1]
        if size is not None:
            found = [grid for grid in found if sorted(grid.size) == sorted(size)]
    if len(shape) == 3 and shape[2] > 0:
        kinds: list[tuple[Kind, int]] = []
        if shape[0] == 1:
            kinds.append(("tokens", shape[1]))
        if shape[1] == 1 and shape[0] > 1:
            kinds.append(("tokens, sequence first", shape[0]))
        for kind, length in kinds:
            sizes = token_sizes(length, space, known) if size is None else [(size, length - math.prod(size))]
            given = None if skip is None else skipped(skip, length)
            for one, left in sizes:
                if skip is None and left >= 0:
                    found.append(Grid(kind, one, tuple(range(left))))
                elif given is not None and left == len(given):
                    found.append(Grid(kind, one, given))
    return found


@dataclass
class _Look:
    """How single cells of an answer depend on the image."""

    answer: Answer
    image: Tensor
    most: int
    seen: list[tuple[list[int], Tensor]] = field(default_factory=list)
    pooled: dict[tuple[Size, Size], list[tuple[list[int], Tensor]]] = field(default_factory=dict)

    @property
    def backwards(self) -> int:
        return len(self.seen)

    def at(self, grid: Grid, positions: Sequence[int]) -> None:
        """One backward pass, for the sum of some positions."""
        direction = torch.zeros(self.answer.shape, dtype=self.answer.dtype, device=self.answer.device)
        cells = flattened(grid, direction)
        for position in positions:
            v = torch.randn(cells.shape[1], generator=generator_of(0, 1000 * self.backwards + position))
            cells[position] = v.to(cells)
        (gradient,) = torch.autograd.grad(
            [self.answer.edge], [self.image], grad_outputs=[direction], retain_graph=True, allow_unused=True
        )
        if gradient is None:
            energy = self.image.new_zeros(self.image.shape[2:], dtype=torch.float32)
        else:
            scale = gradient.abs().max().clamp_min(torch.finfo(gradient.dtype).tiny)
            energy = (gradient[0] / scale).float().square().sum(0).nan_to_num(0.0, 0.0, 0.0)
        self.seen.append((list(positions), energy.cpu()))

    def singles(self) -> tuple[list[int], Tensor]:
        """The positions that were looked at alone and depend on the image, and their P (n, *space)."""
        alone = [(positions[0], energy) for positions, energy in self.seen if len(positions) == 1]
        alive = [(position, energy) for position, energy in alone if bool(energy.any())]
        if len(alive) < 2 or 3 * len(alive) < 2 * len(alone):
            return [], torch.zeros(0, *self.image.shape[2:])
        return [position for position, _ in alive], torch.stack([energy / energy.sum() for _, energy in alive])

    def told(self, borders: Sequence[int]) -> set[int]:
        """The positions that were looked at alone, or together with other borders of a layout."""
        return {
            position
            for positions, _ in self.seen
            if len(positions) == 1 or set(positions) <= set(borders)
            for position in positions
        }

    def gains(self, grid: Grid) -> list[tuple[int, Tensor]]:
        """For each position looked at, log of its energy in every cell over the mean cell's, in the grid's order."""
        known = self.pooled.setdefault((grid.size, grid.order), [])
        for positions, energy in self.seen[len(known) :]:
            (cells,) = _shares(energy[None], grid)
            share = len(positions) * cells / cells.mean().clamp_min(1e-30)
            known.append((positions, (share.clamp_max(grid.cells) + FLOOR).log()))
        return [(position, gain) for positions, gain in known for position in positions]


_POOLS: tuple[Any, ...] = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)


def own(P: Tensor) -> Tensor:
    """Q_c, each cell's share beyond what the others have there on average, (n, *space)."""
    Q = (P - (P.sum(0) - P) / (len(P) - 1)).clamp_min(0)
    # what rounding leaves of cells that all depend on the same is no place
    return torch.where(Q.flatten(1).sum(1).view(-1, *(1,) * (Q.ndim - 1)) > 1e-4, Q, torch.ones_like(Q))


def centroids(Q: Tensor) -> Tensor:
    """(n, *space) -> (n, axes), from 0 to 1 along each."""
    along = []
    for axis in range(1, Q.ndim):
        weights = Q.movedim(axis, 1).reshape(len(Q), Q.shape[axis], -1).sum(2)
        middle = (torch.arange(weights.shape[1]) + 0.5) / weights.shape[1]
        along.append((weights * middle).sum(1) / weights.sum(1))
    return torch.stack(along, 1)


def agreement(P: Tensor, cells: Sequence[int], grid: Grid) -> Agreement:
    """The correlation of the centroids of Q with the places of some cells, and the slope of those of P.

    Args:
        P: (n, *space), the energies of n cells, each with the sum 1.
        cells: the n places in the order in which the grid lists them.
        grid: which need not have room for skipped positions here.
    """
    if len(cells) < min(3, grid.cells):
        return Agreement()
    listed = torch.stack(torch.unravel_index(torch.tensor(cells), grid.listed), 1)
    order = grid.order or tuple(range(len(grid.size)))
    middles, plain = centroids(own(P)), centroids(P)
    least, moved = 1.0, math.inf
    for axis, length in enumerate(grid.size):
        if length == 1:
            continue
        place_ = (listed[:, order.index(axis)].float() + 0.5) / length
        a, b = place_ - place_.mean(), middles[:, axis] - middles[:, axis].mean()
        if float(a.norm()) == 0:
            return Agreement()
        least = min(least, float((a @ b) / (a.norm() * b.norm()).clamp_min(1e-12)))
        moved = min(moved, float(a @ plain[:, axis] / (a @ a)))
    at = _shares(P, grid)[:, torch.tensor(cells)]
    own_ = float((at.argmax(0) == torch.arange(len(cells))).float().mean())
    reached = float((at.diagonal() > 0).float().mean())
    return Agreement(least, moved, own_, len(cells), reached)


def _shares(P: Tensor, grid: Grid) -> Tensor:
    """(n, *space) -> (n, cells), in the order in which the grid lists its cells."""
    shares: Tensor = _POOLS[len(grid.size) - 1](P[:, None], grid.size)[:, 0]
    if grid.order:
        shares = shares.permute(0, *(1 + axis for axis in grid.order))
    return shares.flatten(1)


def _refused(found: Agreement, backwards: int, what: str) -> Place:
    why = f"its {what} do not lie on the image cell by cell (place check: {found.words})"
    return Place(None, why, found, backwards)


def _nothing(look: _Look) -> Place:
    some = any(bool(energy.any()) for _, energy in look.seen)
    return Place(None, FEW_DEPEND if some else INDEPENDENT, None, look.backwards)


def _cells(look: _Look, proposals: list[Grid]) -> Place:
    """Answers with an axis per image axis: which of them is which."""
    grid = proposals[0]
    looked = spread_cells(grid.size, look.most)
    best, found = grid, Agreement()
    for count in (min(FIRST, look.most), look.most):
        for cell in looked[look.backwards : count]:
            look.at(grid, [cell])
        cells, P = look.singles()
        if not cells:
            continue
        each = {one: agreement(P, cells, one) for one in ordered(grid)}
        best = max(each, key=lambda one: (each[one].accepted, each[one].r + each[one].own))
        found = each[best]
        if found.hopeless:
            break
    if not look.singles()[0]:
        return _nothing(look)
    return Place(best, "", found, look.backwards) if found.accepted else _refused(found, look.backwards, "cells")


def _tokens(look: _Look, proposals: list[Grid], known: set[Size], free: bool) -> Place:
    """A sequence: on which grid, in which order, and, if that is left free, where the other tokens are.

    Others in the middle are looked for only on a grid that is known: with any size, something would fit anything.
    """
    first = proposals[0]
    looked = _first_tokens(first, free)
    for position in looked[: min(FIRST, look.most)]:
        look.at(first, [position])
    while True:
        layouts = _layouts(look, proposals, known, free)
        if not layouts:
            return _nothing(look)
        best = layouts[0]
        likely = {tuple(sorted(one.proposal.size)) for one in layouts if one.score > best.score - UNLIKELY}
        proposals = [grid for grid in proposals if tuple(sorted(grid.size)) in likely]
        found = _agreement(look, best)
        if found.hopeless or look.backwards >= look.most:
            break
        rivals = [one for one in layouts if one.proposal == best.proposal and one.score > best.score - DOUBT]
        rest = [position for position in looked if [position] not in [seen for seen, _ in look.seen]]
        differing = _differing(rivals) or _apart(best, look.told(best.borders))
        if differing:
            look.at(first, differing)
            continue
        if not rest:
            break
        for position in rest[: look.most - look.backwards]:
            look.at(first, [position])
    if not found.accepted or (best.before != best.after and found.r < CORRELATION):
        return _refused(found, look.backwards, "tokens")
    doubtful = any(one.score > best.score - DOUBT and best.contradicts(one) for one in layouts[1:])
    if doubtful or not best.possible or not _confirmed(look, best):
        return Place(None, "it cannot be told which of its tokens are the image's", found, look.backwards)
    return Place(best.grid, "", found, look.backwards)


@dataclass(frozen=True)
class _Layout:
    """One guess at a sequence: the image tokens before position `at` are shifted by `before`, the others by `after`."""

    proposal: Grid
    before: int
    after: int
    at: int
    score: float
    given: bool = False

    @property
    def possible(self) -> bool:
        return 0 <= self.before <= self.after <= len(self.proposal.skip)

    @property
    def grid(self) -> Grid:
        length = self.proposal.cells + len(self.proposal.skip)
        if self.given:
            return self.proposal
        ranges = (range(self.before), range(self.at, self.at + self.after - self.before))
        skip = [
            *ranges[0],
            *(ranges[1] if self.before < self.after else ()),
            *range(self.after + self.proposal.cells, length),
        ]
        return replace(self.proposal, skip=tuple(skip))

    @property
    def plain(self) -> bool:
        """Whether it is given, or all other tokens are first or last."""
        return self.given or self.before == self.after in (0, len(self.proposal.skip))

    @property
    def borders(self) -> list[int]:
        """Image tokens that tell, if they are where the layout says, that the other tokens are too: the first and the
        last, and those before and after several in the middle, which might be apart."""
        if self.plain or not self.possible:
            return []
        image = [position for position in range(self.proposal.cells + self.after) if self.place(position) is not None]
        inner = [self.at - 1, self.at + self.after - self.before] if self.after - self.before > 1 else []
        return list(dict.fromkeys([image[0], image[-1], *inner]))

    def contradicts(self, other: _Layout) -> bool:
        """Whether both cannot be right; shifts that only another number of tokens would explain do not count."""
        mine, theirs = self.grid, other.grid
        if (mine.size, mine.order) != (theirs.size, theirs.order):
            return True
        return bool(self.proposal.skip) and mine.skip != theirs.skip

    def place(self, position: int) -> int | None:
        """The cell of a token, in the grid's own order; None if it is none of the image's."""
        if self.given:
            skip = self.proposal.skip
            return None if position in skip else position - sum(one < position for one in skip)
        if self.before != self.after and self.at <= position < self.at + self.after - self.before:
            return None
        cell = position - (self.before if position < self.at else self.after)
        return cell if 0 <= cell < self.proposal.cells else None


def _first_tokens(grid: Grid, free: bool) -> list[int]:
    """Positions to look at: the grid's ends, whether all others come first or last, and what is beside; then spread."""
    cells = spread_cells(grid.size, CELLS)
    left = len(grid.skip)
    if not free:
        image = [position for position in range(grid.cells + left) if position not in grid.skip]
        return [image[cell] for cell in cells]
    if not left:
        return cells
    if left <= MOST_IN_ORDER:
        spread = [cell + left for cell in cells]
    elif left < grid.cells:
        spread = [left + cell * (grid.cells - left) // grid.cells for cell in cells]
    else:
        spread = [cell + 1 for cell in cells]
    ends = [left, grid.cells - 1, left - 1, grid.cells]
    return list(dict.fromkeys([*ends, *spread]))[: max(len(cells), len(ends))]


def _layouts(look: _Look, proposals: list[Grid], known: set[Size], free: bool) -> list[_Layout]:
    """The layouts of all proposals, the likeliest first; none if nothing depends on the image."""
    if not look.singles()[0]:
        return []
    found: list[_Layout] = []
    for proposal in proposals:
        for grid in _arranged(proposal):
            gains = look.gains(grid)
            found += _scored(grid, gains, proposal.size in known) if free else [_given(grid, gains)]
    return sorted(found, key=lambda one: -one.score)


def _arranged(proposal: Grid) -> list[Grid]:
    """In any order; and a size that an earlier layer lists may be of the image's axes in another order."""
    arranged = [*(replace(proposal, order=order) for order in orders(len(proposal.size))), *ordered(proposal)]
    # axes of length 1 may stand anywhere
    return list(dict.fromkeys(replace(one, order=()) if _plain(one) else one for one in arranged))


def _plain(grid: Grid) -> bool:
    long = [axis for axis in grid.order if grid.size[axis] > 1]
    return long == sorted(long)


def _agreement(look: _Look, layout: _Layout) -> Agreement:
    positions, P = look.singles()
    cells = [layout.place(position) for position in positions]
    image = [n for n, cell in enumerate(cells) if cell is not None]
    if len(image) < 2:
        return Agreement()
    return agreement(P[image], [cell for cell in cells if cell is not None], layout.proposal)


def _apart(layout: _Layout, told: set[int]) -> list[int]:
    """Borders of the layout that are still to be looked at, as many as do not disturb each other."""
    found: list[int] = []
    for position in layout.borders:
        if position not in told and all(abs(position - other) > 3 * NEXT for other in found):
            found.append(position)
    return found


def _confirmed(look: _Look, layout: _Layout) -> bool:
    """Whether the image tokens see their own place more than those next to it in reading order, beyond what all see.

    Where other tokens may have shifted some, 10 of 12 must, and none may see the next place far more. If the others
    are neither all first nor all last, each that was looked at must, and clearly, those at the borders among them.
    """
    if not layout.proposal.skip:
        return True
    told = look.told(layout.borders)
    placed = [(position, gain) for position, gain in look.gains(layout.proposal) if position in told]
    placed = [(position, gain) for position, gain in placed if layout.place(position) is not None]
    usual = torch.stack([gain for _, gain in placed]).mean(0)
    ahead: dict[int, float] = {}
    for position, gain in placed:
        cell, more = layout.place(position), gain - usual
        assert cell is not None
        beside = torch.cat([more[max(0, cell - NEXT) : cell], more[cell + 1 : cell + NEXT + 1]])
        ahead[position] = float(more[cell] - beside.max())
    values = torch.tensor(list(ahead.values()))
    if int((values >= 0).sum()) < CONFIRMED * len(values) or float(values.min()) < -UNLIKELY:
        return False
    clear = bool((values >= CLEARLY * values.median()).all())
    return layout.plain or (clear and all(position in ahead for position in layout.borders))


def _differing(rivals: list[_Layout]) -> list[int]:
    """Positions at which the layouts that are left place different cells; none if only the shift is open.

    Where tokens in the middle are looked for, several far apart go into one pass.
    """
    steps = sorted({one.at for one in rivals if one.before != one.after})
    if len(rivals) < 2 or not steps:
        return []
    length = rivals[0].proposal.cells + len(rivals[0].proposal.skip)
    low, high = steps[0], steps[-1]
    count = max(1, min(7, (high - low) // 4))
    between = [low + round((high - low) * n / (count + 1)) for n in range(1, count + 1)]
    if count == 1:
        candidates = range(max(0, low - 1), min(length, high + len(rivals[0].proposal.skip) + 1))
        best = max(candidates, key=lambda position: _evenness([one.place(position) for one in rivals]))
        return [best]
    return between


def _evenness(places: list[int | None]) -> float:
    counts = Counter(places).values()
    return -sum(count / len(places) * math.log(count / len(places)) for count in counts)


def _given(grid: Grid, gains: list[tuple[int, Tensor]]) -> _Layout:
    layout = _Layout(grid, 0, 0, 0, 0.0, given=True)
    places = [(layout.place(position), gain) for position, gain in gains]
    return replace(layout, score=sum(float(gain[cell]) for cell, gain in ((c, g) for c, g in places if c is not None)))


def _scored(grid: Grid, gains: list[tuple[int, Tensor]], steps: bool) -> list[_Layout]:
    """Every shift of all tokens alike, and the likely ones with other tokens in the middle."""
    left = len(grid.skip)
    positions = torch.tensor([position for position, _ in gains])
    table = torch.stack([gain for _, gain in gains])
    shifts = range(-2, left + 3)
    inside, gain = {}, {}
    for shift in shifts:
        cell = positions - shift
        inside[shift] = (cell >= 0) & (cell < grid.cells)
        gain[shift] = table.gather(1, cell.clamp(0, grid.cells - 1)[:, None])[:, 0]
    # a token that is none of the image's gains little anywhere
    usual = torch.stack([torch.where(inside[shift], gain[shift], -9.0) for shift in shifts]).amax(0).median()
    none = BETWEEN * usual.clamp_min(0.0)
    score = {shift: torch.where(inside[shift], gain[shift], none) for shift in shifts}
    # where hardly any position that was looked at has a cell, there is no evidence for the layout
    enough = [shift for shift in shifts if int(inside[shift].sum()) >= min(3, len(positions), grid.cells)]
    found = [_Layout(grid, shift, shift, 0, float(score[shift].sum())) for shift in enough]
    if not steps or not 0 < left <= MOST_IN_ORDER:
        return found
    best = max((one.score for one in found), default=0.0)
    if float(usual) < math.log(CRISP * grid.cells):
        return found
    for before in range(left):
        for after in range(before + 1, left + 1):
            at = torch.arange(before + 1, before + grid.cells)
            ahead, behind = positions < at[:, None], positions >= at[:, None] + after - before
            scores = torch.where(ahead, score[before], torch.where(behind, score[after], none)).sum(1) - STEP
            likely = scores > max(best, float(scores.max())) - DOUBT
            found += [
                _Layout(grid, before, after, int(k), float(value))
                for k, value in zip(at[likely], scores[likely], strict=True)
            ]
    return found

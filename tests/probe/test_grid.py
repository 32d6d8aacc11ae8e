"""How shapes are read as grids."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepviz.errors import LayerError
from deepviz.probe.grid import MOST_PREFIX, Grid, Rearranged, follows, given_grid, read_grid, spread_cells

TABLE = [
    # shape of the answer, size of the image, grid
    ((1, 197, 192), (224, 224), Grid("tokens", (14, 14), tuple(range(1)))),  # ViT-B/16: a class token
    ((1, 198, 192), (224, 224), Grid("tokens", (14, 14), tuple(range(2)))),  # DeiT: and a distillation token
    ((1, 196, 192), (224, 224), Grid("tokens", (14, 14))),
    (
        (1, 261, 384),
        (224, 224),
        Grid("tokens", (16, 16), tuple(range(5))),
    ),  # DINOv2 /14: a class and four register tokens
    ((1, 257, 384), (224, 224), Grid("tokens", (16, 16), tuple(range(1)))),
    ((1, 50, 768), (224, 224), Grid("tokens", (7, 7), tuple(range(1)))),  # /32
    ((1, 785, 192), (224, 224), Grid("tokens", (28, 28), tuple(range(1)))),  # /8
    ((1, 577, 768), (384, 384), Grid("tokens", (24, 24), tuple(range(1)))),
    ((1, 49, 768), (224, 224), Grid("tokens", (7, 7))),  # HF Swin's last stage
    ((1, 25, 192), (64, 96), Grid("tokens", (4, 6), tuple(range(1)))),
    ((1, 25, 192), (96, 64), Grid("tokens", (6, 4), tuple(range(1)))),
    ((1, 29, 192), (64, 96), Grid("tokens", (4, 6), tuple(range(5)))),
    ((1, 512, 7, 7), (224, 224), Grid("channels first", (7, 7))),
    ((1, 512, 2, 3), (64, 96), Grid("channels first", (2, 3))),
    ((1, 512, 3, 2), (96, 64), Grid("channels first", (3, 2))),
    ((1, 7, 7, 768), (224, 224), Grid("channels last", (7, 7))),  # Swin
    ((1, 2, 3, 768), (64, 96), Grid("channels last", (2, 3))),
    ((1, 14, 14, 96), (448, 448), Grid("channels last", (14, 14))),
    ((1, 64, 112, 112), (224, 224), Grid("channels first", (112, 112))),
    ((1, 64, 13, 19), (100, 150), Grid("channels first", (13, 19))),  # sizes that do not divide
    ((1, 1000), (224, 224), None),
    ((1, 3, 4, 5, 6), (224, 224), None),
    ((1, 8, 4, 7, 7), (16, 112, 112), Grid("channels first", (4, 7, 7))),  # a clip
    ((1, 8, 14, 14, 96), (16, 224, 224), Grid("channels last", (8, 14, 14))),  # Video Swin
    ((1, 8, 50), (100,), Grid("channels first", (50,))),  # a signal
    ((1,), (224, 224), None),
]


@pytest.mark.parametrize(("shape", "size", "grid"), TABLE)
def test_grids_that_are_inferred(shape, size, grid):
    assert read_grid(shape, size) == grid


def test_too_few_tokens_are_no_grid():
    assert read_grid((1, 1, 512), (224, 224)) is None
    assert read_grid((1, 3, 512), (224, 224)) is None


def test_a_grid_seen_earlier_goes_first():
    """52 tokens may be 7 x 7 + 3 or, in a model that cut the image into 6 x 6 patches, these and 16 others."""
    assert read_grid((1, 52, 8), (224, 224)) == Grid("tokens", (7, 7), tuple(range(3)))
    assert read_grid((1, 52, 8), (224, 224), known=(6, 6)) == Grid("tokens", (6, 6), tuple(range(16)))
    assert read_grid((1, 52, 8), (224, 224), known=(14, 14)) == Grid(
        "tokens", (7, 7), tuple(range(3))
    )  # which cannot be


@given(patch=st.sampled_from([4, 8, 14, 16, 32]), h=st.integers(2, 24), w=st.integers(2, 24), prefix=st.integers(0, 5))
def test_with_the_patch_embedding_seen_every_token_grid_is_found(patch, h, w, prefix):
    found = read_grid((1, prefix + h * w, 8), (patch * h, patch * w), known=(h, w))
    assert found == Grid("tokens", (h, w), tuple(range(prefix)))


@given(patch=st.sampled_from([8, 14, 16]), h=st.integers(7, 24), prefix=st.integers(0, 2))
def test_on_square_images_the_usual_prefixes_are_found_from_the_length_alone(patch, h, prefix):
    assert read_grid((1, prefix + h * h, 8), (patch * h, patch * h)) == Grid("tokens", (h, h), tuple(range(prefix)))


def test_maps_are_the_values_on_the_grid():
    """Value of row i, column j, channel d: 100 i + 10 j + d, in each of the three layouts."""
    h, w, d = 2, 3, 4
    i, j, k = torch.meshgrid(torch.arange(h), torch.arange(w), torch.arange(d), indexing="ij")
    last = (100 * i + 10 * j + k).unsqueeze(0)
    first = last.movedim(-1, 1)
    tokens = torch.cat([torch.full((1, 5, d), -1), last.flatten(1, 2)], 1)
    assert torch.equal(Grid("channels first", (h, w)).maps(first), first)
    assert torch.equal(Grid("channels last", (h, w)).maps(last), first)
    assert torch.equal(Grid("tokens", (h, w), tuple(range(5))).maps(tokens), first)


@pytest.mark.parametrize("size", [(6,), (2, 3), (2, 3, 4)])
def test_every_layout_of_the_same_maps_gives_them_back(size):
    """On one to three axes, listed in any order, with other tokens before, between and after."""
    d, cells = 3, torch.Size(size).numel()
    maps = torch.arange(2.0 * d * cells).view(2, d, *size)
    assert torch.equal(Grid("channels last", size).maps(maps.movedim(1, -1)), maps)
    axes = list(range(len(size)))
    for order in itertools.permutations(axes):
        named = () if list(order) == axes else order
        listed = maps.permute(0, 1, *(2 + axis for axis in order))
        assert torch.equal(Grid("channels first", size, order=named).maps(listed), maps)
        tokens = listed.flatten(2).transpose(1, 2)
        for skip in ((), (0,), (0, 1), (cells,), (2,), (0, 3, cells + 2)):
            kept = [place for place in range(cells + len(skip)) if place not in skip]
            whole = torch.full((2, cells + len(skip), d), -1.0)
            whole[:, kept] = tokens
            assert torch.equal(Grid("tokens", size, skip, named).maps(whole), maps)
            first = Grid("tokens, sequence first", size, skip, named)
            assert torch.equal(first.maps(whole.transpose(0, 1)), maps)
            assert first.fits((len(kept) + len(skip), 2, d), 2)
            assert not first.fits((2, len(kept) + len(skip), d), 2)


def test_a_grid_fits_what_it_was_made_for():
    grid = Grid("tokens", (4, 4), (0,))
    assert grid.fits((3, 17, 8), 3)
    assert not any(grid.fits(shape, 3) for shape in ((3, 16, 8), (12, 17, 8), (17, 3, 8), (3, 17, 4, 2)))
    assert Grid("channels first", (2, 3)).fits((5, 9, 2, 3), 5)
    assert not Grid("channels first", (2, 3)).fits((20, 9, 2, 3), 5)  # windows folded into the rows


@pytest.mark.parametrize(
    ("shape", "size", "skip", "grid"),
    [
        ((1, 17, 8), (4, 4), (0,), Grid("tokens", (4, 4), (0,))),
        ((1, 17, 8), (4, 4), (-1,), Grid("tokens", (4, 4), (16,))),
        ((17, 1, 8), (4, 4), (8,), Grid("tokens, sequence first", (4, 4), (8,))),
        ((1, 16, 8), (2, 8), None, Grid("tokens", (2, 8))),
        ((1, 17, 8), (4, 4), None, None),  # which of them is none of the image's is not said
        ((1, 17, 8), (4, 4), (0, 1), None),
        ((1, 17, 8), None, (0,), None),
        ((1, 8, 4, 6), (4, 6), None, Grid("channels first", (4, 6))),
        ((1, 4, 6, 8), (4, 6), None, Grid("channels last", (4, 6))),
        ((1, 8, 4, 6), (6, 4), None, None),
    ],
)
def test_what_is_given_in_full_is_believed(shape, size, skip, grid):
    assert given_grid(shape, size, skip) == grid


def test_a_function_as_grid_must_return_maps():
    tokens = torch.rand(2, 6, 4)
    turned = Rearranged(lambda values: values.transpose(1, 2).unflatten(2, (2, 3)), 2, 2)
    assert turned.maps(tokens).shape == (2, 4, 2, 3)
    for function, got in (
        (lambda values: values.mean(2), r"\(2, 6\)"),
        (lambda values: values, r"\(2, 6, 4\)"),  # tokens are no second axis of the image
        (lambda values: values[:, None, None, None], r"\(2, 1, 1, 1, 6, 4\)"),
        (lambda values: values[:1].transpose(1, 2).unflatten(2, (2, 3)), r"\(1, 4, 2, 3\)"),
        (lambda values: None, "NoneType"),
    ):
        with pytest.raises(LayerError, match=rf"must return maps \(2, D, height, width\), got {got} of \(2, 6, 4\)"):
            Rearranged(function, 2, 2).maps(tokens)
    with pytest.raises(LayerError, match=r"the callable given as grid= failed on \(2, 6, 4\): .*unflatten"):
        Rearranged(lambda values: values.unflatten(1, (5, 5)), 2, 2).maps(tokens)


@given(size=st.lists(st.integers(1, 20), min_size=1, max_size=3), count=st.integers(1, 16))
def test_cells_are_spread_over_every_axis(size, count):
    """As many as asked for, no two the same, and, of a grid that is not small, both halves of each axis."""
    cells = spread_cells(tuple(size), count)
    total = torch.Size(size).numel()
    assert len(cells) == len(set(cells)) == min(count, total)
    assert all(0 <= cell < total for cell in cells)
    if count >= 8:
        for axis, places in enumerate(torch.unravel_index(torch.tensor(cells), size)):
            if size[axis] > 1:
                assert int(places.min()) < size[axis] / 2 <= int(places.max()) + 1


def test_a_grid_says_what_it_is():
    assert str(Grid("tokens", (25, 12), (0, 1), (1, 0))) == "25 x 12 + 2 other tokens, tokens, column by column"
    assert str(Grid("tokens", (16, 16), tuple(range(5)))) == "16 x 16 + 5 other tokens, tokens"
    assert str(Grid("channels first", (7, 9))) == "7 x 9, channels first"


@pytest.mark.parametrize(
    ("grid", "size", "answer"),
    [
        ((7, 7), (224, 224), True),
        ((2, 3), (64, 96), True),
        ((3, 2), (64, 96), False),
        ((13, 19), (100, 150), True),
        ((12, 19), (100, 150), True),
        ((8, 8), (64, 96), False),
        ((224, 224), (224, 224), True),
        ((448, 448), (224, 224), False),  # finer than the image
        ((0, 0), (224, 224), False),
        ((197, 64), (224, 224), False),  # an attention head's queries
    ],
)
def test_a_grid_follows_the_images_proportions(grid, size, answer):
    assert follows(grid, size) is answer


def test_at_most_so_many_tokens_are_left_over():
    assert read_grid((1, 49 + MOST_PREFIX, 8), (224, 224), known=(7, 7)) == Grid(
        "tokens", (7, 7), tuple(range(MOST_PREFIX))
    )
    found = read_grid((1, 49 + MOST_PREFIX + 1, 8), (224, 224), known=(7, 7))
    assert found == Grid("tokens", (7, 7), tuple(range(MOST_PREFIX + 1)))  # of a grid that is known, any number

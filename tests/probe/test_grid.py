"""How shapes are read as grids."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepviz.probe.grid import MOST_PREFIX, Grid, follows, read_grid

TABLE = [
    # shape of the answer, size of the image, grid
    ((1, 197, 192), (224, 224), Grid("tokens", 14, 14, 1)),  # ViT-B/16: a class token
    ((1, 198, 192), (224, 224), Grid("tokens", 14, 14, 2)),  # DeiT: and a distillation token
    ((1, 196, 192), (224, 224), Grid("tokens", 14, 14)),
    ((1, 261, 384), (224, 224), Grid("tokens", 16, 16, 5)),  # DINOv2 /14: a class and four register tokens
    ((1, 257, 384), (224, 224), Grid("tokens", 16, 16, 1)),
    ((1, 50, 768), (224, 224), Grid("tokens", 7, 7, 1)),  # /32
    ((1, 785, 192), (224, 224), Grid("tokens", 28, 28, 1)),  # /8
    ((1, 577, 768), (384, 384), Grid("tokens", 24, 24, 1)),
    ((1, 49, 768), (224, 224), Grid("tokens", 7, 7)),  # HF Swin's last stage
    ((1, 25, 192), (64, 96), Grid("tokens", 4, 6, 1)),
    ((1, 25, 192), (96, 64), Grid("tokens", 6, 4, 1)),
    ((1, 29, 192), (64, 96), Grid("tokens", 4, 6, 5)),
    ((1, 512, 7, 7), (224, 224), Grid("channels first", 7, 7)),
    ((1, 512, 2, 3), (64, 96), Grid("channels first", 2, 3)),
    ((1, 512, 3, 2), (96, 64), Grid("channels first", 3, 2)),
    ((1, 7, 7, 768), (224, 224), Grid("channels last", 7, 7)),  # Swin
    ((1, 2, 3, 768), (64, 96), Grid("channels last", 2, 3)),
    ((1, 14, 14, 96), (448, 448), Grid("channels last", 14, 14)),
    ((1, 64, 112, 112), (224, 224), Grid("channels first", 112, 112)),
    ((1, 64, 13, 19), (100, 150), Grid("channels first", 13, 19)),  # sizes that do not divide
    ((1, 1000), (224, 224), None),
    ((1, 3, 4, 5, 6), (224, 224), None),
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
    assert read_grid((1, 52, 8), (224, 224)) == Grid("tokens", 7, 7, 3)
    assert read_grid((1, 52, 8), (224, 224), known=(6, 6)) == Grid("tokens", 6, 6, 16)
    assert read_grid((1, 52, 8), (224, 224), known=(14, 14)) == Grid("tokens", 7, 7, 3)  # which cannot be


@given(patch=st.sampled_from([4, 8, 14, 16, 32]), h=st.integers(2, 24), w=st.integers(2, 24), prefix=st.integers(0, 5))
def test_with_the_patch_embedding_seen_every_token_grid_is_found(patch, h, w, prefix):
    found = read_grid((1, prefix + h * w, 8), (patch * h, patch * w), known=(h, w))
    assert found == Grid("tokens", h, w, prefix)


@given(patch=st.sampled_from([8, 14, 16]), h=st.integers(7, 24), prefix=st.integers(0, 2))
def test_on_square_images_the_usual_prefixes_are_found_from_the_length_alone(patch, h, prefix):
    assert read_grid((1, prefix + h * h, 8), (patch * h, patch * h)) == Grid("tokens", h, h, prefix)


def test_maps_are_the_values_on_the_grid():
    """Value of row i, column j, channel d: 100 i + 10 j + d, in each of the three layouts."""
    h, w, d = 2, 3, 4
    i, j, k = torch.meshgrid(torch.arange(h), torch.arange(w), torch.arange(d), indexing="ij")
    last = (100 * i + 10 * j + k).unsqueeze(0)
    first = last.movedim(-1, 1)
    tokens = torch.cat([torch.full((1, 5, d), -1), last.flatten(1, 2)], 1)
    assert torch.equal(Grid("channels first", h, w).maps(first), first)
    assert torch.equal(Grid("channels last", h, w).maps(last), first)
    assert torch.equal(Grid("tokens", h, w, 5).maps(tokens), first)


def test_a_grid_says_what_it_is():
    assert str(Grid("tokens", 16, 16, 5)) == "16 x 16 + 5 other tokens, tokens"
    assert str(Grid("channels first", 7, 9)) == "7 x 9, channels first"


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
    assert follows(*grid, *size) is answer


def test_at_most_so_many_tokens_are_left_over():
    assert read_grid((1, 49 + MOST_PREFIX, 8), (224, 224), known=(7, 7)) == Grid("tokens", 7, 7, MOST_PREFIX)
    found = read_grid((1, 49 + MOST_PREFIX + 1, 8), (224, 224), known=(7, 7))
    assert found is None or (found.h, found.w) != (7, 7)

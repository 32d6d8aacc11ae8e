import json

import numpy as np
import pytest
from PIL import Image
from torch import nn

import deepviz
from deepviz.cli import run
from networks import assert_same
from small_models import PLAIN, seeded


class Embedder(nn.Module):
    """E = W v, with the mean colour v of an image."""

    def __init__(self):
        super().__init__()
        self.W = nn.Linear(3, 4, bias=False)

    def forward(self, x):
        return self.W(x.mean((2, 3)))


def embedder():
    return deepviz.LoadedModel(seeded(Embedder()), "linear", PLAIN, output="embedding")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, size in {"a.png": (40, 30), "b.png": (48, 36)}.items():
        pixels = np.random.default_rng(size[0]).integers(0, 255, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(name)
    return tmp_path


def slope(measure, a, b):
    """dS(a, b) / da."""
    if measure == "dot":
        return b
    if measure == "distance":
        return -(a - b) / (a - b).norm()
    return b / (a.norm() * b.norm()) - (a @ b) * a / (a.norm() ** 3 * b.norm())


@pytest.mark.parametrize("measure", ["cosine", "dot", "distance"])
def test_the_maps_are_the_gradients_of_the_similarity_to_each_image(here, measure):
    loaded = embedder()
    W = loaded.module.W.weight.detach()
    a, b = (W @ loaded.prepare(name).x.mean((1, 2)) for name in ("a.png", "b.png"))
    on_a, on_b = deepviz.explain_pair(loaded, "a.png", "b.png", "gradient", measure=measure)
    for one, (own, other) in {on_a: (a, b), on_b: (b, a)}.items():
        pixels = one.attribution[0].numel()
        expected = (W.T @ slope(measure, own, other) / pixels)[:, None, None].expand_as(one.attribution)
        assert_same(one.attribution, expected, 1e-5)
    assert on_a.target.score == pytest.approx(on_b.target.score, abs=1e-6)
    assert (on_a.target.label, on_b.source) == (
        f"similarity to b.png{'' if measure == 'cosine' else f' ({measure})'}",
        "b.png",
    )


def test_the_parts_of_both_images_sum_to_a_product(here):
    """Of a linear embedding <E(a), E(b)> is linear in each image: gradient times image sums to it, on either side."""
    for one in deepviz.explain_pair(embedder(), "a.png", "b.png", "grad-times-image", measure="dot"):
        assert float(one.attribution.sum()) == pytest.approx(one.target.score, rel=1e-5)


def found_at(page, picture):
    """Where a picture stands on a page, (left, top)."""
    page, picture = np.asarray(page), np.asarray(picture)
    height, width = picture.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(page[:, :, 0], (1, width))[:, :, 0]
    for top, left in np.argwhere((windows == picture[0, :, 0]).all(-1)):
        if np.array_equal(page[top : top + height, left : left + width], picture):
            return int(left), int(top)
    return None


def test_a_pair_is_drawn_side_by_side_on_one_scale(here, tmp_path):
    found = deepviz.explain_pair(embedder(), "a.png", "b.png", ["grad-times-image", "gradient"], measure="dot")
    page = deepviz.sheet(found)
    for left, right in zip(found[:2], found[2:], strict=True):
        high = float(np.percentile(np.abs(np.concatenate([left.values.ravel(), right.values.ravel()])), 99.5))
        tiles = [
            one.tile(deepviz.render.Scale(-high if one.signed else 0.0, high, one.signed)) for one in (left, right)
        ]
        places = [found_at(page, tile.picture) for tile in tiles]
        assert None not in places
        (left_edge, top), (right_edge, other_top) = places
        assert top == other_top
        assert left_edge < right_edge
    saved = deepviz.save_explanations(found, tmp_path / "pair")
    assert deepviz.sheet(deepviz.load_explanations(saved)).size == page.size


COMMAND = ["explain", "a.png", "--model", "runs.test_pairs:embedder", "-m", "gradient"]


def test_the_command_line_explains_the_other_image_too(here, capsys):
    assert run([*COMMAND, "--target", 'similarity(file("b.png"), measure="dot")', "--pair", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["photographs"]
    expected = deepviz.explain_pair(embedder(), "a.png", "b.png", "gradient", measure="dot")
    assert [(one["source"], one["target"]["label"]) for one in entry["explanations"]] == [
        (one.source, one.target.label) for one in expected
    ]
    assert len({one["file"] for one in entry["explanations"]}) == 2
    with Image.open(entry["sheet"]) as drawn:
        assert drawn.tobytes() == deepviz.sheet(expected).tobytes()


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        ([], 2, "--pair needs one target, the other image"),
        (["--target", "0"], 2, "--pair needs one target, the other image"),
        (["--target", 'similarity(file("b.png"))', "--check"], 2, "--check is for maps of one image"),
        (["--target", 'similarity(file("nowhere.png"))'], 3, "nowhere.png does not exist"),
    ],
)
def test_what_is_no_pair_is_refused(here, capsys, more, code, message):
    assert run([*COMMAND, "--pair", *more]) == code
    assert message in capsys.readouterr().err


def test_a_pair_needs_an_embedding(here):
    with pytest.raises(deepviz.DeepVizError):
        deepviz.explain_pair(deepviz.LoadedModel(nn.Conv2d(3, 4, 3), "maps", PLAIN), "a.png", "b.png", "gradient")

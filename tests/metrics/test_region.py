"""Regions: boxes against a loop over pixel centres, masks, and what each metric of a region shares."""

import pytest
import torch
from torch import nn

from deepviz import DeepVizWarning
from deepviz.methods import Gradient
from deepviz.metrics.energy_inside import EnergyInside
from deepviz.metrics.pointing_game import PointingGame
from deepviz.metrics.region import mask_of
from deepviz.metrics.top_k_intersection import TopKIntersection
from networks import CASES

X = torch.rand(3, 2, 6, 8, generator=torch.Generator().manual_seed(0))
MAPS = torch.randn(3, 2, 6, 8, generator=torch.Generator().manual_seed(1))
MASKS = torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(2)) > 0.5
BOXES = torch.tensor([[0, 0, 8, 6], [2, 1, 5, 4], [0.4, 0.6, 7.6, 5.5]])
KINDS = {
    "pointing": lambda inside: PointingGame(inside=inside),
    "tolerant": lambda inside: PointingGame(inside=inside, tolerance=2),
    "energy": lambda inside: EnergyInside(inside=inside),
    "top k": lambda inside: TopKIntersection(inside=inside, k=12),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))


class Silent(nn.Module):
    """Is not to be asked."""

    def forward(self, x):
        raise AssertionError("asked")


class Quadrant(nn.Module):
    """Looks at the upper left quarter of the image and nowhere else, at every pixel of it."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3 * 6 * 6, 5)

    def forward(self, x):
        return self.head(nn.functional.softplus(x[:, :, :6, :6]).flatten(1))


def test_a_box_holds_the_pixels_whose_centres_it_holds():
    found = mask_of(BOXES, X)
    for row, (left, top, right, bottom) in enumerate(BOXES.tolist()):
        for i in range(6):
            for j in range(8):
                assert found[row, i, j] == (left <= j + 0.5 < right and top <= i + 0.5 < bottom)
    assert found[0].all()
    assert found[1].sum() == 9
    assert found[2, 0].sum() == 0  # its first row of centres, at 0.5, is above the box
    assert found[2, 1].all()


def test_neighbouring_boxes_share_no_pixel_and_leave_none_out():
    for edge in (1, 3.2, 3.5, 3.7, 7):
        left, right = mask_of(torch.tensor([0, 0, edge, 6]), X[:1]), mask_of(torch.tensor([edge, 0, 8, 6]), X[:1])
        assert (left ^ right).all()


@every_kind
def test_one_region_for_all_is_that_region_for_each(kind):
    for one in (MASKS[0], BOXES[1], BOXES[1].int()):
        each = one.expand(3, *one.shape)
        assert torch.equal(kind(one)(Silent(), X, MAPS), kind(each)(Silent(), X, MAPS))
    assert torch.equal(kind(BOXES)(Silent(), X, MAPS), kind(mask_of(BOXES, X))(Silent(), X, MAPS))


@every_kind
def test_a_row_alone_equals_the_row_in_a_batch(kind):
    for inside in (MASKS, BOXES, MASKS[0], BOXES[1]):
        whole = kind(inside)(Silent(), X, MAPS)
        alone = [kind(inside).of_rows(slice(i, i + 1))(Silent(), X[i : i + 1], MAPS[i : i + 1]) for i in range(3)]
        assert torch.equal(whole, torch.cat(alone))


@every_kind
def test_all_of_the_image_is_always_hit_and_two_halves_share_the_map(kind):
    everything = torch.ones(6, 8, dtype=torch.bool)
    assert kind(everything)(Silent(), X, MAPS).tolist() == [1, 1, 1]
    if kind is not KINDS["tolerant"]:
        both = kind(MASKS)(Silent(), X, MAPS) + kind(~MASKS)(Silent(), X, MAPS)
        assert both.tolist() == pytest.approx([1, 1, 1], abs=1e-12)


@every_kind
def test_a_larger_region_and_a_larger_map_never_score_less(kind):
    larger = MASKS.clone()
    larger[:, 2:4] = True
    assert (kind(larger)(Silent(), X, MAPS) >= kind(MASKS)(Silent(), X, MAPS) - 1e-12).all()
    assert kind(MASKS)(Silent(), X, 3 * MAPS).tolist() == pytest.approx(kind(MASKS)(Silent(), X, MAPS).tolist())


@every_kind
@pytest.mark.parametrize("value", [0.0, -1.0, 2.5])
def test_a_map_that_is_the_same_everywhere_scores_by_chance(kind, value):
    flat = torch.full_like(MAPS, value)
    share = kind(MASKS)(Silent(), X, torch.rand_like(MAPS)) * 0 + MASKS.double().mean((1, 2))
    metric = kind(MASKS)
    if isinstance(metric, PointingGame) and metric.tolerance:
        near = [[_distance(MASKS[row], i, j) <= 2 for i in range(6) for j in range(8)] for row in range(3)]
        share = torch.tensor(near).double().mean(1)
    if value > 0 and isinstance(metric, EnergyInside):
        found = metric(Silent(), X, flat)  # an even map is a map
    else:
        with pytest.warns(DeepVizWarning, match=f"^the map .*: {metric.name} is what chance gives"):
            found = metric(Silent(), X, flat)
    assert found.tolist() == pytest.approx(share.tolist(), abs=1e-12)


def _distance(mask, i, j):
    return min(((i - a) ** 2 + (j - b) ** 2) ** 0.5 for a, b in mask.nonzero().tolist())


def test_a_network_that_looks_at_one_quarter_only():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Quadrant().double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    R = Gradient()(model, x, 2)
    quarter = torch.tensor([0, 0, 6, 6])
    ones = [1.0, 1, 1, 1]
    for channels in ("sum", "magnitude"):
        assert EnergyInside(inside=quarter, channels=channels)(model, x, R, 2).tolist() == ones
        assert PointingGame(inside=quarter, channels=channels)(model, x, R, 2).tolist() == ones
    for k in (1, 20, 36):
        assert TopKIntersection(inside=quarter, k=k, channels="magnitude")(model, x, R, 2).tolist() == ones
    assert TopKIntersection(inside=quarter, k=72, channels="magnitude")(model, x, R, 2).tolist() != ones
    elsewhere = torch.tensor([6, 0, 12, 12])
    assert EnergyInside(inside=elsewhere)(model, x, R, 2).tolist() == [0, 0, 0, 0]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@every_kind
def test_a_layers_map_is_enlarged_first(kind):
    small = torch.rand(3, 1, 2, 3, generator=torch.Generator().manual_seed(4))
    large = nn.functional.interpolate(small, (6, 8), mode="bilinear", align_corners=False)
    assert torch.equal(kind(MASKS)(Silent(), X, small), kind(MASKS)(Silent(), X, large))


@every_kind
def test_the_model_is_given_back_as_it_was(kind):
    case = CASES["train-mode"]
    model, x = case.model(), case.images(2)
    before = [module.training for module in model.modules()]
    kind(torch.tensor([0, 0, 5, 5]))(model, x, x.abs())
    assert [module.training for module in model.modules()] == before


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        (None, r"^Energy inside needs to know where the object is: EnergyInside\(inside=a mask or boxes\)$"),
        (MASKS[:2], r"^a mask must be \(6, 8\) or \(3, 6, 8\), as the model's input, got \(2, 6, 8\)$"),
        (MASKS[0].T, r"^a mask must be \(6, 8\) .*got \(8, 6\)$"),
        (MASKS[:, None], r"^a mask must be .*got \(3, 1, 6, 8\)$"),
        (MASKS & torch.tensor([True, False, True])[:, None, None], r"^the mask of row 1 holds no pixel: leave out"),
        (MASKS.int(), r"^a mask must be bool, got int32: write mask > 0$"),
        (MASKS[0].double(), r"^a mask must be bool, got float64: write mask > 0$"),
        (BOXES[:2], r"^boxes must be \(4,\) or \(3, 4\), left, top, right, bottom, got \(2, 4\)$"),
        (BOXES[:, :3], r"^boxes must be .*got \(3, 3\)$"),
        (torch.tensor(3), r"^boxes must be .*got \(\)$"),
        (
            torch.tensor([0, 0, 9, 6]),
            r"^the box of row 0, left 0, top 0, right 9, bottom 6, is not one .*8 wide",
        ),
        (torch.tensor([-1, 0, 2, 2]), r"^the box of row 0, left -1, .* 6 high: cut it to that$"),
        (torch.tensor([5, 0, 2, 2]), r"^the box of row 0, left 5, top 0, right 2"),
        (torch.tensor([0, 0, float("nan"), 2]), r"^inside must be finite or None, got a tensor \(4,\)"),
        (torch.tensor([1.6, 1, 2.4, 2]), r"^the box of row 0 holds no pixel: leave out"),
    ],
)
def test_what_is_no_region_is_refused_in_one_line(inside, said):
    with pytest.raises(ValueError, match=said) as caught:
        EnergyInside(inside=inside)(Silent(), X, MAPS)
    assert "\n" not in str(caught.value)


def test_anything_but_a_tensor_is_refused_at_once():
    with pytest.raises(TypeError, match=r"^inside must be a tensor or None, got \[0, 0, 4, 4\]$"):
        PointingGame(inside=[0, 0, 4, 4])


@every_kind
def test_metrics_of_a_region_are_values(kind):
    one, same, other = kind(MASKS), kind(MASKS.clone()), kind(~MASKS)
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one != kind(None)
    assert kind(None) == kind(None)
    assert kind(BOXES) != kind(BOXES.double())
    assert one != "a string"
    assert type(one).__name__ in repr(one)
    assert str(one).startswith(one.name)
    assert "tensor" not in str(one)
    assert len({one, same, other}) == 2
    assert kind(None).of_rows(slice(0, 1)) == kind(None)


def test_equal_options_of_different_metrics_are_different_metrics():
    assert PointingGame(inside=MASKS) != EnergyInside(inside=MASKS)
    assert PointingGame(tolerance=15) != PointingGame()
    assert str(PointingGame(inside=MASKS, tolerance=15)) == "Pointing game, tolerance 15"

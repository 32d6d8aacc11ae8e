"""Agreement: pairs of maps against direct counts."""

import pytest
import torch
import torch.nn.functional as F

from deepviz.metrics.agreement import agreement
from deepviz.metrics.similarity import spearman
from networks import assert_same

GENERATOR = torch.Generator().manual_seed(0)
A, B = torch.randn(2, 3, 12, 10, generator=GENERATOR, dtype=torch.float64)
COARSE = torch.rand(1, 3, 4, generator=GENERATOR, dtype=torch.float64)


def test_it_is_symmetric_and_each_map_agrees_with_itself():
    found = agreement({"a": A, "b": B, "coarse": COARSE})
    for matrix in (found.magnitude, found.signed, found.overlap):
        assert_same(matrix, matrix.T, 1e-12)
        assert_same(matrix.diagonal(), torch.ones(3), 1e-12)


def test_each_number_by_hand():
    found = agreement({"a": A, "b": B, "coarse": COARSE}, share=0.25)  # where no values are equal at the edge
    enlarged = F.interpolate(COARSE[None], (12, 10), mode="bilinear", align_corners=False)[0]
    maps = {"a": A, "b": B, "coarse": enlarged}
    assert [(one, other) for one, other, *_ in found.rows()] == [("a", "b"), ("a", "coarse"), ("b", "coarse")]
    for one, other, magnitude, signed, overlap in found.rows():
        summed = [maps[name].sum(0, keepdim=True) for name in (one, other)]
        strong = [maps[name].abs().amax(0, keepdim=True) for name in (one, other)]
        assert signed == pytest.approx(float(spearman(*summed)), abs=1e-6)
        assert magnitude == pytest.approx(float(spearman(*strong)), abs=1e-6)
        top = [set(map_.flatten().argsort(descending=True)[:30].tolist()) for map_ in strong]
        assert overlap == pytest.approx(len(top[0] & top[1]) / 30)


def test_the_sign_counts_in_one_of_them_and_scale_in_none():
    ((_, _, magnitude, signed, overlap),) = agreement({"a": A, "minus a": -0.01 * A}).rows()
    assert (magnitude, signed, overlap) == pytest.approx((1, -1, 1))


def test_random_maps_overlap_by_chance():
    maps = torch.rand(40, 1, 50, 50, generator=GENERATOR)
    found = agreement({str(i): map_ for i, map_ in enumerate(maps)}, share=0.2)
    pairs = torch.tensor([row[2:] for row in found.rows()])
    assert pairs.mean(0).tolist() == pytest.approx([0, 0, 0.2], abs=0.005)


def test_equal_values_at_the_edge_count_in_parts():
    values = torch.tensor([3.0, 2, 2, 2, 1, 0, 0, 0, 0, 0]).view(1, 2, 5)
    other = torch.tensor([3.0, 2, 0, 0, 1, 0, 0, 0, 0, 0]).view(1, 2, 5)
    # the top two of the one: the first, and a third of each of three; of the other the first two
    ((*_, overlap),) = agreement({"one": values, "other": other}, share=0.2).rows()
    assert overlap == pytest.approx((1 + 1 / 3) / 2)


def test_a_map_that_is_the_same_everywhere_overlaps_by_chance_and_correlates_with_nothing():
    flat = torch.ones(3, 12, 10)
    ((_, _, magnitude, signed, overlap),) = agreement({"a": A, "flat": flat}, share=0.1).rows()
    assert (magnitude, signed) == (0, 0)
    assert overlap == pytest.approx(0.1)
    ((_, _, *both),) = agreement({"one": flat, "other": 2 * flat}, share=0.1).rows()
    assert both == pytest.approx([1, 1, 1])


def test_maps_come_with_or_without_a_batch_of_one():
    assert agreement({"a": A, "b": B}).rows() == agreement({"a": A[None], "b": B}).rows()


def test_it_is_a_table():
    lines = str(agreement({"Gradient": A, "Grad-CAM": COARSE})).splitlines()
    assert lines[0].split() == ["magnitude", "signed", "top", "5%"]
    assert lines[1].startswith("Gradient, Grad-CAM ")
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ({"a": A}, "at least two"),
        ({"a": A, "b": torch.rand(2, 3, 12, 10)}, "'b' must be of one image"),
        ({"a": A, "b": B[:, :5]}, "'b': attribution must be"),
        ({"a": A, "b": B * float("nan")}, "'b': the attribution holds NaN"),
    ],
)
def test_what_cannot_be_compared(maps, message):
    with pytest.raises(ValueError, match=message):
        agreement(maps)


def test_not_every_share_is_one():
    with pytest.raises(ValueError, match="share must be"):
        agreement({"a": A, "b": B}, share=0)
    with pytest.raises(TypeError, match="'b' must be a tensor"):
        agreement({"a": A, "b": B.numpy()})

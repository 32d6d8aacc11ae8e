import pytest
import torch

import deepviz

pytest.importorskip("zarr", reason="zarr is not installed: pip install 'deepviz[data]'")
pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'deepviz[data]'")
N = 60
ROUNDING = 1e-12


class Reads(torch.nn.Module):
    """Class 0 is read in the upper half of the left side, class 1 in the lower half of the left or right one."""

    def __init__(self, right=False):
        super().__init__()
        weights = torch.zeros(2, 1, 8, 8)
        weights[0, :, :4, :4] = 1
        weights[1, :, 4:, (slice(4, 8) if right else slice(0, 4))] = 1
        self.register_buffer("weights", weights)

    def forward(self, x):
        return (x[:, None] * self.weights * (1 + x[:, None])).sum((2, 3, 4))


def images():
    """Mirrored left to right, so that a prediction does not depend on the side; every other is of class 1."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for number in range(N):
        half = torch.rand(1, 8, 4, generator=generator)
        half[:, 4:] *= 3 if number % 2 else 0.3
        found.append(torch.cat([half, half.flip(2)], 2))
    return torch.stack(found)


def made(folder, model, method="gradient", x=None):
    return deepviz.run(model, images() if x is None else x, method, out=folder, shard_size=16)


def test_the_same_network_has_the_same_reasons(tmp_path):
    found = deepviz.diff(made(tmp_path / "a", Reads()), made(tmp_path / "b", Reads()))
    assert [one.change for one in found.reasons] == [0] * N
    assert (found.flipped, found.unmatched, found.altered) == ([], 0, 0)
    assert found.mean_change == 0


def test_predictions_that_are_kept_for_another_reason_come_first(tmp_path):
    made(tmp_path / "a", Reads()), made(tmp_path / "b", Reads(right=True))
    found = deepviz.diff(tmp_path / "a", tmp_path / "b")
    assert found.flipped == []
    first, last = found.reasons[: N // 2], found.reasons[N // 2 :]
    assert {int(one.image) % 2 for one in first} == {1}
    assert all(one.change > 0.5 for one in first)
    assert [one.change for one in last] == pytest.approx([0] * (N // 2), abs=ROUNDING)
    ranked = found.by_class()
    assert [(one["class"], one["images"]) for one in ranked] == [("class 1", N // 2), ("class 0", N // 2)]
    assert ranked[1]["high"] < ROUNDING < ranked[0]["low"]


class Sum(torch.nn.Module):
    """y = (sum of x, 0): for class 0, gradient x image is x itself."""

    def forward(self, x):
        total = x.sum((1, 2, 3))
        return torch.stack([total, 0 * total], 1)


def test_pixels_count_by_their_values_not_by_the_ranks_of_weak_ones(tmp_path):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 2, 1, 32, 32, generator=generator) * 0.1
    a[:, :, :4, :4], b[0, :, :4, :4], b[1, :, 28:, 28:] = 5, 5, 5  # the strong pixels of the second are elsewhere
    one, other = (made(tmp_path / str(number), Sum(), "grad-times-image", x) for number, x in enumerate((a, b)))
    same, moved = deepviz.diff(one, other).changes
    assert same.change < 0.01
    # two spots of share p that do not overlap have the correlation -p / (1 - p)
    assert moved.change == pytest.approx(1 + (16 / 1024) / (1 - 16 / 1024), abs=0.01)


def test_a_change_is_told_from_the_noise_of_the_method(tmp_path):
    noisy = "smooth-grad(samples=4, noise=0.5, seed={})".format
    a, again = made(tmp_path / "a", Reads(), noisy(0)), made(tmp_path / "again", Reads(), noisy(1))
    same, other = made(tmp_path / "same", Reads(), noisy(2)), made(tmp_path / "b", Reads(right=True), noisy(0))
    quiet, found = deepviz.diff(a, same, noise=again), deepviz.diff(a, other, noise=again)
    assert min(one.noise for one in quiet.changes) > 0
    assert quiet.significant == []
    assert abs(quiet.mean_change) < 0.05
    assert {one.image for one in found.significant} == {str(number) for number in range(1, N, 2)}
    assert "above the noise, at a false discovery rate of 5 %: 30 images" in str(found)


def test_without_noise_nothing_is_called_significant(tmp_path):
    found = deepviz.diff(made(tmp_path / "a", Reads()), made(tmp_path / "b", Reads(right=True)))
    with pytest.raises(ValueError, match="no noise was measured: give noise="):
        found.significant  # noqa: B018


def test_other_predictions_are_listed_and_have_no_change_of_reason(tmp_path):
    x = images()
    found = deepviz.diff(made(tmp_path / "a", Reads(), x=x), made(tmp_path / "b", Reads(), x=x.flip(2)))
    assert len(found.flipped) == N
    assert f"{N} images are not the same in both runs, or were prepared in another way" in str(found)
    assert all(one.change is None for one in found.changes)
    assert found.reasons == []


def test_of_several_inputs_the_first_is_compared_whatever_it_is_called(tmp_path):
    x = images()[:4]
    runs = []
    for name, right in (("a", x), ("b", x.flip(0))):
        items = [deepviz.Inputs({"left": one[None], "right": other[None]}) for one, other in zip(x, right, strict=True)]
        runs.append(deepviz.run(TwoSides(), items, "gradient", target=0, out=tmp_path / name))
    found = deepviz.diff(*runs)
    assert [one.change for one in found.changes] == pytest.approx([0] * 4, abs=ROUNDING)


class TwoSides(torch.nn.Module):
    def forward(self, left, right):
        score = (left.square() + right.square()).sum((1, 2, 3))
        return torch.stack([score, -score], 1)


def test_an_image_without_a_measured_noise_is_not_taken_to_have_none(tmp_path):
    noisy = "smooth-grad(samples=4, noise=0.5, seed={})".format
    a, b = made(tmp_path / "a", Reads(), noisy(0)), made(tmp_path / "b", Reads(), noisy(1))
    again = made(tmp_path / "again", Reads(), noisy(2), images()[: N // 2])
    found = deepviz.diff(a, b, noise=again)
    known = [one for one in found.changes if int(one.image) < N // 2]
    assert found.mean_change == pytest.approx(sum(one.change - one.noise for one in known) / len(known))
    assert sum(one["images"] for one in found.by_class()) == N // 2


def test_runs_that_cannot_be_compared_are_told(tmp_path):
    one = deepviz.run(Reads(), images()[:4], ["gradient", "grad-times-image"], out=tmp_path / "a")
    with pytest.raises(ValueError, match="name the method: the runs have those of gradient, grad-times-image and"):
        deepviz.diff(one, one)
    with pytest.raises(LookupError, match="has no maps of grad-cam: it has those of gradient, grad-times-image"):
        deepviz.diff(one, one, "grad-cam")
    assert deepviz.diff(one, one, "grad-times-image").mean_change == pytest.approx(0, abs=ROUNDING)

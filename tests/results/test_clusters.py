import weakref

import numpy as np
import pytest
import torch
from torch import nn

import deepviz
from deepviz.results.shards import MapReader

pytest.importorskip("zarr", reason="zarr is not installed: pip install 'deepviz[data]'")
pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'deepviz[data]'")
metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed: pip install 'deepviz[data]'")


class Sum(nn.Module):
    """y = (sum of x, 0): for class 0, gradient x image is x itself."""

    def forward(self, x):
        total = x.sum((1, 2, 3))
        return torch.stack([total, 0 * total], 1)


def run_of(maps, out, *, labels=None, **options):
    """A run whose maps, as they are drawn, are these."""
    images = [values[None] for values in maps]
    source = images if labels is None else list(zip(images, labels, strict=True))
    return deepviz.run(Sum(), source, "grad-times-image", out=out, target=0, **options)


def groups(count, each, noise=0.05, side=24, seed=0):
    """Maps in groups: each group has a square of its own that is bright, and there is some noise everywhere."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(count * each, side, side, generator=generator) * noise
    truth = torch.arange(count).repeat(each)
    for row, group in enumerate(truth.tolist()):
        top, left = divmod(group, 3)
        maps[row, 8 * top : 8 * top + 8, 8 * left : 8 * left + 8] += 1
    return maps, truth


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_as_many_far_apart_groups_as_there_are_are_found_by_the_eigengap(count, tmp_path):
    maps, truth = groups(count, 14)
    found = run_of(maps, tmp_path).clusters()
    assert len(found) == count
    assert sorted(found.sizes) == [14] * count
    assert metrics.adjusted_rand_score(truth, found.numbers) == 1
    # a graph of c parts without an edge between them has the eigenvalue 0 c times
    assert found.eigenvalues[:count] == pytest.approx(np.zeros(count), abs=1e-9)
    assert found.eigenvalues[count] > 0.05


def test_the_number_that_is_asked_for_is_found(tmp_path):
    maps, truth = groups(4, 10)
    run = run_of(maps, tmp_path)
    assert len(run.clusters(n=2)) == 2
    assert metrics.adjusted_rand_score(truth, run.clusters(n=4).numbers) == 1
    with pytest.raises(ValueError, match="41 maps are needed at least, and there are 40"):
        run.clusters(n=41)
    with pytest.raises(ValueError, match="n must be at least 1 or None, got 0"):
        run.clusters(n=0)


def test_identical_maps_are_one_cluster(tmp_path):
    found = run_of(torch.ones(8, 6, 6), tmp_path).clusters()
    assert found.sizes == (8,)
    assert found.oddness.tolist() == [0] * 8


def test_a_map_that_has_nothing_in_common_with_the_others_is_the_odd_one_out(tmp_path):
    maps, _ = groups(1, 20, noise=0)
    maps = maps + torch.eye(20, 24)[:, None] * maps.any(1, keepdim=True) * 0.1
    maps[13] = 0
    maps[13, 20:, 20:] = 3
    found = run_of(maps, tmp_path).clusters(size=24)
    assert found.odd_ones(1) == [13]
    # maps of norm 1 without a pixel in common are sqrt(2) apart
    assert found.oddness[13] == pytest.approx(2**0.5, rel=1e-3)
    assert np.delete(found.oddness, 13).max() < 0.2


def test_maps_of_opposite_sign_are_as_unlike_as_can_be(tmp_path):
    maps, _ = groups(1, 24)
    maps[8:16] *= -1
    maps[20] = -torch.flip(maps[20], (0, 1))
    found = run_of(maps, tmp_path).clusters(where="index != 20", n=2)
    assert found.view == "sum"
    expected = [8 <= index < 16 for index in found.indices]
    assert metrics.adjusted_rand_score(expected, found.numbers) == 1
    alone = run_of(torch.cat([maps[:8], -maps[:1]]), tmp_path / "alone").clusters()
    assert alone.odd_ones(1) == [8]
    assert alone.oddness[8] == pytest.approx(2, abs=0.01)


def test_the_tightest_cluster_comes_first(tmp_path):
    maps, truth = groups(2, 20)
    maps[truth == 0] += torch.rand(20, 24, 24, generator=torch.Generator().manual_seed(5)) * 2
    found = run_of(maps, tmp_path).clusters(n=2)
    assert found.separation[0] > found.separation[1]
    assert {int(truth[index]) for index in found.members(0)} == {1}


def test_a_sample_is_embedded_and_the_others_join_the_cluster_of_their_neighbours(tmp_path):
    maps, truth = groups(3, 80)
    run = run_of(maps, tmp_path, shard_size=50)
    whole, found = run.clusters(), run.clusters(sample=60, seed=3)
    assert (int(whole.embedded.sum()), int(found.embedded.sum())) == (240, 60)
    assert metrics.adjusted_rand_score(truth, found.numbers) == 1
    assert metrics.adjusted_rand_score(whole.numbers, found.numbers) == 1
    again, other = run.clusters(sample=60, seed=3), run.clusters(sample=60, seed=4)
    assert (again.embedded == found.embedded).all()
    assert (again.points == found.points).all()
    assert (other.embedded != found.embedded).any()
    assert "180 more joined the cluster of their nearest neighbours" in str(found)
    assert [one.images for one in found.means] == list(found.sizes) == [80, 80, 80]


def test_the_mean_of_a_cluster_is_that_of_its_maps_with_equal_weight(tmp_path):
    maps, _ = groups(2, 12)
    scaled = maps * torch.linspace(0.1, 30, 24)[:, None, None]
    found = run_of(scaled, tmp_path).clusters(size=8)
    for number in range(2):
        mine = maps[found.members(number)]
        expected = (mine / mine.abs().mean((1, 2), keepdim=True)).mean(0)
        assert found.means[number].values == pytest.approx(expected.numpy(), rel=2e-3)


def test_what_has_no_map_that_can_be_compared_is_left_out_with_the_reason(tmp_path):
    maps, _ = groups(2, 10)
    maps[3] = 0
    maps[7] = torch.tensor([[1.0, -1.0]]).repeat(24, 12)  # cancels in each cell of the grid
    run = run_of(maps, tmp_path)
    found = run.clusters(size=4)
    assert [(one.index, one.reason) for one in found.left_out] == [
        (3, "the map is zero everywhere"),
        (7, "the map is zero on the grid that maps are compared on"),
    ]
    assert sorted(found.indices) == [index for index in range(20) if index not in (3, 7)]
    assert found.means[0].images + found.means[1].images == 18
    assert [one.index for one in run.mean_map().left_out] == [3]
    with pytest.raises(ValueError, match="has no map of grad-times-image for target 0 for which index == 3"):
        run.mean_map(where="index == 3")
    with pytest.raises(ValueError, match="4 maps are needed at least, and there are 3"):
        run.clusters(where="index < 3")


def test_images_that_cannot_be_read_are_left_out_with_the_reason(tmp_path):
    class Broken(list):
        def __getitem__(self, index):
            if index == 2:
                raise OSError("the disk is gone")
            return super().__getitem__(index)

    maps, _ = groups(1, 8)
    run = deepviz.run(Sum(), Broken(maps[:, None]), "grad-times-image", out=tmp_path, target=0)
    assert [(one.index, one.reason) for one in run.clusters().left_out] == [(2, "OSError: the disk is gone")]


def test_the_mean_map_is_the_mean_of_the_maps(tmp_path):
    maps = torch.randn(23, 5, 7, generator=torch.Generator().manual_seed(1))
    run = run_of(maps, tmp_path, labels=[index % 2 for index in range(23)], shard_size=6)
    found = run.mean_map(normalise=False)
    assert (found.images, found.resampled, found.view) == (23, 0, "sum")
    assert found.values == pytest.approx(maps.mean(0).numpy(), abs=2e-3)
    some = run.mean_map(where="index in (1, 9, 22)", normalise=False)
    assert some.values == pytest.approx(maps[[1, 9, 22]].mean(0).numpy(), abs=2e-3)
    by_label = run.mean_maps(by="label")
    unit = maps / maps.abs().mean((1, 2), keepdim=True)
    assert list(by_label) == ["class 0", "class 1"]
    for rest, one in enumerate(by_label.values()):
        assert one.images == 12 - rest
        assert one.values == pytest.approx(unit[rest::2].mean(0).numpy(), abs=2e-3)
    by_prediction = run.mean_maps(by="prediction", normalise=False)
    positive = maps.sum((1, 2)) > 0
    assert by_prediction["class 0"].values == pytest.approx(maps[positive].mean(0).numpy(), abs=2e-3)
    with pytest.raises(ValueError, match='by must be "label" or "prediction", got \'method\''):
        run.mean_maps(by="method")


def test_maps_of_unlike_resolutions_are_compared_at_one(tmp_path):
    maps, truth = groups(2, 10)
    unlike = [
        values if row % 3 else values.repeat_interleave(2, 0).repeat_interleave(3, 1) for row, values in enumerate(maps)
    ]
    run = run_of(unlike, tmp_path)
    mean = run.mean_map()
    assert (mean.values.shape, mean.resampled) == ((24, 24), 7)
    assert mean.values == pytest.approx((maps / maps.mean((1, 2), keepdim=True)).mean(0).numpy(), abs=5e-3)
    found = run.clusters()
    assert metrics.adjusted_rand_score(truth, found.numbers) == 1


def test_no_more_than_two_shards_of_maps_are_in_memory(tmp_path, monkeypatch):
    maps, _ = groups(2, 50)
    run = run_of(maps, tmp_path, shard_size=10)
    read, most = [], []
    stored = MapReader._stored

    def counted(self, name, place):
        values = stored(self, name, place)
        read.append(weakref.ref(values))
        most.append(sum(one() is not None for one in read))
        return values

    monkeypatch.setattr(MapReader, "_stored", counted)
    run.mean_map()
    run.clusters()
    assert len(read) == 10 + 10 + 10
    assert max(most) <= 2


def test_the_sheet_shows_each_cluster_with_its_mean_and_examples(tmp_path):
    maps, _ = groups(2, 10)
    found = run_of(maps, tmp_path).clusters()
    page = found.sheet(examples=3)
    assert (page.width // 256, page.height // 256) == (4, 4)  # rows of 4: two clusters and the odd ones, with captions
    assert found.save(tmp_path / "clusters.png").exists()
    assert str(found).startswith("2 clusters of 20 maps of grad-times-image\n  0: 10 maps, separation 0.")
    plain = found.as_json()
    assert [one["images"] for one in plain["clusters"]] == [10, 10]
    assert {one["image"]: one["cluster"] for one in plain["images"]}["0"] == found.of_image[0]
    with pytest.raises(LookupError, match="there is no cluster 2: there are 2, from 0"):
        found.members(2)
    assert found.rows_of(0).images == tuple(sorted(found.members(0)))

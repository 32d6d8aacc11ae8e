"""A network that reads a mark in the corner of most circles, and how a run finds that."""

import sys
from pathlib import Path

import pytest

import deepviz

pytest.importorskip("zarr", reason="zarr is not installed: pip install 'deepviz[data]'")
pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'deepviz[data]'")
metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed: pip install 'deepviz[data]'")
METHOD = "grad-times-image"


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The runs of a network that was trained with marks, and of one that was not, and the names of marked images."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(Path(__file__).parents[2] / "docs" / "examples")
        from planted_shortcut import trained_on, write_images

        folder = tmp_path_factory.mktemp("planted")
        write_images(folder / "train", 300, marked=0.8, seed=1)
        write_images(folder / "clean", 300, marked=0, seed=101)
        marked = write_images(folder / "test", 100, marked=0.6, seed=201)
        boxes = folder / "test.csv"
        runs = [
            deepviz.run(
                trained_on(folder / name), folder / "test", METHOD, metrics="energy-inside", boxes=boxes,
                out=folder / f"run-{name}",
            )
            for name in ("train", "clean")
        ]  # fmt: skip
        sys.modules.pop("planted_shortcut", None)
    return *runs, marked


def names(run):
    return set(run.rows["image"].to_pylist())


def test_accuracy_does_not_tell_the_two_networks_apart(planted):
    for run in planted[:2]:
        assert len(run.where("correct")) > 0.97 * len(run)


def test_the_clusters_of_the_class_are_the_marked_images_and_the_others(planted):
    run, _, marked = planted
    found = run.clusters(where="label == 'circle'")
    truth = [name in marked for name in found.images]
    assert metrics.adjusted_rand_score(truth, found.numbers) >= 0.9
    assert len(found) == 2
    # those with the mark look alike, and come first; their mean map is brightest in the corner
    first = names(found.rows_of(0))
    assert len(first & marked) >= 0.95 * len(first)
    mean = found.means[0].values
    assert mean[:6, :6].sum() > 0.5 * mean.clip(0).sum()


def test_a_condition_on_the_energy_inside_the_object_finds_the_marked_images(planted):
    run, clean, marked = planted
    found = names(run.where("correct and energy_inside < 0.25"))
    assert len(found & marked) >= 0.95 * max(len(found), len(marked))
    assert len(names(clean.where("energy_inside < 0.25")) & marked) <= 0.2 * len(marked)


def test_the_difference_to_a_network_without_the_shortcut_ranks_the_marked_images_first(planted):
    run, clean, marked = planted
    found = deepviz.diff(run, clean)
    kept = [one.image for one in found.reasons]
    first = kept[: len(marked.intersection(kept))]
    assert len(marked.intersection(first)) >= 0.9 * len(first)
    assert found.by_class()[0]["class"] == "circle"


def test_the_mean_map_of_the_class_shows_the_corner(planted):
    run, clean, _ = planted
    shares = [one.mean_maps(by="label")["circle"].values.clip(0) for one in (run, clean)]
    corner = [float(values[:6, :6].sum() / values.sum()) for values in shares]
    assert corner[0] > 0.25 > 0.1 > corner[1]

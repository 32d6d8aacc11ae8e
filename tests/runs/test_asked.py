"""What callers may give, in all its forms."""

import weakref

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import deepviz
from deepviz.errors import DeepVizWarning, TargetError
from deepviz.methods import GradCAM, Gradient
from deepviz.objectives import Logit, Predicted
from deepviz.runs.asked import choose_methods, choose_metrics, each_image, targets_of
from small_models import network

X = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

ASKING = {
    "explain": lambda methods=("gradient",), **options: deepviz.explain(
        network(), options.pop("images", X), methods, **options
    ),
    "evaluate": lambda methods=("gradient",), **options: deepviz.evaluate(
        network(), options.pop("images", X), methods, "sparseness", controls=False, **options
    ),
    "sanity_check": lambda methods=("gradient",), **options: deepviz.sanity_check(
        network(), options.pop("images", X), methods, stages=1, **options
    ),
}


def listed(images):
    return list(each_image(images))


def explained(name, found):
    """The classes that were explained, in order."""
    if name == "explain":
        return [one.target.index for one in found]
    if name == "evaluate":
        return [int(one.target.split()[1]) for one in found.judged]
    return [one.target.index for one in found.examined]


@pytest.mark.parametrize("name", ASKING)
@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (3, [3, 3]),
        ([3], [3, 3]),
        ([0, 1], [0, 1, 0, 1]),
        ((0, 1), [0, 1, 0, 1]),
        (range(2), [0, 1, 0, 1]),
        (np.array([0, 1]), [0, 1]),
        (torch.tensor([0, 1]), [0, 1]),
        (np.int64(2), [2, 2]),
        ([torch.tensor([0, 1]), 4], [0, 4, 1, 4]),
    ],
    ids=repr,
)
def test_targets_mean_the_same_everywhere(name, target, expected):
    assert explained(name, ASKING[name](target=target)) == expected


@pytest.mark.parametrize("name", ASKING)
@pytest.mark.parametrize(
    ("target", "message"),
    [
        (True, r"not a bool \(True\)"),
        (np.True_, r"not a bool \(True\)"),
        ([0, False], r"not a bool \(False\)"),
        (torch.tensor([True, False]), "got torch.bool"),
        (np.array([0.0, 1.0]), "got torch.float64"),
        ({0, 1}, "a target is a class index"),
        ([], "empty list"),
        (torch.tensor([0, 1, 2]), r"with N = 2 rows, got \(3,\)"),
        (1.5, "a target is a class index"),
        (5, "class 5 is out of range"),
    ],
    ids=repr,
)
def test_what_is_no_target_is_refused_everywhere(name, target, message):
    with pytest.raises(TargetError, match=message):
        ASKING[name](target=target)


@pytest.mark.parametrize("name", ASKING)
def test_no_methods_and_no_order_are_refused_everywhere(name):
    for methods in ([], (), iter(())):
        with pytest.raises(ValueError, match="methods is empty"):
            ASKING[name](methods)
    with pytest.raises(TypeError, match="methods must have an order: give a list, not a set"):
        ASKING[name]({"gradient", "grad-cam"})
    with pytest.raises(TypeError, match="images must have an order"):
        ASKING[name](images={1, 2})
    with pytest.raises(ValueError, match="images is empty"):
        ASKING[name](images=[])


@pytest.mark.parametrize("name", ASKING)
def test_any_iterable_with_an_order_will_do(name):
    found = ASKING[name]((one for one in ["gradient"]), images=(one for one in X), target=1)
    assert explained(name, found) == [1, 1]


def test_images_in_every_form():
    picture = Image.new("RGB", (4, 4))
    assert listed(picture) == [picture]
    assert listed("a.png") == ["a.png"]
    assert listed(iter(["a.png", picture])) == ["a.png", picture]
    assert len(listed(X)) == 2
    assert len(listed(X[0])) == 1
    assert len(listed(np.zeros((2, 8, 8, 3), np.uint8))) == 2


def test_methods_and_metrics_from_iterables():
    assert choose_methods(iter(["gradient", GradCAM()])) == [Gradient(), GradCAM()]
    assert len(choose_metrics(iter(["deletion", "insertion"]))) == 2
    with pytest.raises(TypeError, match="metrics must have an order"):
        choose_metrics({"deletion"})


def test_targets_of_each_image():
    assert targets_of(None, 2) is None
    assert targets_of([None, "cat"], 2, ["dog", "cat"]) == (Predicted(), Logit(1))


class Pairs(torch.utils.data.Dataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return X[index % 2], index


class Streamed(torch.utils.data.IterableDataset):
    def __iter__(self):
        return ((X[number % 2], number) for number in range(5))


FIVE = [X[number % 2] for number in range(5)]
STREAMS = {
    "generator": lambda: (x for x in FIVE),
    "dataset of pairs": Pairs,
    "iterable dataset": Streamed,
    "batches with labels": lambda: DataLoader(Pairs(), batch_size=2),
    "batches": lambda: DataLoader(TensorsAlone(), batch_size=2),
    "no batches": lambda: DataLoader(Pairs(), batch_size=None),
    "generator of batches with labels": lambda: iter(DataLoader(Pairs(), batch_size=2)),
    "arrays with labels": lambda: [(np.moveaxis(x.numpy(), 0, -1), "lynx") for x in FIVE],
}


class TensorsAlone(Pairs):
    def __getitem__(self, index):
        return X[index % 2]


@pytest.mark.parametrize("name", STREAMS)
def test_streams_are_explained_as_the_same_images_in_a_list(name):
    model = deepviz.LoadedModel(network(), "small", deepviz.Preprocess(32))
    given = [deepviz.models.open_photo(pair[0]).picture for pair in STREAMS[name]()] if "arrays" in name else FIVE
    expected = deepviz.explain(model, given, "gradient", target=1)
    for explained in (deepviz.explain, deepviz.explain_each):
        found = list(explained(model, STREAMS[name](), "gradient", target=1))
        assert len(found) == 5
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one.attribution, other.attribution)


def test_one_result_at_a_time_reads_no_more_than_a_batch_ahead():
    read = []

    def images():
        for number in range(1000):
            read.append(number)
            yield X[number % 2]

    found = deepviz.explain_each(network(), images(), ["gradient", "grad-times-image"], target=0)
    assert [next(found).title for _ in range(4)] == ["Gradient", "Gradient × image"] * 2
    assert len(read) <= 9
    dropped = weakref.ref(next(found))
    for _ in range(40):
        next(found)
    assert dropped() is None


def test_a_target_for_each_image_of_a_stream_is_counted():
    found = list(deepviz.explain_each(network(), (x for x in X), "gradient", target=torch.tensor([3, 1])))
    assert [one.target.index for one in found] == [3, 1]
    with pytest.raises(TargetError, match="2"):
        list(deepviz.explain_each(network(), (x for x in FIVE), "gradient", target=torch.tensor([3, 1])))
    with pytest.raises(ValueError, match="images is empty"):
        list(deepviz.explain_each(network(), iter(()), "gradient"))


def test_batches_that_are_no_images_say_what_to_give():
    loader = DataLoader([{"pixel_values": X[0], "labels": 1}], batch_size=1)
    with pytest.raises(TypeError, match=r"a dict with 'pixel_values', 'labels': give a generator of tensors"):
        deepviz.explain(network(), loader, "gradient")
    loader = DataLoader(torch.utils.data.TensorDataset(X, torch.rand(2, 3)), batch_size=1)
    with pytest.raises(TypeError, match=r"deepviz\.Inputs"):
        deepviz.explain(network(), loader, "gradient")


def test_folders_of_folders_are_read_and_what_is_skipped_is_warned_of(tmp_path):
    for name in ("b/1.png", "a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), "red").save(tmp_path / name)
    (tmp_path / "b/notes.txt").write_text("")
    model = deepviz.LoadedModel(network(), "small", deepviz.Preprocess(32))
    with pytest.warns(DeepVizWarning, match="1 file skipped: 1 .txt"):
        found = deepviz.explain(model, tmp_path, "gradient")
    assert [one.source for one in found] == ["a.png", "1.png"]

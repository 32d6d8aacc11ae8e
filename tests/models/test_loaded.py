from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from deepviz.errors import ImageError, TargetError
from deepviz.models.images import open_photo
from deepviz.models.loaded import LoadedModel
from deepviz.models.preprocess import Preprocess


def loaded(**known):
    return LoadedModel(nn.Identity(), "Net", **known)


def photo(size=(40, 30)):
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_photograph_keeps_its_own_pixels_beside_the_input(tmp_path):
    photo().save(tmp_path / "cat.png")
    prepared = loaded(preprocess=Preprocess(16, crop=0.5)).prepare(tmp_path / "cat.png")
    assert prepared.x.shape == (3, 16, 16)
    assert prepared.x.dtype == torch.float32
    assert np.array_equal(np.asarray(prepared.photo), np.asarray(photo()))
    assert prepared.geometry.size == (40, 30)
    assert not prepared.geometry.covers_all
    assert (prepared.name, prepared.notes) == ("cat.png", ())


def test_opened_photo_and_its_notes_go_through():
    opened = open_photo(Image.new("CMYK", (8, 8)))
    assert loaded(preprocess=Preprocess(8)).prepare(opened).notes == ("converted from CMYK to RGB",)


def test_photograph_without_preprocessing_shows_the_line_to_write():
    with pytest.raises(ImageError, match=r"preprocess=deepviz.Preprocess\(224, mean=\(0.485") as error:
        loaded().prepare(photo())
    assert "\n" not in str(error.value)


def test_callable_preprocess_is_drawn_on_its_own_output():
    def halved(picture):
        return torch.from_numpy(np.array(picture)[::2, ::2]).permute(2, 0, 1)[None] / 255 - 0.5

    prepared = loaded(preprocess=halved).prepare(photo())
    assert prepared.x.shape == (3, 15, 20)
    assert prepared.photo.size == prepared.geometry.size == (20, 15)
    assert prepared.geometry.covers_all
    assert "model's input" in prepared.notes[0]


@pytest.mark.parametrize("wrong", [lambda p: np.zeros(3), lambda p: torch.zeros(2, 3, 4, 4), lambda p: torch.zeros(4)])
def test_callable_preprocess_that_returns_something_else(wrong):
    with pytest.raises(ImageError, match="preprocess must return"):
        loaded(preprocess=wrong).prepare(photo())


@pytest.mark.parametrize("batched", [False, True])
def test_tensor_is_taken_as_preprocessed_and_shown_unnormalised(batched):
    preprocess = Preprocess(30, crop=1.0)
    x, _ = preprocess(photo((30, 30)))
    prepared = loaded(preprocess=preprocess).prepare(x[None] if batched else x)
    assert torch.equal(prepared.x, x)
    assert np.array_equal(np.asarray(prepared.photo), np.asarray(photo((30, 30))))
    assert prepared.geometry.covers_all
    assert prepared.notes == ()


def test_tensor_without_preprocessing_is_stretched_with_a_note():
    x = torch.tensor([[[-2.0, 0.0, 2.0]]], dtype=torch.float64).expand(3, 2, 3)
    prepared = loaded().prepare(x)
    assert prepared.x.dtype == torch.float64
    assert np.asarray(prepared.photo)[0, :, 0].tolist() == [0, 128, 255]
    assert "stretched" in prepared.notes[0]
    assert np.asarray(loaded().prepare(torch.ones(1, 2, 2)).photo).max() == 0


def test_tensor_that_cannot_be_shown_is_still_an_input():
    prepared = loaded().prepare(torch.zeros(4, 6, 8))
    assert prepared.photo is None
    assert prepared.geometry.size == (8, 6)
    assert prepared.notes == ()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 3, 8, 8), r"got \(2, 3, 8, 8\) of float32"),
        (torch.zeros(8, 8), r"got \(8, 8\)"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "of uint8"),
        (torch.zeros(3, 0, 8), r"\(3, 0, 8\)"),
        (torch.full((3, 8, 8), float("nan")), "NaN"),
    ],
)
def test_tensors_that_are_no_input(x, message):
    with pytest.raises(ImageError, match=message):
        loaded().prepare(x)


def test_labels_both_ways():
    model = loaded(labels=("red fox", "tabby, tabby cat"))
    assert [model.label(index) for index in (0, 1, 2, -1)] == [
        "red fox",
        "tabby, tabby cat",
        "class 2",
        "class -1",
    ]
    assert model.index("Tabby cat") == 1
    assert loaded().label(7) == "class 7"
    with pytest.raises(TargetError, match="Net has no labels"):
        loaded().index("fox")


def test_where_the_model_is_and_whether_it_was_learned():
    assert LoadedModel(nn.ReLU(), "net").home == (torch.device("cpu"), torch.float32)
    assert LoadedModel(nn.Linear(2, 2, dtype=torch.bfloat16, device="meta"), "net").home == (
        torch.device("meta"),
        torch.bfloat16,
    )
    assert LoadedModel(nn.ReLU(), "net", weights="random").is_random
    assert not LoadedModel(nn.ReLU(), "net").is_random


def test_what_the_outputs_are():
    stated = nn.Linear(2, 1)
    stated.config = SimpleNamespace(problem_type="multi_label_classification")
    assert LoadedModel(stated, "net").kind == "multi-label"
    assert LoadedModel(torch.nn.DataParallel(stated), "net").kind == "multi-label"
    assert LoadedModel(stated, "net", labels=("no", "yes")).kind == "multi-label"
    assert LoadedModel(stated, "net", output="regression").kind == "regression"
    assert loaded(labels=("no", "yes")).kind == "binary"
    assert loaded(labels=("a", "b", "c")).kind == "auto"
    assert loaded().kind == "auto"
    with pytest.raises(ValueError, match="output must be one of 'auto', 'logits'"):
        loaded(output="softmax")

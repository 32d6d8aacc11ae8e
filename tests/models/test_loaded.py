from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import deepviz
from deepviz.errors import ImageError, TargetError
from deepviz.models.images import open_photo
from deepviz.models.load import load_model
from deepviz.models.loaded import LoadedModel, _is_bgr
from deepviz.models.preprocess import Preprocess
from deepviz.render.text import percent


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
    (note,) = prepared.notes
    assert note.startswith("an input of 4 channels has no picture")


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(16, 20, 3), r"\(16, 20, 3\) are its last axis: give x\.permute\(2, 0, 1\), which is \(C, H, W\)"),
        (torch.zeros(1, 16, 20, 3), r"give x\.permute\(2, 0, 1\)"),
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
    assert loaded(labels=("no", "yes")).kind == "two labels"
    assert loaded(labels=("no", "yes"), output="binary").kind == "binary"
    assert loaded(labels=("a", "b", "c")).kind == "auto"
    assert loaded().kind == "auto"
    with pytest.raises(ValueError, match="output must be one of 'auto', 'logits'"):
        loaded(output="softmax")


def test_channels_last_are_told_by_the_first_convolution():
    multispectral = LoadedModel(nn.Conv2d(12, 2, 3), "Net")
    assert multispectral.prepare(torch.zeros(12, 9, 3)).x.shape == (12, 9, 3)
    with pytest.raises(ImageError, match=r"\(9, 9, 12\) are its last axis"):
        multispectral.prepare(torch.zeros(9, 9, 12))
    rows = LoadedModel(nn.Conv2d(3, 2, 1), "Net", preprocess=lambda picture: torch.zeros(30, 40, 3))
    with pytest.raises(ImageError, match=r"give the output of preprocess\.permute\(2, 0, 1\)"):
        rows.prepare(photo())


class Linear(nn.Module):
    """Scores w . (red, green, blue) of the mean colour."""

    def __init__(self, outputs):
        super().__init__()
        w = np.random.default_rng(3).normal(size=(outputs, 3))
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float32), requires_grad=False)

    def forward(self, x):
        return x.mean((2, 3)) @ self.w.T


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("cut", [None, 160], ids=["whole", "cropped"])
def test_an_input_in_bgr_is_drawn_in_the_colours_of_the_image(order, cut):
    """By a stated preprocessing, also of a tensor; by a callable, whose order is found by the image itself."""
    with Image.open(deepviz.example_photo()) as file:
        image = file.convert("RGB").resize((200, 200))
    shown = image if cut is None else image.crop((20, 20, 180, 180))

    def preprocess(picture):
        picture = picture if cut is None else picture.crop((20, 20, 180, 180))
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()
        return ((pixels if order == "rgb" else pixels.flip(0)) - 110) / torch.tensor([60.0, 50, 40])[:, None, None]

    drawn = np.asarray(loaded(preprocess=preprocess).prepare(image).photo).astype(float)
    for channel in range(3):
        levels = np.asarray(shown)[..., channel]
        assert np.corrcoef(drawn[..., channel].ravel(), levels.ravel())[0, 1] == pytest.approx(1, abs=0.01)
    stated = loaded(preprocess=Preprocess(200, crop=None, channels=order))
    again = stated.prepare(stated.prepare(image).x).photo
    assert np.abs(np.asarray(again).astype(int) - np.asarray(image)).max() <= 1


def test_a_grey_image_has_no_order_of_colours():
    def grey(picture):
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()

    picture = photo().convert("L").convert("RGB")
    assert not _is_bgr(grey(picture), picture)


def test_predictions_are_those_of_the_softmax_best_first():
    net = Linear(6)
    model = LoadedModel(net, "Net", Preprocess(12, crop=1.0), tuple("abcdef"))
    x, other = photo(), photo((24, 24))
    found = model.predict([x, other, model.prepare(x).x], top_k=3)
    assert found[0] == found[2]
    for image, predictions in zip((x, other), found, strict=False):
        scores = net(model.prepare(image).x[None])[0]
        chances = scores.softmax(0)
        best = scores.argsort(descending=True)[:3].tolist()
        assert [one.index for one in predictions] == best
        assert [one.label for one in predictions] == ["abcdef"[k] for k in best]
        assert [one.probability for one in predictions] == pytest.approx(chances[best].tolist(), rel=1e-5)
        assert [one.score for one in predictions] == pytest.approx(scores[best].tolist(), rel=1e-5)
    assert str(found[0][0]) == f"{found[0][0].label} {percent(found[0][0].probability)}"


def test_predictions_of_two_labels_and_one_output():
    net = Linear(1)
    model = LoadedModel(net, "Net", Preprocess(12, crop=1.0), ("no", "yes"))
    ((first, second),) = model.predict(photo())
    z = net(model.prepare(photo()).x[None])[0, 0]
    yes = first if first.label == "yes" else second
    assert yes.probability == pytest.approx(z.sigmoid().item(), rel=1e-5)
    assert first.probability + second.probability == pytest.approx(1)
    assert first.score >= second.score


def test_predictions_of_numbers_and_of_embeddings():
    model = LoadedModel(Linear(2), "Net", Preprocess(12, crop=1.0), output="regression")
    ((left, right),) = model.predict(photo(), top_k=1)
    values = model.module(model.prepare(photo()).x[None])[0].tolist()
    assert [left.score, right.score] == pytest.approx(values, rel=1e-5)
    assert (left.label, right.index, left.probability) == ("output 0", 1, None)
    with pytest.raises(TargetError, match="an embedding of 4 numbers, which has no predicted class"):
        LoadedModel(Linear(4), "Net", output="embedding").predict(torch.zeros(3, 8, 8))


def test_two_labels_are_no_statement_about_four_outputs():
    """Only that names may be wrong is warned of, not that output='binary' is stated."""
    model = LoadedModel(Linear(4), "Net", labels=("no", "yes"))
    with pytest.warns(match="2 labels for the 4 classes of Net: names may be wrong") as caught:
        (found,) = deepviz.explain(model, torch.rand(3, 8, 8), "gradient")
    assert len(caught) == 1
    assert found.notes["output"] == "assumed: one class of 4"
    with pytest.warns(match="output='binary' is stated, but the model has 4 outputs"):
        deepviz.explain(load_model(model, output="binary", labels=list("abcd")), torch.rand(3, 8, 8), "gradient")


def test_repr_is_short():
    model = load_model(Linear(3), preprocess=Preprocess((12, 16)), labels=list("abc"), name="animals v3")
    assert repr(model) == "LoadedModel(animals v3 (as given), 3 labels, input 12 x 16)"
    assert repr(load_model(Linear(1), output="regression")) == "LoadedModel(Linear (as given), regression)"


def test_a_name_is_what_results_say():
    model = load_model(Linear(3), name="animals v3")
    (found,) = deepviz.explain(model, torch.rand(3, 8, 8), "gradient")
    assert found.model == "animals v3 (as given)"


def test_explanations_know_the_predictions(tmp_path):
    model = LoadedModel(Linear(6), "Net", Preprocess(12, crop=1.0), tuple("abcdef"))
    found = deepviz.explain(model, [photo(), photo((24, 24))], ["gradient", "grad-times-image"], target=[0, 1])
    expected = [tuple((one.label, one.probability) for one in of) for of in model.predict([photo(), photo((24, 24))])]
    assert len(found) == 8
    for one, predictions in zip(found, np.repeat(np.arange(2), 4), strict=True):
        assert [label for label, _ in one.predictions] == [label for label, _ in expected[predictions]]
        assert [p for _, p in one.predictions] == pytest.approx([p for _, p in expected[predictions]], rel=1e-5)
    deepviz.save_explanations(found, tmp_path / "found")
    assert [one.predictions for one in deepviz.load_explanations(tmp_path / "found.deepviz")] == [
        one.predictions for one in found
    ]

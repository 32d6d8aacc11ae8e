"""Functions, scripted and exported modules in `explain`, `evaluate` and `sanity_check`."""

import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import deepviz
from deepviz import BlackBox, catalog
from deepviz.errors import DeepVizWarning, ImageError, ModelError, NoGradient
from deepviz.methods import Gradient, GradTimesImage, Method, Needs
from deepviz.metrics import Deletion, Insertion
from deepviz.objectives import Box, Candidates
from deepviz.results.outcomes import Failed
from deepviz.runs.asked import items_of
from deepviz.runs.explain import explain_items
from networks import plain


@dataclass(frozen=True)
class Zeroed(Method):
    """How much the score falls if a pixel is set to zero."""

    needs: ClassVar[Needs] = Needs(forward=True)
    spatial: ClassVar[tuple[int, ...]] = (2,)

    def maps(self, session):
        x, clean = session.image(), session.values()
        h, w = x.shape[2:]
        rows, places = torch.arange(session.n).repeat_interleave(h * w), torch.arange(h * w).repeat(session.n)

        def make(chunk):
            without = x[rows[chunk]].clone()
            without.flatten(2)[torch.arange(len(without)), :, places[chunk]] = 0
            return without

        falls = clean[rows] - session.ask(rows, make)
        return falls.view(session.n, h * w, *falls.shape[1:]).movedim(1, -1).unflatten(-1, (1, h, w))

    def passes(self):
        return 37.0


x = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(0))
linear = nn.Sequential(nn.Flatten(), nn.Linear(108, 4)).eval()
W = linear[1].weight.detach()


def function(x):
    return linear(x).softmax(1)


def of_arrays(x):
    return np.asarray(x).reshape(len(x), -1) @ W.numpy().T


@pytest.mark.parametrize("f", [linear.forward, of_arrays], ids=["tensors", "arrays"])
def test_a_linear_function_is_explained_as_its_module(f):
    # of a linear score, a pixel at zero costs w_ij x_ij, which is gradient times image
    expected = GradTimesImage()(linear, x, 2).sum(1, keepdim=True)
    assert torch.allclose(Zeroed()(f, x, 2), expected, atol=1e-6)
    found = deepviz.explain(f, x, Zeroed(), target=2, output="logits")
    assert torch.allclose(torch.stack([one.attribution for one in found]), expected, atol=1e-6)


def test_the_predicted_class_and_several_targets():
    expected = deepviz.explain(linear, x, Zeroed(), top_k=2)
    found = deepviz.explain(linear.forward, x, Zeroed(), top_k=2)
    assert [one.target.index for one in found] == [one.target.index for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one.attribution, other.attribution, atol=1e-6)


def test_arrays_of_floats_are_inputs_and_files_need_preprocessing(tmp_path):
    (found,) = deepviz.explain(of_arrays, x[0].numpy(), Zeroed(), target=0, output="logits")
    assert torch.allclose(found.attribution, Zeroed()(linear, x[:1], 0)[0], atol=1e-6)
    Image.new("RGB", (9, 6)).save(tmp_path / "grey.png")
    with pytest.raises(ImageError, match=r"arrays .* of floats; for images pass preprocess="):
        deepviz.explain(of_arrays, tmp_path / "grey.png", Zeroed())
    (found,) = deepviz.explain(of_arrays, tmp_path / "grey.png", Zeroed(), preprocess=deepviz.Preprocess(6))
    assert found.image.size == (9, 6)


METHODS = [cls for cls in catalog.METHODS.values() if not cls().requires.black_box]


@pytest.mark.parametrize("cls", METHODS, ids=catalog.stem)
def test_what_needs_more_than_forward_passes_is_refused_with_the_reason(cls):
    with pytest.raises(NoGradient, match=r"^of_arrays is a plain function, which has no [a-z]+"):
        cls()(of_arrays, x)
    with pytest.raises(NoGradient):
        deepviz.explain(of_arrays, x, cls())


def test_the_refusal_names_the_methods_of_the_catalog(monkeypatch):
    monkeypatch.setattr(deepviz.methods, "Zeroed", Zeroed, raising=False)
    monkeypatch.setattr(deepviz.methods, "__all__", [*deepviz.methods.__all__, "Zeroed"])
    with pytest.raises(NoGradient, match=rf"forward passes only \(.*{catalog.stem(Zeroed)}\)"):
        Gradient()(of_arrays, x)


def test_all_methods_are_those_of_forward_passes_alone():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeepVizWarning)
        found = deepviz.explain(of_arrays, x[0], "all")
    assert [type(one.method) for one in found] == list(map(catalog.find, catalog.default_set(black_box=True)))
    assert not found.failed
    assert not found.skipped


def test_a_function_that_fails_on_one_image_costs_that_image_alone():
    whole = x[1]

    def f(x):
        # it fails where a few pixels of the second image were changed
        same = (x == whole).flatten(1).float().mean(1)
        if bool(((same > 0.5) & (same < 1)).any()):
            raise RuntimeError("no such image")
        return linear(x)

    loaded = deepviz.load_model(f)
    with pytest.warns(DeepVizWarning, match=r"f failed on a batch of \d+, and again on rows? \d"):
        images = list(explain_items(loaded, items_of(loaded, x, 0), [Zeroed()], lenient=True, needed=False))
    (first,), (second,), (third,) = (image.outcomes for image in images)
    assert isinstance(second, Failed)
    assert second.reason.startswith("f failed on a batch of ")
    expected = Zeroed()(linear, x, 0)
    assert torch.allclose(first.attribution, expected[0], atol=1e-6)
    assert torch.allclose(third.attribution, expected[2], atol=1e-6)


def test_coupled_rows_of_a_function_go_one_at_a_time():
    def f(x):
        return linear(x - x.mean(0)) + linear(x)

    alone = torch.cat([Zeroed()(f, row[None], 1) for row in x])
    assert torch.allclose(Zeroed()(f, x, 1), alone, atol=1e-5)


def test_a_function_of_one_image_alone():
    def f(x):
        if len(x) != 1:
            raise ValueError("one image at a time")
        return linear(x)

    assert torch.allclose(Zeroed()(f, x, 1), Zeroed()(linear, x, 1), atol=1e-6)
    assert torch.allclose(Zeroed()(lambda x: linear(x[:1]), x, 1), Zeroed()(linear, x, 1), atol=1e-6)


def test_deletion_and_insertion_of_a_function_are_those_of_its_module():
    metrics = [Deletion(), Insertion()]
    ours = deepviz.evaluate(linear.forward, x, [Zeroed()], metrics)
    theirs = deepviz.evaluate(linear, x, [Zeroed()], metrics)
    assert np.allclose(ours.values, theirs.values, atol=1e-6)


def test_weights_of_a_function_cannot_be_randomised_or_loaded():
    with pytest.raises(
        ModelError, match="is a plain function, whose weights are out of reach, so they cannot be random"
    ):
        deepviz.sanity_check(linear.forward, x, [Zeroed()])
    with pytest.raises(ModelError, match="whose weights are out of reach: leave out weights='random'"):
        deepviz.load_model(linear.forward, weights="random")


def test_independent_probabilities_are_asked_about():
    with pytest.warns(DeepVizWarning, match="all outputs of lambda lie between 0 and 1"):
        found, *_ = deepviz.explain(lambda x: linear(x).sigmoid(), x.repeat(2, 1, 1, 1), Zeroed(), target=0)
    assert any("state output='multi-label'" in text for text in found.notes["warnings"])
    with pytest.warns(DeepVizWarning, match="are probabilities, not logits"):
        (found,) = deepviz.explain(function, x[0], Zeroed(), target=0)
    assert found.target.probability == pytest.approx(float(function(x[:1])[0, 0].detach()), abs=1e-6)


def test_a_module_whose_core_is_not_torch():
    class Core(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Flatten()

        def forward(self, x):
            return torch.from_numpy(self.features(x).detach().numpy() @ W.numpy().T)

    expected = GradTimesImage()(linear, x, 2).sum(1, keepdim=True)
    assert torch.allclose(Zeroed()(Core(), x, 2), expected, atol=1e-6)
    with pytest.raises(ModelError, match="Core"):
        deepviz.explain(Core(), x, Gradient())


def test_a_detector_that_is_a_function():
    cells = torch.tensor([[0, 0, 3, 6], [3, 0, 6, 6.0]])

    def halves(x):
        return np.stack([x[..., :3].mean((1, 2, 3)), x[..., 3:].mean((1, 2, 3))], 1)

    def read(scores):
        logits = scores.float()[..., None]
        return Candidates(cells.expand(len(scores), 2, 4), logits, logits.sigmoid(), threshold=0.1)

    brighter = torch.cat([x[:1, ..., :3], x[:1, ..., 3:] + 1], -1)
    model = deepviz.detector(BlackBox(halves, takes="array"), read)
    (found,) = deepviz.explain(model, brighter, Zeroed(), target=Box())
    assert tuple(found.target.box) == (3, 0, 6, 6)
    # the logit of the right half is its mean, of 54 values
    expected = torch.cat([torch.zeros(6, 3), brighter[0, ..., 3:].sum(0) / 54], -1)
    assert torch.allclose(found.attribution[0], expected, atol=1e-6)
    with pytest.raises(NoGradient, match="halves is a plain function"):
        deepviz.explain(model, brighter, Gradient(), target=Box())


def test_results_of_a_function_are_stored(tmp_path):
    found = deepviz.explain(of_arrays, x[0], Zeroed(), target=1, output="logits")
    deepviz.save_explanations(found, tmp_path / "found.deepviz")
    (again,) = deepviz.load_explanations(tmp_path / "found.deepviz")
    assert torch.allclose(again.attribution, found[0].attribution, atol=1e-3)  # stored in half precision
    assert again.model == "of_arrays (as given)"


def exported(rows, dynamic=None):
    return torch.export.export(net, (y[:rows],), dynamic_shapes=dynamic)


net = plain().eval()
y = torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: exported(1),
        lambda: exported(2, ({0: torch.export.Dim("n")},)),
        lambda: exported(1).module(),
        lambda: torch.jit.trace(net, y),
    ],
    ids=["exported for one row", "exported for any number", "its module", "traced"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_exported_and_traced_modules_have_the_maps_of_the_module(make):
    model = make()
    for method in (Zeroed(), Gradient()):
        found = torch.stack([one.attribution for one in deepviz.explain(model, y, method, target=1)])
        assert torch.allclose(found, method(net, y, 1), atol=1e-6)


@pytest.mark.parametrize("rows", [2, 3])
def test_a_module_that_was_exported_for_several_rows_says_so(rows):
    with pytest.raises(ModelError, match="export it for one row, or any number"):
        deepviz.explain(exported(rows), y, Zeroed())


def test_a_factory_may_return_a_function_or_an_exported_program(tmp_path, monkeypatch):
    (tmp_path / "of_mine.py").write_text(
        "def scores(x):\n    return x.mean((2, 3))\n\ndef factory():\n    return scores\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    loaded = deepviz.load_model("of_mine:factory")
    assert isinstance(loaded.module, deepviz.BlackBox)
    assert torch.allclose(loaded.module(x), x.mean((2, 3)))
    with pytest.raises(ModelError, match=r"torch.export.load\('net.pt2'\), on the command line by"):
        deepviz.load_model("net.pt2")


def test_an_error_of_the_function_stands_alone():
    with pytest.raises(ModelError, match=r"again on row 0 of it: ValueError: no$"):
        deepviz.explain(raising, x[:2], Zeroed())


def raising(x):
    raise ValueError("no")


def test_swapped_arguments_and_classes():
    with pytest.raises(TypeError, match="swapped"):
        deepviz.explain(x, linear.forward, Zeroed())
    with pytest.raises(TypeError, match="swapped"):
        Zeroed()(x, linear.forward)
    with pytest.raises(ModelError, match=r"got the class Linear: give Linear\(...\)"):
        deepviz.explain(nn.Linear, x, Zeroed())

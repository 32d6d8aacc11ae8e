"""ONNX files: the maps of the network that was exported, and what the file says of itself."""

import copy
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import deepviz
from deepviz import Preprocess, load_model
from deepviz.errors import GenerationError, ImageError, MissingExtra, ModelError, NoGradient
from deepviz.methods import Method, Needs
from deepviz.probe.randomise import randomised

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'deepviz[onnx]'")

torch.manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
).eval()
x = torch.rand(3, 3, 8, 8)


class Columns(Method):
    """How much the score falls if a column of the input is set to zero."""

    needs = Needs(forward=True)
    spatial = (2,)

    def maps(self, session):
        image, clean = session.image(), session.values()
        falls = []
        for column in range(image.shape[3]):
            without = image.clone()
            without[..., column] = 0
            falls.append(clean - session.with_image(without).values())
        return torch.stack(falls, -1).unflatten(-1, (1, 1, -1))


def written(
    path, shape=("N", 3, 8, 8), *, last=False, kind="FLOAT", props=None, outputs=("scores",), opset=17, twice=False
):
    """The network as a file; `shape` is that of its input as the graph takes it."""
    helper, types = onnx.helper, onnx.TensorProto
    weights = {
        name: onnx.numpy_helper.from_array(value.detach().numpy(), name)
        for name, value in zip(("w", "b", "W", "B"), net.parameters(), strict=True)
    }
    nodes, now = [], "image"
    if kind != "FLOAT":
        nodes.append(helper.make_node("Cast", [now], ["floats"], to=types.FLOAT))
        now = "floats"
    if last:
        nodes.append(helper.make_node("Transpose", [now], ["first"], perm=[0, 3, 1, 2]))
        now = "first"
    nodes += [
        helper.make_node("Conv", [now, "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "W", "B"], ["scores"], transB=1),
        helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
    ]
    rows = shape[0]
    infos = {
        "scores": helper.make_tensor_value_info("scores", types.FLOAT, [rows, 5]),
        "f": helper.make_tensor_value_info("f", types.FLOAT, [rows, 4]),
        "label": helper.make_tensor_value_info("label", types.INT64, [rows]),
    }
    given = [helper.make_tensor_value_info("image", getattr(types, kind), list(shape))]
    if twice:
        given.append(helper.make_tensor_value_info("mask", types.FLOAT, list(shape)))
        nodes.insert(0, helper.make_node("Mul", ["image", "mask"], ["masked"]))
        nodes[1].input[0] = "masked"
    graph = helper.make_graph(nodes, "net", given, [infos[name] for name in outputs], list(weights.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, props or {})
    onnx.save(model, path)
    return f"onnx:{path}"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "net.onnx"


LAYOUTS = {
    "any number of rows": {},
    "one row": {"shape": (1, 3, 8, 8)},
    "two rows": {"shape": (2, 3, 8, 8)},
    "any size": {"shape": ("N", 3, "h", "w")},
    "channels last": {"shape": ("N", 8, 8, 3), "last": True},
    "one row, channels last": {"shape": (1, 8, 8, 3), "last": True},
    "with its label": {"outputs": ("label", "scores")},
}


@pytest.mark.parametrize("how", LAYOUTS.values(), ids=LAYOUTS)
def test_the_maps_are_those_of_the_module(file, how):
    loaded = load_model(written(file, **how))
    expected = deepviz.explain(net, x, Columns(), top_k=2)
    found = deepviz.explain(loaded, x, Columns(), top_k=2)
    assert [one.target.index for one in found] == [one.target.index for one in expected]
    for one, other in zip(found, expected, strict=True):
        scale = float(other.attribution.abs().max())
        assert torch.allclose(one.attribution, other.attribution, rtol=0, atol=1e-4 * scale)


def test_half_precision(file):
    loaded = load_model(written(file, kind="FLOAT16"))
    assert torch.allclose(Columns()(loaded.module, x, 1), Columns()(net, x, 1), atol=5e-3)


def test_metrics_are_those_of_the_module(file):
    theirs = deepviz.evaluate(net, x, [Columns()], ["deletion", "insertion"])
    ours = deepviz.evaluate(load_model(written(file)), x, [Columns()], ["deletion", "insertion"])
    assert np.allclose(ours.values, theirs.values, atol=1e-5)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("names", "{0: 'cat', 1: 'dog', 2: 'fox', 3: 'owl', 4: 'bee'}"),
        ("labels", '["cat", "dog", "fox", "owl", "bee"]'),
        ("id2label", '{"0": "cat", "1": "dog", "2": "fox", "3": "owl", "4": "bee"}'),
        ("classes", "cat\ndog\nfox\nowl\nbee"),
    ],
)
def test_labels_are_read_from_its_metadata(file, key, text):
    loaded = load_model(written(file, props={key: text}))
    assert loaded.labels == ("cat", "dog", "fox", "owl", "bee")
    assert deepviz.explain(loaded, x[0], Columns(), target="owl")[0].target.index == 3


@pytest.mark.parametrize("text", ["__import__('os').abort()", "{0: 'cat', 2: 'dog'}", "[" * 500, "7"])
def test_metadata_that_are_no_labels_are_said_so(file, text):
    loaded = load_model(written(file, props={"names": text}))
    assert loaded.labels is None
    assert any("'names' cannot be read as labels" in note for note in loaded.notes)


@pytest.mark.parametrize(
    "props",
    [
        {"mean": "[0.5, 0.4, 0.3]", "std": "[0.2, 0.2, 0.1]"},
        {"mean": "127.5, 102, 76.5", "std": "51, 51, 25.5"},
        {"image_mean": json.dumps([0.5, 0.4, 0.3]), "image_std": json.dumps([0.2, 0.2, 0.1])},
    ],
)
def test_preprocessing_is_read_from_its_metadata(file, props):
    loaded = load_model(written(file, props=props))
    assert isinstance(loaded.preprocess, Preprocess)
    assert loaded.preprocess.size == 8
    assert loaded.preprocess.mean == pytest.approx((0.5, 0.4, 0.3))
    assert loaded.preprocess.std == pytest.approx((0.2, 0.2, 0.1))
    assert any("squashed into 8 x 8" in note for note in loaded.notes)


def test_what_is_assumed_of_images_is_not_said_where_it_is_given(file):
    written(file, props={"mean": "[0.5]", "std": "[0.2]"})
    loaded = load_model(f"onnx:{file}", preprocess=Preprocess(8))
    assert not loaded.notes
    assert not load_model(load_model(f"onnx:{file}"), preprocess=Preprocess(8)).notes


def test_without_preprocessing_it_takes_tensors_and_says_so(file, tmp_path):
    Image.new("RGB", (16, 9), "red").save(tmp_path / "red.png")
    loaded = load_model(written(file, ("N", 3, 8, 6)))
    assert loaded.preprocess is None
    with pytest.raises(ImageError, match=r"no preprocessing, .* pass preprocess=deepviz.Preprocess\(\(8, 6\), mean"):
        deepviz.explain(loaded, tmp_path / "red.png", Columns())
    with pytest.raises(
        ModelError, match=r"net.onnx takes images \(N, 3, 8, 6\), got \(1, 3, 8, 8\): give another size"
    ):
        deepviz.explain(loaded, tmp_path / "red.png", Columns(), preprocess=Preprocess(8))
    (found,) = deepviz.explain(loaded, tmp_path / "red.png", Columns(), preprocess=Preprocess((8, 6), crop=None))
    assert found.image.size == (16, 9)


def test_bytes_are_pixels_of_an_image(file):
    loaded = load_model(written(file, kind="UINT8"))
    assert any("pixels from 0 to 255" in note for note in loaded.notes)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
    pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None].float()
    assert torch.allclose(loaded.prepare(photo).x[None], pixels, atol=1e-3)
    assert torch.allclose(loaded.module(loaded.prepare(photo).x[None]), net(pixels), rtol=1e-4, atol=1e-3)


def test_a_classifier_of_ultralytics_says_what_it_is(file):
    props = {"author": "Ultralytics", "task": "classify", "imgsz": "[8, 8]"}
    loaded = load_model(written(file, ("N", 3, "height", "width"), props=props))
    assert loaded.preprocess == Preprocess(8, crop=1.0, mean=(0, 0, 0), std=(1, 1, 1))


def test_of_several_outputs_the_first_scores_are_explained_and_this_is_said(file):
    loaded = load_model(written(file, outputs=("label", "scores", "f")))
    assert "of its outputs label, scores, f, scores is explained" in loaded.notes
    assert torch.allclose(loaded.module(x), net(x), atol=1e-6)
    with pytest.raises(ModelError, match=r"returns label tensor\(int64\), and scores are floats"):
        load_model(written(file, outputs=("label",)))


def test_what_it_takes_beside_the_image_goes_along_with_its_row(file):
    loaded = load_model(written(file, twice=True))
    masks = (torch.arange(3) > 0).float()[:, None, None, None].expand(3, 3, 8, 8).contiguous()
    with pytest.warns(deepviz.DeepVizWarning, match="all zero: no change of the input changes the score"):
        found = deepviz.explain(loaded, x, Columns(), target=1, extra={"mask": masks})
    assert float(found[0].attribution.abs().max()) == 0
    expected = Columns()(net, x, 1)
    assert torch.allclose(found[1].attribution, expected[1], atol=1e-5)
    with pytest.raises(ModelError, match=r"net.onnx takes image, mask, got image: what it takes beside the image"):
        deepviz.explain(loaded, x, Columns(), target=1)


def test_it_has_no_gradient_and_its_weights_stay(file):
    loaded = load_model(written(file))
    with pytest.raises(NoGradient, match=r"net.onnx is an ONNX graph, which has no gradient"):
        deepviz.explain(loaded, x, "gradient")
    with pytest.raises(ModelError, match=r"net.onnx is an ONNX graph, whose weights are out of reach"):
        next(randomised(loaded.module, x))
    with pytest.raises(ModelError, match="holds its weights: leave out weights="):
        load_model(f"onnx:{file}", weights="random")


def test_no_image_can_be_generated_for_it(file):
    loaded = load_model(written(file), preprocess=Preprocess(8))
    with pytest.raises(GenerationError, match=r"net.onnx is an ONNX graph, which has no gradient, by which"):
        deepviz.ImageGenerator(loaded, 0, steps=1)()


def test_another_file_is_another_network(file, tmp_path):
    from deepviz.results.sanity import key_of

    one = load_model(written(file))
    other = load_model(written(tmp_path / "other.onnx", opset=18))
    assert key_of(one) == key_of(load_model(f"onnx:{file}"))
    assert key_of(one) != key_of(other)


def test_a_copy_runs(file):
    module = copy.deepcopy(load_model(written(file)).module)
    assert torch.allclose(module(x), net(x), atol=1e-6)


def test_errors_are_one_line_and_name_the_file(file, monkeypatch):
    for make, reason in [
        (lambda: None, "does not exist"),
        (lambda: file.write_bytes(b"no model"), "does not read .*net.onnx: Protobuf parsing failed"),
        (lambda: written(file, opset=9999), "does not read .*net.onnx: ONNX Runtime only"),
        (lambda: written(file, kind="INT64"), "net.onnx takes image tensor.int64.: the first input must be an image"),
    ]:
        make()
        with pytest.raises(ModelError, match=reason) as caught:
            load_model(f"onnx:{file}")
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="did you mean 'onnx:"):
        load_model(str(file))
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingExtra, match=r"pip install 'deepviz\[onnx\]'"):
        load_model(f"onnx:{file}")


def test_a_gpu_that_this_onnxruntime_cannot_use_is_refused(file):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime runs on a GPU")
    loaded = load_model(written(file))
    with pytest.raises(ModelError, match=r"cannot run on cuda: this onnxruntime has .*; pip install onnxruntime-gpu"):
        loaded.module.graph.open("cuda")


def test_what_is_shared_is_not_cut_into_rows_where_there_are_as_many_images(tmp_path):
    """A graph of one image at a time and two numbers beside it, of which two images take both."""
    helper, types = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("ReduceSum", ["numbers"], ["sum"], keepdims=1),
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Mul", ["flat", "sum"], ["scores"]),
    ]
    takes = [
        helper.make_tensor_value_info("image", types.FLOAT, [1, 3, 8, 8]),
        helper.make_tensor_value_info("numbers", types.FLOAT, [2]),
    ]
    returns = [helper.make_tensor_value_info("scores", types.FLOAT, [1, 3])]
    model = helper.make_model(
        helper.make_graph(nodes, "shared", takes, returns), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save(model, tmp_path / "shared.onnx")
    graph = load_model(f"onnx:{tmp_path / 'shared.onnx'}").module
    numbers = torch.tensor([1.0, 3.0])
    assert torch.allclose(graph(x[:2], numbers), 4 * x[:2].mean((2, 3)), atol=1e-6)
    assert torch.allclose(graph(x[:3], numbers), 4 * x[:3].mean((2, 3)), atol=1e-6)

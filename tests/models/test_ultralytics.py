import copy
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import deepviz
from deepviz.errors import ModelError
from deepviz.methods import GradCAM, Gradient, IntegratedGradients
from deepviz.models import ultralytics as adapter
from deepviz.models.torchvision_shim import import_torchvision
from deepviz.objectives import Box

NAMES = ("yolov8n", "yolo11n", "yolo12n", "yolo26n", "yolov10n", "yolov8n-seg", "yolo11n-pose")


def test_a_file_that_holds_code_is_refused():
    with pytest.raises(ModelError, match=r"no description such as .*load_model\(YOLO\('best.pt'\)\)"):
        deepviz.load_model("ultralytics:best.pt")


@pytest.fixture(scope="module")
def ultralytics():
    pytest.importorskip("ultralytics", reason="pip install ultralytics")
    import_torchvision()
    import ultralytics

    return ultralytics


def street(size=(320, 200)):
    noise = np.random.default_rng(0).integers(0, 256, (20, 32, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def built(name):
    """With random weights, whose class logits are spread."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = adapter.build(f"{name}.yaml", None).eval()
    model.args = {"imgsz": 320}
    loaded = deepviz.load_model(model)
    x = loaded.prepare(street()).x[None]
    head = model.model[-1]
    convolutions = head.one2one_cv3 if head.end2end else head.cv3
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.train()
                part.momentum = 1.0
        model(x)
        model.eval()
        for branch in convolutions:
            branch[-1].bias.zero_()
        scale = 2 / loaded.module(x).logits.std()
        for branch in convolutions:
            branch[-1].weight.mul_(scale)
            branch[-1].bias.fill_(-5)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_scores_and_boxes_are_those_of_the_librarys_own_forward_pass(ultralytics, name):
    model = built(name)
    loaded = deepviz.load_model(model)
    image = loaded.prepare(street())
    assert image.x.shape == (3, 224, 320)  # 200 rows and 12 of grey on each side
    with torch.no_grad():
        output = model(image.x[None])
        found = loaded.module(image.x[None])
    decoded = output[0][0] if isinstance(output[0], tuple) else output[0]
    if model.model[-1].end2end:  # its best boxes, one for each class
        top = decoded[0]
        best = found.scores[0].flatten().sort(descending=True)
        assert torch.allclose(best.values[: len(top)], top[:, 4], atol=1e-5)
        where = best.indices[:50] // found.classes
        assert torch.allclose(found.boxes[0, where], top[:50, :4], atol=0.5)
        return
    centre, sides = decoded[0, :2].T, decoded[0, 2:4].T
    assert torch.allclose(found.boxes[0], torch.cat([centre - sides / 2, centre + sides / 2], 1), atol=1e-2)
    assert torch.allclose(found.scores[0], decoded[0, 4 : 4 + found.classes].T, atol=1e-5)
    assert torch.allclose(found.logits.sigmoid(), found.scores)


@pytest.mark.parametrize("name", ["yolo11n", "yolo26n"])
def test_methods_explain_the_logit_that_the_score_is_made_of(ultralytics, name):
    model = built(name).double()
    loaded = deepviz.load_model(model)
    x = loaded.prepare(street()).x[None].double()
    net = copy.deepcopy(loaded.module)
    gradient = Gradient()(net, x, Box())
    x.requires_grad_()
    output = loaded.module(x)
    best = output.detections()[0][0]
    (expected,) = torch.autograd.grad(output.logits[0, best.candidate, best.label], x)
    assert (gradient - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert GradCAM(relu=False)(net, x.detach(), Box()).abs().max() > 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the completeness gap of two steps
        assert IntegratedGradients(steps=2)(net, x.detach(), Box()).abs().max() > 0


def test_models_by_their_description(ultralytics, tmp_path):
    model = built("yolo11n")
    torch.save(model.state_dict(), tmp_path / "tensors.pt")
    loaded = deepviz.load_model("ultralytics:yolo11n.yaml", weights=tmp_path / "tensors.pt")
    assert (loaded.kind, loaded.label(0), len(loaded.labels)) == ("detections", "person", 80)
    x = torch.rand(1, 3, 64, 64)
    model.eval()
    with torch.no_grad():
        assert torch.equal(loaded.module(x).scores[0].T, model(x)[0][0, 4:])
    few = deepviz.load_model("ultralytics:yolo11n.yaml", weights="random", num_classes=3)
    assert few.labels is None
    with pytest.raises(ModelError, match=r"has no weights: give weights='tensors\.pt'"):
        deepviz.load_model("ultralytics:yolo11n.yaml")
    with pytest.raises(ModelError, match=r"ultralytics has no description 'yolo99z\.yaml'"):
        deepviz.load_model("ultralytics:yolo99z.yaml", weights="random")
    with pytest.raises(ModelError, match="is for none of detect"):
        deepviz.load_model("ultralytics:yolo11n-obb.yaml", weights="random")


def test_a_yolo_object_and_a_pickled_one(ultralytics, tmp_path):
    whole = ultralytics.YOLO("yolov8n.yaml")
    loaded = deepviz.load_model(whole, labels=[f"thing {k}" for k in range(80)])
    assert loaded.name == "DetectionModel"
    assert loaded.preprocess == deepviz.Preprocess(
        640, None, (0, 0, 0), (1, 1, 1), fit="letterbox", multiple=32, pad=114 / 255, antialias=False
    )
    torch.save({"model": whole.model}, tmp_path / "best.pt")
    with pytest.raises(ModelError, match="since loading it could run code"):
        deepviz.load_model("ultralytics:yolov8n.yaml", weights=tmp_path / "best.pt")


def test_a_classifier(ultralytics):
    loaded = deepviz.load_model("ultralytics:yolov8n-cls.yaml", weights="random")
    assert (loaded.kind, loaded.preprocess.input_size, len(loaded.labels)) == ("logits", (224, 224), 1000)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        whole = loaded.module.deepviz_model.eval()(x)
        assert torch.allclose(loaded.module(x).softmax(1), whole[0])

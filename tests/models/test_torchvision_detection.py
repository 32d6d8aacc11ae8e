import copy
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import deepviz
from deepviz.errors import MissingExtra
from deepviz.methods import Gradient
from deepviz.models.adapted import Adapted
from deepviz.models.torchvision_shim import import_torchvision
from deepviz.objectives import Box, NothingDetected

NAMES = (
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "MaskRCNN",
    "KeypointRCNN",
    "RetinaNet",
    "FCOS",
    "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
)
"""By their names, or, to have a small backbone, by their class."""
TWO_STAGES = NAMES[:3]
SMALL = {"min_size": 128, "max_size": 160}
FEW = {"rpn_pre_nms_top_n_test": 60, "rpn_post_nms_top_n_test": 20, "box_score_thresh": 0.5}


@pytest.fixture(scope="module")
def detection():
    try:
        torchvision = import_torchvision()
    except MissingExtra:
        pytest.skip("torchvision is not installed")
    patch = pytest.MonkeyPatch()
    boxes = torchvision.ops.boxes
    if not torchvision.extension._has_ops():
        # its compiled operators are missing beside a torch for CPUs; those in Python would be compiled, for minutes
        patch.setattr(boxes, "nms", suppressed)
        module = sys.modules["torchvision.ops.roi_align"]
        patch.setattr(module, "_roi_align", module._roi_align.__wrapped__)
    yield torchvision.models.detection
    patch.undo()


def suppressed(boxes, scores, threshold):
    from torchvision.ops.boxes import box_iou

    left, kept = scores.argsort(descending=True, stable=True), []
    while len(left):
        kept.append(left[0])
        overlap = box_iou(boxes[left[:1]], boxes[left])[0]
        overlap[0] = 2  # itself
        left = left[~(overlap > threshold)]  # without an area it is NaN
    return torch.stack(kept) if kept else left


_built = {}


def built(detection, name):
    """A detector with random weights, of which the last layers are scaled so that scores are spread over 0 to 1."""
    if name in _built:
        return _built[name]
    options = SMALL | FEW if name in TWO_STAGES else {"score_thresh": 0.5, "topk_candidates": 10**6}
    options |= {"num_classes": 4, "box_detections_per_img" if name in TWO_STAGES else "detections_per_img": 300}
    if name in ("RetinaNet", "FCOS"):
        options |= SMALL
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name.islower():
            model = getattr(detection, name)(weights=None, weights_backbone=None, **options).eval()
        else:
            body = small_pyramid(detection)
            if name in ("RetinaNet", "FCOS"):
                sizes = ((16,), (32,), (64,), (128,), (256,))
                ratios = ((0.5, 1.0, 2.0),) * 5 if name == "RetinaNet" else ((1.0,),) * 5
                options["anchor_generator"] = detection.anchor_utils.AnchorGenerator(sizes, ratios)
            model = getattr(detection, name)(body, **options).eval()
        x = torch.rand(2, 3, *((300, 300) if name == "ssd300_vgg16" else (128, 160)))
        for part in model.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.train()
        with torch.no_grad():
            if name == "FCOS":
                model.head.regression_head.bbox_reg.bias.fill_(2)  # boxes of four strides; many had no area
            model.backbone(x)
            model.eval()
            run = Adapted(model, deepviz.models.sources.known_model(model).module._run, "detections")
            for layer in last_layers(model):
                layer.bias.zero_()
            logits = run(x).logits.flatten(0, 1)
            scale = (3 if name in TWO_STAGES else 1) / logits.std(0).mean()
            for layer in last_layers(model):
                layer.weight.mul_(scale)
                if name in TWO_STAGES:
                    layer.bias.sub_(scale * logits.mean(0))
                elif name.startswith("ssd"):
                    layer.bias.view(-1, 4)[:, 0] = 4  # the background
                else:
                    layer.bias.fill_(-2.5)
    _built[name] = model
    return model


def small_pyramid(detection):
    """What `resnet_fpn_backbone` builds, with one block a stage and 32 channels."""
    resnet = import_torchvision().models.resnet
    stages = [f"layer{k}" for k in range(1, 5)]
    return detection.backbone_utils.BackboneWithFPN(
        resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1]),
        {stage: str(k) for k, stage in enumerate(stages)},
        [64, 128, 256, 512],
        out_channels=32,
    )


def last_layers(model):
    if hasattr(model, "roi_heads"):
        return [model.roi_heads.box_predictor.cls_score]
    head = model.head.classification_head
    if hasattr(head, "cls_logits"):
        return [head.cls_logits]
    return [[*part.modules()][-1] for part in head.module_list]


def best_logit(output):
    """Of the best detection: the highest logit of its class, of the candidates that are nearly its box."""
    best = output.detections()[0][0]
    boxes = output.boxes_of(torch.tensor([best.label]))[0]
    overlaps = import_torchvision().ops.boxes.box_iou(boxes.new_tensor([best.box]), boxes)[0]
    return output.logits[0, overlaps >= 0.9 * overlaps.max(), best.label].max()


def street(size=(150, 110)):
    """Blurred noise with a few rectangles."""
    noise = np.random.default_rng(0).integers(0, 256, (11, 15, 3), dtype=np.uint8)
    made = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    made.paste((250, 20, 20), (30, 20, 70, 60))
    made.paste((20, 20, 240), (90, 50, 140, 100))
    return made


@pytest.mark.parametrize("name", NAMES)
def test_scores_and_boxes_are_those_of_the_librarys_own_forward_pass(detection, name):
    model = copy.deepcopy(built(detection, name)).double()  # the last layers are scaled, and so is float32's rounding
    picture = street()
    loaded = deepviz.load_model(model)
    image = loaded.prepare(picture)
    with torch.no_grad():
        if name not in TWO_STAGES:  # about a hundred boxes, of which none is left out for another of nearly its score
            scores = loaded.module(image.x[None].double()).scores.flatten().sort(descending=True).values[60:140]
            gap = int((scores[:-1] - scores[1:]).argmax())
            model.score_thresh, model.nms_thresh = max(0.5, float(scores[gap : gap + 2].mean())), 1.0
        (theirs,) = model([torch.from_numpy(np.array(picture)).permute(2, 0, 1).double() / 255])
        (found,) = loaded.module(image.x[None].double()).detections()
    assert len(found) == len(theirs["scores"]) > 3
    size = (image.x.shape[2], image.x.shape[1])
    ours = torch.tensor(
        [(one.label, one.score, *image.geometry.on_image(one.box, size)) for one in found], dtype=torch.float64
    )
    expected = torch.cat([theirs["labels"][:, None], theirs["scores"][:, None], theirs["boxes"]], 1)
    # in no particular order, as scores may be equal: each is one of the others
    apart = (ours[:, None] - expected).abs() / torch.tensor([0.5, 1e-5, 0.5, 0.5, 0.5, 0.5])
    assert apart.amax(2).amin(0).max() <= 1
    assert apart.amax(2).amin(1).max() <= 1


@pytest.mark.parametrize("name", ["MaskRCNN", "RetinaNet", "FCOS", "ssdlite320_mobilenet_v3_large"])  # one of a kind
def test_methods_explain_the_logit_that_the_score_is_made_of(detection, name):
    model = built(detection, name)
    loaded = deepviz.load_model(model, labels=["nothing", "cat", "dog", "cow"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the completeness gap of three steps
        cam, path = deepviz.explain(loaded, street(), ["grad-cam", "integrated-gradients(steps=3)"])
    # in float64, since rounding turns rectifiers on and off
    x, net = loaded.prepare(street()).x[None].double(), copy.deepcopy(loaded.module).double()
    gradient = Gradient()(net, x, Box())
    x.requires_grad_()
    (expected,) = torch.autograd.grad(best_logit(net(x)), x)
    single = loaded.module(x.detach().float())
    assert cam.target.score == pytest.approx(best_logit(single).item(), rel=1e-3)
    assert cam.target.label == loaded.label(single.detections()[0][0].label)
    assert (gradient - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert cam.layer.startswith(("backbone", "head"))
    assert torch.as_tensor(path.values).abs().max() > 0
    for one in (cam, path):
        assert one.overlay().size == street().size


def test_the_models_of_torchvision_by_name(detection):
    loaded = deepviz.load_model("torchvision:ssdlite320_mobilenet_v3_large", weights="random")
    assert (loaded.kind, loaded.label(1), len(loaded.labels)) == ("detections", "person", 91)
    size = (320, 320)
    assert loaded.preprocess.input_size == size
    with pytest.raises(NothingDetected, match="no detection; there is none at all"):
        deepviz.explain(loaded, street(), "gradient")
    given = deepviz.load_model(detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None))
    assert given.preprocess == loaded.preprocess
    assert given.labels == loaded.labels
    assert given.notes == ("labels are those of COCO, as it has 91 classes; labels= gives others",)


def test_weights_of_a_file_with_another_number_of_classes(detection, tmp_path):
    model = built(detection, "ssdlite320_mobilenet_v3_large")
    torch.save(model.state_dict(), tmp_path / "four.pt")
    name = "torchvision:ssdlite320_mobilenet_v3_large"
    loaded = deepviz.load_model(name, weights=tmp_path / "four.pt", num_classes=4)
    x = torch.rand(1, 3, 320, 320)
    expected = deepviz.load_model(model).module(x)
    assert torch.equal(loaded.module(x).logits, expected.logits)
    with pytest.raises(deepviz.errors.ModelError, match="does not fit"):
        deepviz.load_model(name, weights=tmp_path / "four.pt")


def test_the_model_is_left_as_it_was(detection):
    model = built(detection, "RetinaNet")
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    deepviz.explain(model, street(), "gradient", target=Box())
    assert all(part.training for part in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    model.eval()


def test_padding_is_no_part_of_the_image(detection):
    model = built(detection, "RetinaNet")
    loaded = deepviz.load_model(model)
    image = loaded.prepare(street((150, 100)))
    assert image.x.shape == (3, 128, 160)
    boxes = loaded.module(image.x[None]).boxes.detach()
    assert float(boxes[..., 3].max()) == int(100 * 160 / 150)
    noise = torch.rand(2, 3, 128, 160) + 0.1  # where it is changed as well, it is not told from the image
    assert float(loaded.module(noise).boxes.detach()[..., 3].max()) == 128


def test_the_number_of_classes_is_read_from_a_file(detection, tmp_path):
    model = detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3)
    torch.save(model.state_dict(), tmp_path / "three.pt")
    loaded = deepviz.load_model("torchvision:retinanet_resnet50_fpn", weights=tmp_path / "three.pt")
    assert loaded.module.head.classification_head.num_classes == 3
    assert loaded.notes[0].startswith("num_classes=3 was read from three.pt")

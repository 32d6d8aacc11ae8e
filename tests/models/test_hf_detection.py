import copy
import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import deepviz
from deepviz.methods import GradCAM, Gradient, IntegratedGradients
from deepviz.models.torchvision_shim import import_torchvision
from deepviz.objectives import Box, NothingDetected

LABELS = ("cat", "dog", "N/A", "cow")
SMALL = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "num_queries": 10}
SMALL |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
RT = {"d_model": 32, "decoder_layers": 2, "num_queries": 10, "decoder_attention_heads": 2, "encoder_hidden_dim": 32}
RT |= {"decoder_in_channels": [32, 32, 32], "encoder_in_channels": [32, 48, 64], "decoder_ffn_dim": 32}
RT |= {"encoder_attention_heads": 2, "encoder_ffn_dim": 32, "anchor_image_size": None}
VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": [96, 128],
}
KINDS = {
    "Detr": SMALL,
    "ConditionalDetr": SMALL,
    "DeformableDetr": SMALL | {"num_feature_levels": 1},
    "RTDetr": RT,
    "Yolos": VIT | {"num_detection_tokens": 10},
}


@pytest.fixture(scope="module")
def transformers():
    try:
        import_torchvision()
    except deepviz.errors.MissingExtra:
        pytest.skip("torchvision is not installed")
    return pytest.importorskip("transformers")


_built = {}


def built(transformers, kind):
    """A small detector with random weights, whose class logits are spread, and its image processor."""
    if kind in _built:
        return _built[kind]
    body = transformers.ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32, 48, 64],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )
    options = dict(KINDS[kind])
    if kind == "RTDetr":
        body = transformers.RTDetrResNetConfig(
            embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], layer_type="basic",
            out_features=["stage2", "stage3", "stage4"],
        )  # fmt: skip
    elif kind == "DeformableDetr":
        body.out_features = ["stage4"]
    if kind != "Yolos":
        options |= {
            "use_timm_backbone": False,
            "use_pretrained_backbone": False,
            "backbone": None,
            "backbone_config": body,
        }
    config = getattr(transformers, f"{kind}Config")(**options, id2label=dict(enumerate(LABELS)))
    sides = {"height": 96, "width": 128} if kind == "RTDetr" else {"shortest_edge": 96, "longest_edge": 128}
    processor = getattr(transformers, f"{kind}ImageProcessor")(size=sides)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}ForObjectDetection")(config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1 and "norm" not in name:
                    torch.nn.init.xavier_normal_(parameter.flatten(1))
            x = processor(street(), return_tensors="pt")["pixel_values"]
            last = [
                parameter
                for name, parameter in model.named_parameters()
                if name.startswith(("class_labels_classifier", "class_embed", "model.decoder.class_embed"))
                and len(parameter) == model(x).logits.shape[-1]
            ]
            scale = 4 / model(x).logits.std(1).mean()
            for parameter in last:
                parameter.mul_(scale if parameter.ndim > 1 else 0)
            mean = model(x).logits.mean((0, 1))
            for parameter in last:
                if parameter.ndim == 1:
                    parameter.sub_(mean)
    _built[kind] = model, processor
    return _built[kind]


def street(size=(160, 110)):
    noise = np.random.default_rng(0).integers(0, 256, (11, 16, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_and_boxes_are_those_of_the_librarys_own_forward_pass(transformers, kind):
    model, processor = built(transformers, kind)
    loaded = deepviz.load_model(model, preprocess=processor)
    image = loaded.prepare(street())
    with torch.no_grad():
        output = model(pixel_values=image.x[None])
        (theirs,) = processor.post_process_object_detection(output, threshold=0.5, target_sizes=[(110, 160)])
        (found,) = loaded.module(image.x[None]).detections()
    assert loaded.labels == LABELS
    assert len(found) >= len(theirs["scores"]) > 2
    found = found[: len(theirs["scores"])]  # some processors keep no more than there are queries
    size = (image.x.shape[2], image.x.shape[1])
    ours = torch.tensor([(one.label, one.score, *image.geometry.on_image(one.box, size)) for one in found])
    expected = torch.cat([theirs["labels"][:, None], theirs["scores"][:, None], theirs["boxes"]], 1)
    apart = (ours[:, None] - expected).abs() / torch.tensor([0.5, 1e-5, 0.5, 0.5, 0.5, 0.5])
    assert apart.amax(2).amin(0).max() <= 1
    assert apart.amax(2).amin(1).max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_methods_explain_the_logit_that_the_score_is_made_of(transformers, kind):
    model, processor = built(transformers, kind)
    loaded = deepviz.load_model(model, preprocess=processor)
    x, model = loaded.prepare(street()).x[None].double(), copy.deepcopy(model).double()
    net = deepviz.load_model(model).module
    gradient = Gradient()(net, x, Box())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the completeness gap of two steps
        path = IntegratedGradients(steps=2)(net, x, Box())
    # of two rows, since torch takes a wrong gradient of batch normalisation for one (see contiguous_at_batch_norm)
    x = torch.cat([x, x]).requires_grad_()
    output = model(pixel_values=x)
    best = net(x).detections()[0][0]
    (expected,) = torch.autograd.grad(output.logits[0, best.candidate, best.label], x)
    assert (gradient[0] - expected[0]).abs().max() <= 1e-6 * expected.abs().max()
    assert path.abs().max() > 0
    assert GradCAM(relu=False)(net, x[:1].detach(), Box()).abs().max() > 0


def test_a_folder_that_save_pretrained_wrote(transformers, tmp_path):
    model, processor = built(transformers, "Detr")
    model.save_pretrained(tmp_path / "detr")
    processor.save_pretrained(tmp_path / "detr")
    loaded = deepviz.load_model(f"hf:{tmp_path / 'detr'}")
    assert (loaded.kind, loaded.labels) == ("detections", LABELS)
    assert (loaded.preprocess.size, loaded.preprocess.longest) == (96, 128)
    image = loaded.prepare(street())
    with torch.no_grad():
        assert torch.equal(loaded.module(image.x[None]).logits, model(pixel_values=image.x[None]).logits[..., :-1])
    (explained,) = deepviz.explain(loaded, street(), "gradient", target="box('dog')")
    assert explained.target.label == "dog"
    with pytest.raises(NothingDetected, match="no detection of N/A with index 99; there"):
        deepviz.explain(loaded, street(), "gradient", target="box('N/A', index=99)")
    random = deepviz.load_model(f"hf:{tmp_path / 'detr'}", weights="random", num_classes=7)
    assert random.module(image.x[None]).classes == 7
    (tmp_path / "detr" / "config.json").write_text(
        json.dumps(json.loads((tmp_path / "detr" / "config.json").read_text()) | {"d_model": 48})
    )
    with pytest.raises(deepviz.errors.ModelError, match="could not be fetched"):
        deepviz.load_model(f"hf:{tmp_path / 'detr'}")

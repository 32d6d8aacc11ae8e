import sys

import pytest
import torch

import deepviz
from deepviz.errors import MissingExtra, ModelError
from deepviz.methods import GradCAM, Gradient
from deepviz.models import load_model
from deepviz.models.segmenters import by_queries, oneformer_task, semantic
from deepviz.models.torchvision_shim import import_torchvision
from deepviz.objectives import Output, Pixels
from deepviz.probe.outputs import class_maps
from networks import assert_same

X = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        yield


@pytest.fixture(scope="module")
def torchvision():
    try:
        return import_torchvision()
    except MissingExtra as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def transformers(torchvision):
    return pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def smp(torchvision):
    return pytest.importorskip("segmentation_models_pytorch")


def assert_explains(loaded, maps, x=X):
    """That the maps are those of the library, and that the gradient is that of the mean over the predicted region."""
    assert loaded.kind == "maps"
    with torch.no_grad():
        assert_same(class_maps(loaded.module.eval()(x)), maps(x), 1e-5)
    leaf = x.clone().requires_grad_()
    z = maps(leaf)
    label = z.argmax(1).flatten(1).mode().values
    scores = torch.stack([z[n, label[n]][z[n].argmax(0) == label[n]].mean() for n in range(len(x))])
    (expected,) = torch.autograd.grad(scores.sum(), leaf)
    for target in (Pixels(), Pixels(label=int(label[0]))):
        assert_same(Gradient()(loaded.module, x, target)[:1], expected[:1], 1e-3)


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"])
def test_torchvision(torchvision, name):
    loaded = load_model(f"torchvision:{name}", weights="random")
    assert loaded.labels[:3] == ("__background__", "aeroplane", "bicycle")
    assert (loaded.preprocess.size, loaded.preprocess.fit) == (520, "whole")
    assert_explains(loaded, lambda x: loaded.module.eval()(x)["out"])
    given = load_model(loaded.module)
    assert (given.kind, given.labels) == ("maps", loaded.labels)
    assert "labels are those of PASCAL VOC, as it has 21 classes; labels= gives others" in given.notes
    other = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=5)
    assert load_model(other).labels is None


def configured(transformers, name, **options):
    cls = getattr(transformers, name)
    return cls(cls.config_class(**options)).eval()


SEGFORMER = {
    "hidden_sizes": [16, 24, 32, 48],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 2, 2, 3],
    "decoder_hidden_size": 32,
}
VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 64,
    "patch_size": 16,
}
LABELS = {0: "road", 1: "tree", 2: "sky"}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SegformerForSemanticSegmentation", SEGFORMER),
        ("BeitForSemanticSegmentation", VIT | {"out_indices": [1, 2, 3, 4], "use_relative_position_bias": True}),
        ("MobileViTForSemanticSegmentation", {"image_size": 64}),
    ],
)
def test_hf_by_pixels(transformers, name, options, tmp_path):
    model = configured(transformers, name, id2label=LABELS, **options)
    model.save_pretrained(tmp_path)
    for loaded in (load_model(f"hf:{tmp_path}"), load_model(model)):
        assert loaded.labels == ("road", "tree", "sky")
        assert_explains(loaded, lambda x: model(x).logits, X[..., :64])


def swin(transformers):
    return transformers.SwinConfig(
        embed_dim=16,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        image_size=64,
    )


def maskformer(transformers):
    detr = transformers.DetrConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=7,
        encoder_attention_heads=2, decoder_attention_heads=2, use_timm_backbone=False,
        backbone_config=transformers.ResNetConfig(), backbone=None,
    )  # fmt: skip
    config = transformers.MaskFormerConfig(
        fpn_feature_size=32, mask_feature_size=32, backbone_config=swin(transformers), decoder_config=detr,
        id2label=LABELS,
    )  # fmt: skip
    return transformers.MaskFormerForInstanceSegmentation(config).eval()


def mask2former(transformers):
    return configured(
        transformers, "Mask2FormerForUniversalSegmentation", backbone_config=swin(transformers), feature_size=32,
        mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16, encoder_layers=1, decoder_layers=2,
        num_attention_heads=2, dim_feedforward=16, num_queries=7, id2label=LABELS,
    )  # fmt: skip


def eomt(transformers):
    return configured(
        transformers, "EomtForUniversalSegmentation", **VIT | {"num_blocks": 1}, num_queries=7, num_upscale_blocks=1,
        id2label=LABELS,
    )  # fmt: skip


@pytest.mark.parametrize("build", [maskformer, mask2former, eomt])
def test_hf_by_queries(transformers, build, tmp_path):
    model = build(transformers)
    model.save_pretrained(tmp_path)

    def maps(x):
        output = model(x)
        return semantic(output.class_queries_logits, output.masks_queries_logits)

    x = X[..., :64]
    for loaded in (load_model(f"hf:{tmp_path}"), load_model(model)):
        assert loaded.labels == ("road", "tree", "sky")
        assert_explains(loaded, maps, x)
    assert [name for name, _ in loaded.module.named_modules()] == [name for name, _ in model.named_modules()]
    assert bool(GradCAM()(loaded.module, x, Pixels(0, None)).isfinite().all())
    with torch.no_grad():
        processor = transformers.MaskFormerImageProcessor()
        theirs = processor.post_process_semantic_segmentation(model(x))
        assert torch.equal(loaded.module(x).argmax(1), torch.stack(theirs))


def test_hf_oneformer_is_told_its_task(transformers, tmp_path):
    model = configured(
        transformers, "OneFormerForUniversalSegmentation", backbone_config=swin(transformers), hidden_dim=32,
        mask_dim=32, conv_dim=32, encoder_feedforward_dim=16, encoder_layers=1, decoder_layers=2, query_dec_layers=1,
        num_attention_heads=2, dim_feedforward=16, num_queries=7, text_encoder_width=16, text_encoder_num_layers=1,
        text_encoder_vocab_size=300, max_seq_len=8, task_seq_len=8, id2label=LABELS, is_training=False,
    )  # fmt: skip
    model.save_pretrained(tmp_path)
    task = torch.tensor([[1, 5, 6, 7, 2, 0, 0, 0]])

    def maps(x):
        output = model(x, task.expand(len(x), -1))
        return semantic(output.class_queries_logits, output.masks_queries_logits)

    x = X[..., :64]
    assert_explains(load_model(by_queries(model, task)), maps, x)
    given = load_model(model)
    with torch.no_grad():
        assert_same(given.module(x, task_inputs=task.expand(2, -1)), maps(x), 1e-5)
    (one, _) = deepviz.explain(given, x, "gradient", extra=(task.expand(2, -1),))
    assert one.target.label in LABELS.values()
    with pytest.raises(ModelError, match="the tokenizer of OneFormer's tasks has no words"):
        load_model(f"hf:{tmp_path}")

    class Tokenizer:
        def __call__(self, texts, *, padding, max_length, truncation):
            assert (texts, padding, max_length, truncation) == (["the task is semantic"], "max_length", 8, True)
            return {"input_ids": [[1, 5, 6, 7, 2, 9, 9, 9]], "attention_mask": [[1, 1, 1, 1, 1, 0, 0, 0]]}

    assert torch.equal(oneformer_task(Tokenizer(), 8), task)


@pytest.mark.parametrize("classes", [1, 3])
def test_smp(smp, classes, tmp_path):
    model = smp.create_model("Unet", "resnet18", encoder_weights=None, classes=classes).eval()
    torch.save(model.state_dict(), tmp_path / "mine.pt")
    stored = load_model("smp:unet/resnet18", weights=tmp_path / "mine.pt")
    model.save_pretrained(tmp_path / "folder")
    for loaded in (stored, load_model(model), load_model(f"smp:{tmp_path / 'folder'}")):
        assert loaded.preprocess == deepviz.Preprocess(512, crop=None, fit="whole", multiple=32)
        assert any("512 pixels on the shorter side" in note for note in loaded.notes)
        assert_explains(loaded, lambda x: class_maps(model(x)))
    given = load_model("smp:Unet/resnet18", weights="random", num_classes=5)
    assert given.module(X).shape == (2, 5, 64, 96)


def test_what_smp_does_not_have(smp):
    with pytest.raises(ModelError, match=r"has no architecture 'unett'; did you mean 'Unet'"):
        load_model("smp:unett", weights="random")
    with pytest.raises(ModelError, match="has no encoder 'resnet19'; did you mean 'resnet1"):
        load_model("smp:Unet/resnet19", weights="random")
    with pytest.raises(ModelError, match=r"names no trained segmenter: give weights='file\.safetensors', or 'random'"):
        load_model("smp:Unet")


def test_without_smp_the_error_says_what_to_install(monkeypatch, torchvision):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(MissingExtra, match=r"pip install 'deepviz\[smp\]'"):
        load_model("smp:Unet", weights="random")


def test_hf_depth_is_explained_at_a_point(transformers, tmp_path):
    model = configured(transformers, "GLPNForDepthEstimation", **SEGFORMER | {"decoder_hidden_size": 16}, max_depth=10)
    model.save_pretrained(tmp_path)
    loaded = load_model(f"hf:{tmp_path}")
    assert loaded.kind == "auto"
    x = X[:1].clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(x).predicted_depth[0, 20, 30], x)
    for target in (Output("predicted_depth", at=(30, 20)), Output(at=(30, 20))):
        assert_same(Gradient()(loaded.module, X[:1], target), expected, 1e-5)
    assert bool(GradCAM()(loaded.module, X[:1], Output(at=(30, 20))).isfinite().all())


def test_hf_keypoints_have_a_heatmap_each(transformers, tmp_path):
    backbone = transformers.VitPoseBackboneConfig(
        image_size=[64, 48], patch_size=[16, 16], hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
    )  # fmt: skip
    model = configured(transformers, "VitPoseForPoseEstimation", backbone_config=backbone, num_labels=5)
    model.save_pretrained(tmp_path)
    loaded = load_model(f"hf:{tmp_path}")
    x = X[:1, :, :, :48].clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(x).heatmaps[0, 3, 5, 7], x)  # of 16 x 12 cells of 4 x 4 pixels
    assert_same(Gradient()(loaded.module, x.detach(), Output("heatmaps", 3, at=(28, 20, 32, 24))), expected, 1e-5)

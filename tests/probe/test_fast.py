"""A fast copy computes what its model computes, is never out of date, and is only made where that is proved."""

import gc
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import deepviz
from deepviz.errors import ModelFailed, TargetError
from deepviz.methods import (
    AblationCAM,
    Deconvolution,
    EigenGradCAM,
    GradCAM,
    Gradient,
    GuidedBackprop,
    GuidedGradCAM,
    IntegratedGradients,
    LayerCAM,
)
from deepviz.metrics import Deletion
from deepviz.models import load_model
from deepviz.models.torchvision_shim import import_timm, import_torchvision
from deepviz.objectives import Channel
from deepviz.probe import fast
from deepviz.probe.fast import FACT, fast_copies
from networks import assert_same

X = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
EXACT = 1e-10


@pytest.fixture(autouse=True)
def asked_for(monkeypatch):
    monkeypatch.setenv("DEEPVIZ_FAST", "1")


def settled(model: nn.Module, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
    """The model in eval mode, its normalisation with statistics and weights as training leaves them: none is 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                if tensor is not None:
                    tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model.to(dtype).eval()


def small(*more: nn.Module, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return settled(
            nn.Sequential(
                nn.Conv2d(3, 6, 3, padding=1, bias=False),
                nn.BatchNorm2d(6),
                nn.ReLU(inplace=True),
                nn.Conv2d(6, 8, 3, stride=2, groups=2),
                nn.BatchNorm2d(8),
                nn.ReLU6(),
                nn.AdaptiveAvgPool2d(2),
                nn.Flatten(),
                nn.Linear(32, 5),
                *more,
            )
        )


class Wrapped(nn.Module):
    """A body, and what is done with it."""

    def __init__(self, do, body=None):
        super().__init__()
        self.body, self.do = small() if body is None else body, do

    def forward(self, x):
        return self.do(self.body, x)


def both(method, model, x=X, target=1):
    """The method's result on the copy, and on the model itself."""
    quick = method.attribute(model, x, target)
    with fast_copies(False):
        plain = method.attribute(model, x, target)
    assert FACT not in plain.notes.facts
    return quick, plain


def assert_folds(model, count, x=X, method=None, target=1):
    quick, plain = both(method or Gradient(), model, x, target)
    said = f"{count} normalisations folded" if isinstance(count, int) else count
    assert quick.notes.facts.get(FACT) == said
    assert_same(quick.maps, plain.maps, EXACT)
    return quick.maps


def assert_left_out(model, x=X, method=None, target=1):
    quick, plain = both(method or Gradient(), model, x, target)
    assert FACT not in quick.notes.facts
    assert torch.equal(quick.maps, plain.maps)


def timm_model(name):
    return lambda: import_timm().create_model(name, pretrained=False, num_classes=10)


def torchvision_model(name, **options):
    return lambda: getattr(import_torchvision().models, name)(weights=None, num_classes=10, **options)


ARCHITECTURES = {
    "resnet18": timm_model("resnet18"),
    "mobilenetv2_050": timm_model("mobilenetv2_050"),
    "mobilenetv3_small_050": timm_model("mobilenetv3_small_050"),
    "efficientnet_lite0": timm_model("tf_efficientnet_lite0"),
    "regnetx_002": timm_model("regnetx_002"),
    "ghostnet_050": timm_model("ghostnet_050"),
    "repvgg_a0": timm_model("repvgg_a0"),
    "resnet50": torchvision_model("resnet50"),
    "densenet121": torchvision_model("densenet121"),
    "vgg11_bn": torchvision_model("vgg11_bn"),
    "shufflenet_v2_x0_5": torchvision_model("shufflenet_v2_x0_5"),
    "mnasnet0_5": torchvision_model("mnasnet0_5"),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_scores_and_gradients_of_architectures_are_the_models(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = settled(ARCHITECTURES[name]())
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    quick, plain = both(Gradient(), model, x)
    assert FACT in quick.notes.facts
    assert_same(quick.maps, plain.maps, EXACT)
    (copy,) = [known.copy for owner, known in fast._known.items() if owner is model]
    with torch.no_grad():
        assert_same(copy.model(x), model(x), EXACT)


@pytest.mark.parametrize("method", [Gradient(), GuidedBackprop(), Deconvolution(), GuidedGradCAM(), GradCAM()], ids=str)
def test_the_bundled_networks_maps_and_receipts_are_the_models(method):
    model = load_model().module
    x = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model.double()
    try:
        quick, plain = both(method, model, x, 281)
    finally:
        model.float()
    assert quick.notes.facts.pop(FACT) == "49 normalisations folded"
    assert quick.notes.facts == plain.notes.facts  # what the rule overrides, and the layer
    assert_same(quick.maps, plain.maps, EXACT)


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.Conv1d(6, 4, 3), nn.BatchNorm1d(4)),
        lambda: nn.Sequential(
            nn.ConvTranspose2d(3, 6, 3, groups=3),
            nn.BatchNorm2d(6, affine=False),
            nn.ReLU(),
            nn.Conv2d(6, 4, 3),
            nn.BatchNorm2d(4),
        ),
        lambda: nn.Sequential(
            nn.Conv3d(3, 6, 3), nn.BatchNorm3d(6), nn.ReLU(), nn.ConvTranspose3d(6, 4, 2), nn.BatchNorm3d(4)
        ),
    ],
    ids=["signals", "transposed", "volumes"],
)
def test_convolutions_of_every_kind_are_folded(build):
    body = settled(nn.Sequential(build(), nn.Flatten(), nn.LazyLinear(5)).double())
    axes = {nn.Conv1d: 1, nn.ConvTranspose2d: 2, nn.Conv3d: 3}[type(body[0][0])]
    x = torch.randn(2, 3, *[8] * axes, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        body(x)
    assert_folds(body, 2, x)


def test_a_linear_layer_is_folded():
    head = nn.Sequential(nn.Linear(5, 6, bias=False), nn.BatchNorm1d(6))
    assert_folds(settled(small(head)), 3)


# what is not proved


class Twice(nn.Module):
    """One convolution, whose results go to two normalisations, as the heads of detectors share theirs."""

    def __init__(self):
        super().__init__()
        self.conv, self.norms = nn.Conv2d(3, 3, 3, padding=1), nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(3)])

    def forward(self, x):
        for norm in self.norms:
            x = norm(self.conv(x))
        return x.mean((2, 3))


class Shared(Twice):
    """One normalisation after two convolutions."""

    def __init__(self):
        super().__init__()
        self.other = nn.Conv2d(3, 3, 3)

    def forward(self, x):
        return self.norms[0](self.other(self.norms[0](self.conv(x)))).mean((2, 3))


class Skipping(Twice):
    """What the convolution returns is also added to what the normalisation returns; by way of a view."""

    def forward(self, x):
        conv = self.conv(x)
        return (self.norms[0](conv).flatten(2) + conv.flatten(2).detach()).mean(2)


class Returning(Twice):
    """The convolution's result is part of the output."""

    def forward(self, x):
        conv = self.conv(x)
        return {"logits": self.norms[0](conv).mean((2, 3)), "features": conv}


class Tied(Twice):
    """The weights of the convolution are those of another as well."""

    def __init__(self):
        super().__init__()
        self.other = nn.Conv2d(3, 3, 3, padding=1)
        self.other.weight = self.conv.weight

    def forward(self, x):
        return self.other(self.norms[0](self.conv(x))).mean((2, 3))


class Regularised(Twice):
    """The weights are read for another purpose."""

    def forward(self, x):
        return self.norms[0](self.conv(x)).mean((2, 3)) + self.conv.weight.square().sum()


class Reading(Twice):
    """A part of the weights, and of the normalisation's, is read for another purpose."""

    def forward(self, x):
        return self.norms[0](self.conv(x)).mean((2, 3)) + self.conv.weight[2].sum() + self.norms[0].weight[1:].sum()


class HalfNorm(nn.BatchNorm2d):
    """A normalisation that goes on."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2


class Standardised(nn.Conv2d):
    """A convolution by other weights than its own."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight - self.weight.mean(), self.bias)


class Listing(nn.Module):
    """Modules in a plain list, beside the others."""

    def __init__(self):
        super().__init__()
        self.body = small()
        self.steps = [self.body[:5], self.body[5:]]

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        return x


class Counting(nn.Module):
    """Counts its calls, and computes by them."""

    def __init__(self):
        super().__init__()
        self.body, self.calls = small(), 0

    def forward(self, x):
        self.calls += 1
        return self.body(x)


def hooked(model):
    model[1].register_forward_hook(lambda module, inputs, output: output * 2)
    return model


def watched(model):
    model[4].register_full_backward_hook(lambda module, inputs, outputs: None)
    return model


def parametrised(model):
    nn.utils.parametrizations.weight_norm(model[0])
    return model


def patched(model):
    forward = model[3].forward
    model[3].forward = lambda x: forward(x) * 2
    return model


def by_batch(model):
    """Normalised by each batch's own statistics."""
    for module in (model[1], model[4]):
        module.track_running_stats, module.running_mean, module.running_var = False, None, None
    return model


LEFT_OUT = {
    "two normalisations of one convolution": Twice,
    "two convolutions of one normalisation": Shared,
    "the result is added": Skipping,
    "the result is returned": Returning,
    "tied weights": Tied,
    "weights read elsewhere": Regularised,
    "parts of weights read elsewhere": Reading,
    "a normalisation of its own kind": lambda: nn.Sequential(nn.Conv2d(3, 5, 3), HalfNorm(5), nn.Flatten()),
    "weights computed on the way": lambda: nn.Sequential(Standardised(3, 5, 3), nn.BatchNorm2d(5), nn.Flatten()),
    "modules in a list": Listing,
    "a model that counts": Counting,
    "forward hook": lambda: hooked(small()),
    "backward hook": lambda: watched(small()),
    "parametrisation": lambda: parametrised(small()),
    "forward replaced": lambda: patched(small()),
    "batch statistics": lambda: by_batch(small()),
    "no normalisation": lambda: small()[6:],
}


@pytest.mark.filterwarnings("ignore::deepviz.errors.DeepVizWarning")
@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_is_not_proved_is_explained_as_it_is(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = settled(LEFT_OUT[name]())
    x = X if name != "no normalisation" else torch.randn(2, 8, 3, 3, dtype=torch.float64)
    assert_left_out(model, x)


def test_half_precision_is_left_out():
    assert_left_out(small().bfloat16(), X.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert_left_out(small().float(), X.float())


def test_a_callable_may_read_what_the_model_keeps():
    kept = {}

    def keep(body, x):
        kept["features"] = body[:6](x)
        return body[6:](kept["features"])

    model = Wrapped(keep)
    assert_left_out(model, target=lambda output: kept["features"].mean((1, 2, 3)))


# layers


def test_layers_that_the_copy_does_not_compute_are_explained_on_the_model():
    model = small()
    for method in (GradCAM, LayerCAM, EigenGradCAM):
        for layer in ("0", "3"):
            assert_left_out(model, method=method(layer=layer, relu=False))
        for layer in ("1", "2", "4", "5"):
            assert_folds(model, 2, method=method(layer=layer, relu=False))
    assert_left_out(model, target=Channel("3", 1))
    assert_folds(model, 2, target=Channel("4", 1))


def test_a_container_that_ends_in_a_folded_convolution_is_explained_on_the_model():
    body = small()
    model = nn.Sequential(nn.Sequential(*body[:4]), *body[4:])
    assert_left_out(model, method=GradCAM(layer="0", relu=False))
    assert_folds(model, 2, method=GradCAM(layer="1", relu=False))


# never out of date


def step(model):
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    model(X).sum().backward()
    optimiser.step()


def load(model):
    model.load_state_dict(small(seed=7).state_dict())


def buffer(model):
    model[1].running_var.mul_(3)


def new_buffer(model):
    model[4].running_mean = torch.ones(8, dtype=torch.float64)


def replaced(model):
    model[5] = nn.Tanh()


def edited(model):
    model[3].stride = (1, 1)


def epsilon(model):
    model[1].eps = 0.5


def slope(model):
    model[2] = nn.LeakyReLU(0.5)
    Gradient()(model, X, 1)
    model[2].negative_slope = 0.1


def training_between(model):
    model.train()
    model(X)
    model.eval()


def hook_added(model):
    model[4].register_forward_hook(lambda module, inputs, output: output * 2)


def forward_replaced(model):
    model[5].forward = torch.tanh


CHANGES = [step, load, buffer, new_buffer, replaced, edited, epsilon, slope, training_between]
CHANGES += [hook_added, forward_replaced]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_model_is_explained_as_it_is_now(change):
    model = small()
    before = assert_folds(model, 2)
    change(model)
    quick, plain = both(Gradient(), model)
    assert_same(quick.maps, plain.maps, EXACT)
    assert float((plain.maps - before).abs().max()) > 1e-3 * float(before.abs().max())


def test_an_attribute_of_the_models_own_is_followed():
    model = Wrapped(lambda body, x: body(x))
    model.scale = 2
    model.do = lambda body, x: body(x)
    assert_folds(model, 2)
    model.do = lambda body, x: body[8](body[:8](x) ** 2)
    quick, plain = both(Gradient(), model)
    assert_same(quick.maps, plain.maps, EXACT)


def test_a_move_to_another_type_is_followed():
    model = small()
    assert_folds(model, 2)
    model.float()
    quick, plain = both(Gradient(), model, X.float())
    assert quick.notes.facts[FACT]
    assert quick.maps.dtype == torch.float32
    assert_same(quick.maps, plain.maps, 1e-3)
    model.double()
    assert_folds(model, 2)


def test_images_of_another_size_are_proved_anew():
    def by_size(body, x):
        conv = body[0](x)
        features = body[1](conv)
        return body[3:](features + conv if x.shape[2] > 20 else features)

    model = Wrapped(by_size)
    assert_folds(model, 2)
    assert_left_out(model, torch.randn(2, 3, 24, 24, dtype=torch.float64))
    assert_folds(model, 2)


# one copy, and none too long


def test_threads_share_one_copy(monkeypatch):
    model, made = small(), []
    make = fast._made
    monkeypatch.setattr(fast, "_made", lambda *args: made.append(1) or make(*args))
    found = {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: Gradient()(model, X, 1)})) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]
    assert all(torch.equal(found[0], one) for one in found.values())


def test_a_copy_goes_with_its_model():
    model = small()
    assert_folds(model, 2)
    gc.collect()
    gc.disable()
    try:
        (copy,) = [weakref.ref(known.copy.model) for owner, known in fast._known.items() if owner is model]
        gone = weakref.ref(model)
        del model
        assert gone() is None
        assert copy() is None
    finally:
        gc.enable()


def test_weights_that_are_not_folded_are_in_the_models_memory():
    model = small()
    Gradient()(model, X, 1)
    (copy,) = [known.copy.model for owner, known in fast._known.items() if owner is model]
    assert copy[8].weight.data_ptr() == model[8].weight.data_ptr()
    assert not any(parameter.requires_grad for parameter in copy.parameters())
    assert [name for name, _ in copy.named_modules()] == [name for name, _ in model.named_modules()]
    assert not any(module.training for module in copy.modules())


@pytest.mark.parametrize("value", ["0", None])
def test_without_being_asked_for_there_are_no_copies(value, monkeypatch):
    monkeypatch.delenv("DEEPVIZ_FAST")
    if value is not None:
        monkeypatch.setenv("DEEPVIZ_FAST", value)
    assert_left_out(small())


def test_a_model_that_fails_on_the_copy_is_explained_as_it_is():
    body = small()
    first = body[0]

    def particular(inner, x):
        if torch.is_grad_enabled() and inner[0].weight is not first.weight:
            raise RuntimeError("not mine")
        return inner(x)

    # a function that leads to one of the model's own modules: none is copied
    assert_left_out(Wrapped(particular, body))
    address = first.weight.data_ptr()

    def hidden(inner, x):
        if torch.is_grad_enabled() and inner[0].weight.data_ptr() != address:
            raise RuntimeError("not mine")
        return inner(x)

    assert_left_out(Wrapped(hidden, body))


def test_the_models_own_failure_is_told():
    def failing(body, x):
        raise RuntimeError("not today")

    with pytest.raises(ModelFailed, match="not today"):
        Gradient()(Wrapped(failing), X, 1)
    model = small()
    with pytest.raises(TargetError, match="out of range"):
        Gradient()(model, X, 9)
    assert_folds(model, 2)


# forward passes, and many


@pytest.mark.filterwarnings("ignore:.*(misses the change|not positive)")
def test_methods_of_many_passes_and_metrics_use_it():
    model = small()
    assert_folds(model, 2, method=IntegratedGradients(steps=9))
    metric = Deletion(steps=5, value="score")
    maps = Gradient()(model, X, 1)
    quick = metric(model, X, maps, 1)
    with fast_copies(False):
        plain = metric(model, X, maps, 1)
    assert_same(quick, plain, 1e-6)
    quick, plain = both(AblationCAM(layer="5"), model)
    assert_same(quick.maps, plain.maps, 1e-6)


def test_explain_says_what_was_used_and_takes_fast_false():
    model = small().float()
    images = X.float()
    (one, *_) = deepviz.explain(model, images, "gradient", target=1)
    assert one.notes[FACT] == "2 normalisations folded"
    (one, *_) = deepviz.explain(model, images, "gradient", target=1, fast=False)
    assert FACT not in one.notes
    assert FACT not in next(deepviz.explain_each(model, images, "gradient", target=1, fast=False)).notes
    each = deepviz.explain_each(model, images, "gradient", target=1, fast=False)
    next(each)
    assert fast._switch.get() is None  # what is computed between two of them is computed as the caller says


def test_evaluation_and_sanity_check_come_to_the_same_without_copies():
    model, images = small().float(), torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    found = [
        deepviz.evaluate(model, images, ["gradient"], "deletion", target=1, fast=on).values for on in (True, False)
    ]
    assert_same(*map(torch.as_tensor, found), 1e-5)
    found = [
        deepviz.sanity_check(model, images, ["gradient"], stages=2, target=1, fast=on).similarities["ssim"]
        for on in (True, False)
    ]
    assert_same(*map(torch.as_tensor, found), 1e-3)


def test_a_network_with_little_to_fold_is_explained_as_it_is():
    more = [nn.Conv2d(3, 3, 1) for _ in range(7)]
    model = settled(nn.Sequential(*more, nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Flatten()))
    assert_left_out(model)
    assert_folds(model[5:], "1 normalisation folded")


@pytest.mark.filterwarnings("ignore::deepviz.errors.DeepVizWarning")
def test_another_threads_call_on_the_same_model_does_not_matter():
    model = small()
    with fast_copies(False):
        plain = Gradient()(model, X, 1)
    stop, found = threading.Event(), []

    def ablate():
        while not stop.is_set():
            AblationCAM(layer="2", relu=False)(model, X, 1)

    thread = threading.Thread(target=ablate)
    thread.start()
    try:
        for _ in range(20):
            fast._known.pop(model, None)
            found.append(Gradient().attribute(model, X, 1))
    finally:
        stop.set()
        thread.join()
    for one in found:
        assert one.notes.facts[FACT] == "2 normalisations folded"
        assert_same(one.maps, plain, EXACT)

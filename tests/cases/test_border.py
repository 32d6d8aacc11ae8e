"""What models and inputs ordinarily do is taken as it is, or refused by the name of the module that does it."""

import copy
import re
import warnings
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import deepviz
from cases.oracles import ALL, LAYER_METHODS, SOME, cam, gradient, images, on_kinds, right_or_refused, said, seeded
from deepviz.errors import DeepVizError, LayerError, ModelError, NothingOverridden
from deepviz.methods import GradCAM, Gradient, GuidedBackprop, GuidedGradCAM, SmoothGrad
from deepviz.objectives import Channel
from networks import assert_same

pytestmark = pytest.mark.filterwarnings(
    "ignore::deepviz.errors.DeepVizWarning",
    "ignore::DeprecationWarning",
    "ignore:None of the inputs have requires_grad",  # a reentrant checkpoint in a pass that needs no graph
)
every_method = pytest.mark.parametrize("method", ALL.values(), ids=ALL.keys())
some_methods = pytest.mark.parametrize("method", SOME.values(), ids=SOME.keys())


class Probe(nn.Module):
    """A head on a frozen backbone, which runs in one of the ways in which people freeze it."""

    def __init__(self, how="plain"):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()
        )
        self.head, self.how = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), how
        self.register_buffer("seen", torch.zeros(6))
        self.centre = nn.Parameter(torch.zeros(6))
        self.backbone.requires_grad_(False)

    def forward(self, x):
        if self.how == "everything":
            with torch.no_grad():
                return self.head(self.backbone(x).mean((2, 3)))
        if self.how in ("no_grad", "with an update", "with a buffer's update"):
            with torch.no_grad():
                f = self.backbone(x)
                if self.how == "with an update":
                    self.centre.mul_(0.9).add_(f.mean((0, 2, 3)), alpha=0.1)
                elif self.how == "with a buffer's update":
                    self.seen.add_(f.mean((0, 2, 3)))
        elif self.how == "decorator":
            f = torch.no_grad()(self.backbone)(x)
        elif self.how == "set_grad_enabled":
            with torch.set_grad_enabled(self.training):
                f = self.backbone(x)
        elif self.how == "set_grad_enabled as a call":
            before = torch.is_grad_enabled()
            torch.set_grad_enabled(False)
            f = self.backbone(x)
            torch.set_grad_enabled(before)
        elif self.how == "no_grad inside":
            f = Quiet(self.backbone)(x)
        elif self.how == "inference_mode":
            with torch.inference_mode():
                f = self.backbone(x)
            f = f.clone()
        elif self.how == "detach":
            f = self.backbone(x).detach()
        elif self.how == "data":
            f = self.backbone(x).data
        elif self.how == "numpy":
            f = torch.from_numpy(self.backbone(x).detach().numpy())
        else:
            f = self.backbone(x)
        return self.head(f.mean((2, 3)))


class Quiet(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    @torch.no_grad()
    def forward(self, x):
        return self.body(x)


X = images(5, 3, 10, 10)
FROZEN = ["no_grad", "everything", "decorator", "set_grad_enabled", "set_grad_enabled as a call", "no_grad inside"]


def probe(how):
    net = seeded(lambda: Probe(how))
    net.load_state_dict(seeded(Probe).state_dict())
    return net


@on_kinds("how", FROZEN)
def test_a_frozen_backbone_under_no_grad_is_explained_as_without(method, how):
    assert_same(method(probe(how), X, 1), method(seeded(Probe), X, 1))


@pytest.mark.parametrize("how", FROZEN)
def test_that_a_pass_was_repeated_without_the_model_s_no_grad_is_noted(how):
    assert_same(Gradient()(probe(how), X, 1), gradient(lambda z: seeded(Probe)(z)[:, 1], X))
    assert "no_grad" in said(Gradient().attribute(probe(how), X, 1).notes)
    (found,) = deepviz.explain(probe(how), X[0], "gradient", target=1)
    assert "no_grad" in said(found.notes)
    assert "no_grad" not in said(Gradient().attribute(seeded(Probe), X, 1).notes)


@pytest.mark.parametrize("how", FROZEN)
def test_a_layer_of_a_frozen_backbone_can_be_named(how):
    reference = seeded(Probe)
    expected = cam(reference.backbone[1], lambda z: reference(z)[:, 1], X)
    assert_same(GradCAM("backbone.1", relu=False)(probe(how), X, 1), expected)
    rows = deepviz.viz_layers(deepviz.load_model(probe(how)), X[0])
    assert rows.default is not None
    assert rows.default.name in ("backbone", "backbone.3")


@every_method
@pytest.mark.parametrize("how", ["with an update", "with a buffer's update"])
def test_an_update_in_place_under_no_grad_does_not_crash(method, how):
    assert_same(method(probe(how), X, 1), method(seeded(Probe), X, 1))


@some_methods
def test_a_model_that_leaves_gradients_off_does_not_leave_them_off_for_the_caller(method):
    class Leaking(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Probe()

        def forward(self, x):
            torch.set_grad_enabled(False)
            return self.net(x)

    net = seeded(Leaking)
    assert_same(method(net, X, 1), method(net.net, X, 1))
    assert torch.is_grad_enabled()


class Stopped(nn.Module):
    """Two ways from the image to the score; one is stopped on purpose."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.left, self.right = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 6, 3, padding=1)
        self.momentum = nn.Parameter(torch.ones(6))
        self.head = nn.Linear(6, 3)

    def gate(self, x):
        return self.right(x).relu()

    def forward(self, x):
        if self.how == "detach":
            gate = self.gate(x).detach()
        elif self.how == "decorator":
            gate = torch.no_grad()(self.gate)(x)
        elif self.how == "set_grad_enabled":
            with torch.set_grad_enabled(False):
                gate = self.gate(x)
        else:
            with torch.no_grad():
                gate = self.gate(x)
                if self.how == "with an update":
                    self.momentum.mul_(0.5).add_(0.5)  # from one to one
        return self.head(((self.left(x) * gate) * self.momentum[:, None, None]).mean((2, 3)))


@pytest.mark.parametrize("how", ["no_grad", "detach", "decorator", "set_grad_enabled", "with an update"])
def test_a_deliberate_stop_of_the_gradient_stays_one(how):
    net = seeded(lambda: Stopped(how))
    w = net.head.weight[1].detach().view(1, 6, 1, 1)
    gate = net.gate(X).detach()
    expected = gradient(lambda z: (w * net.left(z) * gate).mean((2, 3)).sum(1), X)
    whole = gradient(lambda z: (w * net.left(z) * net.gate(z)).mean((2, 3)).sum(1), X)
    assert float((expected - whole).abs().max()) > 1e-3 * float(whole.abs().max())
    found = Gradient().attribute(net, X, 1)
    assert_same(found.maps, expected)
    assert "repeated" not in said(found.notes)
    with pytest.raises(LayerError):
        GradCAM("right", relu=False)(net, X, 1)
    assert_same(
        GradCAM("left", relu=False)(net, X, 1),
        (w * gate / 100).mean((2, 3), keepdim=True).mul(net.left(X).detach()).sum(1, keepdim=True),
    )


def test_a_stop_of_one_head_does_not_stop_the_other():
    """The score of class 0 does not depend on the image but through no_grad; that of class 1 does."""

    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

        def forward(self, x):
            with torch.no_grad():
                first = self.left(x).relu().mean((1, 2, 3))
            return torch.stack([first, self.right(x).relu().mean((1, 2, 3)) * first], 1)

    net = seeded(TwoHeads)
    assert_same(Gradient()(net, X, 0), gradient(lambda z: net.left(z).relu().mean((1, 2, 3)), X))
    first = net.left(X).relu().mean((1, 2, 3)).detach()
    assert_same(Gradient()(net, X, 1), gradient(lambda z: net.right(z).relu().mean((1, 2, 3)) * first, X))


@on_kinds("how", ["inference_mode", "detach", "data", "numpy"])
def test_what_cuts_the_graph_for_good_is_an_error_that_names_the_module(method, how):
    with pytest.raises(DeepVizError, match=r"Probe|backbone|head"):
        method(probe(how), X, 1)


@pytest.mark.parametrize("how", ["inference_mode", "detach"])
def test_the_module_that_cuts_the_graph_is_named_by_its_path(how):
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            if how == "detach":
                return self.conv(x).detach()
            with torch.inference_mode():
                h = self.conv(x)
            return h.clone()

    net = seeded(lambda: nn.Sequential(nn.Conv2d(3, 3, 1), Cut(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)))
    net(X)
    with pytest.raises(ModelError, match=rf"(?s)(^|\W)1(\W).*{how}|{how}.*(^|\W)1(\W)"):
        Gradient()(net, X, 1)


def small():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


class TensorImage(Tensor):
    """As fastai's: every result keeps the type."""


class Meta(Tensor):
    """As MONAI's MetaTensor: carries an affine matrix, hands it on, and cannot do without it."""

    @staticmethod
    def __new__(cls, x, affine=None):
        made = torch.as_tensor(x).as_subclass(cls)
        made.affine = torch.eye(4) if affine is None else affine
        return made

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        found = super().__torch_function__(func, types, args, kwargs or {})
        first = next((value for value in args if isinstance(value, Meta)), None)
        for one in found if isinstance(found, (tuple, list)) else [found]:
            if isinstance(one, Meta) and first is not None:
                one.affine = first.affine
        return found


class Particular(Tensor):
    """Refuses what it does not know."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in (
            "lerp",
            "take_along_dim",
            "aminmax",
            "expand",
            "unflatten",
            "stack",
            "amax",
        ):
            raise NotImplementedError(func.__name__)
        return super().__torch_function__(func, types, args, kwargs or {})


def tv_image(x):
    from deepviz.models.torchvision_shim import import_torchvision

    import_torchvision()
    from torchvision import tv_tensors

    return tv_tensors.Image(x)


SUBCLASSES = {
    "monai": Meta,
    "fastai": lambda x: x.as_subclass(TensorImage),
    "particular": lambda x: x.as_subclass(Particular),
    "tv_tensors": tv_image,
    "parameter": lambda x: nn.Parameter(x.clone()),
    "buffer": lambda x: nn.Buffer(x.clone()),
}


@on_kinds("kind", SUBCLASSES)
def test_a_subclass_of_tensor_is_taken_as_a_tensor(method, kind):
    net = seeded(small)
    given = SUBCLASSES[kind](X)
    found = method(net, given, 1)
    assert type(found) is Tensor
    assert not found.requires_grad
    assert_same(found, method(net, X, 1))
    assert type(given) is type(SUBCLASSES[kind](X))


@pytest.mark.parametrize("kind", SUBCLASSES)
def test_a_subclass_of_tensor_can_be_explained_drawn_and_kept(kind, tmp_path):
    net = seeded(small)
    for given in (SUBCLASSES[kind](X)[0], SUBCLASSES[kind](X), [SUBCLASSES[kind](X)[0]]):
        found = deepviz.explain(net, given, ["gradient", "grad-cam"])
        for one in found:
            assert type(one.attribution) is Tensor
            assert not one.attribution.requires_grad
        found[0].overlay()
        found[0].save(tmp_path / "one.npz")
        found[0].save(tmp_path / "one.png")
        deepviz.save_explanations(found, tmp_path / "all.deepviz")
        assert_same(found[0].attribution, deepviz.explain(net, X[0], "gradient")[0].attribution)
    assert deepviz.viz_layers(deepviz.load_model(net), SUBCLASSES[kind](X)[0]).default is not None


def test_subclasses_among_what_goes_along_are_taken_as_tensors_too():
    class Conditional(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.kind = small(), nn.Linear(4, 3)

        def forward(self, x, table):
            return self.body(x) * self.kind(table)

    net, table = seeded(Conditional), images(5, 4, seed=2)
    expected = Gradient()(net, X, 1, extra=(table,))
    found = Gradient()(net, Meta(X), 1, extra=(table.as_subclass(TensorImage),))
    assert type(found) is Tensor
    assert_same(found, expected)


def test_parameters_that_are_a_subclass_do_not_make_maps_of_it():
    net = seeded(small)
    for module in net.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(parameter.detach().as_subclass(TensorImage)))
    for method in ALL.values():
        found = method(net, X, 1)
        assert type(found) is Tensor
        assert_same(found, method(seeded(small), X, 1))


@every_method
def test_parameters_made_in_inference_mode_are_named_with_the_way_out(method):
    with torch.inference_mode():
        net = seeded(small)
    with pytest.raises(DeepVizError, match=r"(?s)0\.weight.*inference.mode") as told:
        method(net, X, 1)
    assert re.search("clone|load_state_dict|outside|deepcopy", str(told.value))


@every_method
def test_buffers_made_in_inference_mode_are_right_or_named(method):
    net = seeded(small)
    with torch.inference_mode():
        net[1].running_mean, net[1].running_var = net[1].running_mean.clone(), net[1].running_var.clone()
    right_or_refused(lambda: method(net, X, 1), method(seeded(small), X, 1), names=r"1\.running_mean.*inference.mode")


@pytest.mark.parametrize("call", ["explain", "evaluate", "sanity_check"])
def test_parameters_made_in_inference_mode_are_named_in_one_line_too(call):
    with torch.inference_mode():
        net = seeded(small)
    with pytest.raises(DeepVizError, match=r"(?s)0\.weight.*inference.mode"):
        getattr(deepviz, call)(net, X[:1], "gradient", target=1)


class Checkpointed(nn.Module):
    """Blocks whose activations are computed again in the backward pass."""

    def __init__(self, reentrant):
        super().__init__()
        self.reentrant = reentrant
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()) for _ in range(3))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        h = self.stem(x)
        for block in self.blocks:
            h = block(h) if self.reentrant is None else checkpoint(block, h, use_reentrant=self.reentrant)
        return self.head(h.mean((2, 3)))


def placed(method):
    """The method, and where it takes a layer the same at layers inside and outside what is computed again."""
    if method.name not in {other.name for other in LAYER_METHODS.values()}:
        return [method]
    layers = ("blocks.1.0", "blocks.2", "stem", "blocks.0.1")
    inner = not hasattr(method, "layer")
    return [
        method,
        *(replace(method, of=replace(method.of, layer=n)) if inner else replace(method, layer=n) for n in layers),
    ]


@every_method
@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_changes_no_map(method, reentrant):
    usual, saving = (seeded(lambda kind=kind: Checkpointed(kind)) for kind in (None, reentrant))
    for one in placed(method):
        assert_same(one(saving, X, 1), one(usual, X, 1))


@pytest.mark.parametrize("reentrant", [True, False])
def test_the_layer_found_under_checkpointing_is_the_same(reentrant):
    usual, saving = (seeded(lambda kind=kind: Checkpointed(kind)) for kind in (None, reentrant))
    found, expected = (GradCAM().attribute(net, X, 1).notes.facts for net in (saving, usual))
    assert found["layer"] == expected["layer"]
    assert (
        GuidedBackprop().attribute(saving, X, 1).notes.facts["overridden"]
        == (GuidedBackprop().attribute(usual, X, 1).notes.facts["overridden"])
    )


@every_method
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_from_the_first_layer_of_a_frozen_network_changes_no_map(method, reentrant):
    """With a reentrant checkpoint the input must need a gradient, since no parameter does."""

    class Whole(nn.Module):
        def __init__(self, kind):
            super().__init__()
            self.body, self.kind = small(), kind

        def forward(self, x):
            return self.body(x) if self.kind is None else checkpoint(self.body, x, use_reentrant=self.kind)

    usual, saving = (seeded(lambda kind=kind: Whole(kind)).requires_grad_(False) for kind in (None, reentrant))
    assert_same(method(saving, X, 1), method(usual, X, 1))


class Lightning(nn.Module):
    """As a LightningModule: `train` and `eval` do more than set a flag, and there is more than `forward`."""

    def __init__(self, net):
        super().__init__()
        self.net, self.changes = net, 0

    def train(self, mode=True):
        self.changes += 1
        if self.changes > 2:
            raise RuntimeError("train() outside the trainer")
        return super().train(mode)

    def training_step(self, batch):
        return self.net(batch[0]).sum()

    def forward(self, x):
        return self.net(x)


class LowRank(nn.Module):
    """As a LoRA layer: `train(False)` merges its weights into the layer's, which changes the parameters."""

    def __init__(self, base):
        super().__init__()
        self.base, self.merged = base, False
        self.A, self.B = nn.Parameter(torch.randn(2, base.in_features)), nn.Parameter(torch.randn(base.out_features, 2))

    def train(self, mode=True):
        super().train(mode)
        if mode == self.merged:
            with torch.no_grad():
                self.base.weight.add_(self.B @ self.A, alpha=-1 if self.merged else 1)
            self.merged = not self.merged
        return self

    def forward(self, x):
        return self.base(x) if self.merged else self.base(x) + x @ self.A.T @ self.B.T


def wrapped(kind):
    net = seeded(small)
    if kind == "DataParallel":
        return nn.DataParallel(net)
    if kind == "DataParallel inside":
        return nn.Sequential(nn.DataParallel(net[:5]), *net[5:]).eval()
    if kind == "compiled":
        return torch.compile(net, backend="eager")
    if kind == "compiled inside":
        return nn.Sequential(torch.compile(net[:5], backend="eager"), *net[5:]).eval()
    if kind == "Lightning":
        return Lightning(net)
    if kind == "DataParallel of compiled":
        return nn.DataParallel(torch.compile(net, backend="eager"))
    if kind == "hooked":
        net[3].register_forward_hook(lambda module, args, output: output + 0)
        net[0].register_forward_pre_hook(lambda module, args: (args[0] + 0,))
        return net
    if kind == "hooked by full backward hooks":
        net[3].register_full_backward_hook(lambda module, grad_input, grad_output: None)
        return net
    return net


WRAPPERS = [
    "DataParallel", "DataParallel inside", "compiled", "compiled inside", "Lightning", "DataParallel of compiled",
    "hooked", "hooked by full backward hooks",
]  # fmt: skip


@on_kinds("kind", WRAPPERS)
def test_a_wrapper_is_what_it_wraps(method, kind):
    net, usual = wrapped(kind), seeded(small)
    training = [module.training for module in net.modules()]
    assert_same(method(net, X, 1), method(usual, X, 1))
    assert [module.training for module in net.modules()] == training


@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_wrapper_is_explained_in_one_line(kind):
    found, expected = (deepviz.explain(net, X[:2], ["gradient", "grad-cam"]) for net in (wrapped(kind), seeded(small)))
    for one, other in zip(found, expected, strict=True):
        assert_same(one.attribution, other.attribution, 1e-6)
        assert one.target == other.target


@every_method
def test_a_wrapper_in_train_mode_under_no_grad_is_explained_and_left_in_train_mode(method):
    """As in a validation hook."""
    net = Lightning(seeded(small).train())
    with torch.no_grad():
        found = method(net, X, 1)
    assert all(module.training for module in net.modules())
    assert_same(found, method(seeded(small), X, 1))
    assert net.changes == 0


@every_method
def test_low_rank_layers_are_neither_merged_nor_parted(method):
    def build():
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), LowRank(nn.Linear(256, 8)), nn.ReLU(), nn.Linear(8, 3)
        )

    net, usual = seeded(build), seeded(build)
    net.train()
    assert not net[3].merged
    before = copy.deepcopy(net.state_dict())
    merged = nn.Sequential(*usual[:3], usual[3].base, *usual[4:])
    assert_same(method(net, X, 1), method(merged, X, 1), 1e-8)
    assert not net[3].merged
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@every_method
@pytest.mark.parametrize("norm", ["spectral_norm", "weight_norm"])
def test_a_reparametrised_model_left_in_train_mode_is_explained_in_eval_mode_and_not_changed(method, norm):
    reparametrise = getattr(nn.utils.parametrizations, norm)

    def build():
        net = small()
        reparametrise(net[0])
        reparametrise(net[3])
        return net

    net = seeded(build)
    before = copy.deepcopy(net.state_dict())
    expected = method(seeded(build), X, 1)
    if method == Gradient():
        assert_same(expected, gradient(lambda z: net(z)[:, 1], X))
    net.train()
    assert_same(method(net, X, 1), expected)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())


@every_method
def test_a_compiled_model_that_has_run_already_is_explained(method):
    net = torch.compile(seeded(small), backend="eager")
    net(X)
    assert_same(method(net, X, 1), method(seeded(small), X, 1))


@dataclass
class Answered:
    logits: Tensor
    features: Tensor


WRAPS = {
    "dataclass": lambda y, h: Answered(y, h),
    "nested mapping": lambda y, h: {"out": {"logits": y}, "features": h},
    "tuple in a tuple": lambda y, h: ((y, h), "text"),
}


@on_kinds("wrap", WRAPS)
def test_a_dataclass_or_nested_output_changes_no_map(method, wrap):
    class Wrapping(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small()

        def forward(self, x):
            h = self.net[:5](x)
            return WRAPS[wrap](self.net[5:](h), h)

    net = seeded(Wrapping)
    assert_same(method(net, X, 1), method(net.net, X, 1))


@every_method
def test_a_layer_s_dataclass_output_is_read_too(method):
    class Stage(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3, padding=1)

        def forward(self, x):
            return Answered(self.conv(x).relu(), None)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stage, self.head = Stage(), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(self.stage(x).logits.square().mean((2, 3)))

    net = seeded(Net)
    if method in LAYER_METHODS.values():
        expected = cam(net.stage.conv, lambda z: net(z)[:, 1], X)  # to be sure of the network
        assert expected.abs().max() > 0
        method = replace(method, layer="stage") if hasattr(method, "layer") else replace(method, of=GradCAM("stage"))
    assert method(net, X, 1).isfinite().all()
    assert_same(GradCAM("stage", relu=False)(net, X, 1), stage_by_hand(net))


def stage_by_hand(net):
    A = net.stage.conv(X).relu().detach().requires_grad_()
    dA = torch.autograd.grad(net.head(A.square().mean((2, 3)))[:, 1].sum(), A)[0]
    return (dA.mean((2, 3), keepdim=True) * A).sum(1, keepdim=True).detach()


def scripted():
    return torch.jit.script(seeded(small))


def traced():
    return torch.jit.trace(seeded(small), X)


def frozen():
    return torch.jit.freeze(torch.jit.script(seeded(small)))


def exported():
    return torch.export.export(seeded(small), (X,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()


@pytest.fixture(scope="module", autouse=True)
def _exporting():
    """What takes seconds to import is no test's time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported()
        torch.compile(seeded(small), backend="eager")(X)
        tv_image(X)


GRAPHS = {"scripted": scripted, "traced": traced, "frozen": frozen, "exported": exported}


@pytest.mark.parametrize("layer", [None, "3", "2"])
@pytest.mark.parametrize("kind", GRAPHS)
def test_a_graph_without_layers_is_the_same_error_for_every_layer_method(kind, layer):
    net = GRAPHS[kind]()
    told = set()
    for method in (
        GradCAM(layer),
        GradCAM(layer, relu=False),
        GuidedGradCAM(layer),
        SmoothGrad(of=GradCAM(layer), samples=2),
    ):
        with pytest.raises((LayerError, NothingOverridden)) as refused:
            method(net, X, 1)
        told.add((refused.type, str(refused.value)))
    assert len(told) == 1
    assert re.search("export" if kind == "exported" else "script", told.pop()[1].lower())


@pytest.mark.parametrize("kind", GRAPHS)
def test_a_channel_of_a_graph_without_layers_is_that_error_too(kind):
    with pytest.raises(LayerError, match="export" if kind == "exported" else "script"):
        Gradient()(GRAPHS[kind](), X, Channel("2", 1))


@pytest.mark.parametrize("kind", GRAPHS)
def test_a_graph_without_layers_has_gradients(kind):
    assert_same(Gradient()(GRAPHS[kind](), X, 1), Gradient()(seeded(small), X, 1))
    if kind != "frozen":  # it has no parameters left that tell its type
        found = deepviz.explain(GRAPHS[kind](), X[0], "gradient")
        assert_same(found[0].attribution, deepviz.explain(seeded(small), X[0], "gradient")[0].attribution, 1e-6)


@pytest.mark.parametrize("kind", ["scripted", "traced"])
def test_a_scripted_backbone_inside_is_the_same_error_for_every_layer_method_too(kind):
    part = seeded(small)
    body = torch.jit.script(part[:5]) if kind == "scripted" else torch.jit.trace(part[:5], X)
    net = nn.Sequential(body, *part[5:]).eval()
    told = set()
    for method in (
        GradCAM("0.3"),
        GradCAM("0.3", relu=False),
        GuidedGradCAM("0.3"),
        SmoothGrad(of=GradCAM("0.3"), samples=2),
    ):
        with pytest.raises((LayerError, NothingOverridden)) as refused:
            method(net, X, 1)
        told.add((refused.type, str(refused.value)))
    assert len(told) == 1
    assert "script" in told.pop()[1].lower()
    assert_same(Gradient()(net, X, 1), Gradient()(seeded(small), X, 1))


def test_half_precision_inside_a_model_is_taken_as_it_is():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small()

        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.net(x).float()

    net, x = seeded(Mixed).float(), X.float()
    exact = Gradient()(net.net, x, 1)
    found = Gradient()(net, x, 1)
    assert found.dtype == torch.float32
    assert float((found - exact).norm()) <= 0.1 * float(exact.norm())


def test_a_quantised_head_is_named_or_right():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = torch.ao.quantization.quantize_dynamic(seeded(small).float(), {nn.Linear}, dtype=torch.qint8)
    x, usual = X.float(), seeded(small).float()
    for method in (Gradient(), GradCAM("4")):
        right_or_refused(lambda method=method: method(net, x, 1), method(usual, x, 1), 0.05, names="7|quantized|Linear")


def test_a_model_that_changes_its_input_or_its_own_output_in_place_is_explained():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small()

        def forward(self, x):
            x -= 0.5
            y = self.net(x)
            y *= 2
            return y

    net, usual = seeded(InPlace), seeded(small)
    before = X.clone()
    for method in ALL.values():
        found = method(net, X, 1)
        assert found.isfinite().all()
    assert torch.equal(X, before)
    assert_same(Gradient()(net, X, 1), gradient(lambda z: 2 * usual(z - 0.5)[:, 1], X))


def test_functional_calls_and_closures_over_parameters_are_modules_like_others():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 3, 3, 3))
            self.out = nn.ParameterDict({"w": nn.Parameter(torch.randn(3, 6))})

        def forward(self, x):
            return F.linear(F.relu(F.conv2d(x, self.weight)).mean((2, 3)), self.out["w"])

    net = seeded(Functional)
    assert_same(Gradient()(net, X, 1), gradient(lambda z: net(z)[:, 1], X))
    with pytest.raises(LayerError):
        GradCAM()(net, X, 1)

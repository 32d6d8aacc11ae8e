"""Rows of a batch are believed to be independent and repeatable only after a check."""

import re
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import deepviz
from cases.oracles import (
    ALL,
    Counted,
    cam,
    gradient,
    images,
    noisy_gradient,
    on_kinds,
    path_gradient,
    right_or_refused,
    rows_alone,
    said,
    seeded,
    value,
)
from deepviz.errors import DeepVizWarning, LayerError, NothingOverridden
from deepviz.methods import GradCAM, Gradient, IntegratedGradients, SmoothGrad
from networks import assert_same, plain

quiet = pytest.mark.filterwarnings("ignore::deepviz.errors.DeepVizWarning")
every_method = pytest.mark.parametrize("method", ALL.values(), ids=ALL.keys())


class Coupled(nn.Module):
    """A convolution, something that looks across the batch, and a head with a hidden layer."""

    def __init__(self, between):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.between, self.after = between(), nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x):
        return self.head(self.after(self.between(self.stem(x))).mean((2, 3)))


class MeanOut(nn.Module):
    def forward(self, h):
        return h * (h - h.mean(0, keepdim=True)).tanh() + h


class OverBatch(nn.Module):
    """LayerNorm over the wrong axis."""

    def forward(self, h):
        return F.layer_norm(h.movedim(0, -1), (len(h),)).movedim(-1, 0) + h


class BatchSoftmax(nn.Module):
    def forward(self, h):
        return h * h.softmax(0)


class Synchronised(nn.Module):
    """As SyncBatchNorm or a hand-written one: the batch's own mean and variance, whatever the mode."""

    def forward(self, h):
        mean, variance = h.mean((0, 2, 3), keepdim=True), h.var((0, 2, 3), keepdim=True, correction=0)
        return (h - mean) / (variance + 1e-5).sqrt() + 0.3 * h


class LargestOfBatch(nn.Module):
    """Divided by the largest value of the whole batch: most rows get no gradient from the others."""

    def forward(self, h):
        return h / h.amax()


class AttentionAcross(nn.Module):
    """Attention with batch_first forgotten: the images are each other's tokens."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2)

    def forward(self, h):
        q = h.mean((2, 3)).unsqueeze(1)
        return h + self.attention(q, q, q, need_weights=False)[0].squeeze(1)[..., None, None]


class Neighbour(nn.Module):
    """Channels shifted from one row to the next, as temporal shift modules do with frames."""

    def forward(self, h):
        return torch.cat([h[:, :3], h[:, 3:].roll(1, 0)], 1)


class Weakly(nn.Module):
    def forward(self, h):
        return h + 0.05 * h.mean(0, keepdim=True)


class Cumulative(nn.Module):
    """Each row sees those before it; the first sees none."""

    def forward(self, h):
        return h + 0.3 * (h.cumsum(0) - h)


class AlongBatch(nn.Module):
    """A recurrent layer with batch_first forgotten: it runs along the images."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(6, 6)

    def forward(self, h):
        return h * (1 + self.rnn(h.mean((2, 3)).unsqueeze(1))[0].squeeze(1))[..., None, None]


class Kernel(nn.Module):
    """Similarity to the other rows as a feature, as transductive few-shot networks have."""

    def forward(self, h):
        f = h.flatten(1)
        return h * (1 + torch.cdist(f, f).mean(1))[:, None, None, None].tanh()


COUPLINGS = {
    "batch norm without running statistics": lambda: nn.BatchNorm2d(6, track_running_stats=False),
    "batch norm that is always training": lambda: AlwaysTraining(6),
    "batch mean subtracted": MeanOut,
    "layer norm over the batch axis": OverBatch,
    "softmax over the batch axis": BatchSoftmax,
    "synchronised batch norm": Synchronised,
    "divided by the largest of the batch": LargestOfBatch,
    "attention across the batch": AttentionAcross,
    "channels of the row before": Neighbour,
    "a twentieth of the batch's mean": Weakly,
    "distances to the other rows": Kernel,
}
BY_PLACE = {"sum of the rows before": Cumulative, "recurrent along the batch": AlongBatch}


class AlwaysTraining(nn.BatchNorm2d):
    def forward(self, h):
        return F.batch_norm(h, None, None, self.weight, self.bias, training=True, eps=self.eps)


def unlike(n=3):
    """Images that differ as those of a real batch do."""
    x = images(n, 3, 10, 10)
    x[1:2] *= 3
    x[2:3] -= 2
    return x


@quiet
@on_kinds("coupling", COUPLINGS)
def test_each_of_coupled_rows_is_explained_as_if_alone(method, coupling):
    net, x = seeded(lambda: Coupled(COUPLINGS[coupling])), unlike(5)
    alone = rows_alone(lambda row: method(net, x[row : row + 1], 1), range(5))
    assert_same(method(net, x, 1), alone)


@quiet
@on_kinds("coupling", BY_PLACE)
def test_rows_that_see_those_before_them_are_explained_as_if_alone_or_refused(method, coupling):
    net, x = seeded(lambda: Coupled(BY_PLACE[coupling])), unlike(5)
    alone = rows_alone(lambda row: method(net, x[row : row + 1], 1), range(5))
    right_or_refused(lambda: method(net, x, 1), alone, names=r"batch|rows")


@quiet
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_the_methods_on_coupled_rows_are_their_definitions(coupling):
    """Each image, path point and noisy copy is the only one in its batch."""
    net, x = seeded(lambda: Coupled(COUPLINGS[coupling])), unlike(3)

    def score(z):
        return net(z)[:, 1]

    each = [x[row : row + 1] for row in range(3)]
    assert_same(Gradient()(net, x, 1), torch.cat([gradient(score, z) for z in each]))
    assert_same(GradCAM("after", relu=False)(net, x, 1), torch.cat([cam(net.after, score, z) for z in each]))
    assert_same(IntegratedGradients(steps=12)(net, x, 1), torch.cat([path_gradient(score, z, 12) for z in each]))
    assert_same(SmoothGrad(samples=9)(net, x, 1), torch.cat([noisy_gradient(score, z, 9) for z in each]))


@quiet
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_the_predicted_class_of_coupled_rows_is_that_of_each_alone(coupling):
    net, x = seeded(lambda: Coupled(COUPLINGS[coupling])), unlike(5)
    expected = torch.cat([net(x[row : row + 1]).argmax(1) for row in range(5)])
    assert torch.equal(Gradient().attribute(net, x).classes, expected)


@quiet
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_explain_says_the_same_of_an_image_alone_and_beside_others(coupling):
    net, x = seeded(lambda: Coupled(COUPLINGS[coupling])), unlike(3)
    methods = ["gradient", GradCAM("after", relu=False)]
    together = deepviz.explain(net, x, methods)
    for row in range(3):
        alone = deepviz.explain(net, x[row], methods)
        for one, other in zip(alone, together[2 * row : 2 * row + 2], strict=True):
            assert_same(other.attribution, one.attribution, 1e-6)
            assert other.target.index == one.target.index
            assert other.target.score == pytest.approx(value(net(x[row : row + 1])[0, one.target.index]), rel=1e-6)
            assert other.target.probability == pytest.approx(one.target.probability, rel=1e-6)


@quiet
@pytest.mark.parametrize("coupling", ["batch norm without running statistics", "batch mean subtracted"])
def test_changed_images_of_a_metric_are_not_each_others_batch(coupling):
    net, x = seeded(lambda: Coupled(COUPLINGS[coupling])), unlike(1)
    metric = deepviz.metrics.Deletion(steps=4)
    curve = deepviz.evaluate(net, x, "gradient", metric, target=1, controls=False).judged[0].curves[0][0]
    assert curve[0] == pytest.approx(value(net(x).softmax(1)[0, 1]), rel=1e-5)
    assert curve[-1] == pytest.approx(value(net(0 * x).softmax(1)[0, 1]), rel=1e-5)


@quiet
def test_k_classes_of_coupled_rows_are_each_explained_as_if_alone():
    net, x = seeded(lambda: Coupled(Synchronised)), unlike(3)
    found = Gradient()(net, x, torch.tensor([[0, 2]]).expand(3, 2))
    for k, target in enumerate((0, 2)):
        expected = rows_alone(lambda row, t=target: gradient(lambda z: net(z)[:, t], x[row : row + 1]), range(3))
        assert_same(found[:, k], expected)


def test_independent_rows_still_share_their_passes():
    net, x = Counted(seeded(plain)).eval(), images(8)
    Gradient()(net, x, 1)
    net.passes.clear()
    Gradient()(net, x, 1)
    assert sum(net.passes) == 8
    assert max(net.passes) >= 4


class ByTheSign(nn.Module):
    """The predicted class of a row is that of the sign of its sum, which a small change turns over."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def forward(self, x):
        self.rows.append(len(x))
        total = x.sum((1, 2, 3))
        return torch.stack([total, -3 * total], 1)


@pytest.mark.parametrize("sign", [1, -1])
def test_equal_rows_share_their_passes_also_where_the_check_moves_one_to_another_class(sign):
    model, x = ByTheSign(), torch.full((8, 3, 4, 4), sign * 1e-4)
    x[..., ::2] += 1
    x[..., 1::2] -= 1
    deepviz.explain(model, x, "gradient")
    model.rows.clear()
    deepviz.explain(model, x, "gradient")
    assert max(model.rows) > 1


def test_the_check_costs_three_passes_at_most_and_is_remembered():
    net, x = Counted(seeded(plain)).eval(), images(4)
    Gradient()(net, x, 1)
    first = len(net.passes)
    net.passes.clear()
    Gradient()(net, images(4, seed=8), 2)
    assert first - len(net.passes) <= 3
    assert len(net.passes) == 1


@quiet
def test_a_new_state_is_checked_again():
    class Switched(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 3)
            self.norm = nn.BatchNorm2d(6)

        def forward(self, x):
            return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))

    net, x = seeded(Switched), unlike(3)
    Gradient()(net, x, 1)
    net.norm.track_running_stats, net.norm.running_mean, net.norm.running_var = False, None, None
    expected = rows_alone(lambda row: gradient(lambda z: net(z)[:, 1], x[row : row + 1]), range(3))
    assert_same(Gradient()(net, x, 1), expected)


def test_the_check_leaves_a_model_and_the_random_numbers_as_they_were():
    net, x = (
        seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(3))),
        images(3),
    )
    net(x)
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.random.get_rng_state()
    Gradient()(net, x, 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


class OneImage(nn.Module):
    """Takes exactly one image, in one of the ways in which models do."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 36, 3)

    def forward(self, x):
        if self.how == "first image":
            x = x[0][None]
        elif self.how == "assertion":
            assert x.shape[0] == 1, "one image at a time"
        h = self.conv(x).relu()
        if self.how == "no batch axis":
            h = self.conv(x.squeeze(0)).relu()
        h = h.reshape(1, 4 * 36) if self.how in ("reshape", "no batch axis") else h.flatten(1)
        if self.how == "reshape to rows":
            h = h.reshape(-1, 4 * 36)[:1]
        y = self.head(h)
        if self.how == "sum of rows":
            y = y.sum(0, keepdim=True)
        return y.squeeze() if self.how == "squeeze" else y


def batched():
    return OneImage("")


HOWS = ["reshape", "squeeze", "first image", "assertion", "no batch axis", "reshape to rows", "sum of rows"]


def one_image(how):
    net = seeded(lambda: OneImage(how))
    net.load_state_dict(seeded(batched).state_dict())
    return net


@quiet
@on_kinds("how", HOWS, 2)
@pytest.mark.parametrize("n", [1, 5])
def test_a_model_that_takes_exactly_one_image_is_explained_row_by_row(method, how, n):
    x = images(n, 3, 6, 6)
    expected = method(seeded(batched), x, 1)
    if how == "no batch axis" and method.requires.layer:  # nor have its layers' answers one
        right_or_refused(lambda: method(one_image(how), x, 1), expected, error=LayerError)
    else:
        assert_same(method(one_image(how), x, 1), expected)


@quiet
@pytest.mark.parametrize("how", HOWS)
def test_its_predicted_class_too(how):
    x = images(5, 3, 6, 6)
    found = Gradient().attribute(one_image(how), x)
    assert torch.equal(found.classes, seeded(batched)(x).argmax(1))


@quiet
@pytest.mark.parametrize("how", HOWS)
def test_images_metrics_and_randomisation_go_row_by_row(how):
    x, net, usual = images(3, 3, 6, 6), one_image(how), seeded(batched)
    methods = ["gradient"] if how == "no batch axis" else ["gradient", "grad-cam"]
    found, expected = (deepviz.explain(model, x, methods) for model in (net, usual))
    for one, other in zip(found, expected, strict=True):
        assert_same(one.attribution, other.attribution, 1e-6)
        assert one.target.index == other.target.index
        assert one.target.probability == pytest.approx(other.target.probability, rel=1e-6)
    metric = deepviz.metrics.Insertion(steps=3)
    values = [deepviz.evaluate(model, x, "gradient", metric, controls=False).values for model in (net, usual)]
    np.testing.assert_allclose(*values, rtol=1e-5)
    kept = [deepviz.sanity_check(model, x[:2], "gradient", stages=2).similarities["ssim"] for model in (net, usual)]
    np.testing.assert_allclose(*kept, atol=1e-6)


def exported():
    return torch.export.export(seeded(batched), (images(1, 3, 6, 6),)).module()


def traced():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(one_image("reshape"), images(1, 3, 6, 6))


@pytest.fixture(scope="module", autouse=True)
def _exporting():
    """What takes seconds to import is no test's time."""
    exported()


@quiet
@pytest.mark.parametrize("build", [exported, traced])
@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize(
    "method", [m for n, m in ALL.items() if "cam" not in n], ids=[n for n in ALL if "cam" not in n]
)
def test_a_graph_with_a_fixed_batch_of_one_goes_row_by_row(build, n, method):
    x = images(n, 3, 6, 6)
    try:
        found = method(build(), x, 1)
    except NothingOverridden:
        assert build is traced  # a rule cannot reach into a script
        return
    assert_same(found, method(seeded(batched), x, 1))


@pytest.mark.parametrize("build", [exported, traced])
def test_a_graph_with_a_fixed_batch_of_one_is_explained_for_many_images(build):
    x = images(3, 3, 6, 6)
    found, expected = (deepviz.explain(model, x, "gradient") for model in (build(), seeded(batched)))
    for one, other in zip(found, expected, strict=True):
        assert_same(one.attribution, other.attribution, 1e-6)
    metric = deepviz.metrics.Deletion(steps=3)
    values = [
        deepviz.evaluate(model, x, "gradient", metric, controls=False).values for model in (build(), seeded(batched))
    ]
    np.testing.assert_allclose(*values, rtol=1e-5)


def test_a_fixed_batch_of_more_than_one_is_right_or_refused_with_its_size():
    model = torch.export.export(seeded(batched), (images(4, 3, 6, 6),)).module()
    for n in (3, 4, 9):
        x = images(n, 3, 6, 6)
        right_or_refused(lambda x=x: Gradient()(model, x, 1), Gradient()(seeded(batched), x, 1), names="4")


class Random(nn.Module):
    """Not repeatable in eval mode, in the ways in which people leave it so."""

    def __init__(self, how):
        super().__init__()
        self.how, self.calls = how, 0
        self.conv, self.next, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 3)

    def forward(self, x):
        h = self.conv(x).relu()
        if self.how == "dropout":
            h = F.dropout(h, 0.5)
        elif self.how == "channel dropout":
            h = F.dropout2d(h, 0.5)
        elif self.how == "noise":
            h = h + 0.1 * torch.randn_like(h)
        elif self.how == "stochastic depth":
            h = h + (torch.rand(*h.shape[:2], 1, 1) < 0.5) * self.next(h)
        elif self.how == "numpy":
            h = h * float(np.random.uniform(0.5, 1.5))
        elif self.how == "state":
            self.calls += 1
            h = h * (1 + 0.1 * self.calls)
        elif self.how == "random crop":
            h = h.roll(torch.randint(12, (2,)).tolist(), (2, 3)) * torch.linspace(0, 1, 144, dtype=h.dtype).view(12, 12)
        return self.head(self.next(h).relu().mean((2, 3)))


RANDOM = ["dropout", "channel dropout", "noise", "stochastic depth", "numpy", "state", "random crop"]


def told_of(warned):
    return [str(one.message) for one in warned if re.search("repeat|random", str(one.message))]


@on_kinds("how", RANDOM)
@pytest.mark.parametrize("n", [1, 3])
def test_a_model_that_does_not_repeat_is_explained_with_the_size_of_the_difference(method, how, n):
    net, x = seeded(lambda: Random(how)), images(n)
    with pytest.warns(DeepVizWarning) as warned:
        found = method.attribute(net, x, 1)
    told = told_of(warned)
    assert len(told) == 1
    assert re.search(r"\d", told[0])
    assert told[0].lower() in said(found.notes)
    assert found.maps.isfinite().all()


@pytest.mark.parametrize("how", RANDOM)
def test_the_note_of_a_model_that_does_not_repeat_goes_with_every_explanation(how):
    net, x = seeded(lambda: Random(how)), images(2)
    with pytest.warns(DeepVizWarning) as warned:
        found = deepviz.explain(net, x, ["gradient", "grad-cam"])
    assert told_of(warned)
    for one in found:
        assert any(re.search(r"(repeat|random).*\d|\d.*(repeat|random)", text) for text in one.notes["warnings"])


@quiet
def test_all_methods_explain_one_class_of_a_model_that_does_not_repeat():
    net, x = seeded(lambda: Random("dropout")), images(1)
    for _ in range(6):
        found = deepviz.explain(net, x, ["gradient", "grad-cam", "guided-backprop"])
        assert len({one.target for one in found}) == 1


@every_method
def test_a_model_that_repeats_is_explained_without_such_a_warning(method):
    net, x = seeded(plain), images(3)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        method(net, x, 1)
    assert not told_of(warned)


def test_dropout_that_eval_mode_turns_off_repeats():
    net, x = seeded(lambda: nn.Sequential(plain()[:6], nn.Dropout(0.5), nn.Linear(32, 3))).train(), images(3)
    found = Gradient()(net, x, 1)
    assert_same(found, gradient(lambda z: net.eval()(z)[:, 1], x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_is_not_taken_for_coupling(dtype):
    net, x = Counted(seeded(plain).to(dtype)).eval(), images(8).to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Gradient()(net, x, 1)
        net.passes.clear()
        Gradient()(net, x, 1)
    assert max(net.passes) >= 4

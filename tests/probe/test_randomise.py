"""New weights for a copy: all of them in the end, none of the original's touched."""

import pytest
import torch
from torch import nn

from deepviz.errors import ModelError
from deepviz.models.weights import weights_hash
from deepviz.probe.randomise import from_the_output, randomised
from networks import CASES


def stages(model, x, **options):
    """Each stage with the weights as they are then."""
    for stage in randomised(model, x, **options):
        yield stage, {name: value.clone() for name, value in stage.model.state_dict().items()}


class Backwards(nn.Module):
    """Registers its layers in another order than it runs them; one is never run."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 2)
        self.unused = nn.Linear(3, 3)
        self.norm = nn.BatchNorm2d(4)
        self.first = nn.Conv2d(3, 4, 3)
        self.scale = nn.Parameter(torch.tensor([1.0, 2.0, 3.0, 4.0]))

    def forward(self, x):
        return self.last(self.norm(self.first(x)).mean((2, 3)) * self.scale)


@pytest.fixture
def backwards():
    return Backwards().eval()


X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_the_order_is_that_in_which_layers_are_run_from_the_output_down(backwards):
    assert from_the_output(backwards, X) == ["last", "norm", "first", "unused", ""]


def test_what_a_transformer_owns_as_a_whole_is_nearest_to_its_input():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.positions = nn.Parameter(torch.zeros(1, 16, 8))
            self.patches = nn.Conv2d(3, 8, 2, 2)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 4)

        def forward(self, x):
            tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
            return self.head(self.attention(tokens, tokens, tokens)[0].mean(1))

    # the output projection is used by attention, and never called as a module
    expected = ["head", "attention.out_proj", "attention", "patches", ""]
    assert from_the_output(Tokens().eval(), torch.rand(1, 3, 8, 8)) == expected


@pytest.mark.parametrize("number", [None, 1, 2, 3, 100])
def test_in_the_end_every_weight_is_new_and_before_that_those_of_the_layers_named(backwards, number):
    before = {name: value.clone() for name, value in backwards.state_dict().items()}
    fixed = {"norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    named = []
    for stage, weights in stages(backwards, X, stages=number):
        named += stage.layers
        changed = {name for name in before if not torch.equal(before[name], weights[name])}
        owners = {name.rpartition(".")[0] for name in changed}
        assert owners <= set(named)
        assert changed >= {name for name in before if name.rpartition(".")[0] in named} - fixed
    assert named == from_the_output(backwards, X)
    assert stage.share == 1
    assert len(list(randomised(backwards, X, stages=number))) == min(number or 5, 5)


def test_the_model_itself_is_never_touched_whatever_happens(backwards):
    backwards.norm.running_mean.fill_(0.3)
    backwards.train()
    fingerprint, modes = weights_hash(backwards), [module.training for module in backwards.modules()]
    state = torch.get_rng_state()
    going = randomised(backwards, X)
    next(going), next(going)
    with pytest.raises(KeyboardInterrupt):
        going.throw(KeyboardInterrupt())
    assert weights_hash(backwards) == fingerprint
    assert [module.training for module in backwards.modules()] == modes
    assert not any(module._forward_hooks for module in backwards.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in backwards.parameters())


def test_independent_stages_leave_the_others_as_they_were(backwards):
    before = {name: value.clone() for name, value in backwards.state_dict().items()}
    for stage, weights in stages(backwards, X, cascading=False):
        owners = {name.rpartition(".")[0] for name in before if not torch.equal(before[name], weights[name])}
        assert owners <= set(stage.layers)


def test_the_same_seed_draws_the_same_weights_in_however_many_stages(backwards):
    def last(**options):
        *_, (_, weights) = stages(backwards, X, **options)
        return weights

    one, other = last(stages=1), last(stages=5)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(one["first.weight"], last(seed=1)["first.weight"])


def test_the_laws_are_those_that_pytorch_starts_with():
    model = nn.Sequential(nn.Conv2d(16, 64, 3, groups=2), nn.BatchNorm2d(64), nn.Flatten(), nn.Linear(64, 500)).eval()
    with torch.no_grad():
        model[1].running_var.fill_(7)
    *_, (_, weights) = stages(model, torch.rand(1, 16, 3, 3))
    bound = (16 / 2 * 9) ** -0.5
    drawn = weights["0.weight"]
    assert drawn.abs().max() <= bound
    assert float(drawn.double().std()) == pytest.approx(bound / 3**0.5, rel=0.03)
    assert float(weights["3.bias"].abs().max()) <= 64**-0.5
    assert weights["1.running_var"].unique().tolist() == weights["1.weight"].unique().tolist() == [1]
    assert weights["1.running_mean"].unique().tolist() == [0]


def test_other_parameters_keep_their_mean_and_spread():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.positions = nn.Parameter(3 + 0.5 * torch.randn(1, 3, 100, 100))

        def forward(self, x):
            return (x + self.positions).mean((2, 3))

    model = Positions()
    *_, (_, weights) = stages(model, torch.rand(1, 3, 100, 100))
    assert float(weights["positions"].mean()) == pytest.approx(float(model.positions.detach().mean()), abs=0.02)
    assert float(weights["positions"].std()) == pytest.approx(float(model.positions.detach().std()), rel=0.02)


def test_shared_weights_stay_shared():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    (stage,) = randomised(nn.Sequential(nn.Flatten(), model), torch.rand(1, 4, 1, 1), stages=1)
    assert stage.model[1][2].weight is stage.model[1][0].weight


@pytest.mark.parametrize("name", list(CASES))
def test_every_way_of_writing_a_network_can_be_randomised(name):
    case = CASES[name]
    model, x = case.model(), case.images(2)
    fingerprint = weights_hash(model)
    *_, stage = randomised(model, x, stages=2)
    assert stage.share == 1
    assert weights_hash(model) == fingerprint
    assert weights_hash(stage.model) != fingerprint


def test_what_cannot_be_randomised_is_an_error():
    with pytest.raises(ModelError, match="no parameters"):
        list(randomised(nn.Flatten(), X))

    class Uncopied(nn.Linear):
        def __deepcopy__(self, memo):
            raise RuntimeError("not me")

    with pytest.raises(ModelError, match=r"cannot be copied.*not me"):
        list(randomised(nn.Sequential(nn.Flatten(), Uncopied(192, 2)), X))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_scripted_model_is_refused():
    """Its modules take no hooks, and are of no class that tells how their weights begin."""
    scripted = torch.jit.trace(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), torch.rand(1, 3, 2, 2))
    with pytest.raises(ModelError, match="a scripted model does not tell"):
        next(randomised(scripted, torch.rand(1, 3, 2, 2)))


class Frozen(nn.Module):
    """A batch norm of buffers, as detectors have it, and a single number."""

    def __init__(self):
        super().__init__()
        for name, value in {"weight": 3.0, "bias": 2.0, "running_mean": 1.0, "running_var": 5.0}.items():
            self.register_buffer(name, torch.full((3,), value))
        self.gain = nn.Parameter(torch.tensor(0.7))

    def forward(self, x):
        shape = (1, -1, 1, 1)
        mean, var = self.running_mean.view(shape), self.running_var.view(shape)
        return self.gain * ((x - mean) / var.sqrt() * self.weight.view(shape) + self.bias.view(shape))


@pytest.mark.parametrize("module", [Frozen(), nn.Sequential(nn.PReLU(), nn.RMSNorm(4))], ids=["frozen", "single"])
def test_nothing_that_was_learned_is_left(module):
    """Weights that are buffers, and parameters of one value, whose spread says nothing."""
    model = nn.Sequential(module, nn.Flatten(), nn.Linear(3 * 4 * 4, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stages = list(randomised(model, torch.rand(1, 3, 4, 4), stages=2))
    after = stages[-1].model.state_dict()
    assert stages[-1].share == 1
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    if isinstance(module, Frozen):
        assert after["0.running_var"].tolist() == after["0.weight"].tolist() == [1, 1, 1]
        assert after["0.running_mean"].tolist() == after["0.bias"].tolist() == [0, 0, 0]

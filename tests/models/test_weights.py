import argparse
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from deepviz.errors import ModelError
from deepviz.models.weights import non_finite, read_weights


def network():
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2))


def same(state, other):
    return state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


def test_every_way_to_save_a_state_dict(tmp_path):
    state = dict(network().state_dict())
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pt")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "b.pth")
    torch.save({"model": {"module." + name: value for name, value in state.items()}}, tmp_path / "c.pt")
    for name in ("a.safetensors", "a.pt", "old.pth", "b.pth", "c.pt"):
        other = network()
        read_weights(tmp_path / name).load_into(other, "Net")
        assert same(other.state_dict(), state), name


@pytest.mark.parametrize(
    "prefix", ["", "model.", "module.", "net.", "_orig_mod.", "backbone.", "module._orig_mod.", "student."]
)
def test_names_below_a_prefix(tmp_path, prefix):
    state = dict(network().state_dict())
    torch.save(prefixed(state, prefix), tmp_path / "a.pt")
    other = network()
    told = read_weights(tmp_path / "a.pt").load_into(other, "Net")
    assert same(other.state_dict(), state)
    assert told == (() if not prefix else (f"weights are those that a.pt holds under the prefix {prefix!r}",))


def test_names_that_lack_the_prefix_of_a_wrapper(tmp_path):
    state = dict(network().state_dict())
    torch.save(state, tmp_path / "inner.pt")
    wrapper = nn.ModuleDict({"net": network()})
    assert read_weights(tmp_path / "inner.pt").load_into(wrapper, "Net") == (
        "the weights of inner.pt went into the model's 'net'",
    )
    assert same(dict(wrapper["net"].state_dict()), state)


def test_a_lightning_checkpoint_with_more_than_the_model(tmp_path):
    state = dict(network().state_dict())
    held = {"state_dict": {**prefixed(state, "model."), "loss.weight": torch.ones(2)}, "hyper_parameters": {"lr": 0.1}}
    torch.save(held, tmp_path / "last.ckpt")
    other = network()
    assert read_weights(tmp_path / "last.ckpt").load_into(other, "Net") == (
        "weights are 'state_dict' of last.ckpt",
        "weights are those that last.ckpt holds under the prefix 'model.'; 1 others are not the model's: loss.weight",
    )
    assert same(other.state_dict(), state)


def test_a_timm_checkpoint_gives_its_averaged_weights_and_says_so(tmp_path):
    trained, averaged = network(), network()
    held = {"arch": "resnet18", "args": argparse.Namespace(lr=0.1), "optimizer": {"state": {}}}
    held |= {"state_dict": trained.state_dict(), "state_dict_ema": averaged.state_dict()}
    torch.save(held, tmp_path / "best.pth.tar")
    other = network()
    assert read_weights(tmp_path / "best.pth.tar").load_into(other, "Net") == (
        "weights are 'state_dict_ema' of best.pth.tar, which also holds state_dict",
    )
    assert same(other.state_dict(), dict(averaged.state_dict()))


def test_two_networks_in_one_file_are_told_apart(tmp_path):
    student, teacher = network(), network()
    held = prefixed(student.state_dict(), "model.") | prefixed(teacher.state_dict(), "ema_model.")
    torch.save(held, tmp_path / "both.pt")
    other = network()
    (told,) = read_weights(tmp_path / "both.pt").load_into(other, "Net")
    assert "under the prefix 'model.', not 'ema_model.'; 7 others are not the model's" in told
    assert same(other.state_dict(), dict(student.state_dict()))


def test_one_layer_of_a_larger_network_is_not_the_model(tmp_path):
    torch.save(nn.Sequential(*[nn.Linear(2, 2) for _ in range(9)]).state_dict(), tmp_path / "nine.pt")
    with pytest.raises(ModelError, match=r"nine\.pt.* does not fit Linear"):
        read_weights(tmp_path / "nine.pt").load_into(nn.Linear(2, 2), "Linear")


def test_files_that_do_not_count_batches_fit(tmp_path):
    state = {name: tensor for name, tensor in network().state_dict().items() if "num_batches" not in name}
    save_file(state, tmp_path / "a.safetensors")
    other = network()
    read_weights(tmp_path / "a.safetensors").load_into(other, "Net")
    assert torch.equal(other[0].weight, state["0.weight"])


class Versioned(nn.Module):
    """Its first version kept the weight negative."""

    _version = 2

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(3))

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
        if local_metadata.get("version") not in (1, 2):
            raise ValueError("version should be 1 or 2")
        if local_metadata["version"] == 1:
            state_dict[prefix + "weight"] = -state_dict[prefix + "weight"]
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


@pytest.mark.parametrize("version", [1, 2, None])
@pytest.mark.parametrize(("written", "read"), [("", ""), ("model.", ""), ("", "net."), ("model.", "net.")])
def test_modules_that_read_their_tensors_by_version(tmp_path, version, written, read):
    module = nn.Sequential(Versioned())
    for prefix in filter(None, [written]):
        module = nn.ModuleDict({prefix[:-1]: module})
    state = module.state_dict()
    weight = state[f"{written}0.weight"]
    if version is None:
        save_file(dict(state), tmp_path / "a.safetensors")
    else:
        state._metadata[f"{written}0"]["version"] = version
        torch.save(state, tmp_path / "a.pt")
    other = nn.Sequential(Versioned())
    whole = nn.ModuleDict({read[:-1]: other}) if read else other
    read_weights(tmp_path / ("a.safetensors" if version is None else "a.pt")).load_into(whole, "Net")
    assert torch.equal(other[0].weight, -weight if version == 1 else weight)


def classifier(classes, width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def test_number_of_outputs_of_a_file_that_differs_in_them_alone(tmp_path):
    torch.save(classifier(5).state_dict(), tmp_path / "five.pt")
    torch.save(classifier(5, width=6).state_dict(), tmp_path / "wide.pt")
    five, wide = read_weights(tmp_path / "five.pt"), read_weights(tmp_path / "wide.pt")
    assert five.outputs_for(classifier(10)) == (5, "3.weight")
    assert five.outputs_for(classifier(5)) is None
    assert wide.outputs_for(classifier(10)) is None
    assert five.outputs_for(network()) is None


class Mkdir:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("save", [torch.save, lambda held, path: path.write_bytes(pickle.dumps(held))])
@pytest.mark.parametrize("nested", [False, True])
def test_pickle_that_would_run_code_is_refused_and_not_run(tmp_path, save, nested):
    made = tmp_path / "made by the pickle"
    attack = Mkdir(str(made))
    save({"state_dict": {"0.weight": attack}} if nested else attack, tmp_path / "evil.pt")
    with pytest.raises(ModelError, match=r"evil\.pt was refused, since loading it could run code") as error:
        read_weights(tmp_path / "evil.pt")
    assert not made.exists()
    assert "\n" not in str(error.value)


def test_whole_pickled_module_is_refused(tmp_path):
    torch.save(network(), tmp_path / "module.pt")
    with pytest.raises(ModelError, match=r"it asks for torch\.nn"):
        read_weights(tmp_path / "module.pt")


@pytest.mark.parametrize("name", ["text.pt", "text.safetensors"])
def test_file_that_holds_something_else(tmp_path, name):
    (tmp_path / name).write_text("milk, bread")
    with pytest.raises(ModelError, match=name) as error:
        read_weights(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("held", [{}, {"epoch": 3}, [1, 2], torch.zeros(3)])
def test_file_without_a_state_dict(tmp_path, held):
    torch.save(held, tmp_path / "a.pt")
    with pytest.raises(ModelError, match="holds no state dict"):
        read_weights(tmp_path / "a.pt")


def test_file_that_does_not_exist(tmp_path):
    with pytest.raises(ModelError, match=r"nowhere\.pt does not exist"):
        read_weights(tmp_path / "nowhere.pt")


def test_misfit_lists_what_is_missing_unexpected_and_of_another_shape(tmp_path):
    state = dict(network().state_dict())
    del state["1.weight"]
    state["0.bias"] = torch.zeros(7)
    state |= {f"extra{i}": torch.zeros(1) for i in range(5)}
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(ModelError) as error:
        read_weights(tmp_path / "a.pt").load_into(network(), "Net")
    assert str(error.value).startswith(
        f"{tmp_path / 'a.pt'} does not fit Net: 1 missing: 1.weight; 5 unexpected: extra0, extra1, extra2, ...; "
        "1 of another shape: 0.bias (7,) instead of (2,). Likely causes: (1) another model: --model "
    )


def edited(state, **changes):
    return {name: tensor for name, tensor in (state | changes).items() if tensor is not None}


CASES = {
    "classes": (dict(classifier(5).state_dict()), "another number of classes: --num-classes 5 (num_classes=5)"),
    "head": (
        edited(classifier(9).state_dict(), **{"3.weight": None, "3.bias": None, "3.1.weight": torch.zeros(9, 4)}),
        "a head of your own, 3: --model my_file:make_model",
    ),
    "part": (edited(classifier(9).state_dict(), **{"3.weight": None, "3.bias": None}), "a part of a model"),
    "variant": (dict(classifier(9, width=6).state_dict()), "another input size or variant: --model my_file:make_model"),
    "other": (
        {"stem.weight": torch.zeros(1), "stem.bias": torch.zeros(1)},
        "another model, whose names are like 'stem.weight': --model",
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_the_likeliest_cause_goes_first_of_three(tmp_path, case, prefix):
    state, cause = CASES[case]
    torch.save(prefixed(state, prefix), tmp_path / "a.pt")
    with pytest.raises(ModelError) as error:
        read_weights(tmp_path / "a.pt").load_into(classifier(9), "Net")
    causes = str(error.value).partition("Likely causes: ")[2]
    assert causes.startswith(f"(1) {cause}" if case != "other" or not prefix else "(1) another model")
    assert "; (3) " in causes
    assert "(4)" not in causes
    assert "\n" not in str(error.value)


def test_first_weight_that_is_not_finite_is_named():
    module = network()
    assert non_finite(module) is None
    module[1].running_var[0] = float("inf")
    assert non_finite(module) == "1.running_var"
    with torch.no_grad():
        module[0].bias[1] = float("nan")
    assert non_finite(module) == "0.bias"

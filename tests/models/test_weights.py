import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from deepviz.errors import ModelError
from deepviz.models.weights import load_state, non_finite, read_state


def network():
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2))


def same(state, other):
    return state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)


def test_every_way_to_save_a_state_dict(tmp_path):
    state = dict(network().state_dict())
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pt")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "b.pth")
    torch.save({"model": {"module." + name: value for name, value in state.items()}}, tmp_path / "c.pt")
    for name in ("a.safetensors", "a.pt", "old.pth", "b.pth", "c.pt"):
        assert same(read_state(tmp_path / name), state), name


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
        read_state(tmp_path / "evil.pt")
    assert not made.exists()
    assert "\n" not in str(error.value)


def test_whole_pickled_module_is_refused(tmp_path):
    torch.save(network(), tmp_path / "module.pt")
    with pytest.raises(ModelError, match=r"it asks for torch\.nn"):
        read_state(tmp_path / "module.pt")


@pytest.mark.parametrize("name", ["text.pt", "text.safetensors"])
def test_file_that_holds_something_else(tmp_path, name):
    (tmp_path / name).write_text("milk, bread")
    with pytest.raises(ModelError, match=name) as error:
        read_state(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("held", [{}, {"epoch": 3}, [1, 2], torch.zeros(3)])
def test_file_without_a_state_dict(tmp_path, held):
    torch.save(held, tmp_path / "a.pt")
    with pytest.raises(ModelError, match="holds no state dict"):
        read_state(tmp_path / "a.pt")


def test_file_that_does_not_exist(tmp_path):
    with pytest.raises(ModelError, match=r"nowhere\.pt does not exist"):
        read_state(tmp_path / "nowhere.pt")


def test_misfit_lists_what_is_missing_unexpected_and_of_another_shape():
    state = dict(network().state_dict())
    del state["1.weight"]
    state["0.bias"] = torch.zeros(7)
    state |= {f"extra{i}": torch.zeros(1) for i in range(5)}
    with pytest.raises(ModelError) as error:
        load_state(network(), state, "a.pt", "Net")
    assert str(error.value) == (
        "a.pt does not fit Net: 1 missing: 1.weight; 5 unexpected: extra0, extra1, extra2, ...; "
        "1 of another shape: 0.bias (7,) instead of (2,)"
    )


def test_first_weight_that_is_not_finite_is_named():
    module = network()
    assert non_finite(module) is None
    module[1].running_var[0] = float("inf")
    assert non_finite(module) == "1.running_var"
    with torch.no_grad():
        module[0].bias[1] = float("nan")
    assert non_finite(module) == "0.bias"

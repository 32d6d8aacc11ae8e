import sys
import types

import pytest
import torch

from deepviz.errors import MissingExtra
from deepviz.models import torchvision_shim
from deepviz.models.torchvision_shim import import_timm, import_torchvision


def test_torchvision_is_importable_and_useful_and_stays_the_same_module():
    try:
        torchvision = import_torchvision()
    except MissingExtra:
        pytest.skip("torchvision is not installed")
    assert import_torchvision() is torchvision
    with torch.inference_mode():
        scores = torchvision.models.squeezenet1_1(num_classes=5).eval()(torch.zeros(1, 3, 64, 64))
    assert scores.shape == (1, 5)


def test_a_torchvision_that_works_is_not_touched(monkeypatch):
    working = types.ModuleType("torchvision")
    monkeypatch.setitem(sys.modules, "torchvision", working)
    monkeypatch.setattr(torchvision_shim, "_declare_operators", lambda: pytest.fail("touched"))
    assert import_torchvision() is working


def test_missing_torchvision_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(MissingExtra, match=r"pip install 'deepviz\[timm\]'"):
        import_timm()


def test_missing_timm_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtra, match=r"timm is not installed: pip install 'deepviz\[timm\]'"):
        import_timm()


def test_other_failures_are_said_in_one_line(monkeypatch):
    def broken(name):
        raise RuntimeError("libcudart.so is missing\nand more")

    monkeypatch.setattr(torchvision_shim.importlib, "import_module", broken)
    with pytest.raises(MissingExtra, match=r"does not fit torch .*libcudart.so is missing\)") as error:
        import_torchvision()
    assert "\n" not in str(error.value)

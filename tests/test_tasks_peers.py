"""The tasks that peers are compared on: what DeepViz's own code gives there, and that the table is of this code."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from deepviz.errors import MissingExtra
from deepviz.models.torchvision_shim import import_torchvision

HERE = Path(__file__).parents[1] / "benchmarks"


def _load():
    spec = importlib.util.spec_from_file_location("tasks_peers", HERE / "tasks_peers.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["tasks_peers"] = module
    spec.loader.exec_module(module)
    return module


tasks_peers = _load()
ONE_WEIGHT_A_CHANNEL = ("detector", "detections")
"""Grad-CAM shows all objects of a class there."""


@pytest.mark.parametrize("task", tasks_peers.TASKS)
def test_deepviz_is_right(task):
    if task == "detr":
        try:
            import_torchvision()
        except MissingExtra:
            pytest.skip("torchvision is not installed")
        pytest.importorskip("transformers")
    _, outcome = tasks_peers.judged(task, "deepviz")
    wrong = [one for one in outcome.split(", ") if " right " not in one]
    assert len(wrong) == (task in ONE_WEIGHT_A_CHANNEL), outcome
    assert all(one.startswith("Grad-CAM **wrong**") for one in wrong), outcome


def test_only_a_map_in_the_place_is_right():
    there, elsewhere = torch.zeros(1, 96, 112), torch.zeros(1, 96, 112)
    there[0, 10:34, 8:32] = 1
    elsewhere[0, 60:84, 70:94] = 1
    assert tasks_peers.in_place(there, ((10, 8),)) == (True, "100 %")
    assert tasks_peers.in_place(there + 0.9 * elsewhere, ((10, 8),)) == (True, "53 %")
    for wrong in (elsewhere, there + 1.1 * elsewhere, torch.ones(1, 96, 112), torch.zeros(1, 96, 112)):
        assert not tasks_peers.in_place(wrong, ((10, 8),))[0]


def test_the_written_table_is_of_this_code():
    written = (HERE / "RESULTS.md").read_text()
    paths = {f"{task}_{library}.py" for task in tasks_peers.TASKS for library in tasks_peers.LIBRARIES}
    assert paths == {path.name for path in (HERE / "peers").iterdir() if path.suffix == ".py"}
    for task, asked in tasks_peers.TASKS.items():
        lines = [tasks_peers.lines_of(HERE / "peers" / f"{task}_{library}.py") for library in tasks_peers.LIBRARIES]
        assert f"| {asked.title} | {' | '.join(map(str, lines))} |" in written

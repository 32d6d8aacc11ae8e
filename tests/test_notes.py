import warnings

import pytest
import torch

from deepviz.errors import DeepVizWarning
from deepviz.notes import Notes


def test_facts_hold_for_every_row_and_rows_for_their_own():
    notes = Notes()
    notes.facts["layer"] = "layer4"
    notes.rows["gap"] = torch.tensor([[0.5, 0.25], [0.125, 0.0625]])
    assert notes.of((1, 0)) == {"layer": "layer4", "gap": 0.125}
    assert notes.of((0, 1)) == {"layer": "layer4", "gap": 0.25}


def test_a_warning_is_told_to_the_rows_that_it_concerns():
    notes = Notes()
    notes.warn("all")
    notes.warn("second", torch.tensor([False, True]))
    assert notes.of(0)["warnings"] == ("all",)
    assert notes.of(1)["warnings"] == ("all", "second")


def test_a_warning_is_issued_once():
    notes = Notes()
    notes.warn("care")
    notes.warn("care")
    with pytest.warns(DeepVizWarning, match="care") as caught:
        notes.issue()
    assert len(caught) == 1


def test_without_warnings_there_is_silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Notes().issue()
    assert Notes().of(0) == {}

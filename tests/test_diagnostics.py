import warnings

import pytest
import torch

from deepviz.diagnostics import Diagnostics
from deepviz.errors import DeepVizWarning
from deepviz.methods import Gradient


def test_facts_hold_for_every_row_and_rows_for_their_own():
    notes = Diagnostics()
    notes.facts["layer"] = "layer4"
    notes.rows["gap"] = torch.tensor([[0.5, 0.25], [0.125, 0.0625]])
    assert notes.of((1, 0)) == {"layer": "layer4", "gap": 0.125}
    assert notes.of((0, 1)) == {"layer": "layer4", "gap": 0.25}


def test_a_warning_is_told_to_the_rows_that_it_concerns():
    notes = Diagnostics()
    notes.warn("all")
    notes.warn("second", torch.tensor([False, True]))
    assert notes.of(0)["warnings"] == ("all",)
    assert notes.of(1)["warnings"] == ("all", "second")


def test_a_warning_is_issued_once():
    notes = Diagnostics()
    notes.warn("care")
    notes.warn("care")
    with pytest.warns(DeepVizWarning, match="care") as caught:
        notes.issue()
    assert len(caught) == 1


def test_without_warnings_there_is_silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Diagnostics().issue()
    assert Diagnostics().of(0) == {}


def test_the_rows_of_equal_warnings_are_joined():
    notes = Diagnostics()
    notes.warn("some", torch.tensor([True, False, False]))
    notes.warn("some", torch.tensor([False, False, True]))
    assert [notes.of(row).get("warnings", ()) for row in range(3)] == [("some",), (), ("some",)]


def test_a_map_that_is_all_zero_is_told_why_by_the_first_who_knows():
    notes = Diagnostics()
    notes.warn("another matter", torch.tensor([True, True, False]))
    notes.warn_of_zero("against", torch.tensor([True, False, False]))
    notes.warn_of_zero("dead", torch.tensor([True, True, False]))
    notes.warn_of_zero("never", torch.tensor([True, True, False]))
    assert notes.of(0)["warnings"] == ("another matter", "against")
    assert notes.of(1)["warnings"] == ("another matter", "dead")
    assert notes.of(2) == {}
    assert "never" not in notes.particular


def test_an_inner_method_shares_what_is_said_of_the_whole_call():
    notes = Diagnostics()
    inner = notes.aside()
    inner.warn("of the model")
    inner.warn("of a row", torch.tensor([True]))
    inner.facts["layer"] = "layer4"
    assert notes.of(0) == {"layer": "layer4", "warnings": ("of the model",)}


def test_a_repeat_from_another_line_is_another_warning():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2), torch.nn.Softmax(1))
    x = torch.rand(1, 3, 2, 2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(2):
            Gradient()(network, x)
        Gradient()(network, x)
    lines = [warning.lineno for warning in caught]
    assert [warning.filename for warning in caught] == [__file__] * 2
    assert lines[1] == lines[0] + 1

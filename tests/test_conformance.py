"""DeepViz answers every row of the conformance benchmark right; what peers answer stands in its table."""

import importlib.util
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[1] / "benchmarks" / "conformance.py"


def _load():
    spec = importlib.util.spec_from_file_location("conformance", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["conformance"] = module
    spec.loader.exec_module(module)
    return module


conformance = _load()
ROWS = {row.question: row for rows in conformance.SECTIONS.values() for row in rows}


@pytest.mark.parametrize("question", ROWS)
def test_deepviz_answers_right(question):
    cell = conformance.judge(ROWS[question].ask, conformance.LIBRARIES[0])
    assert ROWS[question].passed(cell), str(cell)


def test_every_row_is_asked_once():
    assert len(ROWS) == sum(len(rows) for rows in conformance.SECTIONS.values())


def test_a_wrong_library_fails():
    """The questions tell right from wrong: a plain gradient is not a guided one, a refusal is not a crash."""

    class Plain(conformance.DeepViz):
        def guided(self, model, x, target):
            return self.gradient(model, x, target)

        def cam(self, model, x, target, layer):
            return [][1]

    failed = conformance.failed_rows(conformance.judged(Plain()))
    assert [failed[q].verdict for q in failed if q.startswith("guided: `nn.ReLU()`")] == ["wrong"]
    assert failed["layer given"].verdict == "crashes"
    assert "linear network, default rule: x w exactly" not in failed


def test_the_written_table_is_of_these_rows():
    written = (PATH.parent / "CONFORMANCE.md").read_text()
    assert [question for question in ROWS if f"| {question} |" not in written] == []

"""DeepViz answers every row of the conformance benchmark right; what peers answer stands in its table."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

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

        def cam(self, model, x, target, layer, extra=None):
            return [][1]

    failed = conformance.failed_rows(conformance.judged(Plain()))
    assert [failed[q].verdict for q in failed if q.startswith("guided: `nn.ReLU()`")] == ["wrong"]
    assert failed["layer given"].verdict == "crashes"
    assert "linear network, default rule: x w exactly" not in failed


def test_a_library_without_checks_fails():
    """All rows in one pass, tokens read row by row, a number as the class 0 of two, one kind of probability."""

    class Careless(conformance.DeepViz):
        def gradient(self, model, x, target, extra=None):
            leaf = x.clone().requires_grad_()
            model = model if extra is None else conformance.Kept(model, *(one.flip(0) for one in extra))
            output = model(leaf)
            if isinstance(target, conformance.Score):
                score = target(output)
            elif target is None:
                score = -output.reshape(len(x))
            else:
                score = output[:, target]
            return torch.autograd.grad(score.sum(), leaf)[0]

        def integrated(self, model, x, target, rule=None, extra=None):
            t = torch.linspace(0, 1, 50, dtype=x.dtype).view(-1, 1, 1, 1)
            return x * self.gradient(model, t * x[:1], target).mean(0, keepdim=True)

        def cam(self, model, x, target, layer, extra=None):
            if not layer or extra is not None or x.ndim != 4:
                raise conformance.NotOffered
            kept = []
            with model.get_submodule(layer).register_forward_hook(lambda module, given, output: kept.append(output)):
                model(x)
            (A,) = kept
            return (A if A.ndim == 4 else A[:, :12].transpose(1, 2).unflatten(-1, (3, 4))).sum(1, keepdim=True)

        def probability(self, model, x, target, output):
            return model(x).softmax(1)[:, target or 0].tolist()

    failed = conformance.failed_rows(conformance.judged(Careless()))
    for question in (
        "gradient, each image with its own row",
        "BatchNorm without running statistics, three images: gradient",
        "BatchNorm without running statistics, one image: integrated gradients, each point of the path alone",
        "a model that is random in eval mode: the user is told, gradient",
        "a batch of one built in (`reshape(1, -1)`): the gradient of three images",
        "a regressor's number, (N, 1), below 0: +dy/dx",
        "independent labels: the probability beside the map is the sigmoid",
        "a number: no probability stands beside its map",
        *(question for question in ROWS if "no reshape function given" in question),
        *(question for question in ROWS if "they lie nowhere on the image" in question),
    ):
        assert question in failed, question
    assert "a regressor's number, (N,), below 0: +dy/dx" in failed
    assert "why one class and not another, the difference of two logits: gradient" not in failed


def test_the_written_table_is_of_these_rows():
    written = (PATH.parent / "CONFORMANCE.md").read_text()
    assert [question for question in ROWS if f"| {question} |" not in written] == []
    assert f"| of {len(ROWS)} questions |" in written


def test_the_readme_has_the_numbers_of_the_written_table():
    numbers = (PATH.parent / "CONFORMANCE.md").read_text().split("## In numbers\n\n")[1].split("\n\n")[0].strip()
    readme = (PATH.parent.parent / "README.md").read_text()
    ours, *others = numbers.splitlines()
    table = readme.split("<!-- conformance -->\n")[1].split("\n\n")[0].splitlines()
    assert table[1:] == others
    assert table[0].split("|")[1:2] + table[0].split("|")[3:] == ours.split("|")[1:2] + ours.split("|")[3:]

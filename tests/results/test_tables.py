"""Tables in text: what is written is what was measured, to the digits that its interval supports."""

import csv
import io
import math
import re

import numpy as np
import pytest
import torch

import deepviz
from deepviz.errors import DeepVizWarning
from deepviz.metrics import CentreGaussian, Deletion, EdgeDetector, Insertion
from deepviz.results.evaluation import Evaluation, ImageScores
from deepviz.results.tables import Table, aligned, in_latex, with_interval
from small_models import LayerBySize, good, network, no_rectifier

METRICS = [Deletion(steps=4), Insertion(steps=4)]
nan = math.nan


@pytest.mark.parametrize(
    ("mean", "low", "high", "text"),
    [
        (0.31234, 0.2711, 0.3531, "0.312 ± 0.041"),
        (0.31234, 0.31, 0.3145, "0.3123 ± 0.0023"),
        (12.345, 9.9, 14.9, "12.3 ± 2.5"),
        (0.5, 0.4004, 0.5996, "0.50 ± 0.10"),  # a half width of 0.0996 is rounded up to the next digit
        (1234.5, 1100, 1400, "1234 ± 150"),
        (-0.0004, -0.1, 0.1, "0.00 ± 0.10"),
        (0.7366123, 0.7365893, 0.7366353, "0.736612 ± 0.000023"),
        (0.7366123, 0.7366122, 0.7366124, "7.3661230e-01 ± 1.0e-07"),
        (2e-7, 1e-7, 3e-7, "2.0e-07 ± 1.0e-07"),
        (0.0, -1e-7, 1e-7, "0.0e+00 ± 1.0e-07"),
        (0.25, 0.25, 0.25, "0.25 ± 0"),
        (1 / 3, nan, nan, "0.333"),
        (nan, nan, nan, "–"),
    ],
)
def test_a_mean_has_the_digits_that_its_interval_supports(mean, low, high, text):
    assert with_interval(mean, low, high) == text


def test_points_are_below_each_other():
    cells = ["0.312 ± 0.041", "-12.50 ± 0.10", "7 ± 12", "–", "0.333"]
    padded = aligned(cells)
    assert len(set(map(len, padded))) == 1
    assert [cell.replace(" ", "") for cell in padded] == [cell.replace(" ", "") for cell in cells]
    for sign, of in ((".", (0, 1, 4)), ("±", (0, 1, 2))):
        assert len({padded[k].index(sign) for k in of}) == 1


NASTY = r"50 % of a_b & {c} #1 $x$ ~ ^ \d"


def test_names_are_escaped_in_latex():
    written = in_latex(NASTY)
    assert written == (r"50 \% of a\_b \& \{c\} \#1 \$x\$ \textasciitilde{} \textasciicircum{} \textbackslash{}d")
    table = Table([NASTY], ["a|b *c*", NASTY], [["0.3"], ["-0.2 ± 0.1"]], NASTY, frozenset({(1, 0)}), apart=1)
    lines = table.latex().splitlines()
    body = [line for line in lines if not line.startswith("%")]
    assert all(len(re.findall(r"(?<!\\)&", line)) == 1 for line in body if line.endswith(r"\\"))
    assert body[-3] == rf"\textit{{{written}}} & \textbf{{$-$0.2 $\pm$ 0.1}} \\"
    rules = [line for line in body if line.endswith("rule")]
    assert rules == [r"\toprule", r"\midrule", r"\midrule", r"\bottomrule"]
    assert table.markdown().splitlines()[2] == r"| a\|b \*c\* | 0.3 |"


def test_a_line_for_each_image_method_and_metric():
    pandas = pytest.importorskip("pandas")
    with pytest.warns(DeepVizWarning, match="Guided backprop is left out"):
        found = deepviz.evaluate(no_rectifier(), torch.rand(2, 3, 32, 32), ["guided-backprop", "gradient"], METRICS)
    frame = found.to_pandas("values")
    assert isinstance(frame, pandas.DataFrame)
    assert len(frame) == 2 * 5 * 2
    pivot = frame.pivot_table(index=["image", "method"], columns="metric", values="value", sort=False, dropna=False)
    assert pivot.loc["tensor (2)", "Deletion, steps 4"].dropna().tolist() == found.values[1, 1:, 0].tolist()
    left_out = frame[frame.value.isna()]
    assert set(left_out.method) == {"Guided backprop"}
    assert left_out.reason.str.contains("no ReLU|rectifier|ReLU").all()
    assert set(frame[frame.control].method) == {"Random map", "Centred Gaussian", "Edge detector"}
    lines = list(csv.DictReader(io.StringIO(found.to_csv("values"))))
    assert list(lines[0]) == list(frame.columns)
    assert [line["value"] for line in lines[:4]] == [""] * 2 + [repr(value) for value in found.values[0, 1].tolist()]


def test_curves_integrate_to_the_values_beside_them():
    pytest.importorskip("pandas")
    found = deepviz.evaluate(network(), torch.rand(2, 3, 32, 32), "gradient", [*METRICS, "sparseness"], controls=False)
    curves, values = found.to_pandas("curves"), found.to_pandas("values")
    assert set(curves.metric) == {"Deletion, steps 4", "Insertion, steps 4"}
    for (image, metric), points in curves.groupby(["image", "metric"]):
        (value,) = values[(values.image == image) & (values.metric == metric)].value
        assert points.fraction.tolist() == [0, 0.25, 0.5, 0.75, 1]
        assert np.trapezoid(points.score, points.fraction) == pytest.approx(value)


def test_an_image_of_another_layer_says_so():
    pytest.importorskip("pandas")
    generator = torch.Generator().manual_seed(0)
    x = [torch.rand(3, size, size, generator=generator) for size in (32, 32, 16)]
    found = deepviz.evaluate(LayerBySize(), x, "grad-cam(relu=false)", METRICS[:1], target=0, controls=False)
    assert found.to_pandas("values").reason.tolist() == ["", "", "it explained layer fine, not coarse"]


def test_images_of_one_name_are_told_apart_and_several_targets_of_one_are_not():
    def scores(source, position):
        return ImageScores(source, "cat 0.9", np.ones((1, 1)), {}, {}, position=position, label="cat")

    judged = (scores("1.png", 0), scores("1.png", 0), scores("2.png", 1), scores("1.png", 2))
    found = Evaluation(("row",), (Deletion(),), judged, 0, "a model")
    assert [entry["image"] for entry in found.values_table()] == ["1.png (1)", "1.png (1)", "2.png", "1.png (2)"]
    assert {entry["target"] for entry in found.values_table()} == {"cat"}


def test_a_table_that_there_is_not_is_refused():
    found = deepviz.evaluate(network(), torch.rand(1, 3, 32, 32), CentreGaussian(), METRICS, controls=False)
    with pytest.raises(ValueError, match="part must be one of 'summary', 'values', 'curves', got 'long'"):
        found.to_csv("long")


def test_tables_of_randomised_networks():
    pytest.importorskip("pandas")
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    found = deepviz.sanity_check(good(), list(images), ["gradient", EdgeDetector()], stages=2)
    values, summary = found.to_pandas("values"), found.to_pandas()
    last = values[(values.similarity == "absolute-spearman") & (values["layers random"] == 1)]
    for name, kept in zip(found.methods, found.kept(), strict=True):
        of_method = last[last.method == name].value
        assert len(of_method) == 4
        assert of_method.mean() == pytest.approx(kept)
        row = summary[(summary.method == name) & (summary["layers random"] == 1)]
        assert row["mean"].item() == pytest.approx(kept)
        assert row.low.item() <= kept + 1e-9
        assert row.verdict.item() == found.verdicts[name]
    assert "1 ± 0" in found.to_markdown()
    assert found.to_latex().count(r"\\") == 3

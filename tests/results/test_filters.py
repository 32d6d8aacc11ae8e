import math

import pytest

from deepviz.results.filters import chosen_rows

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'deepviz[data]'")

ROWS = [
    {"correct": True, "label": "cat", "deletion": 0.1, "max-sensitivity": 2.0, "warnings": [], "reason": None},
    {
        "correct": False,
        "label": "dog",
        "deletion": 0.5,
        "max-sensitivity": None,
        "warnings": ["low gap"],
        "reason": "x",
    },
    {"correct": None, "label": "fox", "deletion": None, "max-sensitivity": 0.0, "warnings": ["a", "b"], "reason": None},
    {"correct": True, "label": None, "deletion": -1.5, "max-sensitivity": -3.0, "warnings": [], "reason": "low"},
]
TABLE = pyarrow.Table.from_pylist([{"deletion(steps=20)": row["deletion"], **row} for row in ROWS])


def rows(condition):
    kept = chosen_rows(TABLE.append_column("row", pyarrow.array(range(4))), condition)
    return kept["row"].to_pylist()


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("correct", [0, 3]),
        ("not correct", [1]),
        ("not (correct)", [1]),
        ("correct == None", [2]),
        ("correct is not None and not correct", [1]),
        ("correct and deletion < 0.3", [0, 3]),
        ("correct or deletion > 0.3", [0, 1, 3]),
        ("deletion < 0.3", [0, 3]),
        ("not deletion < 0.3", [1, 2]),
        ("-2 < deletion <= 0.1", [0, 3]),
        ("0.1 == deletion", [0]),
        ("max_sensitivity >= 0", [0, 2]),
        ("max-sensitivity < 0", [3]),
        ("max_sensitivity", [0, 3]),
        ("deletion(steps=20) > 0", [0, 1]),
        ("label in ('cat', 'fox')", [0, 2]),
        ("label not in ['cat', 'fox']", [1, 3]),
        ("label != 'cat'", [1, 2]),
        ("'low' in warnings", [1]),
        ("'low' in reason", [3]),
        ("warnings", [1, 2]),
        ("not warnings and reason", [3]),
        ("row in (0, 2)", [0, 2]),
    ],
)
def test_conditions(condition, expected):
    assert rows(condition) == expected


@pytest.mark.parametrize(
    "condition",
    ["correct and nothing > 2", "deletion + 1 > 2", "len(label)", "label > 3", "'a' < None", "deletion in label",
     "__import__('os')", "label.upper()", "label in ('a', 3)", "1 < 2", "None == None",
     "correct and 'a' != 'b'", "deletion < 99999999999999999999", "deletion in (-99999999999999999999,)"],
)  # fmt: skip
def test_what_is_no_condition_names_the_columns(condition):
    with pytest.raises(ValueError, match=r"is no condition on the columns: there are .*correct.*max_sensitivity"):
        rows(condition)


@pytest.mark.parametrize("condition", ["correct and", "a = 3", "", "deletion < 1; correct"])
def test_what_is_no_expression_is_told(condition):
    with pytest.raises(ValueError, match="is no condition: write one such as"):
        rows(condition)


@pytest.mark.parametrize("condition", ["not " * 800 + "correct", "not " * 9000 + "correct"])
def test_a_condition_that_is_nested_too_deeply_is_refused(condition):
    with pytest.raises(ValueError, match="nested too deeply"):
        rows(condition)


def test_missing_numbers_satisfy_no_comparison():
    table = pyarrow.table({"a": pyarrow.array([1.0, None, math.nan])})
    assert chosen_rows(table, "a < 2")["a"].to_pylist() == [1.0]
    assert chosen_rows(table, "a >= 2")["a"].to_pylist() == []
    assert chosen_rows(table, "a != 2")["a"].to_pylist() == [1.0]
    assert chosen_rows(table, "a")["a"].to_pylist() == [1.0]
    assert len(chosen_rows(table, "a == None")) == 2

"""Objectives as the command line writes them: reading, printing, and what has more than one reading."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepviz.errors import TargetError
from deepviz.objectives import (
    L2,
    Channel,
    Direction,
    Diversity,
    Energy,
    Finer,
    Function,
    Logit,
    Neuron,
    Output,
    Predicted,
    Probability,
    ReST,
    Sum,
    TotalVariation,
    parse,
)

LABELS = ("fox, red fox", "wolf", "jack-o'-lantern", "7", "a - b", "b", 'five "5" * 3', "a", "c", "twin", "twin")


@pytest.mark.parametrize(
    ("text", "objective"),
    [
        ("281", Logit(281)),
        ("7", Logit(7)),
        ('label("7")', Logit(3)),
        ('"7"', Logit(3)),
        ("fox", Logit(0)),
        ("Red_Fox", Logit(0)),
        ("fox, red fox", Logit(0)),
        ("jack-o'-lantern", Logit(2)),
        ("jack-o'-lantern - wolf", Logit(2) - Logit(1)),
        ("fox - wolf", Logit(0) - Logit(1)),
        ("281 - 282", Logit(281) - Logit(282)),
        ('"a - b" - wolf', Logit(4) - Logit(1)),
        ('wolf - "a - b"', Logit(1) - Logit(4)),
        ("a - b", Logit(4)),  # a label of the whole string goes first
        ('"a" - "b"', Logit(7) - Logit(5)),
        ('"b" - b + b', Logit(5) - Logit(5) + Logit(5)),
        ('five "5" * 3', Logit(6)),
        ("'fox' + 'wolf'", Logit(0) + Logit(1)),
        ("logit(281) - 0.5 * logit(282)", Logit(281) - 0.5 * Logit(282)),
        ("0.5 * fox + wolf * 2e-1", 0.5 * Logit(0) + 0.2 * Logit(1)),
        ("2 * 0.25 * fox", 0.5 * Logit(0)),
        ("-1 * fox", -1 * Logit(0)),
        ('channel("layer4", 3)', Channel("layer4", 3)),
        ("channel('layer4', channel=3)", Channel("layer4", 3)),
        ('neuron("a - b", 3, (1, 2))', Neuron("a - b", 3, (1, 2))),
        ('neuron("a", 3, at=(1,))', Neuron("a", 3, (1,))),
        ('output("age")', Output("age")),
        ('output("head", 2) - output(1)', Output("head", 2) - Output(1)),
        ("predicted(1)", Predicted(1)),
        ("predicted() - predicted(rank=1)", Predicted() - Predicted(1)),
        ("probability(281)", Probability(281)),
        ('probability("wolf")', Probability(1)),
        ("total-variation(1.0)", TotalVariation(1.0)),
        ("total_variation()", TotalVariation()),
        ('energy("a") + diversity("b") - l2()', Energy("a") + Diversity("b") - L2()),
        ('output("a) - (b")', Output("a) - (b")),
        ('output("say \\"hi\\" - bye") - wolf', Output('say "hi" - bye') - Logit(1)),
    ],
)
def test_readings(text, objective):
    assert parse(text, LABELS) == objective
    assert parse(f"  {text} ", LABELS) == objective


def test_a_number_in_python_may_be_a_label():
    assert parse("7", LABELS, integers=False) == Logit(3)
    assert parse("281", LABELS, integers=False) == Logit(281)


@pytest.mark.parametrize(
    ("text", "ways"),
    [
        ("a - b - c", ['"a - b" - "c"', '"a" - "b" - "c"']),
        ("c - a - b", ['"c" - "a - b"', '"c" - "a" - "b"']),
        ("2 * 3", ["2 * logit(3)", "3 * logit(2)"]),
        ("3 * 20 + wolf", ['3 * logit(20) + "wolf"', '20 * logit(3) + "wolf"']),
        ("7 - fox", ['logit(7) - "fox, red fox"', 'label("7") - "fox, red fox"']),
        ("wolf + 0.5 * 7", ['"wolf" + 0.5 * logit(7)', '"wolf" + 0.5 * label("7")']),
    ],
)
def test_more_than_one_reading_is_an_error_that_lists_them(text, ways):
    with pytest.raises(TargetError, match="can be read in 2 ways") as error:
        parse(text, LABELS)
    for way in ways:
        assert way in str(error.value)
        parse(way, LABELS)  # has one reading


def test_a_number_is_an_index_where_no_other_class_is_called_so():
    digits = ("0", "1", "2")
    assert parse("2 - 1", digits) == Logit(2) - Logit(1)  # both readings are the same class
    assert parse("logit(7) - fox", LABELS) == Logit(7) - Logit(0)
    assert parse('label("7") - fox', LABELS) == Logit(3) - Logit(0)
    assert parse("8 - fox", LABELS) == Logit(8) - Logit(0)
    assert parse("7 - 3") == Logit(7) - Logit(3)  # no labels are known
    with pytest.raises(TargetError, match=r"3 ways.*logit\(2\) - .*logit\(0\) - .*logit\(1\) - "):
        parse("2 - a", ("2", "2", "a"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must not be empty"),
        ("-3", "from 0 up, got -3"),
        ("wolff", r"no class named 'wolff'; did you mean 'wolf'"),
        ("fox - wolff", r"'fox - wolff' cannot be read: no class named 'wolff'; did you mean 'wolf'"),
        ("twin", "2 classes are called 'twin': give one of the indices 9"),
        ("twin - fox", "2 classes are called 'twin'"),
        ("fox - ", "no class named"),
        ("fox * wolf", "cannot be read"),
        ("0.5", "no class named '0.5'"),
        ("logit(-1)", "from 0 up"),
        ("logit(True)", "not a bool"),
        ("logit(1, 2)", "takes 2 positional arguments but 3 were given"),
        ("channel(3)", "channel"),
        ("channel(layer4, 3)", "arguments are numbers, names in quotes"),
        ("channel('a', __import__('os').system('x'))", "arguments are numbers"),
        ("direction('a', 3)", "holds a tensor, which cannot be written"),
        ("similarity(3)", "an embedding must be a tensor, got int"),
        ("x" * 3000, "too long"),
        ("(fox - wolf)", "cannot be read|no class"),
    ],
)
def test_what_cannot_be_read(text, words):
    with pytest.raises(TargetError, match=words):
        parse(text, LABELS)


def test_without_labels_words_are_labels():
    assert parse("fox") == Logit("fox")
    assert parse("red fox - gray wolf") == Logit("red fox") - Logit("gray wolf")
    assert parse('label("7")') == Logit("7")
    with pytest.raises(TargetError, match=r"no chanel\(...\) in a target; did you mean 'channel'"):
        parse('chanel("layer4", 3)')


def test_no_code_runs(tmp_path):
    for text in ("().__class__", "logit(().__class__)", "[x for x in (1,)]", "logit(*[1])", "logit(**{'target': 1})"):
        with pytest.raises(TargetError):
            parse(text, LABELS)
    for deep in ("logit(" * 200 + ")" * 200, "-" * 500, " - ".join(["z"] * 400), '"' * 501, "(" * 900):
        with pytest.raises(TargetError):
            parse(deep, LABELS)


def test_many_operators_take_no_time():
    text = " - ".join(["fox", "wolf"] * 20)
    assert len(parse(text, ("fox", "wolf")).terms) == 40


WEIGHTS = st.one_of(st.integers(-10, 10), st.floats(allow_nan=False, allow_infinity=False))
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(str.strip)
PLACES = st.integers(0, 2000)
ONES = st.one_of(
    st.builds(Logit, st.one_of(PLACES, NAMES)),
    st.builds(Probability, st.one_of(PLACES, NAMES)),
    st.builds(ReST, st.one_of(PLACES, NAMES)),
    st.builds(Finer, st.one_of(PLACES, NAMES), st.integers(1, 9), st.floats(0, 9)),
    st.builds(Predicted, st.integers(0, 5)),
    st.lists(st.one_of(PLACES, NAMES), min_size=1, max_size=3).map(lambda path: Output(*path)),
    st.builds(Channel, NAMES, PLACES),
    st.builds(Neuron, NAMES, PLACES, st.one_of(st.none(), st.lists(PLACES, min_size=1, max_size=3).map(tuple))),
    st.builds(Energy, NAMES),
    st.builds(Diversity, NAMES),
    st.builds(L2),
    st.builds(TotalVariation, st.floats(0.01, 4)),
)


@settings(max_examples=200, deadline=None)
@given(st.one_of(ONES, st.lists(st.tuples(WEIGHTS, ONES), min_size=1, max_size=4).map(lambda terms: Sum(tuple(terms)))))
def test_what_is_printed_is_read_back(objective):
    if isinstance(objective, Sum) and len(objective.terms) == 1 and objective.terms[0][0] == 1:
        objective = objective.terms[0][1]  # 1 times something is printed as it
    assert parse(str(objective)) == objective


def test_what_holds_tensors_or_functions_is_printed_all_the_same():
    assert str(Logit(torch.tensor([1, 2]))).startswith("logit(tensor (2,) ")
    assert str(Direction("a", torch.ones(3))).startswith('direction("a", tensor (3,) ')
    assert str(Function(math.sin) - Logit(1)) == "sin - logit(1)"

"""Objectives against slow loops; their algebra; as values; what they refuse."""

import math
import warnings

import numpy as np
import pytest
import torch

from deepviz.errors import LayerError, TargetError, TargetFailed
from deepviz.objectives import (
    L2,
    Channel,
    Direction,
    Diversity,
    Energy,
    Function,
    Logit,
    Match,
    Neuron,
    Objective,
    Output,
    Predicted,
    Probability,
    Seen,
    Similarity,
    Sum,
    TotalVariation,
    from_plain,
    parse,
)

GENERATOR = torch.Generator().manual_seed(0)
A = torch.randn(3, 4, 5, 6, generator=GENERATOR, dtype=torch.float64)
SCORES = torch.randn(3, 7, generator=GENERATOR, dtype=torch.float64)
IMAGE = torch.randn(3, 3, 4, 5, generator=GENERATOR, dtype=torch.float64)
V = torch.randn(4, generator=GENERATOR, dtype=torch.float64)
E = torch.randn(7, generator=GENERATOR, dtype=torch.float64)
PAIRS = torch.randn(3, 7, generator=GENERATOR, dtype=torch.float64)
A_0 = torch.randn(4, 5, 6, generator=GENERATOR, dtype=torch.float64)
SEEN = Seen(SCORES, (IMAGE,), {"a": A})
ROWS, C, H, W = A.shape


def channel(n):
    return sum(float(A[n, 2, i, j]) for i in range(H) for j in range(W)) / (H * W)


def direction(n):
    length = math.sqrt(sum(float(v) ** 2 for v in V))
    products = (float(V[c] * A[n, c, i, j]) for c in range(C) for i in range(H) for j in range(W))
    return sum(products) / length / (H * W)


def energy(n):
    return sum(float(A[n, c, i, j]) ** 2 for c in range(C) for i in range(H) for j in range(W)) / (C * H * W)


def cosine(a, b):
    product = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return product / math.sqrt(sum(float(x) ** 2 for x in a) * sum(float(y) ** 2 for y in b))


def match(n):
    return -float(((A[n] - A_0) ** 2).sum()) / float((A_0**2).sum())


def gram(n):
    rows = [A[n, c].flatten().tolist() for c in range(C)]
    return [sum(x * y for x, y in zip(one, two, strict=True)) for one in rows for two in rows]


def diversity(n):
    others = [m for m in range(ROWS) if m != n]
    return -sum(cosine(gram(n), gram(m)) for m in others) / len(others)


def variation(n, beta):
    total = 0.0
    for c in range(3):
        for i in range(4):
            for j in range(5):
                down = float(IMAGE[n, c, i + 1, j] - IMAGE[n, c, i, j]) if i < 3 else 0.0
                along = float(IMAGE[n, c, i, j + 1] - IMAGE[n, c, i, j]) if j < 4 else 0.0
                total += (down**2 + along**2) ** (beta / 2)
    return total


SLOWLY = {
    "logit": (Logit(5), lambda n: float(SCORES[n, 5])),
    "logits of rows": (Logit(torch.tensor([5, 0, 2])), lambda n: float(SCORES[n, (5, 0, 2)[n]])),
    "predicted": (Predicted(), lambda n: max(SCORES[n].tolist())),
    "second": (Predicted(1), lambda n: sorted(SCORES[n].tolist())[-2]),
    "probability": (Probability(5), lambda n: math.exp(SCORES[n, 5]) / sum(math.exp(s) for s in SCORES[n])),
    "output": (Output(5), lambda n: float(SCORES[n, 5])),
    "function": (Function(lambda output: output[:, 5] ** 2), lambda n: float(SCORES[n, 5]) ** 2),
    "difference": (Logit(5) - Predicted(), lambda n: float(SCORES[n, 5]) - max(SCORES[n].tolist())),
    "channel": (Channel("a", 2), channel),
    "neuron": (Neuron("a", 1, (4, 0)), lambda n: float(A[n, 1, 4, 0])),
    "corner neuron": (Neuron("a", 1, (0, 0)), lambda n: float(A[n, 1, 0, 0])),
    "central neuron": (Neuron("a", 3), lambda n: float(A[n, 3, 2, 3])),
    "direction": (Direction("a", V), direction),
    "longer direction": (Direction("a", 10 * V), direction),
    "energy": (Energy("a"), energy),
    "similarity": (Similarity(E), lambda n: cosine(E, SCORES[n])),
    "similarity at a layer": (Similarity(V, "a"), lambda n: cosine(V, [A[n, c].mean() for c in range(C)])),
    "similarity of pairs": (Similarity(PAIRS), lambda n: cosine(PAIRS[n], SCORES[n])),
    "product": (Similarity(E, measure="dot"), lambda n: sum(float(e * s) for e, s in zip(E, SCORES[n], strict=True))),
    "distance": (
        Similarity(PAIRS, measure="distance"),
        lambda n: -math.sqrt(sum(float(e - s) ** 2 for e, s in zip(PAIRS[n], SCORES[n], strict=True))),
    ),
    "match": (Match("a", A_0), match),
    "L2": (L2(), lambda n: sum(float(v) ** 2 for v in IMAGE[n].flatten())),
    "total variation": (TotalVariation(), lambda n: variation(n, 2)),
    "total variation of edges": (TotalVariation(1.0), lambda n: variation(n, 1)),
    "diversity": (Diversity("a"), diversity),
    "sum": (
        Logit(5) - 0.5 * L2() + Channel("a", 2),
        lambda n: float(SCORES[n, 5] - 0.5 * IMAGE[n].square().sum()) + channel(n),
    ),
}
OBJECTIVES = {name: objective for name, (objective, _) in SLOWLY.items()}


@pytest.mark.parametrize("name", SLOWLY)
def test_against_a_slow_loop(name):
    objective, slow = SLOWLY[name]
    found = objective(SEEN)
    assert found.shape == (ROWS,)
    expected = torch.tensor([slow(n) for n in range(ROWS)], dtype=torch.float64)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", SLOWLY)
def test_a_row_depends_on_itself_alone_unless_joint(name):
    objective = OBJECTIVES[name]
    if objective.joint:
        assert not torch.allclose(objective(SEEN.rows(slice(1, 3))), objective(SEEN)[1:3])
    else:
        one = objective.take(slice(1, 2))
        assert torch.allclose(one(SEEN.rows(slice(1, 2))), objective(SEEN)[1:2], rtol=0, atol=1e-12)
        rows = torch.tensor([2, 0, 0, 1])
        assert torch.allclose(objective.take(rows)(SEEN.rows(rows)), objective(SEEN)[rows], rtol=0, atol=1e-12)
    assert objective.layers <= {"a"}
    blind = Seen(SCORES, (IMAGE,))
    if not objective.layers:
        assert torch.equal(objective(blind), objective(SEEN))
    else:
        with pytest.raises(LayerError, match="'a' was not kept"):
            objective(blind)


@pytest.mark.parametrize("name", sorted(SLOWLY))
def test_gradients(name):
    objective = OBJECTIVES[name]

    def value(a, scores, image):
        return objective(Seen(scores, (image,), {"a": a})) + 0 * (a.sum() + scores.sum() + image.sum())

    inputs = tuple(part.clone().requires_grad_() for part in (A, SCORES, IMAGE))
    assert torch.autograd.gradcheck(value, inputs)


@pytest.mark.parametrize("beta", [1.0, 1.5, 2.0])
def test_a_flat_picture_has_a_slope(beta):
    flat = torch.ones(1, 3, 4, 4, requires_grad=True)
    TotalVariation(beta)(Seen(SCORES, (flat,))).sum().backward()
    assert torch.equal(flat.grad, torch.zeros_like(flat))


def value(objective):
    return objective(SEEN)


def test_algebra():
    a, b, c = Logit(1), Channel("a", 2), L2()
    same = [
        (a + b, value(a) + value(b)),
        (a - b, value(a) - value(b)),
        (2 * a, 2 * value(a)),
        (a * 2.5, 2.5 * value(a)),
        (-a, -value(a)),
        ((a + b) - b, value(a)),
        (-(a - 2 * b), 2 * value(b) - value(a)),
        (3 * (a + 2 * (b - c)) - c, 3 * value(a) + 6 * value(b) - 7 * value(c)),
        (a - (b - (c - a)), value(c) - value(b)),
    ]
    for objective, expected in same:
        assert torch.allclose(value(objective), expected, rtol=1e-12, atol=1e-12), str(objective)


def test_sums_are_flat_and_know_their_parts():
    objective = 2 * (Logit(1) + Channel("a", 2)) - Diversity("b") * 0.5
    assert isinstance(objective, Sum)
    assert objective.terms == ((2, Logit(1)), (2, Channel("a", 2)), (-0.5, Diversity("b")))
    assert objective.layers == {"a", "b"}
    assert objective.joint
    assert not (Logit(1) - L2()).joint
    assert str(Logit(1) - 0.5 * L2()) == "logit(1) - 0.5 * l2()"


@pytest.mark.parametrize(
    "wrong", [lambda: Logit(1) + 1, lambda: Logit(1) * Logit(2), lambda: Logit(1) - L2, lambda: Logit(1) * None]
)
def test_algebra_of_other_things(wrong):
    with pytest.raises(TypeError, match="unsupported operand"):
        wrong()


@pytest.mark.parametrize(
    ("objective", "error", "words"),
    [
        (Channel("a", 4), LayerError, "has 4 channels, 0 to 3, not 4"),
        (Neuron("a", 9), LayerError, "not 9"),
        (Neuron("a", 0, (5, 0)), LayerError, "5 x 6, without a position"),
        (Neuron("a", 0, (0, 1, 2)), LayerError, "without a position"),
        (Direction("a", E), LayerError, r"the direction must be \(4,\), got \(7,\)"),
        (Similarity(V), TargetError, r"must be \(7,\).* got \(4,\)"),
        (Similarity(E[None]), TargetError, r"or \(3, 7\) with one for each.* got \(1, 7\)"),
        (Logit(torch.tensor([1, 2])), TargetError, "2 classes for 3 rows"),
        (Logit("fox"), TargetError, "names a class by its label"),
        (Predicted(7), TargetError, "no prediction of rank 7"),
        (Match("a", A_0[:, :2]), LayerError, r"is \(4, 5, 6\), not \(4, 2, 6\)"),
        (Logit(7), TargetError, "out of range"),
    ],
    ids=str,
)
def test_what_does_not_fit(objective, error, words):
    with pytest.raises(error, match=words):
        objective(SEEN)


def test_one_copy_is_not_diverse():
    with pytest.raises(TargetError, match="at least 2"):
        Diversity("a")(SEEN.rows(slice(0, 1)))


def test_a_single_logit_is_two_classes():
    seen = Seen(SCORES[:, :1], (IMAGE,), kind="binary")
    assert torch.equal(Logit(1)(seen), SCORES[:, 0])
    assert torch.equal(Logit(0)(seen), -SCORES[:, 0])
    assert torch.equal(Predicted()(seen), SCORES[:, 0].abs())


def test_a_single_number_is_no_class():
    seen = Seen(SCORES[:, :1], (IMAGE,))
    assert torch.equal(Predicted()(seen), SCORES[:, 0])
    assert torch.equal(Output(0)(seen), SCORES[:, 0])
    for index in (0, 1):
        with pytest.raises(TargetError, match="state output='binary'"):
            Logit(index)(seen)
    stated = Seen(SCORES[:, :1], (IMAGE,), kind="regression")
    assert torch.equal(Logit(0)(stated), SCORES[:, 0])


@pytest.mark.parametrize("make", [lambda v: Direction("a", v), Similarity, lambda v: Match("a", v)])
def test_vectors_have_a_length(make):
    for values in (torch.zeros(3), torch.tensor([1.0, math.nan]), torch.tensor([math.inf])):
        with pytest.raises(ValueError, match="zero everywhere, or holds NaN"):
            make(values)
    with pytest.raises(TypeError, match="must be a tensor, got list"):
        make([1.0, 2.0])
    assert make(np.array([1.0, 2.0])) == make(torch.tensor([1.0, 2.0], dtype=torch.float64))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Logit(1) * math.nan,
        lambda: -math.inf * Logit(1),
        lambda: Logit(0) - Logit(1) * math.inf,
        lambda: Logit(1) * np.float64("nan"),
        lambda: Logit(1) * 10**400,
        lambda: 1e300 * (Logit(0) - 1e300 * Logit(1)),
        lambda: Logit(1) / 0,
        lambda: Logit(1) / math.inf,
        lambda: Logit(1) / 5e-324,
        lambda: Sum(((math.nan, Logit(1)),)),
        lambda: parse("1e999 * fox"),
        lambda: from_plain({"is": "Sum", "terms": [[{"number": "nan"}, {"is": "Logit", "target": 1}]]}),
    ],
)
def test_weights_are_finite(make):
    """A score times NaN or infinity has no gradient that means anything."""
    with pytest.raises(TargetError, match="finite number"):
        make()


def test_sums_of_lists():
    terms = [Logit(1), 2 * Logit(3), L2()]
    assert sum(terms) == Logit(1) + 2 * Logit(3) + L2()
    assert 0 + terms[0] is terms[0]
    with pytest.raises(TypeError, match="unsupported operand"):
        1 + terms[0]


def test_an_objective_of_ones_own():
    class Brightness(Objective):
        def __call__(self, seen):
            return seen.image().mean((1, 2, 3))

    assert torch.allclose(value(2 * Brightness()), 2 * IMAGE.mean((1, 2, 3)))


# any number of spatial axes

GRIDS = {"none": (), "sequence": (6,), "map": (5, 6), "volume": (2, 3, 4)}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_means_are_over_all_spatial_axes(grid):
    maps = torch.randn((3, 4, *grid), generator=GENERATOR, dtype=torch.float64)
    seen = Seen(SCORES, (IMAGE,), {"a": maps})
    mean = maps.reshape(3, 4, -1).mean(2)
    same = [
        (Channel("a", 2), mean[:, 2]),
        (Direction("a", V), mean @ (V / V.norm())),
        (Energy("a"), maps.reshape(3, -1).square().mean(1)),
        (Similarity(V, "a"), torch.nn.functional.cosine_similarity(mean, V[None])),
        (Match("a", maps[1]), -(maps - maps[1]).reshape(3, -1).square().sum(1) / maps[1].square().sum()),
        (Neuron("a", 1), maps[(slice(None), 1, *(side // 2 for side in grid))]),
        (Neuron("a", 1, (0,) * max(1, len(grid))), maps[(slice(None), 1, *(0 for _ in grid))]),
    ]
    for objective, expected in same:
        assert torch.allclose(objective(seen), expected, rtol=1e-10), str(objective)
    assert Diversity("a")(seen).shape == (3,)


@pytest.mark.parametrize("space", [(6,), (4, 5), (2, 3, 4)], ids=str)
def test_penalties_of_images_of_any_number_of_axes(space):
    image = torch.randn((2, 3, *space), generator=GENERATOR, dtype=torch.float64)
    seen = Seen(SCORES[:2], (image,))
    total = 0.0
    for axis in range(2, image.ndim):
        after = (0, 0) * (image.ndim - 1 - axis) + (0, 1)
        total = total + torch.nn.functional.pad(image.diff(dim=axis), after).square()
    assert torch.allclose(TotalVariation()(seen), total.flatten(1).sum(1))
    assert torch.allclose(L2()(seen), image.square().flatten(1).sum(1))


# values


def test_values_compare_and_hash_by_content():
    pairs = [
        lambda: Logit(3) - 0.5 * Logit(4),
        lambda: Logit(torch.tensor([1, 2])),
        lambda: Direction("a", torch.tensor([1.0, 2.0])),
        lambda: Similarity(torch.ones(3), "a", "dot"),
        lambda: Match("a", torch.ones(2, 3, 3)),
        lambda: 2 * Neuron("a", 1, (2, 3)),
        lambda: Output("head", 2),
        lambda: Function(math.sin, "sine"),
    ]
    for make in pairs:
        assert make() == make()
        assert hash(make()) == hash(make())
    made = [make() for make in pairs]
    assert len({*made, *(make() for make in pairs)}) == len(made)
    different = [
        (Logit(3), Logit(4)),
        (Logit(3), Probability(3)),
        (Logit(torch.tensor([1, 2])), Logit(torch.tensor([1, 3]))),
        (Direction("a", torch.tensor([1.0, 2.0])), Direction("a", torch.tensor([1.0, 3.0]))),
        (Similarity(torch.ones(3)), Similarity(torch.ones(3), measure="dot")),
        (Function(math.sin), Function(math.cos, "sin")),
        (Logit(3), 3),
    ]
    for one, other in different:
        assert one != other


def test_a_strangers_dataclass_compares_by_content_too():
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Weighted(Objective):
        w: torch.Tensor

        def __call__(self, seen):
            return seen.scores() @ self.w

    assert Weighted(torch.ones(7)) == Weighted(torch.ones(7)) != Weighted(torch.zeros(7))
    assert hash(Weighted(torch.ones(7))) == hash(Weighted(torch.ones(7)))
    assert str(Weighted(torch.ones(7))).startswith("weighted(tensor (7,) ")


def test_a_value_does_not_change_with_the_callers_tensor():
    classes = torch.tensor([1, 2])
    objective = Logit(classes)
    classes[0] = 5
    assert objective == Logit(torch.tensor([1, 2]))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Logit(True), "not a bool"),
        (lambda: Logit(np.bool_(True)), "not a bool"),
        (lambda: Logit(-1), "from 0 up, got -1"),
        (lambda: Logit(1.5), "a whole number or a label, got 1.5"),
        (lambda: Logit(""), "must not be empty"),
        (lambda: Logit(torch.tensor([1.0])), "integers, got torch.float32"),
        (lambda: Logit(torch.tensor([True])), "integers, got torch.bool"),
        (lambda: Logit(torch.zeros(2, 2).long()), r"\(N,\), got \(2, 2\)"),
        (lambda: Probability(None), "got None"),
        (lambda: Predicted(False), "not a bool"),
        (lambda: Output(), "needs a place"),
        (lambda: Output(True), "got True"),
        (lambda: Output(-1), "got -1"),
        (lambda: Function(3), "must be callable"),
        (lambda: Function(Logit), r"did you mean Logit\(\)"),
        (lambda: Channel("a", True), "channel must be a whole number"),
        (lambda: Channel("a", -1), "channel must be at least 0, got -1"),
        (lambda: Neuron("a", 0, (0, -1)), "at must be .*at least 0"),
        (lambda: TotalVariation(0), "beta must be above 0"),
        (lambda: Channel(3, 1), "layer must be a name"),
        (lambda: Channel("a", 1.5), "channel must be a whole number"),
        (lambda: Neuron("a", 1, (0.5, 1)), "at must be a tuple of whole numbers"),
        (lambda: TotalVariation("2"), "beta must be a number"),
        (lambda: Similarity(torch.ones(3), measure="l1"), "cosine, dot or distance"),
        (lambda: Similarity(torch.ones(1, 2, 3)), r"got \(1, 2, 3\)"),
        (lambda: Similarity(), "must be a tensor"),
        (lambda: Sum(()), "at least one"),
        (lambda: Sum(((True, Logit(1)),)), "numbers and objectives"),
    ],
)
def test_constructors_check(make, words):
    with pytest.raises((TypeError, ValueError), match=words):
        make()


def test_numbers_of_numpy_are_numbers():
    assert Logit(np.int64(3)) == Logit(3) == Logit(np.array(3)) == Logit(torch.tensor(3))
    assert Logit(np.array([1, 2])) == Logit(torch.tensor([1, 2]))


def test_the_embedding_of_the_first_version():
    with pytest.warns(DeprecationWarning, match="now Similarity"):
        old = Similarity(embedding=E)
    assert old == Similarity(E)
    with pytest.warns(DeprecationWarning, match=r"now Similarity.to"):
        assert torch.equal(old.embedding, E)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(TypeError, match="either to or"):
            Similarity(E, embedding=E)


def test_the_distance_of_the_same_embedding_has_a_slope():
    scores = SCORES.clone().requires_grad_()
    Similarity(SCORES, measure="distance")(Seen(scores, (IMAGE,))).sum().backward()
    assert torch.equal(scores.grad, torch.zeros_like(scores))


def test_captions():
    label = ["ant", "bee", "cat"].__getitem__
    assert Logit(1).caption(label) == "bee"
    assert (Logit(1) - 0.5 * Probability(2)).caption(label) == "bee - 0.5 * probability of cat"
    assert Logit(1).caption() == "logit(1)"
    assert Output(2).caption(label) == "cat"
    assert Output("pose", 2).caption(label) == "output pose, 2"
    assert Predicted().caption(label) == "the predicted class"
    assert Function(math.sin).caption(label) == "sin"


# outputs by their place

HEADS = {
    "age": torch.tensor([31.0, 62.0]),
    "height": torch.tensor([[1.7], [1.8]]),
    "pose": torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
    "count": torch.tensor([3, 4]),
    "deep": {"logits": torch.tensor([[0.0, 1.0], [2.0, 3.0]])},
    "map": torch.arange(12.0).reshape(2, 2, 3),
}
IMAGES = torch.zeros(2, 3, 4, 4)


def place(output, *path, kind="auto"):
    return Output(*path)(Seen(output, (IMAGES,), kind=kind)).tolist()


def test_outputs_by_their_place():
    assert place(HEADS, "age") == [31, 62]
    assert place(HEADS, "height") == pytest.approx([1.7, 1.8])
    assert place(HEADS, "height", 0) == pytest.approx([1.7, 1.8])
    assert place(HEADS, "pose", 2) == [3, 6]
    assert place(HEADS, "deep", "logits", 1) == [1, 3]
    assert place(HEADS, "map", 1, 2) == [5, 11]
    assert place(HEADS, 1) == [1, 3]  # of what is found as scores
    assert place(HEADS["pose"], 0) == [1, 4]
    assert place(HEADS["age"], 0) == [31, 62]
    assert place((HEADS["age"], HEADS["pose"]), 1, 0) == [1, 4]
    assert place((HEADS["age"], HEADS["pose"]), 0) == [31, 62]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (("agee",), r"output\(\"agee\"\): the output has no 'agee', but age, height"),
        (("pose",), r"\(3,\) numbers a row: add the place of one, such as output\(\"pose\", 0\)"),
        (("pose", 3), "3 numbers there, 0 to 2, not 3"),
        (("age", 1), "1 number there, 0, not 1"),
        (("pose", "x"), r"'x' is looked for in a tensor \(2, 3\)"),
        (("deep",), "name what is inside it as well"),
        (("count",), "int64, which has no gradient"),
        (("map", 1), r"\(3,\) numbers a row"),
    ],
)
def test_places_that_are_not_there(path, words):
    with pytest.raises(TargetError, match=words):
        place(HEADS, *path)


def test_an_item_that_is_not_there():
    with pytest.raises(TargetError, match="2 items, 0 to 1, not 2"):
        place((HEADS["age"], HEADS["pose"]), 2)
    with pytest.raises(TargetError, match="name a field first"):
        place({"boxes": [torch.zeros(3, 4)]}, 0)
    with pytest.raises(TargetError, match="not have one row for each of 2"):
        place(torch.zeros(3, 4), 0)


def test_a_probability_of_a_number():
    with pytest.raises(TargetError, match="read as regression, which has no probability"):
        Probability(0)(Seen(SCORES, (IMAGE,), kind="regression"))
    labels = Seen(SCORES, (IMAGE,), kind="multi-label")
    assert torch.allclose(Probability(2)(labels), SCORES[:, 2].sigmoid())


def test_functions():
    seen = Seen(SCORES, (IMAGE,))
    with pytest.raises(TargetError, match=r"one float score per row, \(3,\), got a tensor \(7,\).*Similarity"):
        Function(lambda output: output.sum(0))(seen)
    with pytest.raises(TargetError, match="got float"):
        Function(lambda output: 3.0)(seen)
    with pytest.raises(
        TargetFailed, match=r"the callable target lambda failed on the output for 3 rows \(KeyError: 'boxes'\)"
    ) as failed:
        Function(lambda output: {}["boxes"])(seen)
    assert isinstance(failed.value.__cause__, KeyError)
    with pytest.raises(TargetError, match="box held a callable"):
        Function(None, "box")(seen)


def test_rows_of_sums_agree():
    two, three = Logit(torch.tensor([1, 2])), Similarity(PAIRS)
    assert (two - 2 * Logit(3)).rows == 2
    assert (Logit(1) - Logit(2)).rows is None
    with pytest.raises(TargetError, match="different numbers of rows: 2, 3"):
        _ = (two + three).rows

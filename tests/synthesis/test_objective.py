"""Objectives against slow loops; their algebra; what they refuse."""

import math

import pytest
import torch

from deepviz.errors import LayerError, TargetError
from deepviz.synthesis import (
    L2,
    Channel,
    Direction,
    Diversity,
    Energy,
    Logit,
    Match,
    Neuron,
    Objective,
    Similarity,
    TotalVariation,
)
from deepviz.synthesis.looking import class_of
from deepviz.synthesis.objective import Seen, Sum, as_maps

GENERATOR = torch.Generator().manual_seed(0)
A = torch.randn(3, 4, 5, 6, generator=GENERATOR, dtype=torch.float64)
SCORES = torch.randn(3, 7, generator=GENERATOR, dtype=torch.float64)
IMAGE = torch.randn(3, 3, 4, 5, generator=GENERATOR, dtype=torch.float64)
V = torch.randn(4, generator=GENERATOR, dtype=torch.float64)
E = torch.randn(7, generator=GENERATOR, dtype=torch.float64)
A_0 = torch.randn(4, 5, 6, generator=GENERATOR, dtype=torch.float64)
SEEN = Seen(lambda: SCORES, {"a": A}, lambda: IMAGE)
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
    "channel": (Channel("a", 2), channel),
    "neuron": (Neuron("a", 1, (4, 0)), lambda n: float(A[n, 1, 4, 0])),
    "corner neuron": (Neuron("a", 1, (0, 0)), lambda n: float(A[n, 1, 0, 0])),
    "central neuron": (Neuron("a", 3), lambda n: float(A[n, 3, 2, 3])),
    "direction": (Direction("a", V), direction),
    "longer direction": (Direction("a", 10 * V), direction),
    "energy": (Energy("a"), energy),
    "similarity": (Similarity(E), lambda n: cosine(E, SCORES[n])),
    "similarity at a layer": (Similarity(V, "a"), lambda n: cosine(V, [A[n, c].mean() for c in range(C)])),
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
OF_NO_LAYER = {"logit", "similarity", "L2", "total variation", "total variation of edges"}
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
        assert torch.allclose(objective(SEEN.rows(slice(1, 2))), objective(SEEN)[1:2], rtol=0, atol=1e-12)
    assert objective.layers == (set() if name in OF_NO_LAYER else {"a"})


@pytest.mark.parametrize("name", sorted(SLOWLY))
def test_gradients(name):
    objective = OBJECTIVES[name]

    def value(a, scores, image):
        return objective(Seen(lambda: scores, {"a": a}, lambda: image)) + 0 * (a.sum() + scores.sum() + image.sum())

    inputs = tuple(part.clone().requires_grad_() for part in (A, SCORES, IMAGE))
    assert torch.autograd.gradcheck(value, inputs)


@pytest.mark.parametrize("beta", [1.0, 1.5, 2.0])
def test_a_flat_picture_has_a_slope(beta):
    flat = torch.ones(1, 3, 4, 4, requires_grad=True)
    TotalVariation(beta)(Seen(lambda: SCORES, {}, lambda: flat)).sum().backward()
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
    assert str(Logit(1) - 0.5 * L2()) == "logit 1 + -0.5 L2"


@pytest.mark.parametrize(
    "wrong", [lambda: Logit(1) + 1, lambda: Logit(1) * Logit(2), lambda: Logit(1) - L2, lambda: Logit(1) * None]
)
def test_algebra_of_other_things(wrong):
    with pytest.raises(TypeError, match="unsupported operand"):
        wrong()


@pytest.mark.parametrize(
    ("objective", "index"),
    [
        (Logit(3), 3),
        (Logit(3) - 1e-3 * L2(), 3),
        (Logit(3) - Logit(4), 3),
        (Logit(3) + Logit(4), None),
        (-Logit(3), None),
        (Channel("a", 1), None),
    ],
    ids=str,
)
def test_the_class_of_an_objective(objective, index):
    assert class_of(objective) == index


@pytest.mark.parametrize(
    ("objective", "error", "words"),
    [
        (Channel("a", 4), LayerError, "has 4 channels, 0 to 3, not 4"),
        (Channel("a", -1), LayerError, "not -1"),
        (Neuron("a", 9), LayerError, "not 9"),
        (Neuron("a", 0, (5, 0)), LayerError, "5 x 6, without a position"),
        (Neuron("a", 0, (0, -1)), LayerError, "without a position"),
        (Direction("a", E), LayerError, r"the direction must be \(4,\), got \(7,\)"),
        (Similarity(V), TargetError, r"must be \(7,\).* got \(4,\)"),
        (Similarity(E[None]), TargetError, r"got \(1, 7\)"),
        (Match("a", A_0[:, :2]), LayerError, r"answers \(4, 5, 6\), not \(4, 2, 6\)"),
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
    seen = Seen(lambda: SCORES[:, :1], {}, lambda: IMAGE)
    assert torch.equal(Logit(1)(seen), SCORES[:, 0])
    assert torch.equal(Logit(0)(seen), -SCORES[:, 0])


@pytest.mark.parametrize(
    ("shape", "maps"),
    [
        ((2, 8, 3, 4), (2, 8, 3, 4)),
        ((2, 3, 4, 8), (2, 8, 3, 4)),  # channels last
        ((2, 12, 8), (2, 8, 3, 4)),  # tokens
        ((2, 13, 8), (2, 8, 3, 4)),  # with a class token
        ((2, 8), (2, 8, 1, 1)),
    ],
    ids=str,
)
def test_layouts(shape, maps):
    answer = torch.arange(math.prod(shape)).double().reshape(shape)
    found = as_maps("a", answer, (12, 16))
    assert found.shape == maps
    if len(shape) == 3:
        assert torch.equal(found[0, :, 1, 2], answer[0, shape[1] - 12 + 1 * 4 + 2])


@pytest.mark.parametrize("answer", [None, torch.zeros(3), torch.zeros(2, 500, 8)], ids=["none", "vector", "tokens"])
def test_answers_without_channels(answer):
    with pytest.raises(LayerError, match="no channels on a grid"):
        as_maps("a", answer, (12, 16))


@pytest.mark.parametrize("make", [lambda v: Direction("a", v), Similarity, lambda v: Match("a", v)])
def test_vectors_have_a_length(make):
    for values in (torch.zeros(3), torch.tensor([1.0, math.nan]), torch.tensor([math.inf])):
        with pytest.raises(ValueError, match="zero everywhere, or holds NaN"):
            make(values)
    with pytest.raises(TypeError, match="must be a tensor, got list"):
        make([1.0, 2.0])


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

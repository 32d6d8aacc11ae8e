"""A callable as a model: what it is called with, what it may return, and what becomes of a batch on which it fails."""

import numpy as np
import pytest
import torch
from torch import nn

from deepviz import BlackBox
from deepviz.errors import ModelError, ModelFailed

x = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
means = x.mean((2, 3))


def of_tensors(x):
    assert isinstance(x, torch.Tensor)
    return x.mean((2, 3))


def of_arrays(x):
    assert isinstance(x, np.ndarray)
    return x.mean((2, 3))


@pytest.mark.parametrize(
    "function", [of_tensors, of_arrays, lambda x: x.mean((2, 3)), lambda x: x.mean((2, 3)).tolist()]
)
def test_tensors_and_arrays_are_told_apart(function):
    assert torch.allclose(BlackBox(function)(x).float(), means, atol=1e-6)


def test_what_means_another_thing_for_an_array_is_refused():
    # torch divides by n - 1, NumPy by n
    def spread(x):
        return x.reshape(len(x), -1).std(1)

    with pytest.raises(ModelError, match="takes='array'"):
        BlackBox(spread)(x)
    assert torch.allclose(BlackBox(spread, takes="array")(x), x.flatten(1).std(1, correction=0), atol=1e-6)
    assert torch.allclose(BlackBox(spread, takes="tensor")(x), x.flatten(1).std(1), atol=1e-6)


def test_a_random_function_is_not_asked_to_agree_with_itself():
    draws = np.random.default_rng(0)
    assert BlackBox(lambda x: draws.random((len(x), 2)))(x).shape == (8, 2)


def test_the_function_gets_a_copy_without_a_graph():
    seen = []

    def f(x):
        seen.append(x)
        x += 1
        return x.mean((2, 3))

    given = x.clone().requires_grad_()
    found = BlackBox(f, takes="tensor")(given)
    assert torch.equal(given, x)
    assert not seen[0].requires_grad
    assert not found.requires_grad


def test_the_result_does_not_follow_an_array_that_the_function_reuses():
    kept = np.zeros((8, 2), np.float32)

    def f(x):
        kept[:] = x.mean((2, 3))[:, :2]
        return kept

    box = BlackBox(f, takes="array")
    first = box(x)
    box(torch.zeros(8, 3, 4, 4))
    assert torch.allclose(first, means[:, :2], atol=1e-6)


@pytest.mark.parametrize(
    "returned",
    [
        lambda scores: scores[:, ::-1].copy()[:, ::-1],
        lambda scores: scores.astype(">f8"),
        lambda scores: scores.astype(np.longdouble),
        lambda scores: np.asfortranarray(scores),
        lambda scores: np.pad(scores, 1)[1:-1, 1:-1],
    ],
    ids=["reversed", "big endian", "long double", "by columns", "a part"],
)
def test_arrays_that_torch_does_not_take_as_they_lie_are_scores_too(returned):
    found = BlackBox(lambda x: returned(x.mean((2, 3))), takes="array")(x.double())
    assert found.dtype == torch.float64
    assert torch.allclose(found, x.double().mean((2, 3)), atol=1e-12)


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        (lambda x: np.zeros((1, 5)), r"\(1, 5\) for 8 rows"),
        (lambda x: 0.5, r"\(\) for 8 rows"),
        (lambda x: np.zeros(8, int), "int64, and scores are floats"),
        (lambda x: np.where(np.arange(8) == 5, np.nan, 1.0), "NaN or infinity for row 5 of 8"),
    ],
)
def test_what_is_no_row_of_scores_each_is_refused(returned, reason):
    with pytest.raises(ModelError, match=reason):
        BlackBox(returned)(x)


def test_parts_of_an_output_are_tensors():
    found = BlackBox(lambda x: {"scores": x.mean((2, 3)), "name": "a"}, takes="array")(x)
    assert torch.allclose(found["scores"], means, atol=1e-6)
    first, second = BlackBox(lambda x: (x.mean((2, 3)), x), takes="array")(x)
    assert torch.allclose(first, means, atol=1e-6)
    assert torch.equal(second, x)


def counted(limit=None, bad=None):
    """A function that takes at most `limit` rows, and not the row `bad`, with the sizes of the batches it got."""
    sizes = []

    def f(x):
        sizes.append(len(x))
        if limit is not None and len(x) > limit:
            raise RuntimeError("too many rows")
        if bad is not None and (x == bad).flatten(1).all(1).any():
            raise KeyError("boxes")
        return x.mean((2, 3))

    return BlackBox(f, takes="tensor"), sizes


def test_a_batch_that_fails_is_tried_once_in_halves():
    box, sizes = counted(limit=4)
    assert torch.equal(box(x), means)
    assert sizes == [8, 4, 4]
    # what helped is remembered
    assert torch.equal(box(x), means)
    assert sizes == [8, 4, 4, 4, 4]


def test_rows_that_fail_by_themselves_are_named():
    box, sizes = counted(bad=x[6])
    with pytest.raises(ModelFailed, match=r"failed on a batch of 8, and again on rows 4 to 7 of it: KeyError: 'boxes'"):
        box(x)
    assert sizes == [8, 4, 4]


def test_one_row_is_not_tried_again():
    box, sizes = counted(bad=x[0])
    with pytest.raises(KeyError):
        box(x[:1])
    assert sizes == [1]


def test_both_reasons_are_told_if_neither_kind_of_input_works():
    def f(x):
        raise ValueError("arrays only" if isinstance(x, torch.Tensor) else "no such colour")

    with pytest.raises(
        RuntimeError, match=r"a tensor \(ValueError: arrays only\) and on an array \(ValueError: no such"
    ):
        BlackBox(f)(x[:1])


def test_inputs_are_moved_where_the_function_was():
    box = BlackBox(of_tensors).to("meta", torch.float64)
    assert box.home == (torch.device("meta"), torch.float64)


def test_a_class_is_no_function():
    with pytest.raises(TypeError, match="must be a callable"):
        BlackBox(nn.Linear)
    with pytest.raises(ValueError, match="takes must be one of"):
        BlackBox(of_arrays, takes="numpy")

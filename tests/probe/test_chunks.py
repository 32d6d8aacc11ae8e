"""Chunks cover every row once, also when memory runs out; layouts that a model cannot take are remembered."""

import gc
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from deepviz.errors import ModelFailed
from deepviz.methods import Gradient, IntegratedGradients, SmoothGrad
from deepviz.probe import chunks, gradient
from deepviz.probe.chunks import ROWS_WITH_GRAPH, ROWS_WITHOUT_GRAPH, chunk_rows, in_chunks, spans
from networks import CASES, METHODS, Case, ViewingLeNet, assert_same


@given(total=st.integers(1, 300), size=st.integers(1, 50))
def test_spans_cover_every_row_once_and_evenly(total, size):
    found = list(spans(total, size))
    assert [row for span in found for row in range(span.start, span.stop)] == list(range(total))
    lengths = [span.stop - span.start for span in found]
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1
    assert len(found) == -(-total // size)


def test_larger_pictures_go_in_smaller_chunks():
    model = nn.Identity()
    rows = [chunk_rows(model, torch.empty(1, 3, side, side)) for side in (32, 224, 320, 448, 2000)]
    assert rows == [ROWS_WITH_GRAPH, ROWS_WITH_GRAPH, 1, 1, 1]
    assert chunk_rows(model, torch.empty(1, 3, 224, 224), graph=False) == ROWS_WITHOUT_GRAPH
    assert chunk_rows(model, torch.empty(1, 3, 1, 100_000)) >= 1


class Tight:
    """Room for only so many rows at once."""

    def __init__(self, room):
        self.room, self.tried, self.done = room, [], []

    def __call__(self, rows):
        self.tried.append(rows.stop - rows.start)
        if rows.stop - rows.start > self.room:
            raise torch.OutOfMemoryError("simulated")
        self.done.extend(range(rows.start, rows.stop))


@given(total=st.integers(1, 60), room=st.integers(1, 9))
def test_out_of_memory_halves_the_chunk_and_no_row_is_lost_or_doubled(total, room):
    model, x, work = nn.Identity(), torch.empty(total, 3, 8, 8), Tight(room)
    in_chunks(model, x, work)
    assert work.done == list(range(total))
    assert room >= ROWS_WITH_GRAPH or work.tried.count(ROWS_WITH_GRAPH) <= 1  # what failed is not tried again
    if max(work.tried) > room:
        assert chunk_rows(model, x) <= room


def test_the_smaller_chunk_is_remembered_for_this_model_only_and_weakly():
    model, x = nn.Identity(), torch.empty(16, 3, 8, 8)
    in_chunks(model, x, Tight(3))
    assert chunk_rows(model, x) == 2
    assert chunk_rows(nn.Identity(), x) == ROWS_WITH_GRAPH
    assert model in chunks._reduced
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


def test_one_row_that_does_not_fit_is_the_error_itself():
    work = Tight(0)
    with pytest.raises(torch.OutOfMemoryError):
        in_chunks(nn.Identity(), torch.empty(5, 3, 8, 8), work)
    assert min(work.tried) == 1


def test_other_errors_are_not_tried_again():
    calls = []

    def work(rows):
        calls.append(rows)
        raise KeyError

    with pytest.raises(KeyError):
        in_chunks(nn.Identity(), torch.empty(5, 3, 8, 8), work)
    assert len(calls) == 1


class Small(nn.Module):
    """A device that has memory for so many rows."""

    def __init__(self, body, room):
        super().__init__()
        self.body, self.room, self.failures = body, room, 0

    def forward(self, x):
        if len(x) > self.room:
            self.failures += 1
            raise torch.OutOfMemoryError("simulated")
        return self.body(x)


@pytest.mark.filterwarnings("ignore::deepviz.errors.DeepVizWarning")
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_maps_do_not_depend_on_the_memory_there_is(method):
    body, x = CASES["plain"].model(), CASES["plain"].images(11)
    target = torch.arange(11) % 5
    small = Small(body, 2)
    assert_same(method(small, x, target), method(body, x, target), 1e-9)
    assert small.failures >= 1


@pytest.mark.parametrize("method", [IntegratedGradients(steps=20), SmoothGrad(samples=20)], ids=str)
@pytest.mark.filterwarnings("ignore::deepviz.errors.DeepVizWarning")
def test_points_and_samples_do_not_depend_on_the_memory_there_is(method):
    body, x = CASES["plain"].model(), CASES["plain"].images(2)
    small = Small(body, 1)
    assert_same(method(small, x, 1), method(body, x, 1), 1e-9)
    assert small.failures <= 3  # 8 -> 4 -> 2 -> 1, then never again


def test_a_model_that_takes_views_is_run_in_plain_layout_and_that_is_remembered():
    layouts = []

    class Watched(ViewingLeNet):
        def forward(self, x):
            layouts.append(x.is_contiguous(memory_format=torch.channels_last))
            return super().forward(x)

    case = Case(Watched)
    model, x = case.model(), case.images(3)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)
    layouts.clear()
    assert_same(Gradient()(model, x, 1), expected, 1e-12)
    assert layouts == [True, False]
    Gradient()(model, x, 1)
    assert layouts == [True, False, False]

    assert model in gradient._contiguous_only
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


def test_models_that_take_no_views_get_channels_last_and_others_are_not_tried_twice():
    layouts = []

    class Failing(nn.Module):
        def forward(self, x):
            layouts.append(x.is_contiguous(memory_format=torch.channels_last))
            raise RuntimeError("something else")

    with pytest.raises(ModelFailed, match="something else"):
        Gradient()(Failing(), CASES["plain"].images(), 1)
    assert layouts == [True]

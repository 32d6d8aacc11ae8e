"""Chunks cover every row once, also when memory runs out."""

import gc
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from deepviz.errors import ModelFailed
from deepviz.methods import GradCAM, GuidedGradCAM, IntegratedGradients, SmoothGrad
from deepviz.probe import chunks
from deepviz.probe.chunks import ROWS_WITH_GRAPH, ROWS_WITHOUT_GRAPH, chunk_rows, in_chunks, rows_on_gpu, spans
from networks import CASES, METHODS, Small, asked, assert_same


@pytest.fixture(scope="module", autouse=True)
def _memory_as_in_a_fresh_process():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "is_kept", lambda: False)  # a command tested before in this process keeps its memory
        yield


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


def test_a_smaller_chunk_for_a_large_picture_is_none_for_a_small_one():
    model, small, large = nn.Identity(), torch.empty(16, 3, 8, 8), torch.empty(16, 3, 16, 8)
    in_chunks(model, large, Tight(1))
    assert chunk_rows(model, large) == 1
    assert chunk_rows(model, small) == ROWS_WITH_GRAPH
    assert chunk_rows(model, torch.empty(16, 3, 16, 8, device="meta")) > 1
    assert chunk_rows(model, torch.empty(16, 5, 8, 16)) == 1  # as many pixels


def test_one_row_that_does_not_fit_is_named():
    work = Tight(0)
    with pytest.raises(ModelFailed, match=r"even one row \(3, 8, 8\) .*cpu; use a smaller input") as raised:
        in_chunks(nn.Identity(), torch.empty(5, 3, 8, 8), work)
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value.__cause__, torch.OutOfMemoryError)
    assert min(work.tried) == 1


@pytest.fixture(params=[1, 2], ids=["at the first result", "at the second"])
def _no_room_to_join(request, monkeypatch):
    """Memory runs out once, where the place for all rows of a result is made."""
    made, new_empty = 0, torch.Tensor.new_empty

    def once(*args, **kwargs):
        nonlocal made
        made += 1
        if made == request.param:
            raise torch.OutOfMemoryError("simulated")
        return new_empty(*args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "new_empty", once)
    yield
    assert made > request.param


@pytest.mark.usefixtures("_no_room_to_join")
def test_rows_that_are_tried_again_are_stored_once():
    model, x = CASES["plain"].model().eval(), CASES["plain"].images(11)
    leaf = x.clone().requires_grad_()
    expected = model(leaf)[:, 1]
    with asked(model, x, 1) as session:
        (gradients,), values = session.gradient_and_values()
    assert_same(values, expected.detach(), 1e-12)
    assert_same(gradients, torch.autograd.grad(expected.sum(), leaf)[0], 1e-12)


@pytest.mark.usefixtures("_no_room_to_join")
def test_guided_grad_cam_says_of_the_right_rows_that_all_evidence_is_negative(monkeypatch):
    seen = []
    monkeypatch.setattr("deepviz.methods.cams.guided_grad_cam.positive", lambda method, call, cam: seen.append(cam))
    model, x = CASES["plain"].model(), CASES["plain"].images(11)
    GuidedGradCAM(layer="3").attribute(model, x, 1)
    assert_same(seen[0], GradCAM(layer="3", relu=False)(model, x, 1), 1e-12)


def test_other_errors_are_not_tried_again():
    calls = []

    def work(rows):
        calls.append(rows)
        raise KeyError

    with pytest.raises(KeyError):
        in_chunks(nn.Identity(), torch.empty(5, 3, 8, 8), work)
    assert len(calls) == 1


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


def test_chunks_on_a_gpu_grow_with_its_memory():
    sold = {4: 16, 6: 32, 8: 32, 11: 32, 12: 64, 16: 64, 24: 128, 40: 128, 80: 128, 141: 128}
    assert {size: rows_on_gpu(round(0.97 * size * 2**30)) for size in sold} == sold

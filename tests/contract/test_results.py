"""What every method returns, on every network: shape, dtype, and values that only the row and its target decide."""

import pytest
import torch
from torch import nn

from deepviz.errors import LayerError
from deepviz.methods import SmoothGrad
from deepviz.probe import chunks
from deepviz.testing import of_score
from networks import CASES, METHODS, VARIANTS, Case, all_scores, assert_same

pytestmark = pytest.mark.filterwarnings("ignore::deepviz.errors.DeepVizWarning")
methods = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
variants = pytest.mark.parametrize("method", VARIANTS.values(), ids=VARIANTS.keys())
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@methods
@cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_a_map_has_the_images_shape_and_dtype_and_is_finite(method, case, dtype):
    x = case.images(2, dtype)
    maps = method(case.model(dtype), x)
    if maps.shape[1:] != x.shape[1:]:  # a layer method answers at the layer's resolution
        assert maps.shape[:2] == (2, 1)
        assert maps.shape[2] <= x.shape[2]
        assert maps.shape[3] <= x.shape[3]
    assert maps.dtype == dtype
    assert not maps.requires_grad
    assert bool(maps.isfinite().all())


@methods
@cases
def test_a_smaller_dtype_gives_the_same_map_up_to_its_rounding(method, case):
    target = torch.tensor([0, 1])

    def maps(dtype):
        return method(case.model(dtype), case.images(2, dtype), target).double()

    single = maps(torch.float32)
    if not isinstance(method, SmoothGrad):  # float64 draws other noise
        assert float((single - maps(torch.float64)).norm()) <= 1e-4 * float(single.norm())
    assert float((maps(torch.bfloat16) - single).norm()) <= 0.5 * float(single.norm())


@variants
@cases
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=str)
def test_each_row_of_a_batch_is_that_image_alone(method, case, dtype, tolerance):
    model, x = case.model(dtype), case.images(3, dtype)
    together = method(model, x)
    for row in range(3):
        assert_same(together[row : row + 1], method(model, x[row : row + 1]), tolerance)


@variants
@cases
def test_the_chunk_size_does_not_matter(method, case, monkeypatch):
    model, x = case.model(), case.images(3)
    usual = method(model, x)
    for rows in (1, 2, 5, 64):
        monkeypatch.setattr(chunks, "ROWS_WITH_GRAPH", rows)
        monkeypatch.setattr(chunks, "ROWS_WITHOUT_GRAPH", rows)
        assert_same(method(model, x), usual)


@methods
def test_the_chunk_size_does_not_matter_in_single_precision(method, monkeypatch):
    model, x = CASES["plain"].model(torch.float32), CASES["plain"].images(3, torch.float32)
    usual = method(model, x)
    for rows in (1, 2, 5, 64):
        monkeypatch.setattr(chunks, "ROWS_WITH_GRAPH", rows)
        monkeypatch.setattr(chunks, "ROWS_WITHOUT_GRAPH", rows)
        assert_same(method(model, x), usual, 1e-4)


@variants
@cases
def test_the_same_call_gives_the_same_bits(method, case):
    model, x = case.model(), case.images()
    assert torch.equal(method(model, x), method(model, x))


@variants
@cases
def test_the_default_target_is_the_predicted_class_however_it_is_given(method, case):
    model, x = case.model(), case.images()
    with torch.no_grad():
        predicted = all_scores(case.model().eval()(x.clone())).argmax(1)
    by_default = method(model, x)
    assert_same(by_default, method(model, x, predicted))
    for row, label in enumerate(predicted.tolist()):
        alone = x[row : row + 1]
        assert_same(by_default[row : row + 1], method(model, alone, label))
        assert_same(by_default[row : row + 1], method(model, alone, torch.tensor([label], dtype=torch.int32)))
        scored = of_score(method)
        assert_same(scored(model, alone), scored(model, alone, lambda output, k=label: all_scores(output)[:, k]))


@variants
@cases
def test_k_targets_a_row_are_k_separate_calls(method, case):
    model, x = case.model(), case.images()
    target = torch.tensor([[0, 1], [1, 0], [1, 1]])
    together = method(model, x, target)
    assert together.shape[:2] == (3, 2)
    for k in range(2):
        assert_same(together[:, k], method(model, x, target[:, k]))


@methods
def test_the_explained_classes_are_told(method):
    model, x = CASES["plain"].model(), CASES["plain"].images()
    assert torch.equal(method.attribute(model, x).classes, model(x).argmax(1))
    assert method.attribute(model, x, 2).classes.tolist() == [2, 2, 2]
    target = torch.tensor([[0, 1], [1, 0], [1, 1]])
    assert torch.equal(method.attribute(model, x, target).classes, target)
    assert method.attribute(model, x, lambda output: output[:, 0]).classes is None


@methods
def test_memory_layout_and_strides_of_the_input_do_not_matter(method):
    model, x = CASES["plain"].model(), CASES["plain"].images()
    expected = method(model, x, 1)
    assert_same(method(model, x.to(memory_format=torch.channels_last), 1), expected)
    padded = torch.zeros(3, 3, 12, 20, dtype=x.dtype)
    padded[..., 4:16] = x
    assert_same(method(model, padded[..., 4:16], 1), expected)
    assert_same(method(model, x[:1].expand(3, -1, -1, -1), 1), expected[:1].expand(3, -1, -1, -1))


@methods
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3)])
def test_the_smallest_images_work_or_say_why_not(method, size):
    model = Case(lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), GlobalMean(), nn.Linear(4, 3))).model()
    x = Case(lambda: None, (3, *size)).images(2)
    try:
        assert bool(method(model, x).isfinite().all())
    except LayerError:
        assert size == (1, 1)  # a single pixel has no map


class GlobalMean(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))

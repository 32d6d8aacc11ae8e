"""The caller's circumstances do not matter: grad mode, frozen parameters, wrappers, threads."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from networks import CASES, METHODS, assert_same

pytestmark = pytest.mark.filterwarnings("ignore::deepviz.errors.DeepVizWarning")
methods = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
without_layer = pytest.mark.parametrize(
    "method", [method for method in METHODS.values() if not method.requires.layer], ids=str
)
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@methods
@cases
def test_under_no_grad_and_inference_mode(method, case):
    model, x = case.model(), case.images()
    expected = method(model, x)
    with torch.no_grad():
        assert torch.equal(method(model, x), expected)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        assert torch.equal(method(model, x.clone()), expected)  # x itself is an inference tensor
        assert torch.is_inference_mode_enabled()
        target = torch.zeros(3, dtype=torch.long)
        assert torch.equal(method(model, x, target), method(model, x, 0))


@methods
def test_a_result_made_in_inference_mode_can_be_worked_with(method):
    model, x = CASES["plain"].model(), CASES["plain"].images()
    with torch.inference_mode():
        maps = method(model, x)
    assert not maps.is_inference()
    (maps * nn.Parameter(torch.ones((), dtype=maps.dtype))).sum().backward()


@methods
@cases
def test_with_frozen_parameters(method, case):
    model, x = case.model(), case.images()
    expected = method(model, x)
    assert torch.equal(method(model.requires_grad_(False), x), expected)


@methods
def test_with_an_image_that_requires_a_gradient(method):
    model, x = CASES["plain"].model(), CASES["plain"].images()
    assert torch.equal(method(model, x.clone().requires_grad_()), method(model, x))


@methods
def test_a_compiled_model_is_the_model(method):
    model, x = CASES["plain"].model(), CASES["plain"].images()
    expected = method(model, x)
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    assert torch.equal(method(compiled, x), expected)
    inside = nn.Sequential(torch.compile(model[:2], backend="eager"), model[2:])
    assert_same(method(inside, x), expected)
    model.compile(backend="eager")
    model(x)
    assert torch.equal(method(model, x), expected)


@without_layer  # an exported graph has no modules, so no layer to name
def test_an_exported_graph_is_the_model(method):
    model, x = CASES["plain"].model(), CASES["plain"].images()
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
    assert_same(method(exported, x, 1), method(model, x, 1))


@methods
def test_data_parallel_is_its_module(method):
    model, x = CASES["plain"].model(), CASES["plain"].images()
    assert torch.equal(method(nn.DataParallel(model), x), method(model, x))


@methods
def test_under_autocast(method):
    model, x = CASES["plain"].model(torch.float32), CASES["plain"].images(3, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = method(model, x, 1)
    exact = method(model, x, 1)
    assert maps.dtype == torch.float32
    assert float((maps - exact).norm()) <= 0.5 * float(exact.norm())


@methods
def test_two_threads_with_two_models(method):
    cases = [CASES["in-place"], CASES["skip"]]
    models, images = [case.model() for case in cases], [case.images() for case in cases]
    expected = [method(model, x, 1) for model, x in zip(models, images, strict=True)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda turn: method(models[turn % 2], images[turn % 2], 1), range(20)))
    assert all(torch.equal(maps, expected[turn % 2]) for turn, maps in enumerate(found))
    assert torch.is_grad_enabled()


@methods
def test_two_threads_with_one_model_in_eval_mode(method):
    model, x = CASES["skip"].model().eval(), CASES["skip"].images()
    expected = method(model, x, 1)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: method(model, x, 1), range(20)))
    assert all(torch.equal(maps, expected) for maps in found)


@methods
def test_two_threads_with_one_model_in_train_mode(method):
    model, x = CASES["train-mode"].model(), CASES["train-mode"].images()
    before = [module.training for module in model.modules()]
    expected = method(model, x, 1)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: method(model, x, 1), range(20)))
    assert all(torch.equal(maps, expected) for maps in found)
    assert [module.training for module in model.modules()] == before

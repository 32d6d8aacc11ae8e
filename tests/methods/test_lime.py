import numpy as np
import pytest
import torch

from deepviz.errors import ImageError, MethodError
from deepviz.methods import LIME
from deepviz.methods.perturbation.cells import halves
from deepviz.probe.reference import blurred
from networks import READABLE, assert_same
from perturbation_by_hand import coverage, curved, repeats, ridge_regression, table

# of few passes on random weights
pytestmark = pytest.mark.filterwarnings("ignore:the standard error of")


def kernel(z, width):
    """As in the authors' code (github.com/marcotcr/lime, lime_image.py): sqrt(exp(-D^2 / width^2)), D the cosine
    distance from the whole image."""
    cosine = z.sum(1) / (np.linalg.norm(z, axis=1) * np.sqrt(z.shape[1]) + (z.sum(1) == 0))
    return np.sqrt(np.exp(-((1 - cosine) ** 2) / width**2))


@pytest.mark.parametrize(("width", "ridge"), [(0.25, 1.0), (0.5, 0.0), (0.1, 3.0)])
def test_it_is_the_weighted_fit_around_the_image(width, ridge):
    model, x = curved()
    S = table(model, x)
    z = [(1,) * 8, *map(tuple, halves(8, 4, range(1, 120)).int().tolist())]
    ones = np.column_stack([np.ones(120), z]).astype(float)
    w = kernel(np.array(z, float), width)
    b = ridge_regression(ones, np.array([S[one] for one in z]), w, np.array([0.0, *[ridge] * 8]))
    found = LIME(cells=8, max_passes=120, seed=4, width=width, ridge=ridge).attribute(model, x, 1)
    assert_same(found.maps.flatten(), torch.from_numpy(b[1:]), 1e-9)
    assert found.notes.rows["forward passes"].tolist() == [120]


@pytest.mark.parametrize("ridge", [0.0, 1.0])
def test_standard_errors_hold_the_fit_to_all_combinations(ridge):
    """The whole image once, and each other draw any combination with the same probability."""
    model, x = curved()
    S = table(model, x)
    z = np.array(list(S), float)
    w = kernel(z, 0.25) * 199 / 256
    ones = np.column_stack([np.ones(257), np.vstack([z, np.ones(8)])])
    y = np.array([*S.values(), S[(1,) * 8]])
    b = ridge_regression(ones, y, np.append(w, 1), np.array([0.0, *[ridge] * 8]))
    assert 0.92 <= coverage(LIME(cells=8, max_passes=200, ridge=ridge), torch.from_numpy(b[1:])) <= 0.99


def test_of_a_linear_model_without_a_ridge_it_is_exact():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 2)).double()
    x = torch.rand(1, 1, 8, dtype=torch.float64)
    found = LIME(cells=8, max_passes=60, ridge=0).attribute(model, x, 1)
    assert_same(found.maps.flatten(), (x.flatten() * model[1].weight[1]).detach(), 1e-9)
    assert float(found.notes.rows["standard error"]) < 1e-9


def test_too_few_passes():
    model, x = curved()
    with pytest.raises(MethodError, match=r"needs at least 10 forward passes for 8 parts"):
        LIME(cells=8, max_passes=9, ridge=0)(model, x, 1)
    assert LIME(cells=8, max_passes=3)(model, x, 1).isfinite().all()


def test_by_default_the_parts_are_superpixels():
    pytest.importorskip("skimage")
    model, x = READABLE.model(), blurred(READABLE.images(2), 2)
    found = LIME(max_passes=100)(model, x, 1)
    assert found.shape == (2, 1, 10, 12)
    signal = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 2))
    with pytest.raises(ImageError, match="superpixels are parts of images"):
        LIME()(signal, torch.rand(1, 1, 8), 1)


def test_it_repeats():
    repeats(LIME(cells=8, max_passes=100))

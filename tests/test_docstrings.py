import doctest
import importlib
import pkgutil
import warnings

import pytest

import deepviz

MODULES = ["deepviz", *(found.name for found in pkgutil.walk_packages(deepviz.__path__, "deepviz."))]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_true(name):
    module = importlib.import_module(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", deepviz.DeepVizWarning)
        assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is(name):
    assert importlib.import_module(name).__doc__

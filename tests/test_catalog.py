import inspect
from pathlib import Path

import pytest

import deepviz.methods
from deepviz import catalog
from deepviz.methods import GradCAM, Gradient, GuidedBackprop, IntegratedGradients, Method, SmoothGrad
from deepviz.testing import REFERENCE
from small_models import Strange


def test_every_file_of_a_method_is_in_the_catalog():
    files = Path(deepviz.methods.__file__).parent.rglob("*.py")
    found = [name for file in files if (name := file.stem.replace("_", "-")) in catalog.METHODS]
    assert sorted(found) == sorted(catalog.METHODS)
    assert [catalog.stem(cls) for cls in catalog.METHODS.values()] == list(catalog.METHODS)
    concrete = [cls for cls in subclasses(Method) if cls.__module__.startswith("deepviz.methods.")]
    assert {cls for cls in concrete if not inspect.isabstract(cls)} == set(catalog.METHODS.values())


def subclasses(cls):
    return [one for inner in cls.__subclasses__() for one in (inner, *subclasses(inner))]


@pytest.mark.parametrize("name", catalog.METHODS)
def test_every_method_has_a_summary_title_paper_and_cost(name):
    cls = catalog.METHODS[name]
    assert catalog.summary(cls).endswith(".")
    assert cls.title
    assert REFERENCE.search(cls.paper)
    assert cls.cost


@pytest.mark.parametrize(
    ("name", "option"), [(name, option) for name, cls in catalog.METHODS.items() for option in catalog.options(cls)]
)
def test_every_option_is_described_and_reads_its_own_default(name, option):
    assert option.help.endswith(".")
    assert option.kinds or option.choices
    text = catalog.stem(type(option.default)) if isinstance(option.default, Method) else str(option.default)
    assert option.parse(text) == option.default
    assert type(option.parse(text)) is type(option.default)


@pytest.mark.parametrize("spelling", ["grad-cam", "GradCAM", "grad_cam", "Grad-CAM", "gradcam", "GRADCAM"])
def test_a_method_by_any_spelling_of_its_name(spelling):
    assert catalog.find(spelling) is GradCAM


def test_an_unknown_method_names_near_ones():
    with pytest.raises(LookupError, match=r"no method 'grad-cat'; did you mean 'grad-cam'"):
        catalog.find("grad-cat")
    with pytest.raises(LookupError, match=r"no method 'zzz'; there are gradient, guided-backprop"):
        catalog.find("zzz")


def test_a_strangers_method():
    assert catalog.find("small_models:Strange") is Strange
    (option,) = catalog.options(Strange)
    assert (option.name, option.flag, option.takes, option.default) == ("depth", "depth", "a whole number", 3)


@pytest.mark.parametrize("name", ["no_such_module:X", "deepviz.methods:NoSuch", "deepviz.errors:DeepVizError"])
def test_what_is_no_strangers_method(name):
    with pytest.raises(LookupError, match=r"X|NoSuch|is not a subclass"):
        catalog.find(name)


def test_methods_with_options():
    assert catalog.method("smooth-grad", samples=7, of=GuidedBackprop()) == SmoothGrad(GuidedBackprop(), 7)


def options(cls):
    return {option.name: option for option in catalog.options(cls)}


@pytest.mark.parametrize(
    ("cls", "option", "text", "value"),
    [
        (IntegratedGradients, "steps", "20", 20),
        (IntegratedGradients, "tolerance", "0.01", 0.01),
        (IntegratedGradients, "tolerance", "none", None),
        (IntegratedGradients, "baseline", "black", "black"),
        (IntegratedGradients, "baseline", "0.5", 0.5),
        (IntegratedGradients, "multiply_by_input", "no", False),
        (IntegratedGradients, "rule", "trapezoid", "trapezoid"),
        (GradCAM, "layer", "layer4", "layer4"),
        (GradCAM, "layer", "7", "7"),
        (GradCAM, "grid", "14,14", (14, 14)),
        (GradCAM, "grid", "(7, 9)", (7, 9)),
        (GradCAM, "grid", "none", None),
        (GradCAM, "skip", "0", (0,)),
        (GradCAM, "skip", "-1,-2", (-1, -2)),
        (SmoothGrad, "of", "gradient", Gradient()),
        (SmoothGrad, "statistic", "variance", "variance"),
    ],
)
def test_values_from_text(cls, option, text, value):
    parsed = options(cls)[option].parse(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("cls", "option", "text", "message"),
    [
        (IntegratedGradients, "steps", "2.5", "steps must be a whole number or None, got 2.5"),
        (IntegratedGradients, "rule", "trapezium", "did you mean 'trapezoid'"),
        (SmoothGrad, "statistic", "meen", "did you mean 'mean'"),
        (GradCAM, "grid", "14 x 14", "grid must be a tuple of whole numbers"),
        (GradCAM, "relu", "maybe", "relu must be true or false"),
    ],
)
def test_text_that_is_no_value(cls, option, text, message):
    with pytest.raises(ValueError, match=message):
        options(cls)[option].parse(text)


def test_a_family_stands_for_its_methods_but_those_of_thousands_of_passes():
    cams = catalog.members("cams")
    assert "layer-cam" in cams
    assert "gradient" not in cams
    assert set(catalog.families()["cams"]) - set(cams) == {"ss-cam", "is-cam"}
    assert catalog.members("all") == catalog.default_set()
    assert catalog.members("layer-cam") is None

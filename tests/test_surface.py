"""The public names and signatures. A change here is a change for everyone who uses DeepViz: say it in the changelog."""

import inspect
import subprocess
import sys

import pytest

import deepviz

ALL = [
    "BandPreprocess",
    "BlackBox",
    "DeepDream",
    "DeepVizError",
    "DeepVizWarning",
    "Evaluation",
    "Explanation",
    "Generated",
    "ImageGenerator",
    "Inputs",
    "LoadedModel",
    "Preprocess",
    "Run",
    "Sanity",
    "VideoPreprocess",
    "VolumePreprocess",
    "catalog",
    "compare",
    "detector",
    "diff",
    "evaluate",
    "example_photo",
    "explain",
    "explain_each",
    "explain_pair",
    "explain_text",
    "grad_times_image",
    "ground_truth",
    "inversion",
    "load_explanations",
    "load_model",
    "methods",
    "metrics",
    "objectives",
    "report",
    "run",
    "sanity_check",
    "save_explanations",
    "save_figure",
    "save_gradcam",
    "save_gradient_images",
    "shared",
    "sheet",
    "smooth_grad",
    "synthesis",
    "testing",
    "viz_activations",
    "viz_attention",
    "viz_backprop",
    "viz_channels",
    "viz_deconvolution",
    "viz_filters",
    "viz_gradcam",
    "viz_guidedbackprop",
    "viz_guidedgradcam",
    "viz_integrated_gradients",
    "viz_layers",
]
COMMON = "target=None, top_k=1, preprocess=None"
SIGNATURES = {
    "compare": "explanations, settings",
    "detector": "model, read",
    "diff": "one, other, method=None, *, noise=None",
    "explain": "model, images, methods='all', *, target=None, top_k=1, layer=None, preprocess=None, extra=None, "
    "output='auto', fast=None",
    "grad_times_image": f"model, image, *, {COMMON}",
    "ground_truth": "images, labels, truth='folders'",
    "load_explanations": "path",
    "load_model": "spec=None, *, weights=None, preprocess=None, labels=None, output=None, num_classes=None, name=None",
    "report": "explanations, path, *, title=None",
    "run": "model, source, methods='grad-cam', *, out, metrics=(), target=None, top_k=1, layer=None, preprocess=None, "
    "output='auto', boxes=None, masks=None, workers=1, shard_size=256, engine='local', gpus=0.0, ray_address=None, "
    "retry_failed=False, progress=None",
    "save_explanations": "explanations, path",
    "save_figure": "explanations, path, *, scale='own'",
    "save_gradcam": "explanation, path",
    "save_gradient_images": "explanation, path, *, gray=False",
    "sheet": "explanations, *, predictions=(), scale='own'",
    "smooth_grad": "model, image, *, method=viz_backprop, samples=50, noise=0.15, statistic='mean', seed=0, " + COMMON,
    "viz_backprop": f"model, image, *, {COMMON}",
    "viz_deconvolution": f"model, image, *, {COMMON}",
    "viz_gradcam": f"model, image, *, layer=None, relu=True, {COMMON}",
    "viz_guidedbackprop": f"model, image, *, {COMMON}",
    "viz_guidedgradcam": f"model, image, *, layer=None, {COMMON}",
    "viz_integrated_gradients": "model, image, *, steps=None, rule='gauss-legendre', baseline=0.0, tolerance=None, "
    "max_steps=1000, multiply_by_input=True, baselines=None, draws=5, seed=0, " + COMMON,
    "Preprocess": "size, crop=0.875, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), "
    "interpolation='bilinear', fit=None, channels='rgb', centre='round', "
    "longest=None, multiple=1, pad=None, antialias=True",
    "DeepDream": "model, layer=None, *, target=None, objective=None, octaves=4, octave_scale=1.4, steps=12, "
    "lr=0.01, side=None, seed=0, preprocess=None, extra=None",
    "ImageGenerator": "model, target=None, *, objective=None, preset='lucid', canvas=None, transforms=None, "
    "steps=None, lr=None, cooling=None, optimizer=None, penalty=None, start=None, copies=1, seed=0, size=None, "
    "preprocess=None, extra=None",
    "inversion": "model, photo, layer, *, preprocess=None, extra=None, options",
    "viz_activations": "model, image, layer, channels=None, *, preprocess=None",
    "viz_attention": "model, image, layer=None, at=None, *, preprocess=None",
    "viz_channels": "model, layer, channels, photos=None, *, most=6, preprocess=None, progress=None, "
    "drawn=None, looked=None, options",
    "viz_filters": "model, layer=None, *, preprocess=None",
    "viz_layers": "model, image=None, *, preprocess=None",
    "LoadedModel": "module, name, preprocess=None, labels=None, weights='as given', source='module', output='auto', "
    "notes=(), texts=None, arguments=<factory>",
    "Explanation.save": "self, path, view='overlay'",
    "Explanation.overlay": "self, *, cmap=None, scale=None, opacity=None",
    "Explanation.heatmap": "self, *, cmap=None, scale=None",
    "Explanation.plot": "self, ax=None",
}
OPTIONS_OF_0_1 = {
    "GradCAM": "layer=None, relu=True, *, layers=None, join='maximum', grid=None, skip=None",
    "GradTimesImage": "",
    "Gradient": "",
    "GuidedBackprop": "",
    "GuidedGradCAM": "layer=None, grid=None, skip=None",
    "Deconvolution": "",
    "IntegratedGradients": "steps=None, rule='gauss-legendre', baseline=0.0, tolerance=None, max_steps=1000, "
    "multiply_by_input=True, baselines=None, draws=5, seed=0",
    "SmoothGrad": "of=<factory>, samples=50, noise=0.15, statistic='mean', seed=0",
}


def signature(function):
    parts, starred = [], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            parts.append("*")
            starred = True
        default = parameter.default
        shown = getattr(default, "__name__", repr(default))
        parts.append(parameter.name if default is parameter.empty else f"{parameter.name}={shown}")
    return ", ".join(parts)


def public(name):
    value = deepviz
    for part in name.split("."):
        value = getattr(value, part)
    return value


def test_the_public_names():
    assert deepviz.__all__ == ALL
    assert set(dir(deepviz)) == {*ALL, "__version__"}
    assert all(public(name) is not None for name in ALL)
    assert deepviz.__version__


def test_what_does_not_exist():
    with pytest.raises(AttributeError, match="no attribute 'viz_nothing'"):
        deepviz.viz_nothing  # noqa: B018


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name):
    assert signature(public(name)) == SIGNATURES[name]


@pytest.mark.parametrize("name", OPTIONS_OF_0_1)
def test_the_methods_of_0_1_keep_their_options(name):
    cls = getattr(deepviz.methods, name)
    assert signature(cls) == OPTIONS_OF_0_1[name]
    assert cls in deepviz.catalog.METHODS.values()


@pytest.mark.parametrize("cls", deepviz.catalog.METHODS.values(), ids=lambda cls: cls.__name__)
def test_the_catalog_has_every_option_of_every_method_with_its_default(cls):
    parameters = inspect.signature(cls).parameters
    assert [option.name for option in deepviz.catalog.options(cls)] == list(parameters)
    assert cls() == cls(**{option.name: option.default for option in deepviz.catalog.options(cls)})
    assert cls.__name__ in deepviz.methods.__all__


@pytest.mark.parametrize("name", ALL)
def test_every_public_thing_says_what_it_is(name):
    value = public(name)
    assert inspect.getdoc(value)
    if inspect.isclass(value):
        own = [member for member in vars(value) if not member.startswith("_") and callable(getattr(value, member))]
        assert all(inspect.getdoc(getattr(value, member)) for member in own)


def in_a_fresh_process(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_deepviz_does_not_import_torch():
    heavy = "{'torch', 'numpy', 'PIL', 'cyclopts', 'matplotlib'}"
    assert in_a_fresh_process(f"import sys, deepviz; dir(deepviz); print({heavy} & set(sys.modules))") == "set()\n"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_and_version_do_not_import_torch(arguments):
    code = f"import sys; from deepviz.cli import run; run({arguments!r}); print('torch' in sys.modules)"
    assert in_a_fresh_process(code).splitlines()[-1] == "False"


def test_types_are_shipped():
    from pathlib import Path

    assert (Path(deepviz.__file__).parent / "py.typed").is_file()

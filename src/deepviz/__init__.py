"""Explain vision networks: attribution maps, their evaluation, feature visualisations and inner layers.

The public names, loaded on first use, so that `import deepviz` and the command line start without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepviz import catalog, methods, metrics, objectives, synthesis, testing
    from deepviz.api import (
        evaluate,
        explain,
        explain_each,
        explain_pair,
        explain_text,
        grad_times_image,
        sanity_check,
        save_gradcam,
        save_gradient_images,
        smooth_grad,
        viz_backprop,
        viz_deconvolution,
        viz_gradcam,
        viz_guidedbackprop,
        viz_guidedgradcam,
        viz_integrated_gradients,
    )
    from deepviz.errors import DeepVizError, DeepVizWarning
    from deepviz.inputs import Inputs, shared
    from deepviz.inside import viz_activations, viz_attention, viz_channels, viz_filters, viz_layers
    from deepviz.models import (
        BandPreprocess,
        LoadedModel,
        Preprocess,
        VideoPreprocess,
        VolumePreprocess,
        detector,
        example_photo,
        load_model,
    )
    from deepviz.probe.black_box import BlackBox
    from deepviz.results.evaluation import Evaluation
    from deepviz.results.explanation import Explanation, sheet
    from deepviz.results.figures import save_figure
    from deepviz.results.run import Run
    from deepviz.results.run_diff import diff
    from deepviz.results.sanity import Sanity
    from deepviz.results.storage import load_explanations, save_explanations
    from deepviz.runs.dataset_run import run
    from deepviz.runs.truth import ground_truth
    from deepviz.synthesis import DeepDream, Generated, ImageGenerator, inversion
    from deepviz.viewer import compare, report

_MODULES = ("catalog", "methods", "metrics", "objectives", "synthesis", "testing")
_HOMES = (
    "errors",
    "inputs",
    "probe.black_box",
    "models",
    "results.explanation",
    "api",
    "inside",
    "synthesis",
    "results.evaluation",
    "results.sanity",
    "results.storage",
    "runs.truth",
    "results.figures",
    "results.run",
    "results.run_diff",
    "runs.dataset_run",
    "viewer",
)
"""Where the other names live, in the order in which they are looked for: what is quick to import first."""

__all__ = [
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


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("deepviz")
    if name in _MODULES:
        return import_module(f"deepviz.{name}")
    if name in __all__:
        homes = (import_module(f"deepviz.{home}") for home in _HOMES)
        return next(getattr(home, name) for home in homes if hasattr(home, name))
    raise AttributeError(f"module 'deepviz' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

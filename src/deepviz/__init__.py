"""See what a vision network looks at, and what its inner layers have learned.

The public names, loaded on first use, so that `import deepviz` and the command line start without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepviz import catalog, methods, synthesis
    from deepviz.api import (
        explain,
        grad_times_image,
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
    from deepviz.explanation import Explanation, sheet
    from deepviz.inside import viz_activations, viz_channels, viz_filters, viz_layers
    from deepviz.models import LoadedModel, Preprocess, example_photo, load_model
    from deepviz.synthesis import DeepDream, Generated, ImageGenerator, inversion

_HOMES = {
    "deepviz.api": (
        "explain",
        "grad_times_image",
        "save_gradcam",
        "save_gradient_images",
        "smooth_grad",
        "viz_backprop",
        "viz_deconvolution",
        "viz_gradcam",
        "viz_guidedbackprop",
        "viz_guidedgradcam",
        "viz_integrated_gradients",
    ),
    "deepviz.errors": ("DeepVizError", "DeepVizWarning"),
    "deepviz.explanation": ("Explanation", "sheet"),
    "deepviz.inside": ("viz_activations", "viz_channels", "viz_filters", "viz_layers"),
    "deepviz.models": ("LoadedModel", "Preprocess", "example_photo", "load_model"),
    "deepviz.synthesis": ("DeepDream", "Generated", "ImageGenerator", "inversion"),
}
_MODULES = ("catalog", "methods", "synthesis")

__all__ = [
    "DeepDream",
    "DeepVizError",
    "DeepVizWarning",
    "Explanation",
    "Generated",
    "ImageGenerator",
    "LoadedModel",
    "Preprocess",
    "catalog",
    "example_photo",
    "explain",
    "grad_times_image",
    "inversion",
    "load_model",
    "methods",
    "save_gradcam",
    "save_gradient_images",
    "sheet",
    "smooth_grad",
    "synthesis",
    "viz_activations",
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
    if name in _MODULES:
        return import_module(f"deepviz.{name}")
    if name == "__version__":
        from importlib.metadata import version

        return version("deepviz")
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'deepviz' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

"""What the inner layers look like: their tree, their maps of an image, their kernels, what activates them most."""

from deepviz.inside.activations import Activations, viz_activations
from deepviz.inside.channels import Channels, viz_channels
from deepviz.inside.examples import Example, Examples, dataset_examples
from deepviz.inside.filters import Filters, viz_filters
from deepviz.inside.receptive import ReceptiveField
from deepviz.inside.tree import LayerRow, LayerTree, viz_layers

__all__ = [
    "Activations",
    "Channels",
    "Example",
    "Examples",
    "Filters",
    "LayerRow",
    "LayerTree",
    "ReceptiveField",
    "dataset_examples",
    "viz_activations",
    "viz_channels",
    "viz_filters",
    "viz_layers",
]

"""What the inner layers look like: their tree, maps and attention of an image, kernels, what activates them most."""

from deepviz.inside.activations import Activations, viz_activations
from deepviz.inside.attention import viz_attention
from deepviz.inside.attention_rows import Attention
from deepviz.inside.channels import Channels, viz_channels
from deepviz.inside.examples import Example, Examples, dataset_examples
from deepviz.inside.filters import Filters, viz_filters
from deepviz.inside.receptive import ReceptiveField
from deepviz.inside.tree import LayerRow, LayerTree, viz_layers

__all__ = [
    "Activations",
    "Attention",
    "Channels",
    "Example",
    "Examples",
    "Filters",
    "LayerRow",
    "LayerTree",
    "ReceptiveField",
    "dataset_examples",
    "viz_activations",
    "viz_attention",
    "viz_channels",
    "viz_filters",
    "viz_layers",
]

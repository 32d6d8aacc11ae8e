"""Is that true? Measures of an explanation; one file each, found by the catalog."""

from deepviz.metrics.deletion import Deletion
from deepviz.metrics.insertion import Insertion
from deepviz.metrics.metric import Metric

__all__ = ["Deletion", "Insertion", "Metric"]

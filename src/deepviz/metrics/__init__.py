"""Is that true? Measures of an explanation; one file each, found by the catalog."""

from deepviz.metrics.controls import CentreGaussian, EdgeDetector, RandomMap
from deepviz.metrics.curves import CurveMetric
from deepviz.metrics.deletion import Deletion
from deepviz.metrics.insertion import Insertion
from deepviz.metrics.metric import Metric

__all__ = ["CentreGaussian", "CurveMetric", "Deletion", "EdgeDetector", "Insertion", "Metric", "RandomMap"]

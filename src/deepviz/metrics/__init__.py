"""Metrics of explanations; one file each, found by the catalog."""

from deepviz.metrics.agreement import Agreement, agreement
from deepviz.metrics.avg_sensitivity import AvgSensitivity
from deepviz.metrics.completeness import Completeness
from deepviz.metrics.complexity import Complexity
from deepviz.metrics.controls import CentreGaussian, EdgeDetector, InputTimesNoise, RandomMap
from deepviz.metrics.curves import CurveMetric
from deepviz.metrics.deletion import Deletion
from deepviz.metrics.efficient_randomization import EfficientRandomization
from deepviz.metrics.energy_inside import EnergyInside
from deepviz.metrics.faithfulness_correlation import FaithfulnessCorrelation
from deepviz.metrics.infidelity import Infidelity
from deepviz.metrics.insertion import Insertion
from deepviz.metrics.max_sensitivity import MaxSensitivity
from deepviz.metrics.metric import Metric
from deepviz.metrics.parameter_randomization import ParameterRandomization, RandomizationCurve
from deepviz.metrics.pointing_game import PointingGame
from deepviz.metrics.road import ROAD
from deepviz.metrics.sparseness import Sparseness
from deepviz.metrics.top_k_intersection import TopKIntersection

__all__ = [  # noqa: RUF022 - in the order in which tables show them
    "Metric",
    "CurveMetric",
    "Deletion",
    "Insertion",
    "ROAD",
    "Infidelity",
    "FaithfulnessCorrelation",
    "Completeness",
    "MaxSensitivity",
    "AvgSensitivity",
    "ParameterRandomization",
    "EfficientRandomization",
    "PointingGame",
    "EnergyInside",
    "TopKIntersection",
    "Sparseness",
    "Complexity",
    "RandomMap",
    "InputTimesNoise",
    "CentreGaussian",
    "EdgeDetector",
    "RandomizationCurve",
    "Agreement",
    "agreement",
]

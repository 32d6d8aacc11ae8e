"""Feature visualisation: `ImageGenerator`, and what it is made of."""

from deepviz.objectives import (
    L2,
    Channel,
    Direction,
    Diversity,
    Energy,
    Logit,
    Match,
    Neuron,
    Objective,
    Similarity,
    TotalVariation,
)
from deepviz.synthesis.ascent import Step
from deepviz.synthesis.canvas import Canvas, Fourier, Magnitude, Pixels
from deepviz.synthesis.dream import DeepDream
from deepviz.synthesis.generated import Generated
from deepviz.synthesis.generator import ImageGenerator
from deepviz.synthesis.inversion import inversion
from deepviz.synthesis.natural_images import NaturalImages, measured, natural_images
from deepviz.synthesis.presets import PRESETS, Preset
from deepviz.synthesis.transforms import Blur, Crop, Jitter, Noise, Pad, Rotate, Scale, Transform

__all__ = [
    "L2",
    "PRESETS",
    "Blur",
    "Canvas",
    "Channel",
    "Crop",
    "DeepDream",
    "Direction",
    "Diversity",
    "Energy",
    "Fourier",
    "Generated",
    "ImageGenerator",
    "Jitter",
    "Logit",
    "Magnitude",
    "Match",
    "NaturalImages",
    "Neuron",
    "Noise",
    "Objective",
    "Pad",
    "Pixels",
    "Preset",
    "Rotate",
    "Scale",
    "Similarity",
    "Step",
    "TotalVariation",
    "Transform",
    "inversion",
    "measured",
    "natural_images",
]

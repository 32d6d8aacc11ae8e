"""What is explained, or what an image is generated for: a class, a number, a channel, a similarity, and sums of them.

deepviz.explain(model, image, target=Logit(281) - Logit(282))      # why this class and not that
deepviz.ImageGenerator(model, objective=Channel("layer4", 3))()
"""

from deepviz.objectives.bound import Bound, Target, bind
from deepviz.objectives.box import Box, Boxes, Detection, NothingDetected
from deepviz.objectives.candidates import Candidates
from deepviz.objectives.classes import Logit, Predicted, Probability
from deepviz.objectives.expression import parse
from deepviz.objectives.finer import Finer
from deepviz.objectives.function import Function
from deepviz.objectives.image import L2, TotalVariation
from deepviz.objectives.layers import Channel, Direction, Diversity, Energy, Match, Neuron
from deepviz.objectives.objective import Choosing, Objective, Several, Sum
from deepviz.objectives.output import Output
from deepviz.objectives.pixels import NoRegion, Pixels, Region, Regions
from deepviz.objectives.record import from_plain, to_plain
from deepviz.objectives.rest import ReST
from deepviz.objectives.similarity import Similarity
from deepviz.objectives.text import Text
from deepviz.probe.seen import Seen

__all__ = [
    "L2",
    "Bound",
    "Box",
    "Boxes",
    "Candidates",
    "Channel",
    "Choosing",
    "Detection",
    "Direction",
    "Diversity",
    "Energy",
    "Finer",
    "Function",
    "Logit",
    "Match",
    "Neuron",
    "NoRegion",
    "NothingDetected",
    "Objective",
    "Output",
    "Pixels",
    "Predicted",
    "Probability",
    "ReST",
    "Region",
    "Regions",
    "Seen",
    "Several",
    "Similarity",
    "Sum",
    "Target",
    "Text",
    "TotalVariation",
    "bind",
    "from_plain",
    "parse",
    "to_plain",
]

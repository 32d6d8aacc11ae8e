"""Where does it look? One file per method; every `Method` imported here is in the catalog."""

from deepviz.methods.deconvolution import Deconvolution
from deepviz.methods.grad_cam import GradCAM
from deepviz.methods.grad_times_image import GradTimesImage
from deepviz.methods.gradient import Gradient
from deepviz.methods.guided_backprop import GuidedBackprop
from deepviz.methods.guided_grad_cam import GuidedGradCAM
from deepviz.methods.integrated_gradients import IntegratedGradients
from deepviz.methods.method import Attribution, Method
from deepviz.methods.smooth_grad import SmoothGrad

# in the order of the catalog: sheets, forms and tables follow it
__all__ = [  # noqa: RUF022
    "Gradient",
    "GuidedBackprop",
    "Deconvolution",
    "IntegratedGradients",
    "GradTimesImage",
    "SmoothGrad",
    "GradCAM",
    "GuidedGradCAM",
    "Attribution",
    "Method",
]

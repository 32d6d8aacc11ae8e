"""Attribution methods. One file per method; every `Method` imported here is in the catalog."""

from deepviz.methods.cams.grad_cam import GradCAM
from deepviz.methods.cams.guided_grad_cam import GuidedGradCAM
from deepviz.methods.gradients.deconvolution import Deconvolution
from deepviz.methods.gradients.grad_times_image import GradTimesImage
from deepviz.methods.gradients.gradient import Gradient
from deepviz.methods.gradients.guided_backprop import GuidedBackprop
from deepviz.methods.gradients.integrated_gradients import IntegratedGradients
from deepviz.methods.gradients.smooth_grad import SmoothGrad
from deepviz.methods.method import Attribution, Method
from deepviz.methods.needs import Needs

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
    "Needs",
]

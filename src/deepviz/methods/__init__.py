"""Attribution methods. One file per method; every `Method` imported here is in the catalog."""

from deepviz.methods.attention.attention_rollout import AttentionRollout
from deepviz.methods.attention.generic_attention import GenericAttention
from deepviz.methods.attention.le_grad import LeGrad
from deepviz.methods.attention.token_similarity import TokenSimilarity
from deepviz.methods.cams.ablation_cam import AblationCAM
from deepviz.methods.cams.cam import CAM
from deepviz.methods.cams.eigen_cam import EigenCAM
from deepviz.methods.cams.eigen_grad_cam import EigenGradCAM
from deepviz.methods.cams.fem import FEM
from deepviz.methods.cams.full_grad import FullGrad
from deepviz.methods.cams.grad_cam import GradCAM
from deepviz.methods.cams.grad_cam_plus_plus import GradCAMPlusPlus
from deepviz.methods.cams.guided import Guided
from deepviz.methods.cams.guided_grad_cam import GuidedGradCAM
from deepviz.methods.cams.hi_res_cam import HiResCAM
from deepviz.methods.cams.is_cam import ISCAM
from deepviz.methods.cams.layer_cam import LayerCAM
from deepviz.methods.cams.layer_map import ActivationMap, EvidenceMap, GradientMap, LayerMap
from deepviz.methods.cams.recipro_cam import ReciproCAM
from deepviz.methods.cams.refine_cam import RefineCAM
from deepviz.methods.cams.score_cam import ScoreCAM
from deepviz.methods.cams.shapley_cam import ShapleyCAM
from deepviz.methods.cams.ss_cam import SSCAM
from deepviz.methods.cams.x_grad_cam import XGradCAM
from deepviz.methods.gradients.blur_ig import BlurIG
from deepviz.methods.gradients.deconvolution import Deconvolution
from deepviz.methods.gradients.expected_gradients import ExpectedGradients
from deepviz.methods.gradients.grad_times_image import GradTimesImage
from deepviz.methods.gradients.gradient import Gradient
from deepviz.methods.gradients.guided_backprop import GuidedBackprop
from deepviz.methods.gradients.guided_ig import GuidedIG
from deepviz.methods.gradients.integrated_gradients import IntegratedGradients
from deepviz.methods.gradients.meaningful_perturbation import MeaningfulPerturbation
from deepviz.methods.gradients.smooth_grad import SmoothGrad
from deepviz.methods.gradients.xrai import XRAI
from deepviz.methods.method import Attribution, Method
from deepviz.methods.needs import Needs
from deepviz.methods.perturbation.feature_ablation import FeatureAblation
from deepviz.methods.perturbation.hsic import HSIC
from deepviz.methods.perturbation.kernel_shap import KernelSHAP
from deepviz.methods.perturbation.lime import LIME
from deepviz.methods.perturbation.occlusion import Occlusion
from deepviz.methods.perturbation.perturbation_map import PerturbationMap, SampledMap
from deepviz.methods.perturbation.rise import RISE
from deepviz.methods.perturbation.shapley_sampling import ShapleySampling
from deepviz.methods.perturbation.sobol import Sobol

# in the order of the catalog: sheets, forms and tables follow it
__all__ = [  # noqa: RUF022
    "Gradient",
    "GuidedBackprop",
    "Deconvolution",
    "IntegratedGradients",
    "ExpectedGradients",
    "BlurIG",
    "GuidedIG",
    "XRAI",
    "MeaningfulPerturbation",
    "GradTimesImage",
    "SmoothGrad",
    "GradCAM",
    "GuidedGradCAM",
    "CAM",
    "GradCAMPlusPlus",
    "XGradCAM",
    "LayerCAM",
    "HiResCAM",
    "EigenCAM",
    "EigenGradCAM",
    "FEM",
    "AblationCAM",
    "ScoreCAM",
    "SSCAM",
    "ISCAM",
    "ReciproCAM",
    "ShapleyCAM",
    "FullGrad",
    "RefineCAM",
    "Guided",
    "ActivationMap",
    "EvidenceMap",
    "GradientMap",
    "LayerMap",
    "AttentionRollout",
    "GenericAttention",
    "LeGrad",
    "TokenSimilarity",
    "Occlusion",
    "FeatureAblation",
    "RISE",
    "ShapleySampling",
    "KernelSHAP",
    "LIME",
    "Sobol",
    "HSIC",
    "PerturbationMap",
    "SampledMap",
    "Attribution",
    "Method",
    "Needs",
]

"""Which library computes what the papers say: closed-form answers on small networks, for DeepViz and its peers.

    python benchmarks/conformance.py [--markdown FILE] [--only DeepViz]

Every row is a question with an answer derived by hand (explicit masks and weights, or `autograd` of the untouched
network, one image at a time; never by a library). A cell is

    right         the answer, to 1e-5 of its largest value
    wrong         another answer, with its largest error relative to the answer's largest value, or what was changed
    refuses       the library itself raises, and says why
    crashes       an error from somewhere below, which does not say what the matter is
    not offered   the library has no such method or option

"refuses" is told from "crashes" by the traceback: the innermost frame is the library's own `raise` or `assert`.
Peers are used as their documentation says, in eval mode, with the options that give the definition asked for.
The exit code is 1 if DeepViz fails a row.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import io
import linecache
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import deepviz
import deepviz.methods as dv
from deepviz import objectives
from deepviz.models.torchvision_shim import import_torchvision

TOLERANCE = 1e-5
CLASS = 1


class NotOffered(Exception):
    """The library has no such method or option."""


class Wrong(Exception):
    """An answer that is wrong in a way that no number says."""


# ------------------------------------------------------------------------------- what is asked of a model's output


@dataclass(frozen=True)
class Score:
    """A target that is no class: one number a row, of the model's raw output and perhaps of a tensor with a row each.

    Each library is given it in its own way: an objective, a forward function, a target for each row, a gradient.
    """

    of: Callable[..., Tensor]
    """From the output (n, ...), and `to` if there is one, to (n,)."""
    objective: Any = None
    """How DeepViz is told; None: the function itself."""
    to: Tensor | None = None
    """(N, ...)."""

    def __call__(self, output: Any) -> Tensor:
        return self.of(output) if self.to is None else self.of(output, self.to)

    def row(self, number: int) -> Callable[[Any], Tensor]:
        """For a library that gives a target one row of the output."""
        rows = replace(self, to=None if self.to is None else self.to[number : number + 1])
        return lambda output: rows(output[None])[0]


class Kept(nn.Module):
    """The usual way out where a model takes several tensors: a wrapper with one input that keeps the others."""

    def __init__(self, model: nn.Module, *extra: Tensor) -> None:
        super().__init__()
        self.model, self.extra = model.eval(), extra
        self.training = False

    def forward(self, x: Tensor) -> Any:
        return self.model(x, *self.extra)


def wrapped(
    model: nn.Module, extra: tuple[Tensor, ...] | None, layer: str | None = None
) -> tuple[nn.Module, str | None]:
    """The model, in a wrapper if there is something beside the image; and its layer's name there."""
    if extra is None:
        return model, layer
    return Kept(model, *extra), None if layer is None else f"model.{layer}"


# ------------------------------------------------------------------------------------------------ the libraries


class Library:
    """One library's way to each method; whatever it does not define is not offered."""

    name: str
    package: str
    distribution: str
    scaled_cam = False
    """Its Grad-CAM comes scaled to 0 ... 1 by minimum and maximum; the expected map then is, too."""

    def gradient(self, model: nn.Module, x: Tensor, target: Any, extra: Any = None) -> Tensor:
        """`target`: a class, one for each row, or a `Score`; `extra`: tensors with a row for each image."""
        raise NotOffered

    def guided(self, model: nn.Module, x: Tensor, target: Any) -> Tensor:
        raise NotOffered

    def deconvolution(self, model: nn.Module, x: Tensor, target: Any) -> Tensor:
        raise NotOffered

    def integrated(
        self, model: nn.Module, x: Tensor, target: Any, rule: str | None = None, extra: Any = None
    ) -> Tensor:
        """Baseline 0, 50 points; rule None is the library's default."""
        raise NotOffered

    def path(self) -> tuple[Any, Any]:
        """The points and weights of its default rule."""
        nodes, weights = np.polynomial.legendre.leggauss(50)
        return (nodes + 1) / 2, weights / 2

    def completeness_gap(self, model: nn.Module, x: Tensor, target: Any) -> Tensor:
        """|S(x) - S(0) - sum R|, as the library reports it for its integrated gradients."""
        raise NotOffered

    def smooth(self, model: nn.Module, x: Tensor, target: Any, extra: Any = None) -> Tensor:
        """20 samples of the signed gradient, noise 0.1 of the range."""
        raise NotOffered

    def cam(self, model: nn.Module, x: Tensor, target: Any, layer: str | None, extra: Any = None) -> Tensor:
        """(N, 1, h, w); layer None is found by the library."""
        raise NotOffered

    def laid_cam(self, model: nn.Module, x: Tensor, target: Any, layer: str, lay: Callable[[Tensor], Tensor]) -> Tensor:
        """With a function that brings the layer's output to (N, D, h, w)."""
        raise NotOffered

    def probability(self, model: nn.Module, x: Tensor, target: Any, output: str) -> list[float | None]:
        """What is shown beside the map of each image, for what the output is said to be."""
        raise NotOffered

    def signed_cam(self, model: nn.Module, x: Tensor, target: Any, layer: str) -> Tensor:
        raise NotOffered

    def guided_cam(self, model: nn.Module, x: Tensor, target: Any, layer: str) -> Tensor:
        raise NotOffered

    def feature_map(self, method: str, model: nn.Module, x: Tensor, target: Any, layer: str) -> Tensor:
        """A map of the activations of a layer, (N, 1, h, w), by the name of `FEATURE_MAPS`."""
        raise NotOffered

    def expected(self, model: nn.Module, x: Tensor, target: int, baselines: Tensor) -> Tensor:
        """Expected gradients of 20 samples, each with one of the baselines (M, C, H, W)."""
        raise NotOffered

    def le_grad(self, model: nn.Module, x: Tensor, target: int) -> Tensor:
        """LeGrad of `Attending`, (N, 1, h, w)."""
        raise NotOffered

    several_targets = False
    """Whether K classes a row, (N, K), are one call."""
    sets_eval_mode = False
    """Whether it explains the model in eval mode, whatever mode it was left in."""


class DeepViz(Library):
    name, package, distribution = "DeepViz", "deepviz", "deepviz"
    several_targets = sets_eval_mode = True

    def asked(self, target):
        return target.objective or target if isinstance(target, Score) else target

    def gradient(self, model, x, target, extra=None):
        return dv.Gradient()(model, x, self.asked(target), extra=extra)

    def guided(self, model, x, target):
        return dv.GuidedBackprop()(model, x, target)

    def deconvolution(self, model, x, target):
        return dv.Deconvolution()(model, x, target)

    def integrated(self, model, x, target, rule=None, extra=None):
        method = dv.IntegratedGradients(steps=50, rule=rule or "gauss-legendre")
        return method(model, x, self.asked(target), extra=extra)

    def completeness_gap(self, model, x, target):
        notes = dv.IntegratedGradients(steps=50, rule="left").attribute(model, x, target).notes
        return notes.rows["completeness gap"]

    def smooth(self, model, x, target, extra=None):
        return dv.SmoothGrad(samples=20, noise=0.1)(model, x, self.asked(target), extra=extra)

    def cam(self, model, x, target, layer, extra=None):
        return dv.GradCAM(layer=layer)(model, x, self.asked(target), extra=extra)

    def laid_cam(self, model, x, target, layer, lay):
        return dv.GradCAM(layer=layer, grid=lay)(model, x, target)

    def probability(self, model, x, target, output):
        shown = deepviz.explain(deepviz.load_model(model, output=output), x, "gradient", target=target)
        return [explanation.target.probability for explanation in shown]

    def signed_cam(self, model, x, target, layer):
        return dv.GradCAM(layer=layer, relu=False)(model, x, target)

    def guided_cam(self, model, x, target, layer):
        return dv.GuidedGradCAM(layer=layer)(model, x, target)

    maps = {  # noqa: RUF012
        "CAM": dv.CAM(),
        "Grad-CAM++": dv.GradCAMPlusPlus(),
        "XGrad-CAM": dv.XGradCAM(),
        "LayerCAM": dv.LayerCAM(),
        "HiResCAM": dv.HiResCAM(),
        "ShapleyCAM": dv.ShapleyCAM(),
        "Ablation-CAM": dv.AblationCAM(),
        "Score-CAM": dv.ScoreCAM(),
        "IS-CAM": dv.ISCAM(steps=2),
        "Eigen-CAM": dv.EigenCAM(),
        "FEM": dv.FEM(k=2.0),
        "FullGrad": dv.FullGrad(),
    }

    def feature_map(self, method, model, x, target, layer):
        if method == "FullGrad":
            return self.maps[method](model, x, target)
        return replace(self.maps[method], layer=layer)(model, x, target)

    def expected(self, model, x, target, baselines):
        return dv.ExpectedGradients(baselines=list(baselines), samples=20)(model, x, target)

    def le_grad(self, model, x, target):
        return dv.LeGrad()(model, x, target)


class Captum(Library):
    name, package, distribution = "Captum", "captum", "captum"
    rules = {  # noqa: RUF012
        "gauss-legendre": "gausslegendre",
        "midpoint": "riemann_middle",
        "trapezoid": "riemann_trapezoid",
        "left": "riemann_left",
    }

    def asked(self, model, target, extra=None):
        """Its forward function, and the arguments of `attribute`: a `Score` is a part of the function."""
        given = {"target": target, "additional_forward_args": extra}
        if isinstance(target, Score):
            if target.to is None:
                return lambda *inputs: target.of(model(*inputs)), {}
            return lambda x, to: target.of(model(x), to), {"additional_forward_args": (target.to,)}
        return model, {name: value for name, value in given.items() if value is not None}

    def gradient(self, model, x, target, extra=None):
        from captum.attr import Saliency

        forward, given = self.asked(model, target, extra)
        return Saliency(forward).attribute(x, abs=False, **given)

    def guided(self, model, x, target):
        from captum.attr import GuidedBackprop

        return GuidedBackprop(model).attribute(x, target)

    def deconvolution(self, model, x, target):
        from captum.attr import Deconvolution

        return Deconvolution(model).attribute(x, target)

    def integrated(self, model, x, target, rule=None, extra=None):
        from captum.attr import IntegratedGradients

        forward, given = self.asked(model, target, extra)
        if rule:
            given["method"] = self.rules[rule]
        return IntegratedGradients(forward).attribute(x, **given)

    def completeness_gap(self, model, x, target):
        from captum.attr import IntegratedGradients

        _, gap = IntegratedGradients(model).attribute(
            x, target=target, method="riemann_left", return_convergence_delta=True
        )
        return (gap / (model(x) - model(0 * x))[:, target]).abs().detach()

    def smooth(self, model, x, target, extra=None):
        from captum.attr import NoiseTunnel, Saliency

        noise = 0.1 * float(x.max() - x.min())
        forward, given = self.asked(model, target, extra)
        return NoiseTunnel(Saliency(forward)).attribute(
            x, nt_type="smoothgrad", nt_samples=20, stdevs=noise, abs=False, **given
        )

    def cam(self, model, x, target, layer, extra=None):
        from captum.attr import LayerGradCam

        if layer is None:
            raise NotOffered
        forward, given = self.asked(model, target, extra)
        return LayerGradCam(forward, model.get_submodule(layer)).attribute(x, relu_attributions=True, **given)

    def signed_cam(self, model, x, target, layer):
        from captum.attr import LayerGradCam

        return LayerGradCam(model, model.get_submodule(layer)).attribute(x, target)

    def guided_cam(self, model, x, target, layer):
        from captum.attr import GuidedGradCam

        return GuidedGradCam(model, model.get_submodule(layer)).attribute(x, target, interpolate_mode="bilinear")

    def feature_map(self, method, model, x, target, layer):
        from captum.attr import LayerGradientXActivation

        if method != "HiResCAM":
            raise NotOffered
        found = LayerGradientXActivation(model, model.get_submodule(layer)).attribute(x, target)
        return found.sum(1, keepdim=True).relu()

    def expected(self, model, x, target, baselines):
        from captum.attr import GradientShap

        return GradientShap(model).attribute(x, baselines, n_samples=20, target=target)


class GradCamPackage(Library):
    name, package, distribution = "grad-cam", "pytorch_grad_cam", "grad-cam"
    scaled_cam = sets_eval_mode = True

    def guided(self, model, x, target):
        from pytorch_grad_cam import GuidedBackpropReLUModel

        def one(row: int) -> Tensor:
            wanted = int(target[row]) if isinstance(target, Tensor) else target
            return torch.from_numpy(GuidedBackpropReLUModel(model)(x[row : row + 1], wanted)).movedim(-1, 0)

        if len(x) == 1:  # its result is written to the gradient of the tensor that it is given
            return torch.from_numpy(GuidedBackpropReLUModel(model)(x, target)).movedim(-1, 0)[None]
        return torch.stack([one(row) for row in range(len(x))])

    def cam(self, model, x, target, layer, extra=None, lay=None):
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        if layer is None:
            raise NotOffered
        model, layer = wrapped(model, extra, layer)
        if target is None:
            targets = None
        elif isinstance(target, Score):
            targets = [target.row(number) for number in range(len(x))]
        else:
            targets = [ClassifierOutputTarget(int(one)) for one in torch.as_tensor(target).expand(len(x))]
        with GradCAM(model=model, target_layers=[model.get_submodule(layer)], reshape_transform=lay) as cam:
            found = cam(input_tensor=x, targets=targets)
        return torch.from_numpy(found).unsqueeze(1)

    def laid_cam(self, model, x, target, layer, lay):
        return self.cam(model, x, target, layer, lay=lay)

    maps = {  # noqa: RUF012
        "Grad-CAM++": "GradCAMPlusPlus",
        "XGrad-CAM": "XGradCAM",
        "LayerCAM": "LayerCAM",
        "HiResCAM": "HiResCAM",
        "ShapleyCAM": "ShapleyCAM",
        "Ablation-CAM": "AblationCAM",
        "Score-CAM": "ScoreCAM",
        "Eigen-CAM": "EigenCAM",
        "FEM": "FEM",
        "FullGrad": "FullGrad",
    }

    def feature_map(self, method, model, x, target, layer):
        import pytorch_grad_cam
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        if method not in self.maps:
            raise NotOffered
        targets = [ClassifierOutputTarget(int(one)) for one in torch.as_tensor(target).expand(len(x))]
        layers = [] if method == "FullGrad" else [model.get_submodule(layer)]
        with getattr(pytorch_grad_cam, self.maps[method])(model=model, target_layers=layers) as cam:
            return torch.from_numpy(cam(input_tensor=x.clone(), targets=targets)).unsqueeze(1)


class TorchCAM(Library):
    name, package, distribution = "TorchCAM", "torchcam", "torchcam"

    def laid_cam(self, model, x, target, layer, lay):
        return self.cam(model, x, target, layer, lay=lay)

    def cam(self, model, x, target, layer, extra=None, lay=None):
        from torchcam.methods import GradCAM

        model, layer = wrapped(model, extra, layer)
        given: dict[str, Any] = {"class_idx": target.tolist() if isinstance(target, Tensor) else target}
        if isinstance(target, Score):
            given = {"targets": [target.row(number) for number in range(len(x))]}
        with GradCAM(model, layer, input_shape=tuple(x.shape[1:]), reshape_transform=lay) as extractor:
            (found,) = extractor(scores=model(x), normalized=False, **given)
        return found.unsqueeze(1)

    maps = {  # noqa: RUF012
        "CAM": ("CAM", {"fc_layer": "head"}),
        "Grad-CAM++": ("GradCAMpp", {}),
        "XGrad-CAM": ("XGradCAM", {}),
        "LayerCAM": ("LayerCAM", {}),
        "Score-CAM": ("ScoreCAM", {}),
        "IS-CAM": ("ISCAM", {"num_samples": 2}),
    }

    def feature_map(self, method, model, x, target, layer):
        import torchcam.methods

        if method not in self.maps:
            raise NotOffered
        name, options = self.maps[method]
        classes = target.tolist() if isinstance(target, Tensor) else target
        cls = getattr(torchcam.methods, name)
        with cls(model, layer, input_shape=tuple(x.shape[1:]), **options) as extractor:
            (found,) = extractor(class_idx=classes, scores=model(x), normalized=False)
        found = found.unsqueeze(1).detach()
        return found if method == "CAM" else found.relu()  # its maps are signed

    def le_grad(self, model, x, target):
        from torchcam.methods import LeGrad

        grid = (x.shape[2] // 2, x.shape[3] // 2)
        with LeGrad(model, "block", score_projection=model.above, prefix_tokens=0, grid_shape=grid) as extractor:
            (found,) = extractor(class_idx=target, scores=model(x), normalized=False)
        return found.unsqueeze(1)


class Zennit(Library):
    name, package, distribution = "Zennit", "zennit", "zennit"

    def _attribute(self, attributor, model, x, target):
        def gradient(output):
            with torch.enable_grad():
                return torch.autograd.grad(target(output).sum(), output, retain_graph=True)[0]

        with attributor:
            _, found = attributor(x, gradient if isinstance(target, Score) else self._one_hot(model, x, target))
        return found

    def path(self):
        return torch.linspace(1 / 50, 1, 50).tolist(), [1 / 50] * 50

    def _one_hot(self, model, x, target):
        if target is None:
            raise NotOffered
        with torch.no_grad():
            output = model(x.clone())
        chosen = torch.zeros_like(output)
        chosen[torch.arange(len(x)), target] = 1
        return chosen

    def gradient(self, model, x, target, extra=None):
        from zennit.attribution import Gradient

        model, _ = wrapped(model, extra)
        return self._attribute(Gradient(model), model, x, target)

    def guided(self, model, x, target):
        from zennit.attribution import Gradient
        from zennit.composites import GuidedBackprop

        return self._attribute(Gradient(model, GuidedBackprop()), model, x, target)

    def deconvolution(self, model, x, target):
        from zennit.attribution import Gradient
        from zennit.composites import DeconvNet

        return self._attribute(Gradient(model, DeconvNet()), model, x, target)

    def integrated(self, model, x, target, rule=None, extra=None):
        from zennit.attribution import IntegratedGradients

        if rule:
            raise NotOffered
        model, _ = wrapped(model, extra)
        return self._attribute(IntegratedGradients(model, n_iter=50), model, x, target)

    def smooth(self, model, x, target, extra=None):
        from zennit.attribution import SmoothGrad

        model, _ = wrapped(model, extra)
        return self._attribute(SmoothGrad(model, noise_level=0.1, n_iter=20), model, x, target)


LIBRARIES: list[Library] = [DeepViz(), Captum(), GradCamPackage(), TorchCAM(), Zennit()]


# -------------------------------------------------------------------------------------------------- judgement


@dataclass(frozen=True)
class Cell:
    verdict: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.verdict} ({self.detail})" if self.detail else self.verdict


@dataclass(frozen=True)
class Row:
    """A question; `ask` raises, or returns the error of the library's answer (0 for a yes)."""

    question: str
    ask: Callable[[Library], float]
    refusal: bool = False
    """Whether an error that says why is the right answer."""

    def passed(self, cell: Cell) -> bool:
        return cell.verdict == "right" or (self.refusal and cell.verdict == "refuses")


SECTIONS: dict[str, list[Row]] = {}
_section = ""


def section(title: str) -> None:
    global _section
    _section = title
    SECTIONS[title] = []


def row(question: str, refusal: bool = False) -> Callable[[Callable[[Library], float]], Any]:
    def register(ask: Callable[[Library], float]) -> Callable[[Library], float]:
        SECTIONS[_section].append(Row(question, ask, refusal))
        return ask

    return register


def error(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest expected value."""
    if tuple(found.shape) != tuple(expected.shape):
        raise Wrong(f"shape {tuple(found.shape)} for {tuple(expected.shape)}")
    if not bool(torch.isfinite(found).all()):
        raise Wrong("NaN")
    scale = float(expected.abs().max()) or 1.0
    return float((found.detach().double() - expected.detach().double()).abs().max()) / scale


def cam_error(library: Library, found: Tensor, expected: Tensor) -> float:
    if library.scaled_cam:
        low, high = expected.amin((1, 2, 3), keepdim=True), expected.amax((1, 2, 3), keepdim=True)
        expected = (expected - low) / (high - low).clamp_min(1e-7)
    return error(found, expected)


def judge(ask: Callable[[Library], float], library: Library) -> Cell:
    try:
        with quiet(), torch.random.fork_rng():
            torch.manual_seed(0)
            found = ask(library)
    except NotOffered:
        return Cell("not offered")
    except Wrong as wrong:
        return Cell("wrong", str(wrong))
    except Exception as raised:
        return Cell("refuses" if raised_by(library, raised) else "crashes", type(raised).__name__)
    if found <= TOLERANCE:
        return Cell("right")
    return Cell("wrong", f"{found:.0%}" if found >= 0.01 else f"{found:.0e}")


def raised_by(library: Library, raised: BaseException) -> bool:
    """Whether the library itself raised: the innermost frame is its own `raise` or `assert`."""
    frame = traceback.extract_tb(raised.__traceback__)[-1]
    root = importlib.util.find_spec(library.package).submodule_search_locations[0]
    line = linecache.getline(frame.filename, frame.lineno).strip()
    said = line.startswith("raise ") or isinstance(raised, AssertionError)
    return frame.filename.startswith(root) and said


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    said = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        warnings.simplefilter("ignore")
        yield


# --------------------------------------------------------------------------------------------------- networks


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def filled(model: nn.Module, seed: int = 2) -> nn.Module:
    """The model in double precision and eval mode, its parameters standard normal, over the root of their inputs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.double().parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
            parameter.div_(max(1, parameter[0].numel()) ** 0.5)
    return model.eval()


class TwoLayers(nn.Module):
    """S = W3 a(W2 a(W1 x + b1) + b2) + b3, with `a` written in some way."""

    def __init__(self, first: Callable[[Tensor], Tensor], second: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(24, 30), nn.Linear(30, 20), nn.Linear(20, 3)
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return self.three(self.second(self.two(self.first(self.one(x.flatten(1))))))


def by_masks(model: Any, x: Tensor, k: int, guided: bool, high: float = float("inf")) -> Tensor:
    """The paper's rule on `TwoLayers`, written out; `high` is 6 for ReLU6."""
    with torch.no_grad():
        h1 = x.flatten(1) @ model.one.weight.T + model.one.bias
        h2 = h1.clip(0, high) @ model.two.weight.T + model.two.bias
        R = model.three.weight[k].expand_as(h2)
        for h, W in ((h2, model.two.weight), (h1, model.one.weight)):
            R = R * (R > 0) * ((h > 0) & (h < high) if guided else 1)
            R = R @ W
        return R.view_as(x)


def thrown_away(operator: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def act(h: Tensor) -> Tensor:
        operator(h)
        return h

    return act


def pair(make: Callable[[], Any]) -> tuple[Any, Any]:
    return make(), make()


def reused() -> tuple[Any, Any]:
    act = nn.ReLU()
    return act, act


RELUS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "`nn.ReLU()`": lambda: pair(nn.ReLU),
    "`nn.ReLU(inplace=True)`": lambda: pair(lambda: nn.ReLU(inplace=True)),
    "one `nn.ReLU()`, called twice": reused,
    "`F.relu(h)`": lambda: (F.relu, F.relu),
    "`F.relu(h, inplace=True)`, result unused": lambda: pair(lambda: thrown_away(lambda h: F.relu(h, inplace=True))),
    "`torch.relu_(h)`, result unused": lambda: pair(lambda: thrown_away(torch.relu_)),
    "`h.relu()`": lambda: pair(lambda: lambda h: h.relu()),
    "`h.clamp(min=0)`": lambda: pair(lambda: lambda h: h.clamp(min=0)),
}
IMAGES = (3, 2, 3, 4)


class BesideSkip(nn.Module):
    """S = V (relu(h) - 2 h), h = W x: the rule belongs to the ReLU's edge only."""

    def __init__(self) -> None:
        super().__init__()
        self.W, self.V, self.relu = nn.Linear(24, 30, bias=False), nn.Linear(30, 3, bias=False), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        h = self.W(x.flatten(1))
        return self.V(self.relu(h) - 2 * h)


class ConvNet(nn.Module):
    """relu(conv(x)) at the image's resolution, its mean, a linear layer: Grad-CAM = relu(sum_k W_ck A_k) / (h w)."""

    def __init__(self, inplace: bool = False, wrap: Callable[[Tensor], Any] = lambda scores: scores) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(inplace)
        self.head, self.wrap = nn.Linear(4, 3), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.head(self.relu(self.conv(x)).mean((2, 3))))


def features(model: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return F.conv2d(x, model.conv.weight, model.conv.bias, padding=1).clip(0)


def cam_by_hand(model: Any, x: Tensor, k: int | Tensor = CLASS) -> Tensor:
    A = features(model, x)
    W = model.head.weight.detach()[torch.as_tensor(k).expand(len(x))]
    return torch.einsum("nk,nkhw->nhw", W, A).unsqueeze(1) / (A.shape[2] * A.shape[3])


def gradient_by_hand(model: Any, x: Tensor, k: int | Tensor = CLASS) -> Tensor:
    """dS/dx of `ConvNet`: the masked weights, convolved back."""
    A = features(model, x)
    W = model.head.weight.detach()[torch.as_tensor(k).expand(len(x))]
    arriving = W[:, :, None, None] * (A > 0) / (A.shape[2] * A.shape[3])
    return F.conv_transpose2d(arriving, model.conv.weight.detach(), padding=1)


class Cubic(nn.Module):
    """S_k = w_k . x^3: integrated gradients from 0 are w_k x^3 exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(24, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1) ** 3)


class Quadratic(nn.Module):
    """S_k = w_k . x^2 / 2, whose gradient is w_k x."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(24, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1) ** 2 / 2)


def linear() -> nn.Module:
    return filled(nn.Sequential(nn.Flatten(), nn.Linear(24, 3)))


class Tokens(nn.Module):
    """Patches of 2 x 2 and a class token through a block; pooled by their mean, or read off the class token."""

    def __init__(self, pool: str, width: int = 5) -> None:
        super().__init__()
        self.patch, self.cls = nn.Conv2d(2, width, 2, stride=2), nn.Parameter(torch.zeros(1, 1, width))
        self.block, self.norm = nn.Linear(width, width), nn.Linear(width, width)
        self.attention, self.head, self.pool = Mixing(), nn.Linear(width, 3), pool

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = self.block(torch.cat([self.cls.expand(len(x), -1, -1), tokens], 1))
        if self.pool == "mean":
            return self.head(tokens[:, 1:].mean(1))
        tokens = self.norm(tokens)
        return self.head((tokens + self.attention(tokens))[:, 0])


class Mixing(nn.Module):
    """What attention does to tokens when all of them attend to all alike."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.mean(1, keepdim=True).expand_as(tokens)


def tokens_by_hand(model: Any, x: Tensor) -> Tensor:
    """Grad-CAM at the tokens that reach the mean: sum_k w_k T_k, w_k the mean gradient of a patch token."""
    with torch.no_grad():
        T = model.block(model.patch(x).flatten(2).transpose(1, 2))
        h, w = x.shape[2] // 2, x.shape[3] // 2
        if model.pool == "mean":
            weights = model.head.weight[CLASS] / (h * w)
        else:
            T = model.norm(T)
            weights = model.head.weight[CLASS] / (h * w + 1)
        return (T @ weights).clip(0).view(len(x), 1, h, w)


class Viewing(nn.Module):
    """Flattens its feature maps with `view`, which needs them contiguous."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(48, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv(x)).view(len(x), -1))


class ScalesInPlace(nn.Module):
    """Begins by normalising its input in place."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.sub_(0.5).mul_(2).flatten(1))


# ------------------------------------------------------------------------------------------ rules for rectifiers

section("Guided backpropagation and deconvolution: R = [x > 0] [R' > 0] R' and [R' > 0] R'")


def ask_relu(method: str, make: Callable[[], tuple[Any, Any]]) -> Callable[[Library], float]:
    def ask(library: Library) -> float:
        model, x = filled(TwoLayers(*make())), numbers(*IMAGES)
        return error(getattr(library, method)(model, x, CLASS), by_masks(model, x, CLASS, method == "guided"))

    return ask


for _method in ("guided", "deconvolution"):
    for _spelling, _make in RELUS.items():
        row(f"{_method}: {_spelling}")(ask_relu(_method, _make))


def ask_skip(method: str) -> Callable[[Library], float]:
    def ask(library: Library) -> float:
        model, x = filled(BesideSkip()), numbers(*IMAGES)
        W, V = model.W.weight.detach(), model.V.weight.detach()
        R = V[CLASS]
        mask = (x.flatten(1) @ W.T > 0) if method == "guided" else 1
        expected = (((R > 0) * R * mask - 2 * R) @ W).expand(len(x), -1)
        return error(getattr(library, method)(model, x, CLASS), expected.reshape(x.shape))

    return ask


def ask_relu6(method: str) -> Callable[[Library], float]:
    def ask(library: Library) -> float:
        model, x = filled(TwoLayers(nn.ReLU6(), nn.ReLU6())), 10 * numbers(*IMAGES)
        expected = by_masks(model, x, CLASS, method == "guided", high=6)
        return error(getattr(library, method)(model, x, CLASS), expected)

    return ask


for _method in ("guided", "deconvolution"):
    row(f"{_method}: the input of a ReLU also feeds a skip")(ask_skip(_method))
    row(f"{_method}: `nn.ReLU6()`, 0 < x < 6")(ask_relu6(_method))


@row("guided: `torch.maximum(h, 0)` is not answered by a plain gradient", refusal=True)
def _(library: Library) -> float:
    def act(h: Tensor) -> Tensor:
        return torch.maximum(h, torch.zeros_like(h))

    return ask_relu("guided", lambda: (act, act))(library)


@row("guided: a network without a rectifier is not answered by a plain gradient", refusal=True)
def _(library: Library) -> float:
    model = filled(TwoLayers(torch.tanh, torch.tanh))
    library.guided(model, numbers(*IMAGES), CLASS)
    raise Wrong("plain gradient, unsaid")


@row("guided: a scripted model is not answered by a plain gradient", refusal=True)
def _(library: Library) -> float:
    model, x = filled(TwoLayers(nn.ReLU(), nn.ReLU())), numbers(*IMAGES)
    expected = by_masks(model, x, CLASS, guided=True)
    scripted = torch.jit.script(
        nn.Sequential(nn.Flatten(), model.one, model.first, model.two, model.second, model.three)
    )
    return error(library.guided(scripted, x, CLASS), expected)


@row("guided: a compiled model (`torch.compile`), which has run before")
def _(library: Library) -> float:
    model, x = filled(TwoLayers(nn.ReLU(), nn.ReLU())), numbers(*IMAGES)
    expected = by_masks(model, x, CLASS, guided=True)
    compiled = torch.compile(model, backend="aot_eager")
    compiled(x)
    return error(library.guided(compiled, x, CLASS), expected)


@row("Guided Grad-CAM: signed guided map times the Grad-CAM, not rescaled")
def _(library: Library) -> float:
    model, x = filled(ConvNet()), numbers(3, 2, 4, 6)
    A, W = features(model, x), model.head.weight.detach()[CLASS]
    arriving = (W.clip(0)[:, None, None] * (A > 0)) / 24
    G = F.conv_transpose2d(arriving, model.conv.weight.detach(), padding=1)
    return error(library.guided_cam(model, x, CLASS, "relu"), G * cam_by_hand(model, x).clip(0))


# -------------------------------------------------------------------------------------------- integrated gradients

section("Integrated gradients, 50 points from a baseline of 0")


def ask_linear(rule: str | None) -> Callable[[Library], float]:
    def ask(library: Library) -> float:
        model, x = linear(), numbers(*IMAGES)
        return error(library.integrated(model, x, CLASS, rule), x * model[1].weight[CLASS].view(x.shape[1:]))

    return ask


for _rule in (None, "gauss-legendre", "midpoint", "trapezoid", "left"):
    row(f"linear network, {_rule or 'default'} rule: x w exactly")(ask_linear(_rule))


@row("cubic network, default rule: w x³")
def _(library: Library) -> float:
    model, x = filled(Cubic()), numbers(*IMAGES)
    return error(library.integrated(model, x, CLASS), x**3 * model.head.weight[CLASS].view(x.shape[1:]))


@row("the completeness gap of the left rule on a quadratic network is reported: 1/50")
def _(library: Library) -> float:
    model, x = filled(Quadratic()), numbers(*IMAGES)
    found = library.completeness_gap(model, x, CLASS)  # sum of k/n 1/n over k < n is (n - 1)/(2 n), not 1/2
    return error(found, torch.full((3,), 1 / 50, dtype=torch.float64))


# -------------------------------------------------------------------------------------------------------- Grad-CAM

section("Grad-CAM: relu(Σ w A), at a network where it is relu(CAM) / (h w)")


def ask_cam(layer: str | None, inplace: bool = False) -> Callable[[Library], float]:
    def ask(library: Library) -> float:
        model, x = filled(ConvNet(inplace)), numbers(3, 2, 4, 6)
        expected = cam_by_hand(model, x).clip(0)
        if layer is None:  # TorchCAM tries the model on float32 zeros
            return cam_error(library, library.cam(model.float(), x.float(), CLASS, None), expected)
        return cam_error(library, library.cam(model, x, CLASS, layer), expected)

    return ask


row("layer given")(ask_cam("relu"))
row("layer found by the library")(ask_cam(None))
row("an in-place ReLU as the layer")(ask_cam("relu", inplace=True))


@row("a layer whose output an in-place ReLU overwrites")
def _(library: Library) -> float:
    model, x = filled(ConvNet(inplace=True)), numbers(3, 2, 4, 6)
    A, W = F.conv2d(x, model.conv.weight, model.conv.bias, padding=1), model.head.weight[CLASS]
    w = ((A > 0).double() * W[:, None, None] / 24).mean((2, 3), keepdim=True)
    return cam_error(library, library.cam(model, x, CLASS, "conv"), (w * A).sum(1, keepdim=True).clip(0).detach())


class Dead(ConvNet):
    """No unit is ever on."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.conv(x) - 1000).mean((2, 3)))


class Against(ConvNet):
    """All evidence is against every class."""

    def forward(self, x: Tensor) -> Tensor:
        return -self.relu(self.conv(x).abs()).mean((2, 3))


EMPTY = {"an all-zero map": Dead, "a map of all-negative evidence": Against}


def ask_zero(build: Callable[[], nn.Module]) -> Callable[[Library], float]:
    def ask(library: Library) -> float:
        x = numbers(3, 2, 4, 6)
        return error(library.cam(filled(build()), x, CLASS, "relu"), torch.zeros(3, 1, 4, 6))

    return ask


def ask_told(build: Callable[[], nn.Module]) -> Callable[[Library], float]:
    def ask(library: Library) -> float:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            library.cam(filled(build()), numbers(3, 2, 4, 6), CLASS, "relu")
        if not any("zero" in str(warning.message) for warning in told):
            raise NotOffered
        return 0.0

    return ask


for _what, _build in EMPTY.items():
    row(f"{_what} is zero (no noise, no NaN)")(ask_zero(_build))
    row(f"{_what}: the user is told")(ask_told(_build))


@row("evidence of the same size everywhere is not drawn as no evidence")
def _(library: Library) -> float:
    class Constant(ConvNet):
        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.conv(x) * 0 + 1).mean((2, 3))

    found = library.cam(filled(Constant()), numbers(3, 2, 4, 6), CLASS, "relu")
    if not bool(found.any()):
        raise Wrong("blank")
    return error(found / found.amax(), torch.ones(3, 1, 4, 6))


@row("the signed map, without the ReLU, can be asked for")
def _(library: Library) -> float:
    model, x = filled(ConvNet()), numbers(3, 2, 4, 6)
    return error(library.signed_cam(model, x, CLASS, "relu"), cam_by_hand(model, x))


def ask_tokens(pool: str, layer: str | None) -> Callable[[Library], float]:
    def ask(library: Library) -> float:
        model, x = filled(Tokens(pool)), numbers(3, 2, 6, 8)
        expected = tokens_by_hand(model, x)
        if layer is None:
            return cam_error(library, library.cam(model.float(), x.float(), CLASS, None), expected)
        return cam_error(library, library.cam(model, x, CLASS, layer), expected)

    return ask


row("ViT, no reshape function given: layer given")(ask_tokens("mean", "block"))
row("ViT read off its class token: the last layer whose patches matter is found")(ask_tokens("class", None))

# ------------------------------------------------------------------------------------------------ batch and targets

section("Batches and targets")


def each_alone(ask: Callable[[Library, nn.Module, Tensor, Any], Tensor], build: Callable[[], nn.Module]) -> Any:
    def compare(library: Library) -> float:
        model, x, target = filled(build()), numbers(3, 2, 4, 6), torch.tensor([0, 2, 1])
        together = ask(library, model, x, target)
        alone = torch.cat([ask(library, model, x[row : row + 1], int(target[row])) for row in range(3)])
        return error(together, alone)

    return compare


row("Grad-CAM of a batch, one class a row: what each image gives alone")(
    each_alone(lambda library, model, x, target: library.cam(model, x, target, "relu"), ConvNet)
)
row("gradient of a batch, one class a row: what each image gives alone")(
    each_alone(lambda library, model, x, target: library.gradient(model, x, target), ConvNet)
)


@row("several classes for each row in one call, (N, K)")
def _(library: Library) -> float:
    if not library.several_targets:
        raise NotOffered
    model, x = filled(ConvNet()), numbers(3, 2, 4, 6)
    found = library.gradient(model, x, torch.tensor([[0, 2], [1, 0], [2, 1]]))
    columns = [gradient_by_hand(model, x, torch.tensor(column)) for column in ([0, 1, 2], [2, 0, 1])]
    return error(found, torch.stack(columns, 1))


@row("no class given: the predicted one (Grad-CAM)")
def _(library: Library) -> float:
    model, x = filled(ConvNet()), numbers(3, 2, 4, 6)
    predicted = model.head(features(model, x).mean((2, 3))).argmax(1)
    return cam_error(library, library.cam(model, x, None, "relu"), cam_by_hand(model, x, predicted).clip(0))


@row("a class that the model does not have", refusal=True)
def _(library: Library) -> float:
    ask = library.cam if isinstance(library, (GradCamPackage, TorchCAM)) else library.gradient
    ask(filled(ConvNet()), numbers(3, 2, 4, 6), 7, *(["relu"] if ask == library.cam else []))
    raise Wrong("answered")


@row("a single logit, (N, 1): its gradient")
def _(library: Library) -> float:
    model, x = filled(nn.Sequential(nn.Flatten(), nn.Linear(24, 1))), numbers(*IMAGES)
    if isinstance(library, DeepViz):
        found = dv.Gradient()(model, x, 1, output="binary")
    else:
        found = library.gradient(model, x, 0)
    return error(found, model[1].weight.view(1, *x.shape[1:]).expand_as(x))


# -------------------------------------------------------------------------------------------------------- manners

section("Model, input and caller left as they were")


def state(model: nn.Module) -> dict[str, Any]:
    """What a call must not change."""
    modules = dict(model.named_modules())
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "modules": {name: id(module) for name, module in modules.items()},
        "hooks": {name: [len(getattr(module, kind)) for kind in hooks] for name, module in modules.items()},
        "train flags": {name: module.training for name, module in modules.items()},
        "parameters": {name: value.detach().clone().numpy().tobytes() for name, value in model.state_dict().items()},
        "requires_grad": {name: value.requires_grad for name, value in model.named_parameters()},
        "gradients": {
            name: None if value.grad is None else value.grad.numpy().tobytes()
            for name, value in model.named_parameters()
        },
    }


def unchanged(before: dict[str, Any], after: dict[str, Any]) -> float:
    changed = [what for what in before if before[what] != after[what]]
    if changed:
        raise Wrong("changed: " + ", ".join(changed))
    return 0.0


class Failing(nn.Module):
    """Raises after its first layers."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.armed = body, True

    def forward(self, x: Tensor) -> Tensor:
        scores = self.body(x)
        if self.armed:
            raise KeyError("half way")
        return scores


METHODS: dict[str, Callable[[Library, nn.Module, Tensor, str], Tensor]] = {
    "gradient": lambda library, model, x, prefix: library.gradient(model, x, CLASS),
    "guided backprop": lambda library, model, x, prefix: library.guided(model, x, CLASS),
    "Grad-CAM": lambda library, model, x, prefix: library.cam(model, x, CLASS, prefix + "relu"),
}


def with_gradients(model: nn.Module) -> nn.Module:
    """As in the middle of training: gradients are there, one parameter is frozen."""
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    next(model.parameters()).requires_grad_(False)
    return model


def ask_state(method: str, fails: bool) -> Callable[[Library], float]:
    def ask(library: Library) -> float:
        model = filled(ConvNet(inplace=True))
        model = with_gradients(Failing(model).eval() if fails else model)
        before = state(model)
        try:
            METHODS[method](library, model, numbers(1, 2, 4, 6), "body." if fails else "")
        except KeyError:
            pass
        except RuntimeError as raised:
            if not isinstance(raised.__cause__, KeyError):
                raise
        return unchanged(before, state(model))

    return ask


for _method in METHODS:
    row(f"{_method}: the model after success")(ask_state(_method, fails=False))
    row(f"{_method}: the model after it raised half way")(ask_state(_method, fails=True))


@row("a model left in train mode is explained as in eval mode, and its flags put back")
def _(library: Library) -> float:
    if not library.sets_eval_mode:
        raise NotOffered
    model = filled(ConvNet())
    model.conv = nn.Sequential(model.conv, nn.BatchNorm2d(4), nn.Dropout(0.9)).double().train()
    x = numbers(3, 2, 4, 6)
    before = state(model)
    found = library.cam(model, x, CLASS, "relu")
    A = (F.conv2d(x, model.conv[0].weight, model.conv[0].bias, padding=1) / (1 + 1e-5) ** 0.5).clip(0)
    expected = torch.einsum("k,nkhw->nhw", model.head.weight[CLASS], A).unsqueeze(1).clip(0) / 24
    return unchanged(before, state(model)) + error(found, expected.detach())


def ask_input(method: str) -> Callable[[Library], float]:
    def ask(library: Library) -> float:
        x = numbers(1, 2, 4, 6)
        values, version = x.clone(), x._version
        METHODS[method](library, filled(ConvNet()), x, "")
        changed = {
            "values": not torch.equal(x, values) or x._version != version,
            "requires_grad": x.requires_grad,
            "gradient": x.grad is not None,
        }
        if any(changed.values()):
            raise Wrong("changed: " + ", ".join(what for what, is_so in changed.items() if is_so))
        return 0.0

    return ask


for _method in METHODS:
    row(f"{_method}: the input")(ask_input(_method))


@row("a model that scales its input in place: the gradient")
def _(library: Library) -> float:
    model, x = filled(ScalesInPlace()), numbers(*IMAGES)
    expected = 2 * model.head.weight[CLASS].view(1, *x.shape[1:]).expand_as(x)
    return error(library.gradient(model, x, CLASS), expected)


CALLERS = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}


def ask_caller(method: str, caller: str) -> Callable[[Library], float]:
    def ask(library: Library) -> float:
        model, x = filled(ConvNet()), numbers(3, 2, 4, 6)
        with CALLERS[caller]():
            found = METHODS[method](library, model, x.clone(), "")
        if method == "gradient":
            return error(found, gradient_by_hand(model, x))
        return cam_error(library, found, cam_by_hand(model, x).clip(0))

    return ask


for _caller in CALLERS:
    for _method in ("gradient", "Grad-CAM"):
        row(f"{_method} for a caller under `{_caller}`")(ask_caller(_method, _caller))


@row("Grad-CAM with all parameters frozen")
def _(library: Library) -> float:
    model, x = filled(ConvNet()).requires_grad_(False), numbers(3, 2, 4, 6)
    return cam_error(library, library.cam(model, x, CLASS, "relu"), cam_by_hand(model, x).clip(0))


# ---------------------------------------------------------------------------------------------------- noise, models

section("Noise")


@row("SmoothGrad of signed gradients on a linear network: w")
def _(library: Library) -> float:
    model, x = linear(), numbers(*IMAGES)
    return error(library.smooth(model, x, CLASS), model[1].weight[CLASS].view(1, *x.shape[1:]).expand_as(x))


@row("SmoothGrad repeats itself, without a seed set for all of torch")
def _(library: Library) -> float:
    model, x = filled(Quadratic()), numbers(*IMAGES)
    return error(library.smooth(model, x, CLASS), library.smooth(model, x, CLASS))


@row("SmoothGrad leaves torch's random state alone")
def _(library: Library) -> float:
    model, x = filled(Quadratic()), numbers(*IMAGES)
    before = torch.get_rng_state()
    library.smooth(model, x, CLASS)
    if not torch.equal(before, torch.get_rng_state()):
        raise Wrong("changed")
    return 0.0


@row("SmoothGrad, the same seed: a row does not depend on the rest of the batch")
def _(library: Library) -> float:
    model, x = filled(Quadratic()), numbers(*IMAGES)
    x = x / (x.amax((1, 2, 3), keepdim=True) - x.amin((1, 2, 3), keepdim=True))  # the same noise for each row
    torch.manual_seed(0)
    together = library.smooth(model, x, CLASS)[1:2]
    torch.manual_seed(0)
    return error(together, library.smooth(model, x[1:2], CLASS))


section("Models as people write them")


def ask_output(method: str, wrap: Callable[[Tensor], Any]) -> Callable[[Library], float]:
    def ask(library: Library) -> float:
        model, x = filled(ConvNet(wrap=wrap)), numbers(3, 2, 4, 6)
        found = METHODS[method](library, model, x, "")
        if method == "gradient":
            return error(found, gradient_by_hand(model, x))
        return cam_error(library, found, cam_by_hand(model, x).clip(0))

    return ask


@dataclass
class Answer:
    """As transformers' model outputs, in short."""

    logits: Tensor
    hidden_states: Any = None


OUTPUTS: dict[str, Callable[[Tensor], Any]] = {
    'a dictionary, `["logits"]`': lambda scores: {"logits": scores},
    "a tuple with the scores second": lambda scores: (scores.sum(), scores),
    "a dataclass": Answer,
}
for _what, _wrap in OUTPUTS.items():
    for _method in ("gradient", "Grad-CAM"):
        row(f"{_method} of a model that returns {_what}, without a wrapper")(ask_output(_method, _wrap))


@row("a CNN that flattens with `view`: the gradient")
def _(library: Library) -> float:
    model, x = filled(Viewing()), numbers(3, 2, 3, 4)
    on = F.conv2d(x, model.conv.weight, model.conv.bias, padding=1) > 0
    arriving = model.head.weight[CLASS].view(4, 3, 4) * on
    expected = F.conv_transpose2d(arriving, model.conv.weight, padding=1)
    return error(library.gradient(model, x, CLASS), expected.detach())


@row("a compiled model (`torch.compile`), which has run before: Grad-CAM")
def _(library: Library) -> float:
    model, x = filled(ConvNet()), numbers(3, 2, 4, 6)
    expected = cam_by_hand(model, x).clip(0)
    compiled = torch.compile(model, backend="aot_eager")
    compiled(x)
    layer = "relu" if library.name == "DeepViz" else "_orig_mod.relu"
    return cam_error(library, library.cam(compiled, x, CLASS, layer), expected)


@row("a bfloat16 model: Grad-CAM (to its 3 digits)")
def _(library: Library) -> float:
    model, x = filled(ConvNet()), numbers(3, 2, 4, 6)
    expected = cam_by_hand(model, x).clip(0)
    off = cam_error(library, library.cam(model.bfloat16(), x.bfloat16(), CLASS, "relu"), expected)
    return off if off > 0.03 else 0.0


@row("a model with NaN in its weights", refusal=True)
def _(library: Library) -> float:
    model = filled(ConvNet())
    with torch.no_grad():
        model.head.weight[CLASS, 0] = float("nan")
    METHODS["Grad-CAM" if isinstance(library, (GradCamPackage, TorchCAM)) else "gradient"](
        library, model, numbers(1, 2, 4, 6), ""
    )
    raise Wrong("answered")


class Frozen(ConvNet):
    """A frozen backbone, which the model itself runs under `no_grad`."""

    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            A = self.relu(self.conv(x))
        return self.head(A.mean((2, 3)))


class Checkpointed(ConvNet):
    """Activation checkpointing, as training on little memory leaves it on."""

    reentrant = False

    def forward(self, x: Tensor) -> Any:
        A = checkpoint(lambda z: self.relu(self.conv(z)), x, use_reentrant=self.reentrant)
        return self.head(A.mean((2, 3)))


class CheckpointedReentrant(Checkpointed):
    reentrant = True


class TensorImage(Tensor):
    """As fastai's or MONAI's: results keep the type."""


def ask_written(method: str, build: Callable[[], nn.Module], kind: type[Tensor] = Tensor) -> Callable[[Library], float]:
    def ask(library: Library) -> float:
        model, x = filled(build()), numbers(3, 2, 4, 6)
        if method == "Grad-CAM":
            return cam_error(
                library, METHODS[method](library, model, as_kind(x, kind), ""), cam_by_hand(model, x).clip(0)
            )
        expected = gradient_by_hand(model, x)
        if method == "guided backprop":
            W = model.head.weight.detach()[CLASS].clip(0)
            arriving = W[:, None, None] * (features(model, x) > 0) / 24
            expected = F.conv_transpose2d(arriving, model.conv.weight.detach(), padding=1)
        if method == "guided backprop" and isinstance(library, GradCamPackage):  # of one image, so as not to be refused
            x, expected = x[:1], expected[:1]
        return error(METHODS[method](library, model, as_kind(x, kind), ""), expected)

    return ask


def as_kind(x: Tensor, kind: type[Tensor]) -> Tensor:
    return x if kind is Tensor else x.as_subclass(kind)


WRITTEN = {
    "a frozen backbone under the model's own `no_grad`": Frozen,
    "activation checkpointing": Checkpointed,
    "activation checkpointing with reentry": CheckpointedReentrant,
}
for _what, _build in WRITTEN.items():
    for _method in METHODS:
        if "frozen" not in _what or _method != "guided backprop":
            row(f"{_what}: {_method}")(ask_written(_method, _build))
for _method in METHODS:
    row(f"an image that is a subclass of `Tensor`: {_method}")(ask_written(_method, ConvNet, TensorImage))


@row("an image that is a subclass of `Tensor`: SmoothGrad on a linear network")
def _(library: Library) -> float:
    model, x = linear(), numbers(*IMAGES)
    found = library.smooth(model, x.as_subclass(TensorImage), CLASS)
    return error(found.as_subclass(Tensor), model[1].weight[CLASS].view(1, *x.shape[1:]).expand_as(x))


@row("a scripted model, Grad-CAM at one of its layers: the map, or an error of one line", refusal=True)
def _(library: Library) -> float:
    pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    model, x = filled(nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), *pooled)), numbers(3, 2, 4, 6)
    w = torch.eye(3, dtype=torch.float64)[CLASS] / 24
    expected = torch.einsum("k,nkhw->nhw", w, model[:2](x)).unsqueeze(1).detach()
    try:
        return cam_error(library, library.cam(torch.jit.script(model), x, CLASS, "1"), expected)
    except deepviz.DeepVizError as refusal:
        if "\n" in str(refusal):
            raise Wrong("more than one line") from refusal
        raise


# ----------------------------------------------------------------------------------------------- side information

section("More than one tensor: a table with a row for each image, beside the image")


class WithTable(nn.Module):
    """S_k = (V t)_k u_k . x: the gradient is (V t)_k u_k, and integrated gradients are x times that."""

    def __init__(self) -> None:
        super().__init__()
        self.u, self.V = nn.Linear(24, 3, bias=False), nn.Linear(5, 3, bias=False)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        return self.u(x.flatten(1)) * self.V(table)


def table_gradient(model: Any, x: Tensor, table: Tensor) -> Tensor:
    factors = table @ model.V.weight[CLASS].detach()
    return factors[:, None, None, None] * model.u.weight[CLASS].detach().view(1, *x.shape[1:])


TABLE = numbers(3, 5, seed=3)
BESIDE = {
    "gradient": lambda library, model, x, extra: library.gradient(model, x, CLASS, extra=extra),
    "integrated gradients": lambda library, model, x, extra: library.integrated(model, x, CLASS, extra=extra),
    "SmoothGrad": lambda library, model, x, extra: library.smooth(model, x, CLASS, extra=extra),
}


def ask_table(method: str) -> Callable[[Library], float]:
    def ask(library: Library) -> float:
        model, x = filled(WithTable()), numbers(*IMAGES)
        G = table_gradient(model, x, TABLE)
        return error(BESIDE[method](library, model, x, (TABLE,)), x * G if method.startswith("integrated") else G)

    return ask


class ConvTable(ConvNet):
    """The table says which channels count."""

    def forward(self, x: Tensor, table: Tensor) -> Any:
        return self.head(self.relu(self.conv(x)).mean((2, 3)) * table[:, :4])


@row("Grad-CAM, each image with its own row")
def _(library: Library) -> float:
    model, x = filled(ConvTable()), numbers(3, 2, 4, 6)
    W = model.head.weight.detach()[CLASS] * TABLE[:, :4]
    expected = torch.einsum("nk,nkhw->nhw", W, features(model, x)).unsqueeze(1).clip(0) / 24
    return cam_error(library, library.cam(model, x, CLASS, "relu", extra=(TABLE,)), expected)


class KeptRepeated(Kept):
    """A wrapper that repeats what it keeps for as many rows as arrive."""

    def forward(self, x: Tensor) -> Any:
        return self.model(x, *(tensor.repeat(len(x) // len(tensor), 1) for tensor in self.extra))


def ask_kept(method: str, wrapper: type[Kept]) -> Callable[[Library], float]:
    def ask(library: Library) -> float:
        model, x = filled(WithTable()), numbers(*IMAGES)
        G = table_gradient(model, x, TABLE)
        found = BESIDE[method](library, wrapper(model, TABLE), x, None)
        return error(found, x * G if method.startswith("integrated") else G)

    return ask


for _method in BESIDE:
    row(f"{_method}, each image with its own row")(ask_table(_method))
for _method in BESIDE:
    row(f"{_method}, the table kept on a wrapper: right, or refused", refusal=True)(ask_kept(_method, Kept))
for _method in BESIDE:
    _question = f"{_method}, the table kept on a wrapper that repeats it: right, or refused"
    row(_question, refusal=True)(ask_kept(_method, KeptRepeated))


class WithMatrix(nn.Module):
    """S_k = u_k . (M x), M mixing the channels: a matrix that all images share."""

    def __init__(self) -> None:
        super().__init__()
        self.u = nn.Linear(36, 3, bias=False)

    def forward(self, x: Tensor, M: Tensor) -> Tensor:
        return self.u(torch.einsum("cd,ndhw->nchw", M, x).flatten(1))


@row("integrated gradients of three images, with a 3 x 3 matrix that they share")
def _(library: Library) -> float:
    model, x, M = filled(WithMatrix()), numbers(3, 3, 3, 4), numbers(3, 3, seed=5)
    G = torch.einsum("cd,chw->dhw", M, model.u.weight[CLASS].detach().view(3, 3, 4))
    if isinstance(library, DeepViz):
        return error(library.integrated(model, x, CLASS, extra=(deepviz.shared(M),)), x * G)
    # Captum's additional_forward_args have a row for each example, so there it is kept too
    return error(library.integrated(Kept(model, M), x, CLASS), x * G)


# -------------------------------------------------------------------------------------------------- rows of a batch

section("Rows: each as if it were alone")


class BatchNormalised(nn.Module):
    """BatchNorm without running statistics: what is said of an image depends on what else is in the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4, track_running_stats=False)
        self.relu, self.head = nn.ReLU(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.norm(self.conv(x))).mean((2, 3)) ** 2)


def gradient_alone(model: nn.Module, x: Tensor, k: int = CLASS) -> Tensor:
    """`autograd` of the untouched model, one image at a time."""

    def one(image: Tensor) -> Tensor:
        leaf = image[None].clone().requires_grad_()
        return torch.autograd.grad(model(leaf).reshape(1, -1)[0, k], leaf)[0]

    return torch.cat([one(image) for image in x])


def cam_alone(model: Any, x: Tensor, k: int = CLASS) -> Tensor:
    """Grad-CAM at the ReLU of `BatchNormalised`, one image at a time."""

    def one(image: Tensor) -> Tensor:
        A = model.relu(model.norm(model.conv(image[None]))).detach().requires_grad_()
        dA = torch.autograd.grad(model.head(A.mean((2, 3)) ** 2)[0, k], A)[0]
        return (dA.mean((2, 3), keepdim=True) * A).sum(1, keepdim=True).clip(0).detach()

    return torch.cat([one(image) for image in x])


UNLIKE = numbers(3, 2, 4, 6) * torch.tensor([1.0, 3.0, 0.5])[:, None, None, None] + 0.5


@row("BatchNorm without running statistics, three images: gradient")
def _(library: Library) -> float:
    model = filled(BatchNormalised())
    return error(library.gradient(model, UNLIKE, CLASS), gradient_alone(model, UNLIKE))


@row("BatchNorm without running statistics, three images: Grad-CAM")
def _(library: Library) -> float:
    model = filled(BatchNormalised())
    return cam_error(library, library.cam(model, UNLIKE, CLASS, "relu"), cam_alone(model, UNLIKE))


@row("BatchNorm without running statistics, one image: integrated gradients, each point of the path alone")
def _(library: Library) -> float:
    model, x = filled(BatchNormalised()), UNLIKE[:1]
    expected = x * sum(w * gradient_alone(model, t * x) for t, w in zip(*library.path(), strict=True))
    return error(library.integrated(model, x, CLASS), expected)


class Random(ConvNet):
    """Dropout that stays on in eval mode: `F.dropout(h)` without `training=self.training`."""

    def forward(self, x: Tensor) -> Any:
        return self.head(F.dropout(self.relu(self.conv(x)).mean((2, 3))))


def ask_random(method: str) -> Callable[[Library], float]:
    def ask(library: Library) -> float:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            METHODS[method](library, filled(Random()), numbers(1, 2, 4, 6), "")
        if not any("random" in str(warning.message) for warning in told):
            raise Wrong("unsaid")
        return 0.0

    return ask


for _method in METHODS:
    row(f"a model that is random in eval mode: the user is told, {_method}")(ask_random(_method))


class OneImage(nn.Module):
    """A batch of one built in."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.conv, self.head, self.how = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(48, 3), how

    def forward(self, x: Tensor) -> Tensor:
        A = F.relu(self.conv(x))
        if self.how == "reshape":
            return self.head(A.reshape(1, 48))
        return self.head(A.flatten(1)).squeeze()


def ask_one(method: str, how: str, n: int) -> Callable[[Library], float]:
    def ask(library: Library) -> float:
        model, x = filled(OneImage(how.replace("export", ""))), numbers(n, 2, 3, 4)
        asked = torch.export.export(model, (x[:1],)).module() if how == "export" else model
        if method == "gradient":
            return error(library.gradient(asked, x, CLASS), gradient_alone(model, x))
        expected = x * sum(w * gradient_alone(model, t * x) for t, w in zip(*library.path(), strict=True))
        return error(library.integrated(asked, x, CLASS), expected)

    return ask


row("a batch of one built in (`reshape(1, -1)`): the gradient of three images")(ask_one("gradient", "reshape", 3))
row("a batch of one built in (`reshape(1, -1)`): integrated gradients of one image")(
    ask_one("integrated", "reshape", 1)
)
row("an output without a batch axis for one image (`squeeze()`): the gradient")(ask_one("gradient", "squeeze", 1))
row("a model exported with a batch of one: the gradient of three images")(ask_one("gradient", "export", 3))


# -------------------------------------------------------------------------------------------- what the output is

section("Outputs and objectives")


def regressor(flat: bool) -> nn.Module:
    """A number far below 0."""
    layers = [nn.Flatten(), nn.Linear(24, 1), *([nn.Flatten(0)] if flat else [])]
    model = filled(nn.Sequential(*layers))
    with torch.no_grad():
        model[1].bias.fill_(-34.0)
    return model


@row("a regressor's number, (N, 1), below 0: +dy/dx")
def _(library: Library) -> float:
    model, x = regressor(flat=False), numbers(*IMAGES)
    found = library.gradient(model, x, None if isinstance(library, DeepViz) else 0)
    return error(found, model[1].weight.view(1, *x.shape[1:]).expand_as(x))


@row("a regressor's number, (N,), below 0: +dy/dx")
def _(library: Library) -> float:
    model, x = regressor(flat=True), numbers(*IMAGES)
    target = Score(lambda output: output) if isinstance(library, Zennit) else None
    return error(library.gradient(model, x, target), model[1].weight.view(1, *x.shape[1:]).expand_as(x))


@row("independent labels: the probability beside the map is the sigmoid")
def _(library: Library) -> float:
    model, x = filled(ConvNet()).float(), numbers(3, 2, 4, 6).float()
    shown = library.probability(model, x, CLASS, "multi-label")
    return error(torch.tensor(shown), torch.sigmoid(model(x)[:, CLASS]))


@row("a number: no probability stands beside its map")
def _(library: Library) -> float:
    shown = library.probability(regressor(flat=False).float(), numbers(*IMAGES).float(), None, "regression")
    if any(probability is not None for probability in shown):
        raise Wrong(f"{shown[0]:.2f}")
    return 0.0


DIFFERENCE = Score(lambda output: output[:, 1] - output[:, 2], objectives.Logit(1) - objectives.Logit(2))


@row("why one class and not another, the difference of two logits: gradient")
def _(library: Library) -> float:
    model, x = filled(ConvNet()), numbers(3, 2, 4, 6)
    return error(library.gradient(model, x, DIFFERENCE), gradient_by_hand(model, x, 1) - gradient_by_hand(model, x, 2))


@row("why one class and not another, the difference of two logits: Grad-CAM")
def _(library: Library) -> float:
    model, x = filled(ConvNet()), numbers(3, 2, 4, 6)
    expected = (cam_by_hand(model, x, 1) - cam_by_hand(model, x, 2)).clip(0)
    return cam_error(library, library.cam(model, x, DIFFERENCE, "relu"), expected)


def cosine(output: Tensor, to: Tensor) -> Tensor:
    return (output * to).sum(1) / (output.norm(dim=1) * to.norm(dim=1))


REFERENCES = numbers(3, 3, seed=7)
SIMILAR = Score(cosine, objectives.Similarity(to=REFERENCES), REFERENCES)


def cosine_slope(E: Tensor, e: Tensor) -> Tensor:
    """d cos(E, e) / dE = e / (|E| |e|) - cos(E, e) E / |E|^2."""
    size = E.norm(dim=1, keepdim=True)
    return e / (size * e.norm(dim=1, keepdim=True)) - cosine(E, e)[:, None] * E / size**2


def similar_gradient(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """Of a linear embedding E = W x + b."""
    E = x.flatten(1) @ weight.T + bias
    return (cosine_slope(E, REFERENCES) @ weight).view_as(x)


@row("similarity of each image's embedding to one of its own: gradient")
def _(library: Library) -> float:
    model, x = linear(), numbers(*IMAGES)
    expected = similar_gradient(model[1].weight.detach(), model[1].bias.detach(), x)
    return error(library.gradient(model, x, SIMILAR), expected)


@row("similarity of each image's embedding to one of its own: integrated gradients")
def _(library: Library) -> float:
    model, x = linear(), numbers(*IMAGES)
    W, b = model[1].weight.detach(), model[1].bias.detach()
    expected = x * sum(w * similar_gradient(W, b, t * x) for t, w in zip(*library.path(), strict=True))
    return error(library.integrated(model, x, SIMILAR), expected)


@row("similarity of each image's embedding to one of its own: Grad-CAM")
def _(library: Library) -> float:
    model, x = filled(ConvNet()), numbers(3, 2, 4, 6)
    A = features(model, x)
    W, b = model.head.weight.detach(), model.head.bias.detach()
    w = cosine_slope(A.mean((2, 3)) @ W.T + b, REFERENCES) @ W / 24
    expected = torch.einsum("nk,nkhw->nhw", w, A).unsqueeze(1).clip(0)
    return cam_error(library, library.cam(model, x, SIMILAR, "relu"), expected)


# ------------------------------------------------------------------------------------------------- layers and places

section("Grad-CAM where the layer is no plain map: tokens, queries, anchors, volumes")


class Sequence(nn.Module):
    """One token for each position of the image and some others, mixed; their mean is read.

    `others` are the places in the sequence that no position has; `order` says which position each of the rest is.
    """

    def __init__(self, others: tuple[int, ...] = (0,), first: bool = False, columns: bool = False) -> None:
        super().__init__()
        self.others, self.first, self.columns = others, first, columns
        self.patch, self.extra = nn.Conv2d(2, 5, 1), nn.Parameter(torch.zeros(1 + len(others), 5))
        self.block, self.head = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        T = self.block(self.tokens(x))
        return self.head(T.mean(0 if self.first else 1))

    def tokens(self, x: Tensor) -> Tensor:
        A = self.patch(x)
        patches = (A.transpose(2, 3) if self.columns else A).flatten(2).movedim(-1, 0)
        whole = patches.new_zeros(len(patches) + len(self.others), *patches.shape[1:])
        whole[self.at(len(whole))] = patches
        for place, token in zip(self.others, self.extra, strict=False):
            whole[place] = token
        whole = whole + whole.mean(0) / 2
        return whole if self.first else whole.transpose(0, 1)

    def at(self, length: int) -> list[int]:
        return [place for place in range(length) if place not in self.others]

    def lay(self, T: Tensor) -> Tensor:
        """(N, L, D) or (L, N, D) to (N, D, h, w), for images of 3 x 4."""
        T = T if self.first else T.transpose(0, 1)
        A = T[self.at(len(T))].movedim(0, -1)
        return A.unflatten(-1, (4, 3)).transpose(2, 3) if self.columns else A.unflatten(-1, (3, 4))

    def expected(self, x: Tensor) -> Tensor:
        """relu(sum_k w_k A_k), w_k = W_ck / L for every token."""
        with torch.no_grad():
            T = self.tokens(x)
            w = self.head.weight[CLASS] / T.shape[0 if self.first else 1]
            A = self.lay(T @ self.block.weight.T + self.block.bias)
            return torch.einsum("k,nkhw->nhw", w, A).unsqueeze(1).clip(0)


TOKENS: dict[str, Callable[[], Sequence]] = {
    "no class token": lambda: Sequence(()),
    "class token first": Sequence,
    "class token last": lambda: Sequence((12,)),
    "class token in the middle": lambda: Sequence((6,)),
    "class token and four registers": lambda: Sequence((0, 1, 2, 3, 4)),
    "sequence first, (L, N, D)": lambda: Sequence(first=True),
}


def ask_sequence(build: Callable[[], Sequence], given: bool = False) -> Callable[[Library], float]:
    def ask(library: Library) -> float:
        model, x = filled(build()), numbers(*IMAGES)
        expected = model.expected(x)
        found = (
            library.laid_cam(model, x, CLASS, "block", model.lay) if given else library.cam(model, x, CLASS, "block")
        )
        return cam_error(library, found, expected)

    return ask


for _what, _build in TOKENS.items():
    row(f"{_what}, no reshape function given: on the right places, or refused", refusal=True)(ask_sequence(_build))
row("tokens column by column, no reshape function given: on the right places, or refused", refusal=True)(
    ask_sequence(lambda: Sequence(columns=True))
)
row("tokens column by column, class token in the middle, with the function that lays them out")(
    ask_sequence(lambda: Sequence((6,), columns=True), given=True)
)


class Queries(nn.Module):
    """As DETR: as many object queries as the image has positions look at its features, (N, queries, classes)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(2, 5, 3, padding=1), nn.ReLU()
        self.queries, self.decoder, self.head = nn.Parameter(torch.zeros(12, 5)), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.above(self.relu(self.conv(x)))

    def above(self, A: Tensor) -> Tensor:
        memory = A.flatten(2).transpose(1, 2)
        looked = (self.queries @ memory.transpose(1, 2)).softmax(2) @ memory
        return self.head(self.decoder(looked + self.queries))


class Anchors(nn.Module):
    """As YOLO: (N, 4 + classes, anchors) of two resolutions, with as many channels as the image has positions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(2, 5, 3, padding=1), nn.ReLU()
        self.heads, self.detect = nn.ModuleList(nn.Linear(5, 12) for _ in range(2)), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.above(self.relu(self.conv(x)))

    def above(self, A: Tensor) -> Tensor:
        scales = A, F.max_pool2d(A, (3, 2))
        answers = [head(one.flatten(2).transpose(1, 2)) for head, one in zip(self.heads, scales, strict=True)]
        return self.detect(torch.cat(answers, 1).transpose(1, 2))


DETECTORS: dict[str, tuple[Callable[[], nn.Module], str, Score]] = {
    "a detector's object queries, (N, queries, classes)": (
        Queries,
        "decoder",
        Score(lambda output: output[:, 7, 2]),
    ),
    "a detector's anchors, (N, 4 + classes, anchors)": (Anchors, "detect", Score(lambda output: output[:, 7].amax(1))),
}


def ask_not_a_picture(name: str) -> Callable[[Library], float]:
    build, layer, score = DETECTORS[name]

    def ask(library: Library) -> float:
        found = library.cam(filled(build()), numbers(*IMAGES), score, layer)
        raise Wrong(f"answered, shape {tuple(found.shape)}")

    return ask


def ask_detector(name: str, layer: str | None) -> Callable[[Library], float]:
    build, _, score = DETECTORS[name]

    def ask(library: Library) -> float:
        model, x = filled(build()), numbers(*IMAGES)
        if layer is None:  # TorchCAM tries the model on float32 zeros
            model, x = model.float(), x.float()
        B = model.conv(x).detach()  # a library may take the convolution or the ReLU as the last one
        found = library.cam(model, x, score, layer)
        maps = {"conv": (B, lambda A: model.above(A.relu())), "relu": (B.relu(), model.above)}
        return min(cam_error(library, found, detector_cam(A, above, score)) for A, above in maps.values())

    return ask


def detector_cam(A: Tensor, above: Callable[[Tensor], Tensor], score: Score) -> Tensor:
    A = A.clone().requires_grad_()
    (dA,) = torch.autograd.grad(score(above(A)).sum(), A)
    return (dA.mean((2, 3), keepdim=True) * A).sum(1, keepdim=True).clip(0).detach()


@row("a detector's object query: the gradient of one of its scores")
def _(library: Library) -> float:
    model, x = filled(Queries()), numbers(*IMAGES)
    leaf = x.clone().requires_grad_()
    expected = torch.autograd.grad(model(leaf)[:, 7, 2].sum(), leaf)[0]
    return error(
        library.gradient(model, x, DETECTORS["a detector's object queries, (N, queries, classes)"][2]), expected
    )


for _what in DETECTORS:
    row(f"{_what}: the map at a feature map that is named")(ask_detector(_what, "relu"))
    row(f"{_what}: the map at a feature map that the library finds")(ask_detector(_what, None))
    row(f"{_what}: they lie nowhere on the image, so a map of them is refused", refusal=True)(ask_not_a_picture(_what))


class Spatial(nn.Module):
    """`ConvNet` in one or three dimensions."""

    def __init__(self, axes: int) -> None:
        super().__init__()
        conv = {1: nn.Conv1d, 3: nn.Conv3d}[axes]
        self.conv, self.relu, self.head = conv(2, 4, 3, padding=1), nn.ReLU(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.conv(x)).flatten(2).mean(2))


def ask_space(*space: int) -> Callable[[Library], float]:
    def ask(library: Library) -> float:
        model, x = filled(Spatial(len(space))), numbers(3, 2, *space)
        A = model.relu(model.conv(x)).detach()
        w = model.head.weight[CLASS].detach() / A[0, 0].numel()
        expected = torch.einsum("k,nk...->n...", w, A).unsqueeze(1).clip(0)
        found = library.cam(model, x, CLASS, "relu")
        if not library.scaled_cam:
            return error(found, expected)
        flat = found if found.shape != expected.shape else found.reshape(3, 1, 1, -1)
        return cam_error(library, flat, expected.reshape(3, 1, 1, -1) if flat is not found else expected)

    return ask


row("a volume or a clip, (N, C, D, H, W): Grad-CAM")(ask_space(3, 4, 5))
row("a signal, (N, C, L): Grad-CAM")(ask_space(9))


# ------------------------------------------------------------------------------- further class activation maps

section("Further class activation maps, at a layer whose every position has a weight of its own, and LeGrad")


class Placed(nn.Module):
    """S = W bend(A) + b, A = relu(conv(x)): dS_c/dA is W_c where nothing is bent."""

    def __init__(self, bend: Callable[[Tensor], Tensor] = lambda A: A, stride: int = 1) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(2, 4, 3, stride, padding=1), nn.ReLU()
        self.head, self.bend = nn.Linear(4 * 24 // stride**2, 3), bend

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bend(self.relu(self.conv(x))).flatten(1))


def placed(*given: Any, weight: float = 30.0, **options: Any) -> Any:
    """`Placed` with positive scores, and so large that what a library adds to a denominator changes nothing."""
    model = filled(Placed(*given, **options))
    with torch.no_grad():
        model.conv.bias.abs_()  # no channel is off everywhere
        model.head.weight.mul_(weight)
        model.head.bias.add_(10 * weight)
    return model


@dataclass(frozen=True)
class AtLayer:
    """What the formulas of the papers are made of."""

    model: Any
    x: Tensor
    A: Tensor
    """(N, D, h, w)."""
    g: Tensor
    """dS_c/dA without a bend, (1, D, h, w)."""
    S: Tensor
    """(N,)."""


def at_layer(model: Any, x: Tensor) -> AtLayer:
    with torch.no_grad():
        A = model.relu(model.conv(x))
        return AtLayer(model, x, A, model.head.weight[CLASS].view(1, *A.shape[1:]), model(x)[:, CLASS])


def weighted(w: Tensor, A: Tensor) -> Tensor:
    """relu(sum_k w_k A_k)."""
    return (w * A).sum(1, keepdim=True).clip(0)


def grad_cam_plus_plus(at: AtLayer) -> Tensor:
    """w_k = sum_ij alpha_kij relu(g_kij), alpha = g^2 / (2 g^2 + g^3 sum_ab A_kab)."""
    alpha = at.g**2 / (2 * at.g**2 + at.g**3 * at.A.sum((2, 3), keepdim=True))
    return weighted((alpha * at.g.clip(0)).sum((2, 3), keepdim=True), at.A)


def x_grad_cam(at: AtLayer) -> Tensor:
    """w_k = sum_ij A_kij / (sum_ab A_kab) g_kij."""
    return weighted((at.g * at.A).sum((2, 3), keepdim=True) / at.A.sum((2, 3), keepdim=True), at.A)


def ablation_cam(at: AtLayer) -> Tensor:
    """w_k = (S - S^k) / S, and S^k lacks what channel k adds."""
    return weighted((at.g * at.A).sum((2, 3), keepdim=True) / at.S.view(-1, 1, 1, 1), at.A)


def eigen_cam(at: AtLayer) -> Tensor:
    """A, (h w, D) for each image, on its first right singular vector, which has no sign change since A >= 0."""
    rows = at.A.flatten(2).transpose(1, 2)
    v = torch.linalg.svd(rows, full_matrices=False)[2][:, 0].abs()
    return torch.einsum("npd,nd->np", rows, v).view(len(rows), 1, *at.A.shape[2:])


def fem(at: AtLayer) -> Tensor:
    """sum_k mu_k [A_k >= mu_k + 2 sigma_k]."""
    mu, sigma = at.A.mean((2, 3), keepdim=True), at.A.std((2, 3), correction=0, keepdim=True)
    return (mu * (mu + 2 * sigma <= at.A)).sum(1, keepdim=True)


FEATURE_MAPS: dict[str, tuple[str, Callable[[AtLayer], Tensor]]] = {
    "Grad-CAM++": ("w = Σ α relu(g), α = g² / (2 g² + g³ Σ A)", grad_cam_plus_plus),
    "XGrad-CAM": ("w = Σ A g / Σ A", x_grad_cam),
    "LayerCAM": ("relu(Σ relu(g) A)", lambda at: weighted(at.g.clip(0), at.A)),
    "HiResCAM": ("relu(Σ g A)", lambda at: weighted(at.g, at.A)),
    "Ablation-CAM": ("w = (S - S without the channel) / S", ablation_cam),
    "Eigen-CAM": ("A on its first principal component, not centred", eigen_cam),
    "FEM": ("Σ mean(A) [A >= mean(A) + 2 σ]", fem),
}


def ask_feature_map(method: str) -> Callable[[Library], float]:
    def ask(library: Library) -> float:
        model, x = placed(), numbers(3, 2, 4, 6)
        expected = FEATURE_MAPS[method][1](at_layer(model, x))
        return cam_error(library, library.feature_map(method, model, x, CLASS, "relu"), expected)

    return ask


for _method, (_formula, _) in FEATURE_MAPS.items():
    row(f"{_method}: {_formula}")(ask_feature_map(_method))


@row("ShapleyCAM: the mean of g - H A / 2, for S = W (A + A² / 2)")
def _(library: Library) -> float:
    model, x = placed(lambda A: A + A**2 / 2), numbers(3, 2, 4, 6)
    at = at_layer(model, x)
    w = (at.g * (1 + at.A / 2)).mean((2, 3), keepdim=True)  # g = W (1 + A), H A = W A
    return cam_error(library, library.feature_map("ShapleyCAM", model, x, CLASS, "relu"), weighted(w, at.A))


def masked_cam(at: AtLayer, strengths: tuple[float, ...], probability: bool) -> Tensor:
    """w = softmax_k mean_s f(s H_k x), H_k the channel at the image's size, then between 0 and 1."""
    weights = []
    for x, A in zip(at.x, at.A, strict=True):
        H = F.interpolate(A[:, None], x.shape[1:], mode="bilinear") if A.shape[1:] != x.shape[1:] else A[:, None]
        low, high = H.amin((2, 3), keepdim=True), H.amax((2, 3), keepdim=True)
        with torch.no_grad():
            outputs = [at.model(s * (H - low) / (high - low) * x) for s in strengths]
        f = [(output.softmax(1) if probability else output)[:, CLASS] for output in outputs]
        weights.append(torch.stack(f).mean(0).softmax(0))
    return weighted(torch.stack(weights)[:, :, None, None], at.A)


def ask_masked(method: str, strengths: tuple[float, ...] = (1.0,), stride: int = 1) -> Callable[[Library], float]:
    def ask(library: Library) -> float:
        model, x = placed(weight=1.0, stride=stride), numbers(3, 2, 4, 6)
        found, at = library.feature_map(method, model, x, CLASS, "relu"), at_layer(model, x)
        return min(enlarged_error(library, found, masked_cam(at, strengths, read)) for read in (True, False))

    return ask


def enlarged_error(library: Library, found: Tensor, expected: Tensor) -> float:
    """grad-cam's maps are scaled, and then brought to the image's size."""
    if not library.scaled_cam or found.shape == expected.shape:
        return cam_error(library, found, expected)
    low, high = expected.amin((1, 2, 3), keepdim=True), expected.amax((1, 2, 3), keepdim=True)
    return error(found, F.interpolate((expected - low) / (high - low), found.shape[2:], mode="bilinear"))


row("Score-CAM: w = softmax f(H x), f the probability or the logit, H = A between 0 and 1")(ask_masked("Score-CAM"))
row("Score-CAM at a layer of half the image's size: H enlarged, then between 0 and 1")(
    ask_masked("Score-CAM", stride=2)
)
row("IS-CAM of two steps: w = softmax of the mean of f(H x / 2) and f(H x)")(ask_masked("IS-CAM", (0.5, 1.0)))


@row("CAM: Σ w A, signed, below average pooling and a linear layer")
def _(library: Library) -> float:
    model, x = filled(ConvNet()), numbers(3, 2, 4, 6)
    return error(library.feature_map("CAM", model, x, CLASS, "relu"), cam_by_hand(model, x) * 24)


@row("CAM where a normalisation stands between the pooling and the linear layer is not Σ w A", refusal=True)
def _(library: Library) -> float:
    class Normalised(ConvNet):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.layer_norm(self.relu(self.conv(x)).mean((2, 3)), (4,)))

    library.feature_map("CAM", filled(Normalised()), numbers(3, 2, 4, 6), CLASS, "relu")
    raise Wrong("answered")


@row("FullGrad: the input and every bias, each scaled as a layer or by channel")
def _(library: Library) -> float:
    model, x = placed(), numbers(3, 2, 4, 6)
    at = at_layer(model, x)
    on = at.g * (at.A > 0)
    parts = (
        x * F.conv_transpose2d(on, model.conv.weight.detach(), padding=1),
        model.conv.bias.detach().view(1, -1, 1, 1) * on,
    )

    def psi(value: Tensor, axes: tuple[int, ...]) -> Tensor:
        low, high = value.abs().amin(axes, keepdim=True), value.abs().amax(axes, keepdim=True)
        return ((value.abs() - low) / (high - low)).sum(1, keepdim=True)

    found = library.feature_map("FullGrad", model, x, CLASS, "relu")
    return min(cam_error(library, found, sum(psi(part, axes) for part in parts)) for axes in ((1, 2, 3), (2, 3)))


for _method in ("LayerCAM", "Ablation-CAM", "Score-CAM"):
    row(f"{_method} of a batch, one class a row: what each image gives alone")(
        each_alone(
            lambda library, model, x, target, method=_method: library.feature_map(method, model, x, target, "relu"),
            lambda: placed(weight=1.0),
        )
    )


@row("Ablation-CAM: the model after success")
def _(library: Library) -> float:
    model = placed()
    before = state(model)
    library.feature_map("Ablation-CAM", model, numbers(3, 2, 4, 6), CLASS, "relu")
    return unchanged(before, state(model))


class AttentionBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.self_attention(tokens, tokens, tokens, need_weights=False)[0]


class Attending(nn.Module):
    """Patches of 2 x 2, one layer of attention with two heads, the mean of the tokens, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.block, self.head = nn.Conv2d(2, 6, 2, stride=2), AttentionBlock(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.above(self.block(self.patch(x).flatten(2).transpose(1, 2)))

    def above(self, tokens: Tensor) -> Tensor:
        return self.head(tokens.mean(1))


@row("LeGrad: the mean over heads and queries of relu(dS/dA), A the attention")
def _(library: Library) -> float:
    model, x = filled(Attending()), numbers(3, 2, 6, 8)
    with torch.no_grad():
        attention = model.block.self_attention
        _, _, V = attention.in_proj_weight.chunk(3)
        v = model.patch(x).flatten(2).transpose(1, 2) @ V.T + attention.in_proj_bias[12:]
        w = model.head.weight[CLASS] @ attention.out_proj.weight
    # S = w . mean_i sum_j A_hij v_hj: each of T = 12 queries has the slope w_h . v_hj / T
    slopes = (v * w).unflatten(2, (2, 3)).sum(3) / 12
    return error(library.le_grad(model, x, CLASS), slopes.clip(0).mean(2).view(3, 1, 3, 4))


# --------------------------------------------------------------------------------------------- expected gradients

section("Expected gradients: the mean of (x - x') times the gradient between x' and x")


@row("linear network, baseline 0: x w exactly")
def _(library: Library) -> float:
    model, x = linear(), numbers(*IMAGES)
    found = library.expected(model, x, CLASS, torch.zeros_like(x[:1]))
    return error(found, x * model[1].weight[CLASS].view(x.shape[1:]))


@row("linear network, two baselines a and b: (x - p a - (1 - p) b) w, with one p for all pixels")
def _(library: Library) -> float:
    model, x, (a, b) = linear(), numbers(*IMAGES), numbers(2, *IMAGES[1:], seed=3)
    w = model[1].weight[CLASS].view(x.shape[1:]).detach()
    mean = x - library.expected(model, x, CLASS, torch.stack([a, b])) / w
    p = (((mean - b) * (a - b)).sum((1, 2, 3)) / (a - b).square().sum()).clip(0, 1).view(-1, 1, 1, 1)
    return error(mean, p * a + (1 - p) * b)


@row("expected gradients repeat themselves, without a seed set for all of torch or NumPy")
def _(library: Library) -> float:
    model, x = filled(Quadratic()), numbers(*IMAGES)
    first, second = (library.expected(model, x, CLASS, torch.zeros_like(x[:1])) for _ in range(2))
    return error(first, second)


@row("expected gradients leave the random states of torch and NumPy alone")
def _(library: Library) -> float:
    model, x = filled(Quadratic()), numbers(*IMAGES)
    before, kept = torch.get_rng_state(), np.random.get_state()
    try:
        library.expected(model, x, CLASS, torch.zeros_like(x[:1]))
        after = np.random.get_state()
        if not torch.equal(before, torch.get_rng_state()) or str(after) != str(kept):
            raise Wrong("changed")
    finally:
        np.random.set_state(kept)
    return 0.0


# --------------------------------------------------------------------------------------------------------- the table


def installed(library: Library) -> bool:
    return importlib.util.find_spec(library.package) is not None


def judged(library: Library) -> dict[str, Cell]:
    """Question -> cell, for every row."""
    return {one.question: judge(one.ask, library) for rows in SECTIONS.values() for one in rows}


def failed_rows(cells: dict[str, Cell]) -> dict[str, Cell]:
    """The rows whose answer is not the right one."""
    rows = [one for rows in SECTIONS.values() for one in rows]
    return {one.question: cells[one.question] for one in rows if not one.passed(cells[one.question])}


ASKED_FOR = "refuses, as the question asks"
ELSEWHERE = "refuses, where there is an answer"


def version(library: Library) -> str:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return f"{library.name} {importlib.metadata.version(library.distribution)}"
    return library.name


def markdown(columns: dict[str, dict[str, Cell]], absent: list[str]) -> str:
    head = ["", *columns]
    lines = []
    for title, rows in SECTIONS.items():
        lines += [f"## {title}", ""]
        body = [[one.question, *(marked(one, cells[one.question]) for cells in columns.values())] for one in rows]
        lines += [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body)]
        lines.append("")
    lines += ["## In numbers", "", *in_numbers(columns)]
    if absent:
        lines += ["", f"Not installed, so not asked: {', '.join(absent)}."]
    return "\n".join(lines) + "\n"


def in_numbers(columns: dict[str, dict[str, Cell]]) -> list[str]:
    """How many cells are what: the lines of a table, which the README has too."""
    rows = [one for rows in SECTIONS.values() for one in rows]

    def kind(one: Row, cell: Cell) -> str:
        if cell.verdict == "refuses":
            return ASKED_FOR if one.passed(cell) else ELSEWHERE
        return cell.verdict

    head = [f"of {len(rows)} questions", *columns]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join(['---'] * len(head))} |"]
    for verdict in ("right", ASKED_FOR, ELSEWHERE, "wrong", "crashes", "not offered"):
        counts = [str(sum(kind(one, cells[one.question]) == verdict for one in rows)) for cells in columns.values()]
        lines.append(f"| {verdict} | {' | '.join(counts)} |")
    return lines


def marked(one: Row, cell: Cell) -> str:
    return f"**{cell.verdict}**" + str(cell).removeprefix(cell.verdict) if one.passed(cell) else str(cell)


INTRODUCTION = """\
# Conformance

Written by `python benchmarks/conformance.py --markdown benchmarks/CONFORMANCE.md`; torch {torch}.

Answers on small networks in double precision, derived by hand, or by `autograd` of the untouched network, one image at
a time. **Bold** is an answer that the row asks for. *wrong* gives the largest error, relative to the largest value of
the right answer, or says what is wrong; *refuses* is an error of the library's own that says why (a right answer in
the rows that ask for it), *crashes* one from somewhere below; *not offered* means that there is no such method or
option. Peers are used as their documentation says. Captum's asks for activations that are `nn.ReLU` modules; what a
model takes beside the image is given to it as `additional_forward_args`, and what is explained as a forward function.
grad-cam, TorchCAM and Zennit are given a wrapper and targets of their own kinds. grad-cam's `GradCAM` returns maps
scaled to 0 ... 1, which are compared with the scaled answer.

Where a row says "without a wrapper" or "no reshape function given", and where rows of a batch are not independent,
there often is a way out that the user has to know and to write: a wrapper that returns the scores, a reshape function,
one image at a time, Captum's `internal_batch_size=1`, an image that requires gradients. The rows ask what comes without
it.

What no row asks: a rectifier written as arithmetic (`h * (h > 0)`, `torch.where`) between ordinary ones is seen by
none of these libraries, DeepViz included; it refuses only if no other rectifier is reached. Nor is anything
asked about methods that no peer offers (attention rollout, generic attention, Recipro-CAM), about the random masks of
SS-CAM and Smooth Grad-CAM++, or about Eigen-Grad-CAM, RefineCAM and Finer-CAM, which libraries define differently.

"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--markdown", type=Path, help="file to write the table to")
    parser.add_argument("--only", nargs="+", choices=[library.name for library in LIBRARIES], help="these libraries")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with contextlib.suppress(Exception):
        import_torchvision()  # so that peers can import it, too
    asked = [library for library in LIBRARIES if not given.only or library.name in given.only]
    absent = [library.name for library in asked if not installed(library)]
    columns = {version(library): judged(library) for library in asked if installed(library)}
    text = markdown(columns, absent)
    print(text)
    if given.markdown:
        given.markdown.write_text(INTRODUCTION.format(torch=torch.__version__) + text)
    ours = failed_rows(columns[version(LIBRARIES[0])]) if LIBRARIES[0] in asked else {}
    for question, cell in ours.items():
        print(f"DeepViz fails: {question}: {cell}", file=sys.stderr)
    return 1 if ours else 0


if __name__ == "__main__":
    sys.exit(main())

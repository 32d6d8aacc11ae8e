"""How far values that should be the same may be apart by rounding, in the precision in which a model computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

FULL, REDUCED = 1e-4, 5e-2
"""Of their scale: in float32 or wider, and with the ten bits or fewer of half precision and of TF32."""
_HALF = (torch.float16, torch.bfloat16)


def rounding(tensor: Tensor, *dtypes: torch.dtype) -> float:
    """How far values may be apart that a model computes of a tensor, of their scale.

    Args:
        tensor: of the device and of the precision of what is computed.
        dtypes: those of the model's parameters.
    """
    return REDUCED if is_reduced(tensor.device, tensor.dtype, *dtypes) else FULL


def is_reduced(device: torch.device, *dtypes: torch.dtype) -> bool:
    """Whether products have fewer digits than float32: in half precision, under autocast, and in TF32, which GPUs take
    for convolutions of float32 unless they are told not to."""
    if any(dtype in _HALF for dtype in dtypes):
        return True
    if torch.float32 not in dtypes:
        return False
    if device.type in ("cpu", "cuda", "mps") and torch.is_autocast_enabled(device.type):
        return True
    backends: Any = torch.backends
    products = {
        "cuda": (backends.cudnn.conv, backends.cuda.matmul),
        "cpu": (backends.mkldnn.conv, backends.mkldnn.matmul),
    }
    return any(one.fp32_precision in ("tf32", "bf16") for one in products.get(device.type, ()))

"""Torch's operators by name, in all their spellings, and the tensors they take and return."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

_POINTWISE_NAMES = (
    "relu relu6 leaky_relu elu selu celu gelu silu mish hardswish hardsigmoid hardtanh sigmoid tanh "
    "softplus softsign tanhshrink hardshrink softshrink logsigmoid log_sigmoid threshold prelu rrelu "
    "clamp clip clamp_min clamp_max exp expm1 log log1p sqrt rsqrt square abs neg negative reciprocal pow "
    "sin cos erf dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout "
    "feature_dropout clone contiguous detach requires_grad to type float double half bfloat16 cpu type_as "
    "add sub subtract rsub mul multiply div divide true_divide truediv radd rmul rtruediv rpow iadd isub "
    "imul itruediv addcmul addcdiv lerp where maximum minimum local_response_norm channel_shuffle"
)
POINTWISE = frozenset(_POINTWISE_NAMES.split())
"""Operators that leave every position where it is."""


def operator_name(func: Any) -> str:
    """The name that an operator has in all its spellings: relu, relu_, Tensor.relu."""
    return getattr(func, "__name__", "").split(".")[0].strip("_")


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors among the operands of an operator, or in what it returns."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from tensors_in(one)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))

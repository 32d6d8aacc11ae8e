"""Errors and warnings.

Every error that a user can cause is a `DeepVizError`: one line that says what is wrong and what to do next.
The command line prints it and exits with `exit_code`; anything else that escapes is a bug.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "DeepVizError",
    "DeepVizWarning",
    "GenerationError",
    "ImageError",
    "LayerError",
    "MethodError",
    "MissingExtra",
    "ModelError",
    "ModelFailed",
    "NoAttention",
    "NoGradient",
    "NotInImage",
    "NothingApplies",
    "NothingOverridden",
    "OutputError",
    "StoredError",
    "TargetError",
    "TargetFailed",
]


class DeepVizError(Exception):
    """Base class of DeepViz's errors."""

    exit_code = 3


class ImageError(DeepVizError, ValueError):
    """An image that cannot be read or needs preprocessing that was not given, or an invalid input."""


class ModelError(DeepVizError, ValueError):
    """A model, or its weights, that cannot be loaded, or whose outputs are not finite scores."""


class ModelFailed(ModelError, RuntimeError):
    """The model itself raised while it ran: its own error is the cause."""


class NothingApplies(ModelError):
    """None of the methods that were asked for gave a map of an image."""


class TargetError(DeepVizError, ValueError):
    """A class index, label or target that this model does not have."""


class NotInImage(TargetError):
    """A target that this image does not have: no such detection, region or place. Others may have it."""


class TargetFailed(TargetError, RuntimeError):
    """A target that is a callable raised while it ran: its own error is the cause."""


class LayerError(DeepVizError, ValueError):
    """A layer that does not exist, is not called exactly once, or has no spatial map."""


class NoAttention(LayerError):
    """A model without attention between image and score, or with attention that a method is not defined for."""


class NoGradient(ModelError):
    """A model of which only the outputs are known, asked for a method that needs a gradient or a layer."""


class MethodError(DeepVizError, LookupError):
    """A method that does not exist, or whose result is not a map of its input."""

    exit_code = 2


class NothingOverridden(DeepVizError, RuntimeError):
    """A rule for rectifiers (guided backpropagation, deconvolution) found no rectifier to change."""


class GenerationError(DeepVizError, ArithmeticError):
    """The generation of an image had to stop; `generated` holds the last good images."""

    generated: Any = None


class MissingExtra(DeepVizError, ImportError):
    """An optional dependency is not installed; the message has the pip command."""


class OutputError(DeepVizError, OSError):
    """A result that cannot be written where it was asked for."""


class StoredError(DeepVizError, ValueError):
    """A file of stored results that cannot be read: foreign, damaged, or of a newer format."""


def in_one_line(error: BaseException) -> str:
    """An error's message in one line, with the name of its class where that is not one of ours.

    Example:
        >>> in_one_line(KeyError("boxes")), in_one_line(ImageError("no image:\\nempty"))
        ("KeyError: 'boxes'", 'no image: empty')
    """
    text = " ".join(str(error).split())
    if isinstance(error, DeepVizError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class DeepVizWarning(UserWarning):
    """A result that is right but needs to be read with care; also kept in the result's notes."""

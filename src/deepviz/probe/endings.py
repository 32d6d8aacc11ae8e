"""The logits that a model turns into probabilities at its end: what the last softmax or sigmoid was given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from deepviz.probe.operators import operator_name
from deepviz.probe.outputs import Kind, Reading, ends_in_sigmoid, source_node
from deepviz.probe.seen import Seen

_SOFTMAX = frozenset(("softmax", "special_softmax"))
_LOG_SOFTMAX = frozenset(("log_softmax", "special_log_softmax"))
_SIGMOID = frozenset(("sigmoid", "expit", "special_expit"))
_ENDINGS = _SOFTMAX | _LOG_SOFTMAX | _SIGMOID


class Endings(TorchFunctionMode):
    """Remembers, within a scope, what softmaxes and sigmoids of one vector a row were given."""

    def __init__(self) -> None:
        super().__init__()
        self._given: list[tuple[Any, Tensor, str]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = operator_name(func)
        if name in _ENDINGS and isinstance(result, Tensor) and result.grad_fn is not None:
            given = args[0] if args else (kwargs or {}).get("input")
            # not those of attention, which are large
            if isinstance(given, Tensor) and given is not result and result.shape[2:].numel() == 1:
                self._given.append((result.grad_fn, given, name))
        return result

    def logits(self, seen: Seen, reading: Reading) -> tuple[Seen, Reading, str]:
        """What was seen with the logits as class scores, if the model returns their probabilities.

        Returns:
            What was seen, how its scores are read, and what was done, as a sentence; all as it was and "" for a model
            that returns class scores, numbers or an embedding.
        """
        if not reading.has_probabilities:
            return seen, reading, ""
        outputs = seen.scores()
        found, name = self._behind(outputs)
        if found is None and reading.given:
            sigmoid = ends_in_sigmoid(outputs) or reading.two or reading.kind == "multi-label"
            tiny = torch.finfo(outputs.dtype).tiny
            # unlike the probability, it has a slope where the class is unlikely
            log = outputs.clamp_min(tiny).log()
            found = log - (1 - outputs).clamp_min(torch.finfo(outputs.dtype).eps).log() if sigmoid else log
            name = "sigmoid" if sigmoid else "softmax"
            done = f"the score is the logarithm of the probability, since the model's {name} is out of sight"
        elif found is not None:
            name = "sigmoid" if name in _SIGMOID else "log-softmax" if name in _LOG_SOFTMAX else "softmax"
            done = f"the score is the logit before the model's final {name}"
        else:
            return seen, reading, ""
        kind: Kind = "logits"
        if name == "sigmoid":
            kind = "binary" if reading.two else "multi-label"
        return replace(seen, logits=found), replace(reading, kind=kind, given=False), done

    def _behind(self, outputs: Tensor) -> tuple[Tensor | None, str]:
        """The logits (n, K) of outputs (n, K), and the operator that they went through."""
        node = source_node(outputs)
        for made, given, name in reversed(self._given):
            if made is node and given.numel() == outputs.numel():
                logits = given.reshape(outputs.shape)
                with torch.no_grad():
                    expected = logits.sigmoid() if name in _SIGMOID else logits.log_softmax(1)
                    expected = expected.exp() if name in _SOFTMAX else expected
                    # along another axis, or changed in place since, it is something else
                    if torch.allclose(expected, outputs.to(expected), rtol=1e-3, atol=1e-5):
                        return logits, name
        return None, ""

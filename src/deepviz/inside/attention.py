"""`viz_attention`: what the tokens of a transformer attend to, for an image."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from deepviz.errors import LayerError, NoAttention
from deepviz.inside.attention_rows import At, Attention, checked_patch, listed
from deepviz.inside.loading import (
    ImageLike,
    Model,
    asked,
    checked_number,
    on_its_device,
    picture_of,
    take_model,
)
from deepviz.models import LoadedModel, Prepared
from deepviz.names import nearest
from deepviz.probe.attention import AttentionLayer, Attentions, attended, attentions_of, by_head
from deepviz.probe.borrow import borrowed
from deepviz.probe.call import Call
from deepviz.probe.capture import layer_name
from deepviz.probe.layer_names import numbered
from deepviz.probe.session import Session

SUMMED = 0.02
"""How far rows may be from a sum of 1: in half precision, values are rounded to 0.4 %."""


def viz_attention(
    model: Model,
    image: ImageLike,
    layer: str | nn.Module | int | None = None,
    at: At = None,
    *,
    preprocess: Any = None,
) -> Attention:
    """What the tokens of a transformer attend to: the attention matrices of its layers, drawn on the image.

        A_h = softmax(q_h k_h^T / sqrt(d)),    row i of head h: what token i attends to

    Attention is found where it is computed, fused or not, and the tokens are checked to lie on the image, as for
    `AttentionRollout`. Masks, position biases and heads that share keys are part of it. The matrix is that with which
    the layer multiplies its values.

    Args:
        model: an `nn.Module`, a `LoadedModel`, or a name ("timm:vit_base_patch16_224").
        image: a path, PIL image, array or tensor.
        layer: a name from `viz_layers` ("blocks.11.attn", or "blocks.11"), a module, or a number (-1: the last); None
            for all layers, which take heads * T^2 * 4 bytes each.
        at: whose row the picture shows: a patch (y, x) by row and column, or a token by its position; by default the
            class token, or the patch in the middle where the score reads no class token.
        preprocess: as for `deepviz.explain`.

    Returns:
        `.matrices` by layer, `.row(y, x, head)`, `.row_of(position, head)`, `.overlay()`, `.sheet()`, `.save(path)`.

    Raises:
        NoAttention: if the model has no attention on the image, computes it in windows, merges tokens between layers,
            changes the matrices after the softmax, or its tokens do not lie on the image; of a signal or volume.
        LayerError: if there is no such layer or patch.
        ImageError, ModelError: as for `deepviz.explain`.

    Example:
        >>> import torch
        >>> from deepviz.testing import images, network
        >>> attention = viz_attention(network(attention=True), images(1)[0], layer=-1)
        >>> attention.matrix().shape, attention.row(0, 2).shape
        (torch.Size([2, 36, 36]), torch.Size([6, 6]))
    """
    loaded, call = take_model(model, image, preprocess)
    prepared = loaded.prepare(image)
    with borrowed(call.model):
        session, found = _looked_for(loaded, call, prepared)
        names, every = _named(found)
        wanted = list(range(len(every))) if layer is None else [_find(layer, names, call.model)]
        matrices = _matrices(session, found, [every[number] for number in wanted])
    named = {names[number]: A for number, A in zip(wanted, matrices, strict=True)}
    for name, A in named.items():
        if not bool(A.isfinite().all()):
            raise LayerError(f"the attention of layer {name!r} has NaN or infinity; choose an earlier one")
        sums = A.sum(-1)
        sums = sums[sums != 0]  # a token that may see none attends to none
        odd = float((sums - 1).abs().max()) if len(sums) else 0.0
        if odd > SUMMED:
            raise NoAttention(
                f"rows of the attention of layer {name!r} sum to 1 but for {odd:.2g}: it is changed after the softmax, "
                "as by dropout in eval mode (F.dropout without training=self.training)"
            )
    made = Attention(
        matrices=named,
        layers=tuple(names),
        grid=found.grid,
        read=found.read,
        at=0,
        image=picture_of(prepared),
        geometry=prepared.geometry,
        model=loaded.name,
        source=prepared.name,
    )
    return replace(made, at=_checked_at(at, made))


def attention_layers(loaded: LoadedModel, image: Prepared) -> tuple[str, ...]:
    """The names of the layers of attention, as `viz_attention` finds them, without their matrices.

    Raises:
        NoAttention, ModelError: as `viz_attention` does.
    """
    loaded, call = take_model(loaded)
    with borrowed(call.model):
        _, found = _looked_for(loaded, call, image)
    return tuple(_named(found)[0])


def _looked_for(loaded: LoadedModel, call: Call, image: Prepared) -> tuple[Session, Attentions]:
    """What is asked of the model about the image, and its layers of attention.

    Raises:
        NoAttention: if there are none, or their tokens do not lie on a plane.
    """
    session = asked(call, on_its_device(image.x[None], call.model), loaded.kind)
    found = session.depending(lambda: attentions_of(session))
    if len(found.grid.size) != 2:
        raise NoAttention(
            f"the tokens lie as {found.grid} in an input {tuple(image.x.shape)}: attention is drawn of images alone; "
            "for signals and volumes use 'attention-rollout'"
        )
    return session, found


def _named(found: Attentions) -> tuple[list[str], list[AttentionLayer]]:
    """The layers' names, with the number of the call where a module computes several, and the layers."""
    every = [*found.layers, *([found.pool] if found.pool else [])]
    return numbered([layer.name for layer in every]), every


def _matrices(session: Session, found: Attentions, layers: Sequence[AttentionLayer]) -> list[Tensor]:
    """A of some layers for the one image, (heads, queries, T), on the CPU."""
    numbers = {layer.number for layer in layers}
    pool = found.pool if found.pool and found.pool.number in numbers else None
    chosen = replace(found, layers=tuple(one for one in found.layers if one.number in numbers), pool=pool)

    def chunk(part: Session) -> list[Tensor]:
        with torch.no_grad():
            _, A = attended(part, chosen)
        return [by_head(one, part.n).float().cpu() for one in A]

    return [A[0].contiguous() for A in session.by_rows(chunk, graph=False)]


def _find(layer: str | nn.Module | int, names: Sequence[str], model: nn.Module) -> int:
    """Which of the layers is meant.

    Raises:
        LayerError: if none is, or several are.
    """
    if not isinstance(layer, (str, nn.Module)):
        if isinstance(layer, bool) or not hasattr(layer, "__index__") or not -len(names) <= layer < len(names):
            raise LayerError(
                f"layer {layer!r} is no layer of attention: a number is from {-len(names)} to {len(names) - 1}"
            )
        return operator.index(layer) % len(names)
    if layer in names:
        return names.index(layer)
    wanted = layer_name(model, layer)
    inside = [number for number, name in enumerate(names) if f"{name}.".startswith((f"{wanted}.", f"{wanted}#"))]
    if len(inside) == 1:
        return inside[0]
    if inside:
        raise LayerError(f"layer {wanted!r} has {len(inside)} layers of attention: choose one of {listed(names)}")
    raise LayerError(
        f"layer {wanted!r} computes no attention on the image{nearest(wanted, names)}; layers that do: {listed(names)}"
    )


def _checked_at(at: At, of: Attention) -> tuple[int, int] | int:
    """Whose row is drawn, checked; the default for None."""
    h, w = of.grid.size
    if at is None:
        return (h // 2, w // 2) if of.class_token is None else of.class_token
    if isinstance(at, (tuple, list)):
        return checked_patch(at, of.grid.size)
    return checked_number(at, of.grid.cells + len(of.special), "token")

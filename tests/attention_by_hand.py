"""A small transformer and the methods of attention, re-derived slowly from their papers in numpy, without autograd.

The network is `networks.TinyViT`, for one image (C, H, W). Gradients at attention matrices are slopes: by how much a
score changes as one entry is moved a little up and down.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from torch import nn

from by_hand import array

STEP = 1e-5
Array = np.ndarray
erf = np.vectorize(math.erf)


def linear(layer: nn.Linear, x: Array) -> Array:
    return x @ array(layer.weight).T + array(layer.bias)


def layer_norm(layer: nn.LayerNorm, x: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + layer.eps)
    return scaled * array(layer.weight) + array(layer.bias)


def embedded(vit: nn.Module, image: Array) -> Array:
    """The tokens (T, D) before the first layer, the class token first."""
    W, b = array(vit.patch.weight), array(vit.patch.bias)
    _, H, width = image.shape
    patches = [image[:, i : i + 4, j : j + 4] for i in range(0, H, 4) for j in range(0, width, 4)]
    tokens = [array(vit.cls)[0, 0], *(np.array([(W[d] * patch).sum() for d in range(len(W))]) + b for patch in patches)]
    return np.stack(tokens) + array(vit.position)[0]


def block(layer: nn.Module, Z: Array, A: Array | None = None) -> tuple[Array, Array]:
    """What a layer returns, and its attention (heads, T, T); with another attention if that is given."""
    attention = layer.attn
    heads, (T, D) = attention.heads, Z.shape
    qkv = linear(attention.qkv, layer_norm(layer.norm1, Z)).reshape(T, 3, heads, D // heads)
    own = np.zeros((heads, T, T))
    mixed = np.zeros((T, heads, D // heads))
    for h in range(heads):
        q, k, v = qkv[:, 0, h], qkv[:, 1, h], qkv[:, 2, h]
        for i in range(T):
            scores = np.array([q[i] @ k[j] for j in range(T)]) / math.sqrt(D // heads)
            own[h, i] = np.exp(scores) / np.exp(scores).sum()
        mixed[:, h] = (own if A is None else A)[h] @ v
    Z = Z + linear(attention.out, mixed.reshape(T, D))
    first, _, second = layer.mlp
    hidden = linear(first, layer_norm(layer.norm2, Z))
    return Z + linear(second, hidden * (1 + erf(hidden / math.sqrt(2))) / 2), own if A is None else A


def layers(vit: nn.Module, image: Array) -> tuple[list[Array], list[Array]]:
    """The tokens before the first layer and after each, and the attention of each."""
    Z, A = [embedded(vit, image)], []
    for layer in vit.blocks:
        after, own = block(layer, Z[-1])
        Z.append(after)
        A.append(own)
    return Z, A


def score(vit: nn.Module, z: Array, k: int) -> float:
    """The score of class k that is read from a token."""
    return float(linear(vit.head, layer_norm(vit.norm, z))[k])


def slopes(f: Callable[[Array], float], A: Array) -> Array:
    """df/dA, entry by entry."""
    found = np.zeros_like(A)
    for entry in np.ndindex(*A.shape):
        up, down = A.copy(), A.copy()
        up[entry] += STEP
        down[entry] -= STEP
        found[entry] = (f(up) - f(down)) / (2 * STEP)
    return found


def through(vit: nn.Module, Z: Array, number: int, A: Array) -> Array:
    """The tokens after the last layer, of those before a layer with another attention."""
    Z, _ = block(vit.blocks[number], Z, A)
    for layer in list(vit.blocks)[number + 1 :]:
        Z, _ = block(layer, Z)
    return Z


def rollout(vit: nn.Module, image: Array) -> Array:
    """Abnar and Zuidema 2020: the product of 0.5 A + 0.5 I over layers, (T, T)."""
    _, matrices = layers(vit, image)
    R = np.eye(len(matrices[0][0]))
    for A in matrices:
        R = (0.5 * A.mean(0) + 0.5 * np.eye(len(R))) @ R
    return R


def generic(vit: nn.Module, image: Array, k: int, read: Callable[[Array, int], float]) -> Array:
    """Chefer et al. 2021, equations 5 and 6: R <- R + A R, A being the mean over heads of (dS/dA * A)^+."""
    Z, matrices = layers(vit, image)
    R = np.eye(len(Z[0]))
    for number, A in enumerate(matrices):
        dA = slopes(lambda changed, number=number: read(through(vit, Z[number], number, changed), k), A)
        R = R + np.clip(dA * A, 0, None).mean(0) @ R
    return R


def legrad(vit: nn.Module, image: Array, k: int) -> list[Array]:
    """Bousselham et al. 2025: for each layer a number for each token, of the score of the mean of its own tokens."""
    Z, matrices = layers(vit, image)
    found = []
    for number, A in enumerate(matrices):
        own = lambda changed, number=number: score(  # noqa: E731
            vit, block(vit.blocks[number], Z[number], changed)[0].mean(0), k
        )
        found.append(np.clip(slopes(own, A), 0, None).mean((0, 1)))
    return found

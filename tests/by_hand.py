"""The methods' rules, re-derived slowly from their papers in numpy: loops and masks, no autograd, no torch rule.

Networks are `nn.Sequential`s of convolutions (stride 1, no padding), ReLUs, 2 x 2 max-pooling, flattening and linear
layers, for one image (C, H, W); numpy arrays in, numpy arrays out.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy().astype(np.float64)


def forward(net: nn.Sequential, x: np.ndarray) -> list[np.ndarray]:
    """The input and the output of every layer: one more than there are layers."""
    values = [x]
    for layer in net:
        values.append(_forward(layer, values[-1]))
    return values


def _forward(layer: nn.Module, x: np.ndarray) -> np.ndarray:
    if isinstance(layer, nn.Conv2d):
        W, b = array(layer.weight), array(layer.bias)
        (out, _, kh, kw), (_, H, Wd) = W.shape, x.shape
        y = np.zeros((out, H - kh + 1, Wd - kw + 1))
        for o in range(out):
            for i in range(y.shape[1]):
                for j in range(y.shape[2]):
                    y[o, i, j] = b[o] + (W[o] * x[:, i : i + kh, j : j + kw]).sum()
        return y
    if isinstance(layer, nn.ReLU):
        return np.where(x > 0, x, 0)
    if isinstance(layer, nn.MaxPool2d):
        C, H, Wd = x.shape
        return x[:, : H // 2 * 2, : Wd // 2 * 2].reshape(C, H // 2, 2, Wd // 2, 2).max((2, 4))
    if isinstance(layer, nn.Flatten):
        return x.reshape(-1)
    if isinstance(layer, nn.Linear):
        return array(layer.weight) @ x + array(layer.bias)
    raise NotImplementedError(type(layer))


def backward(net: nn.Sequential, x: np.ndarray, k: int, rule: str = "gradient") -> list[np.ndarray]:
    """The signal at the input and at every layer's output, from 1 at class k's score downwards."""
    values = forward(net, x)
    signals = [np.eye(len(values[-1]))[k]]
    for layer, below, above in zip(reversed(net), values[-2::-1], values[:0:-1], strict=True):
        signals.append(_backward(layer, below, above, signals[-1], rule))
    return signals[::-1]


def rectify(x: np.ndarray, R: np.ndarray, rule: str) -> np.ndarray:
    """What leaves a ReLU's input x when the signal R arrives at its output."""
    if rule == "guided":
        return (x > 0) * (R > 0) * R  # Springenberg et al. 2014, figure 1 c: both zeroings
    if rule == "deconvnet":
        return (R > 0) * R  # Zeiler and Fergus 2013: the signal itself is rectified
    return (x > 0) * R


def _backward(layer: nn.Module, x: np.ndarray, y: np.ndarray, R: np.ndarray, rule: str) -> np.ndarray:
    if isinstance(layer, nn.Conv2d):
        W = array(layer.weight)
        below = np.zeros_like(x)
        for o in range(W.shape[0]):
            for i in range(y.shape[1]):
                for j in range(y.shape[2]):
                    below[:, i : i + W.shape[2], j : j + W.shape[3]] += W[o] * R[o, i, j]
        return below
    if isinstance(layer, nn.ReLU):
        return rectify(x, R, rule)
    if isinstance(layer, nn.MaxPool2d):
        below = np.zeros_like(x)
        for c, i, j in np.ndindex(*y.shape):
            window = x[c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            u, v = np.unravel_index(window.argmax(), window.shape)  # the switch
            below[c, 2 * i + u, 2 * j + v] = R[c, i, j]
        return below
    if isinstance(layer, nn.Flatten):
        return R.reshape(x.shape)
    if isinstance(layer, nn.Linear):
        return array(layer.weight).T @ R
    raise NotImplementedError(type(layer))


def bilinear(values: np.ndarray, H: int, W: int) -> np.ndarray:
    """An (h, w) map at (H, W): pixel centres aligned, border pixels repeated outwards."""
    h, w = values.shape
    up = np.zeros((H, W))
    for i in range(H):
        for j in range(W):
            a = min(max((i + 0.5) * h / H - 0.5, 0), h - 1)
            b = min(max((j + 0.5) * w / W - 0.5, 0), w - 1)
            i0, j0 = int(a), int(b)
            i1, j1 = min(i0 + 1, h - 1), min(j0 + 1, w - 1)
            s, t = a - i0, b - j0
            up[i, j] = (1 - s) * ((1 - t) * values[i0, j0] + t * values[i0, j1])
            up[i, j] += s * ((1 - t) * values[i1, j0] + t * values[i1, j1])
    return up


def score_cam(net, x, c, probability, factors=(1.0,), noise=None):
    """Wang et al., algorithm 1, one channel at a time, with what follows the softmax written out."""
    A = forward(net, x)[5]
    f = []
    for channel in A:
        H = bilinear(channel, *x.shape[1:])
        H = (H - H.min()) / (H.max() - H.min()) if H.max() > H.min() else 0 * H
        masks = [factor * H for factor in factors] if noise is None else [H + e for e in noise]
        z = [forward(net, x * mask)[-1] for mask in masks]
        f.append(np.mean([np.exp(s[c]) / np.exp(s).sum() if probability else s[c] for s in z]))
    w = np.exp(np.array(f)) / np.exp(np.array(f)).sum()
    return sum(weight * channel for weight, channel in zip(w, A, strict=True)), 1 / (w**2).sum()

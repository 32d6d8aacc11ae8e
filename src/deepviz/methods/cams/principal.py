"""The first principal component of what a layer returns."""

import torch
from torch import Tensor


def first_component(M: Tensor, along: Tensor | None = None) -> Tensor:
    """M v_1 for each image: the values (n, D, *grid) at each position, projected on their first singular vector.

    Not centred. A singular vector has no sign of its own: this one has that which makes the map go along with `along`
    (n, 1, *grid), so that their product sums to no less than zero; by default with its own third power, so that what
    stands out is positive.
    """
    rows = M.flatten(2).transpose(1, 2).double()  # (n, positions, D)
    positions, D = rows.shape[1:]
    # of M M^T or M^T M, the smaller: their largest eigenvectors are M's first singular vectors
    if positions <= D:
        values, vectors = torch.linalg.eigh(rows @ rows.transpose(1, 2))
        found = vectors[..., -1] * values[..., -1:].clamp_min(0).sqrt()
    else:
        _, vectors = torch.linalg.eigh(rows.transpose(1, 2) @ rows)
        found = (rows @ vectors[..., -1:])[..., 0]
    skew = found.pow(3) if along is None else found * along.flatten(1)
    signed: Tensor = found * torch.where(skew.sum(1, keepdim=True) < 0, -1.0, 1.0)
    return signed.view(len(M), 1, *M.shape[2:]).to(M.dtype)

r"""Angles between inputs, to full precision, and the arc-cosine functions of ReLU networks.

For unit vectors at angle :math:`\theta` and :math:`w\sim N(0,I)` (Cho and Saul 2009),

.. math:: \kappa_0 &= 2\,\mathbb E[1\{w\cdot x\ge0\}1\{w\cdot x'\ge0\}] = \frac{\pi-\theta}{\pi},\\
    \kappa_1 &= 2\,\mathbb E[\varphi(w\cdot x)\varphi(w\cdot x')]
        = \frac{\sin\theta+(\pi-\theta)\cos\theta}{\pi}.

Both lose half of the digits near :math:`\theta=0` if θ is the arccos of a rounded inner product. So no
cosine is kept here: what is kept is the deficit :math:`1-\cos\theta`, which has a small relative error.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Angles", "angles", "deficit_of_kappa1", "kappa0", "kappa1"]

# A float64 inner product of unit rows is wrong by some 1e-16, hence an angle θ by some 1e-16/θ. Below this
# deficit, θ = 0.014, the rows are subtracted instead: their difference has hardly any error.
_NEAR = 1e-4
_PAIRS_AT_ONCE = 1 << 22  # numbers in the differences held at once: 32 MB


class Angles(NamedTuple):
    r"""The angles :math:`\theta_{ij}` between the rows of two matrices, each number to its last digits.

    Attributes
    ----------
    deficit : Tensor of shape (n1, n2)
        :math:`1-\cos\theta_{ij}`, with a small relative error also for tiny angles.
    cos, sin : Tensor of shape (n1, n2)
        :math:`\cos\theta_{ij}` and :math:`\sin\theta_{ij}`.
    theta, supplement : Tensor of shape (n1, n2)
        :math:`\theta_{ij}\in[0,\pi]` and :math:`\pi-\theta_{ij}`, each exact where it is tiny.
    """

    deficit: Tensor
    cos: Tensor
    sin: Tensor
    theta: Tensor
    supplement: Tensor

    @classmethod
    def of(cls, deficit: Tensor, excess: Tensor) -> Angles:
        r"""Return the angles with given :math:`1-\cos\theta` and :math:`1+\cos\theta`, both exact."""
        acute = deficit <= excess
        nearer = _angle(torch.where(acute, deficit, excess))  # to the row, or to its opposite
        farther = math.pi - nearer
        return cls(
            deficit,
            torch.where(acute, 1 - deficit, excess - 1),
            (deficit * excess).sqrt_(),
            torch.where(acute, nearer, farther),
            torch.where(acute, farther, nearer),
        )

    @classmethod
    def acute(cls, deficit: Tensor) -> Angles:
        r"""Return the angles with given :math:`1-\cos\theta\le1`: those of all layers but the first."""
        theta = _angle(deficit)
        return cls(deficit, 1 - deficit, (2 - deficit).mul_(deficit).sqrt_(), theta, math.pi - theta)


def angles(u1: Tensor, u2: Tensor, dtype: torch.dtype | None = None, *, same: bool = False) -> Angles:
    r"""Measure the angles between rows of unit norm.

    Inner products are taken in float64; pairs of rows that nearly coincide, or are nearly opposite, are
    subtracted, or added, instead:

    .. math:: 1-\cos\theta = \tfrac12\|u-u'\|^2, \qquad 1+\cos\theta = \tfrac12\|u+u'\|^2 .

    Parameters
    ----------
    u1, u2 : Tensor of shapes (n1, d) and (n2, d), float64
        Rows of unit norm. They are not checked.
    dtype : torch.dtype, optional
        Type of the result, float64 by default. For float32 nothing needs to be subtracted.
    same : bool, default False
        Whether `u2` is `u1`, so that the diagonal's angles are zero.

    Returns
    -------
    Angles
        With matrices of shape (n1, n2).
    """
    cos = u1 @ u2.T
    deficit, excess = (1 - cos).clamp_(min=0), cos.add_(1).clamp_(min=0)
    if dtype in (None, torch.float64):
        _subtract_rows(deficit, excess, u1, u2)
        _subtract_rows(excess, deficit, u1, -u2)
    if same:
        deficit.fill_diagonal_(0)
        excess.fill_diagonal_(2)
    return Angles.of(deficit.to(dtype or torch.float64), excess.to(dtype or torch.float64))


def kappa0(angle: Angles) -> Tensor:
    r"""Return :math:`\kappa_0=(\pi-\theta)/\pi`."""
    return angle.supplement / math.pi


def kappa1(angle: Angles) -> Tensor:
    r"""Return :math:`\kappa_1=(\sin\theta+(\pi-\theta)\cos\theta)/\pi`."""
    return torch.addcmul(angle.sin, angle.supplement, angle.cos).div_(math.pi)


def deficit_of_kappa1(angle: Angles) -> Tensor:
    r"""Return :math:`1-\kappa_1=(1-\cos\theta)-(\sin\theta-\theta\cos\theta)/\pi`, exact for tiny angles too.

    With it a deep network's recursion carries deficits: the cosine of the next layer is :math:`\kappa_1`.
    """
    part = torch.addcmul(angle.sin, angle.theta, angle.cos, value=-1)
    return torch.sub(angle.deficit, part, alpha=1 / math.pi).clamp_(0, 1)


def _angle(deficit: Tensor) -> Tensor:
    # 1 - cos θ = 2 sin²(θ/2)
    return (deficit / 2).sqrt_().asin_().mul_(2)


def _subtract_rows(deficit: Tensor, excess: Tensor, u1: Tensor, u2: Tensor) -> None:
    rows, columns = (deficit < _NEAR).nonzero(as_tuple=True)
    at_once = max(1, _PAIRS_AT_ONCE // u1.shape[1])
    for i, j in zip(rows.split(at_once), columns.split(at_once), strict=True):
        exact = (u1[i] - u2[j]).square().sum(dim=1) / 2
        deficit[i, j] = exact
        excess[i, j] = 2 - exact

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
    r"""The angles :math:`\theta_{ij}` between the rows of two matrices.

    Attributes
    ----------
    deficit : Tensor of shape (n1, n2)
        :math:`1-\cos\theta_{ij}`, exact to a few units in its last place, also for tiny angles.
    excess : Tensor of shape (n1, n2)
        :math:`1+\cos\theta_{ij}`, exact in the same sense, also for nearly opposite rows.
    """

    deficit: Tensor
    excess: Tensor

    @property
    def theta(self) -> Tensor:
        """The angles, in [0, π]."""
        near, opposite = _half_angle(self.deficit), _half_angle(self.excess)
        return torch.where(self.deficit <= self.excess, 2 * near, math.pi - 2 * opposite)

    @property
    def supplement(self) -> Tensor:
        """π less the angles: exact where that is tiny."""
        near, opposite = _half_angle(self.deficit), _half_angle(self.excess)
        return torch.where(self.deficit <= self.excess, math.pi - 2 * near, 2 * opposite)

    @property
    def cos(self) -> Tensor:
        """The cosines."""
        return torch.where(self.deficit <= self.excess, 1 - self.deficit, self.excess - 1)

    @property
    def sin(self) -> Tensor:
        """The sines, exact where they are tiny."""
        return (self.deficit * self.excess).sqrt()


def angles(u1: Tensor, u2: Tensor, dtype: torch.dtype | None = None) -> Angles:
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

    Returns
    -------
    Angles
        With matrices of shape (n1, n2).
    """
    cos = u1 @ u2.T
    deficit, excess = (1 - cos).clamp_(min=0), (1 + cos).clamp_(min=0)
    if dtype in (None, torch.float64):
        _subtract_rows(deficit, excess, u1, u2)
        _subtract_rows(excess, deficit, u1, -u2)
    return Angles(deficit.to(dtype or torch.float64), excess.to(dtype or torch.float64))


def kappa0(angle: Angles) -> Tensor:
    r"""Return :math:`\kappa_0=(\pi-\theta)/\pi`."""
    return angle.supplement / math.pi


def kappa1(angle: Angles) -> Tensor:
    r"""Return :math:`\kappa_1=(\sin\theta+(\pi-\theta)\cos\theta)/\pi`."""
    return (angle.sin + angle.supplement * angle.cos) / math.pi


def deficit_of_kappa1(angle: Angles) -> Tensor:
    r"""Return :math:`1-\kappa_1=(1-\cos\theta)-(\sin\theta-\theta\cos\theta)/\pi`, exact for tiny angles too.

    With it a deep network's recursion carries deficits: the cosine of the next layer is :math:`\kappa_1`.
    """
    return (angle.deficit - (angle.sin - angle.theta * angle.cos) / math.pi).clamp_(min=0)


def _half_angle(deficit: Tensor) -> Tensor:
    # 1 - cos θ = 2 sin²(θ/2)
    return (deficit / 2).clamp(max=1).sqrt().asin()


def _subtract_rows(deficit: Tensor, excess: Tensor, u1: Tensor, u2: Tensor) -> None:
    rows, columns = (deficit < _NEAR).nonzero(as_tuple=True)
    at_once = max(1, _PAIRS_AT_ONCE // u1.shape[1])
    for i, j in zip(rows.split(at_once), columns.split(at_once), strict=True):
        exact = (u1[i] - u2[j]).square().sum(dim=1) / 2
        deficit[i, j] = exact
        excess[i, j] = 2 - exact

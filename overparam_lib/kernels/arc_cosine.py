r"""Angles between inputs, to full precision, and the arc-cosine functions of ReLU networks.

For unit vectors at angle :math:`\theta` and :math:`w\sim N(0,I)` (Cho and Saul 2009),

.. math:: \kappa_0 &= 2\,\mathbb E[1\{w\cdot x\ge0\}1\{w\cdot x'\ge0\}] = \frac{\pi-\theta}{\pi},\\
    \kappa_1 &= 2\,\mathbb E[\varphi(w\cdot x)\varphi(w\cdot x')]
        = \frac{\sin\theta+(\pi-\theta)\cos\theta}{\pi}.

Both lose half of the digits near :math:`\theta=0` if θ is the arccos of a rounded inner product. So no
cosine is kept here: what is kept is :math:`\sin^2(\theta/2)=\frac12(1-\cos\theta)`, with a small relative
error.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["Angles", "Layers", "angles", "kappa0", "kappa1"]

# A float64 inner product of unit rows is wrong by some 1e-16, hence an angle θ by some 1e-16/θ. Below this
# sin²(θ/2), θ = 0.014, the rows are subtracted instead: their difference has hardly any error.
_NEAR = 5e-5
_OBTUSE = 0.9  # from this sin²(θ/2) on, θ = 143°, the angle to the opposite row is measured instead
_PAIRS_AT_ONCE = 1 << 22  # numbers in the differences held at once: 32 MB


class Angles:
    r"""The angles :math:`\theta_{ij}` between the rows of two matrices; what is asked of them is computed.

    Parameters
    ----------
    near : Tensor of shape (n1, n2)
        :math:`\sin^2(\theta_{ij}/2)`, with a small relative error also for tiny angles.
    far : Tensor of shape (n1, n2), optional
        :math:`\cos^2(\theta_{ij}/2)`, with a small relative error also for angles near :math:`\pi`. It may be
        left out if none is.
    """

    def __init__(self, near: Tensor, far: Tensor | None = None) -> None:
        self.near, self.far = near, far

    @property
    def cos(self) -> Tensor:
        r""":math:`\cos\theta_{ij}`."""
        return torch.rsub(self.near, 1, alpha=2) if self.far is None else self.far - self.near

    @property
    def half(self) -> Tensor:
        r""":math:`\theta_{ij}/2`."""
        if self.far is None:
            return self.near.sqrt().asin_()
        acute = self.near <= self.far  # else the angle to the opposite row is measured
        nearer = torch.where(acute, self.near, self.far).sqrt_().asin_()
        return torch.where(acute, nearer, math.pi / 2 - nearer)

    @property
    def half_sin(self) -> Tensor:
        r""":math:`\frac12\sin\theta_{ij}=\sin(\theta_{ij}/2)\cos(\theta_{ij}/2)`."""
        return (self.near * (1 - self.near if self.far is None else self.far)).sqrt_()


def angles(u1: Tensor, u2: Tensor, dtype: torch.dtype | None = None, *, same: bool = False) -> Angles:
    r"""Measure the angles between rows of unit norm.

    Inner products are taken in float64; pairs of rows that nearly coincide, or are nearly opposite, are
    subtracted, or added, instead:

    .. math:: \sin^2(\theta/2) = \tfrac14\|u-u'\|^2, \qquad \cos^2(\theta/2) = \tfrac14\|u+u'\|^2 .

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
    exact = torch.addmm(u1.new_full((1,), 0.5), u1, u2.T, alpha=-0.5)  # ½ − ½ cos θ
    single = dtype == torch.float32
    near = (exact.float() if single else exact.clone()).clamp_(min=0)
    if same:
        near.fill_diagonal_(0)
    if single and near.max() < _OBTUSE:
        return Angles(near)
    far = exact.neg_().add_(1).clamp_(min=0).to(near)
    if same:
        far.fill_diagonal_(1)
    if not single:
        _subtract_rows(near, far, u1, u2)
        _subtract_rows(far, near, u1, -u2)
    return Angles(near, far)


def kappa0(angle: Angles) -> Tensor:
    r"""Return :math:`\kappa_0=(\pi-\theta)/\pi`."""
    return torch.rsub(angle.half, 1, alpha=2 / math.pi)


def kappa1(angle: Angles) -> Tensor:
    r"""Return :math:`\kappa_1=(\sin\theta+(\pi-\theta)\cos\theta)/\pi`."""
    return (angle.cos * kappa0(angle)).add_(angle.half_sin, alpha=2 / math.pi)


class Layers:
    r"""Covariance and tangent kernel of a deep ReLU network, layer after layer, each divided by its scale.

    With :math:`N` the product of the sizes of the two inputs in the layer, :math:`\cos\theta=\Sigma/N`. A
    layer makes

    .. math:: \frac\Theta N\to\kappa_0\,\frac\Theta N, \qquad
        1-\cos\theta\to1-\kappa_1=(1-\cos\theta)-\tfrac1\pi(\sin\theta-\theta\cos\theta),

    exact for tiny angles too, then perhaps a bias is added to all covariances, and at last
    :math:`\Theta/N` grows by the new cosine. All is computed in place: new memory for each of the dozen
    operations would take longer than they do.

    Parameters
    ----------
    angle : Angles
        Those of the inputs. Its tensors are changed.

    Attributes
    ----------
    squared : Tensor of shape (n1, n2)
        :math:`\sin^2(\theta/2)=\frac12(1-\cos\theta)` of the layer.
    kernel : Tensor of shape (n1, n2)
        :math:`\Theta/N`.
    """

    def __init__(self, angle: Angles) -> None:
        self._angle: Angles | None = angle if angle.far is not None else None
        self._cos, self.squared = angle.cos, angle.near
        self.kernel = self._cos  # before the first layer
        self._sin, self._half = torch.empty_like(self.squared), torch.empty_like(self.squared)

    def advance(self) -> None:
        """Pass through a layer."""
        if self._angle is None:  # not near π
            half = torch.sqrt(self.squared, out=self._half).asin_()
            sin = torch.addcmul(self.squared, self.squared, self.squared, value=-1, out=self._sin).sqrt_()
        else:  # only the first layer has angles beyond π/2
            half, sin, self._angle = self._angle.half, self._angle.half_sin, None
        into = self.kernel if self.kernel is not self._cos else None
        self.kernel = torch.addcmul(
            self.kernel, self.kernel, half, value=-2 / math.pi, out=into
        )  # κ₀ = 1 − θ/π
        self.squared.sub_(sin.addcmul_(half, self._cos, value=-1), alpha=1 / math.pi).clamp_(min=0)

    def finish(self) -> None:
        """Add the cosine, when the layer's angles are settled."""
        torch.sub(self.squared.new_ones(()), self.squared, alpha=2, out=self._cos)
        self.kernel.add_(self._cos)

    @property
    def cos(self) -> Tensor:
        r""":math:`\cos\theta=\Sigma/N` of the layer that was finished."""
        return self._cos


def _subtract_rows(near: Tensor, far: Tensor, u1: Tensor, u2: Tensor) -> None:
    rows, columns = (near < _NEAR).nonzero(as_tuple=True)
    at_once = max(1, _PAIRS_AT_ONCE // u1.shape[1])
    for i, j in zip(rows.split(at_once), columns.split(at_once), strict=True):
        exact = (u1[i] - u2[j]).square().sum(dim=1) / 4
        near[i, j] = exact
        far[i, j] = 1 - exact

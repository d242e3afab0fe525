r"""Neural tangent kernels of infinitely wide ReLU networks, in closed form."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from overparam_lib.kernels.arc_cosine import Angles, Layers, angles, kappa0, kappa1

__all__ = ["AnalyticKernel", "MLPNTK", "TwoLayerNTK"]

# Blocks of this many rows and columns: their few temporaries stay near the processor's cores. Elsewhere it
# takes large ones to keep the device busy.
_BLOCK = {"cpu": (256, 2048)}
_LARGE_BLOCK = (4096, 4096)
_LEAST_NORM = 1e-140  # the squares of smaller numbers lose digits in float64


class _Rows:
    """Inputs in float64, as norms and unit rows; others than finite, nonzero rows are refused."""

    def __init__(self, name: str, x: Tensor) -> None:
        own = _doubled(name, x)
        self.norms = _norms(name, own)
        self.unit = own.div_(self.norms[:, None])


class AnalyticKernel(ABC):
    """A kernel in closed form: an object called on inputs."""

    def __call__(self, x1: Tensor, x2: Tensor | None = None) -> Tensor:
        """Evaluate the kernel.

        Parameters
        ----------
        x1 : torch.Tensor
            Inputs, shape (n1, d), float32 or float64, no row zero.
        x2 : torch.Tensor, optional
            Inputs, shape (n2, d), of the same type on the same device. None for the symmetric case, whose
            result is exactly symmetric and has an exact diagonal.

        Returns
        -------
        torch.Tensor
            Kernel matrix, shape (n1, n2), on the inputs' device and with their type. Its error is below
            1e-13 of the largest entry in float64, and 1e-6 in float32, also for rows that nearly coincide.

        Raises
        ------
        ValueError
            If an input is not a floating-point matrix, has no rows, holds NaN or infinity, or has a row of
            zeros, or if the two do not fit.
        """
        return self._evaluate(x1, x2, self._tile)

    @abstractmethod
    def diagonal(self, x: Tensor) -> Tensor:
        """Return the kernel of each input with itself.

        Parameters
        ----------
        x : torch.Tensor
            Inputs, shape (n, d).

        Returns
        -------
        torch.Tensor
            Shape (n,).
        """

    @abstractmethod
    def _tile(self, angle: Angles, norms1: Tensor, norms2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Evaluate the kernel for angles (n1, n2) in its type, and norms (n1, 1) and (1, n2) in float64.

        The kernel is the product of the three results, which have these shapes.
        """

    def _evaluate(self, x1: Tensor, x2: Tensor | None, function) -> Tensor:
        first = _Rows("x1", x1)
        second = first if x2 is None else _Rows("x2", x2)
        if x2 is not None:
            _require_fit(x1, x2)
        n1, n2 = len(x1), len(second.norms)
        out = x1.new_empty(n1, n2)
        rows, columns = _BLOCK.get(x1.device.type, _LARGE_BLOCK)
        for i in _parts(0, n1, rows):
            for j in _parts(i.start if x2 is None else 0, n2, columns):
                diagonal = x2 is None and i.start == j.start  # it begins in the block's corner
                angle = angles(first.unit[i], second.unit[j], x1.dtype, same=diagonal)
                value, size1, size2 = function(angle, first.norms[i, None], second.norms[None, j])
                # In one type: torch multiplies mixed ones several times slower.
                torch.mul(value.mul_(size1.to(value)), size2.to(value), out=out[i, j])
                if diagonal:
                    square = out[i, i]
                    square.copy_(square.triu().add_(square.triu(1).T))  # symmetric to the last digit
                if x2 is None:
                    beyond = slice(i.stop if diagonal else j.start, j.stop)
                    out[beyond, i] = out[i, beyond].T
        return out


@dataclass(frozen=True)
class TwoLayerNTK(AnalyticKernel):
    r"""Limit kernel of the two-layer ReLU network :math:`m^{-1/2}\sum_r a_r\varphi(w_r\cdot x)`.

    With :math:`w\sim N(0,I)` and :math:`a_r=\pm1`, and :math:`\theta` the angle of :math:`x` and :math:`x'`,
    training the first layer gives the kernel

    .. math:: H^\infty(x,x') = \mathbb E[x\cdot x'\,1\{w\cdot x\ge0,\,w\cdot x'\ge0\}]
        = \frac{x\cdot x'\,(\pi-\theta)}{2\pi},

    training the second layer

    .. math:: \mathbb E[\varphi(w\cdot x)\varphi(w\cdot x')]
        = \|x\|\|x'\|\,\frac{\sin\theta+(\pi-\theta)\cos\theta}{2\pi},

    and training both the sum.

    Parameters
    ----------
    trained : {"first", "second", "both"}, default ``"first"``
        Which layers are trained, as in :class:`~overparam_lib.networks.TwoLayer`. ``"first"`` on inputs of
        unit norm is :math:`H^\infty` of Du et al. and of Arora et al.

    Raises
    ------
    ValueError
        If `trained` is none of the three.

    References
    ----------
    Du, Zhai, Póczos and Singh, "Gradient descent provably optimizes over-parameterized neural networks",
    ICLR 2019, section 3.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.0], [0.5, 0.75**0.5]], dtype=torch.float64)
    >>> TwoLayerNTK()(x)  # 1/2 on the diagonal, and 1/6 at sixty degrees
    tensor([[0.5000, 0.1667],
            [0.1667, 0.5000]], dtype=torch.float64)
    """

    trained: Literal["first", "second", "both"] = "first"

    def __post_init__(self) -> None:
        """Check the argument."""
        if self.trained not in ("first", "second", "both"):
            raise ValueError(f"trained must be one of ['first', 'second', 'both'], got {self.trained!r}")

    def diagonal(self, x: Tensor) -> Tensor:
        r"""Return :math:`\|x\|^2/2`, or :math:`\|x\|^2` if both layers are trained; shape (n,)."""
        return (_norms("x", _doubled("x", x)).square() * (1.0 if self.trained == "both" else 0.5)).to(x.dtype)

    def _tile(self, angle: Angles, norms1: Tensor, norms2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.trained == "second":
            value = kappa1(angle)
        else:
            value = angle.cos * kappa0(angle)
            if self.trained == "both":
                value.add_(kappa1(angle))
        return value, norms1 / 2, norms2


@dataclass(frozen=True)
class MLPNTK(AnalyticKernel):
    r"""Limit kernel of a fully connected ReLU network with L hidden layers, all layers trained.

    The network is, with :math:`N(0,1)` weights and biases, all trained,

    .. math:: z^{(1)} = W^{(1)}x+\sigma_b b^{(1)}, \qquad
        z^{(h+1)} = \sqrt{\sigma_w^2/m}\;W^{(h+1)}\varphi(z^{(h)})+\sigma_b b^{(h+1)}, \qquad f = z^{(L+1)} .

    In the limit of infinite width, with :math:`N=\sqrt{\Sigma(x,x)\Sigma(x',x')}` and the angle of the
    layer before,

    .. math:: \Sigma^{(0)} &= x\cdot x'+\sigma_b^2, \\
        \Sigma^{(h)} &= \tfrac{\sigma_w^2}2N^{(h-1)}\kappa_1+\sigma_b^2,\\
        \Theta^{(0)} &= \Sigma^{(0)}, \\
        \Theta^{(h)} &= \tfrac{\sigma_w^2}2\,\kappa_0\,\Theta^{(h-1)}+\Sigma^{(h)},

    and the neural tangent kernel is :math:`\Theta^{(L)}`. Without biases and with :math:`\sigma_w^2=2`,
    :math:`\Theta^{(L)}(x,x)=(L+1)\|x\|^2`.

    Parameters
    ----------
    depth : int
        Number L of hidden layers, at least 1.
    weight_variance : float, default 2.0
        :math:`\sigma_w^2`, positive.
    bias_variance : float, default 0.0
        :math:`\sigma_b^2`, not negative. Zero for a network without biases.

    Raises
    ------
    ValueError
        If an argument is outside its range.

    References
    ----------
    Jacot, Gabriel and Hongler, "Neural tangent kernel", NeurIPS 2018. Arora, Du, Hu, Li, Salakhutdinov and
    Wang, "On exact computation with an infinitely wide neural net", NeurIPS 2019, section 3.

    Examples
    --------
    >>> x = torch.eye(2, dtype=torch.float64)
    >>> MLPNTK(depth=1)(x)  # at a right angle 1/π
    tensor([[2.0000, 0.3183],
            [0.3183, 2.0000]], dtype=torch.float64)
    """

    depth: int
    weight_variance: float = 2.0
    bias_variance: float = 0.0

    def __post_init__(self) -> None:
        """Check the arguments."""
        if isinstance(self.depth, bool) or not isinstance(self.depth, int) or self.depth < 1:
            raise ValueError(
                f"depth must be a positive integer, the number of hidden layers, got {self.depth!r}"
            )
        if not (math.isfinite(self.weight_variance) and self.weight_variance > 0):
            raise ValueError(f"weight_variance must be positive and finite, got {self.weight_variance!r}")
        if not (math.isfinite(self.bias_variance) and self.bias_variance >= 0):
            raise ValueError(f"bias_variance must be finite and not negative, got {self.bias_variance!r}")

    def nngp(self, x1: Tensor, x2: Tensor | None = None) -> Tensor:
        r"""Evaluate :math:`\Sigma^{(L)}`, the covariance of the outputs of the network at its random start.

        Arguments, result and errors are those of the kernel itself.
        """

        def tile(angle: Angles, norms1: Tensor, norms2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            layers, size1, size2 = self._recursion(angle, norms1, norms2)
            return layers.cos, size1, size2

        return self._evaluate(x1, x2, tile)

    def diagonal(self, x: Tensor) -> Tensor:
        r"""Return :math:`\Theta^{(L)}(x,x)`, shape (n,)."""
        variance = _norms("x", _doubled("x", x)).square() + self.bias_variance
        kernel = variance
        for _ in range(self.depth):
            variance = self.weight_variance / 2 * variance + self.bias_variance
            kernel = self.weight_variance / 2 * kernel + variance
        return kernel.to(x.dtype)

    def _tile(self, angle: Angles, norms1: Tensor, norms2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        layers, size1, size2 = self._recursion(angle, norms1, norms2)
        return layers.kernel, size1, size2

    def _recursion(self, angle: Angles, norms1: Tensor, norms2: Tensor) -> tuple[Layers, Tensor, Tensor]:
        """Return the last layer's state, and the sizes of the inputs there."""
        half, bias = self.weight_variance / 2, self.bias_variance
        size1, size2 = norms1, norms2  # √Σ(x,x); in float64, since they grow by a rounding a layer
        if bias:
            far = _far_with_bias(angle, size1, size2, bias)
            near, size1, size2 = _with_bias(angle.near, size1, size2, bias)
            angle = Angles(near, far)
        layers = Layers(angle)
        for _ in range(self.depth):
            layers.advance()
            size1, size2 = math.sqrt(half) * size1, math.sqrt(half) * size2
            if bias:
                layers.squared, new1, new2 = _with_bias(layers.squared, size1, size2, bias)
                layers.kernel.mul_((size1 / new1).to(layers.kernel)).mul_((size2 / new2).to(layers.kernel))
                size1, size2 = new1, new2
            layers.finish()
        return layers, size1, size2


def _with_bias(squared: Tensor, size1: Tensor, size2: Tensor, bias: float) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return :math:`\sin^2(\theta'/2)` and sizes after a bias has added the same number to all covariances.

    With :math:`A=s_1s_2` before and :math:`N=\sqrt{(s_1^2+b)(s_2^2+b)}` after,

    .. math:: N(1-\cos\theta') = (N-A-b)+A(1-\cos\theta), \qquad N-A-b = \frac{b\,(s_1-s_2)^2}{N+A+b}:

    a sum of positive terms, in which nothing cancels.
    """
    new1, new2 = (size1.square() + bias).sqrt(), (size2.square() + bias).sqrt()
    product, new = size1 * size2, new1 * new2
    gap = bias * (size1 - size2).square() / (new + product + bias)
    squared = (gap / (2 * new)).to(squared) + (product / new).to(squared).mul_(squared)
    return squared, new1, new2


def _far_with_bias(angle: Angles, size1: Tensor, size2: Tensor, bias: float) -> Tensor:
    r"""Return :math:`\cos^2(\theta'/2)` after a bias, exact also for inputs that are nearly opposite.

    As above, :math:`N(1+\cos\theta')=(N-A+b)+A(1+\cos\theta)` with
    :math:`N-A=b\,(s_1^2+s_2^2+b)/(N+A)`.
    """
    far = 1 - angle.near if angle.far is None else angle.far
    product, new = size1 * size2, (size1.square() + bias).sqrt() * (size2.square() + bias).sqrt()
    gap = bias * (size1.square() + size2.square() + bias) / (new + product) + bias
    return (gap / (2 * new)).to(far) + (product / new).to(far) * far


def _parts(start: int, stop: int, size: int) -> list[slice]:
    return [slice(at, min(at + size, stop)) for at in range(start, stop, size)]


def _doubled(name: str, x: Tensor) -> Tensor:
    """Check the inputs, and return a copy in float64."""
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"{name} must be a matrix of inputs, shape (n, d), got shape {tuple(x.shape)}")
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name} must be float32 or float64, got {x.dtype}")
    return x.detach().to(torch.float64, copy=True)


def _norms(name: str, x: Tensor) -> Tensor:
    """Return the norms of inputs in float64, shape (n,); refuse rows that have no angle."""
    norms = torch.linalg.vector_norm(x, dim=1)
    if not (torch.isfinite(norms) & (norms > _LEAST_NORM)).all():
        raise ValueError(f"{name} {_fault(x, norms)}")
    return norms


def _fault(x: Tensor, norms: Tensor) -> str:
    def rows(bad: Tensor) -> list[int]:
        return bad.nonzero()[:5, 0].tolist()

    if found := rows(~torch.isfinite(x).all(dim=1)):
        return f"holds NaN or infinity, in rows {found}"
    if found := rows(x.any(dim=1) & (norms <= _LEAST_NORM)):
        return f"has rows whose squares underflow, {found}: scale them"
    if found := rows(torch.isinf(norms)):
        return f"has rows whose norm overflows, {found}: scale them"
    return f"has rows of zeros, {rows(norms == 0)}: they have no angle; remove them, or append a constant"


def _require_fit(x1: Tensor, x2: Tensor) -> None:
    if x1.shape[1] != x2.shape[1]:
        raise ValueError(f"x2 must have the {x1.shape[1]} columns of x1, got shape {tuple(x2.shape)}")
    if x1.dtype != x2.dtype:
        raise ValueError(f"x2 must have the type of x1, {x1.dtype}, got {x2.dtype}")
    if x1.device != x2.device:
        raise ValueError(f"x2 must be on the device of x1, {x1.device}, got {x2.device}")

r"""Labels from a teacher: a fixed random two-layer network, on Gaussian inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Teacher", "TeacherSample"]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "erf": torch.erf,
}
_GAINS = (1e-2, 10.0)
_CANCELLED = 1e-9  # least variance, relative to what it would be if the neurons did not overlap
_REACH = 8.5  # the normal law has 1e-17 of its mass beyond


class TeacherSample(NamedTuple):
    """Inputs and the teacher's outputs on them.

    Attributes
    ----------
    x : Tensor of shape (n, d)
        The inputs.
    y : Tensor of shape (n,)
        The teacher's outputs.
    """

    x: Tensor
    y: Tensor


class Teacher:
    r"""A fixed random two-layer network that gives labels of variance one to Gaussian inputs.

    With :math:`k^*` hidden neurons,

    .. math:: y = \sum_{r=1}^{k^*} a^*_r\,\varphi(w^*_r\cdot x), \qquad x\sim N(0, I_d), \qquad
        \mathbb E\,y^2-(\mathbb E\,y)^2 = 1,

    where the :math:`w^*_r` are independent and uniform on the sphere of radius g, the gain, and all
    :math:`a^*_r` have the same size, those of the first :math:`\lceil k^*/2\rceil` neurons positive, the
    others negative. So :math:`\mathbb E\,y=0` if :math:`k^*` is even. The common size of the
    :math:`a^*_r` makes the variance one. It comes from the covariances
    :math:`\mathbb E\,\varphi(w^*_r\cdot x)\,\varphi(w^*_{r'}\cdot x)`, not from a sample: for ReLU, with
    θ the angle between the two rows, they are
    :math:`\frac{g^2}{2\pi}\big(\sin\theta+(\pi-\theta)\cos\theta\big)`, and for the smooth activations
    they are integrated numerically, by the trapezoidal rule in two dimensions, with an absolute error
    of about :math:`10^{-8}`. The variance is a sum of them with both signs, so its relative error is
    larger where they nearly cancel, as for a small gain, with which the neurons are almost linear.

    Parameters
    ----------
    in_features : int
        Input dimension d.
    width : int
        Number :math:`k^*` of hidden neurons.
    activation : {"relu", "sigmoid", "tanh", "erf"}, default ``"relu"``
        φ.
    gain : float, default 1.0
        Norm g of each :math:`w^*_r`, which is the standard deviation of :math:`w^*_r\cdot x`; in
        [0.01, 10]. It makes no difference for ReLU, and makes a smooth activation more or less curved.
    generator : torch.Generator, keyword-only
        Source of the rows. Numbers are drawn in float64 on the generator's device.
    device, dtype : optional
        As in :class:`torch.nn.Linear`; also those of the samples.

    Attributes
    ----------
    hidden_weight : Tensor of shape (k*, d)
        The rows :math:`w^*_r`.
    output_weight : Tensor of shape (k*,)
        The :math:`a^*_r`.
    mean : float
        :math:`\mathbb E\,y`.

    Raises
    ------
    ValueError
        If a size is not a positive integer, another argument is none of the above, or the neurons
        cancel: the variance of :math:`\sum_r\pm\varphi(w^*_r\cdot x)` is at most :math:`10^{-9}` times
        :math:`\sum_r\mathbb E\,\varphi(w^*_r\cdot x)^2`. In one
        dimension two neurons that point the same way do this.

    References
    ----------
    Livni, Shalev-Shwartz and Shamir, "On the computational efficiency of training neural networks",
    NeurIPS 2014. The closed form: Cho and Saul, "Kernel methods for deep learning", NeurIPS 2009.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> teacher = Teacher(10, 4, generator=g)
    >>> x, y = teacher.sample(100_000, generator=g)
    >>> x.shape, round(y.var().item(), 1)
    (torch.Size([100000, 10]), 1.0)
    """

    def __init__(
        self,
        in_features: int,
        width: int,
        *,
        activation: str = "relu",
        gain: float = 1.0,
        generator: torch.Generator,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _require_sizes(in_features=in_features, width=width)
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation must be one of {list(_ACTIVATIONS)}, got {activation!r}")
        if not _GAINS[0] <= gain <= _GAINS[1]:
            raise ValueError(f"gain must lie in [{_GAINS[0]:g}, {_GAINS[1]:g}], got {gain!r}")
        _require_generator(generator)
        self.in_features, self.width, self.activation, self.gain = in_features, width, activation, gain
        rows = _normal((width, in_features), generator).cpu()
        rows /= rows.norm(dim=1, keepdim=True)
        signs = torch.where(torch.arange(width) < (width + 1) // 2, 1.0, -1.0).double()
        mean, moments = _moments(rows @ rows.T, activation, gain)
        variance = float(signs @ moments @ signs) - float(signs.sum() * mean) ** 2
        if variance <= _CANCELLED * float(moments.diagonal().sum()):
            raise ValueError("the teacher's neurons cancel; draw another or use more dimensions")
        size = 1 / math.sqrt(variance)
        place = {"device": device, "dtype": dtype or torch.get_default_dtype()}
        self.hidden_weight = (gain * rows).to(**place)
        self.output_weight = (size * signs).to(**place)
        self.mean = size * float(signs.sum()) * mean

    def __call__(self, x: Tensor) -> Tensor:
        """Return the teacher's outputs, shape (n,), on inputs `x` of shape (n, d)."""
        if x.ndim != 2 or x.shape[1] != self.in_features:
            raise ValueError(f"x must have shape (n, {self.in_features}), got {tuple(x.shape)}")
        return _ACTIVATIONS[self.activation](x @ self.hidden_weight.T) @ self.output_weight

    def sample(self, n: int, *, generator: torch.Generator) -> TeacherSample:
        """Draw fresh inputs and compute their labels.

        As an endless stream for online SGD:
        ``fresh_samples(lambda b: teacher.sample(b, generator=g), batch_size)``.

        Parameters
        ----------
        n : int
            Number of samples.
        generator : torch.Generator
            Source of the inputs, which are drawn in float64 on the generator's device.

        Returns
        -------
        TeacherSample
            Inputs of shape (n, d) and labels of shape (n,).

        Raises
        ------
        ValueError
            If `n` is not a positive integer, or `generator` is not a generator.
        """
        _require_sizes(n=n)
        _require_generator(generator)
        x = _normal((n, self.in_features), generator).to(self.hidden_weight)
        return TeacherSample(x, self(x))

    def __repr__(self) -> str:
        """Summarize the teacher in one line."""
        options = f"activation={self.activation!r}, gain={self.gain:g}"
        return f"Teacher(in_features={self.in_features}, width={self.width}, {options})"


def _moments(cosines: Tensor, activation: str, gain: float) -> tuple[float, Tensor]:
    """E φ(gz), and E φ(gz) φ(gz') for standard normal z, z' with the given correlations."""
    cosines = cosines.clamp(-1, 1).clone().fill_diagonal_(1)
    if activation != "relu":
        return _integrated(cosines, _ACTIVATIONS[activation], gain)
    angle = cosines.arccos()
    second = gain**2 * (angle.sin() + (math.pi - angle) * cosines) / (2 * math.pi)
    return gain / math.sqrt(2 * math.pi), second


def _integrated(cosines: Tensor, act: Callable[[Tensor], Tensor], gain: float) -> tuple[float, Tensor]:
    # The trapezoidal rule converges exponentially fast, at a rate set by the poles of φ(gz), whose
    # distance from the real line falls like 1/g: hence the mesh.
    mesh = min(1 / 8, 0.4 / gain)
    z = mesh * torch.arange(-math.ceil(_REACH / mesh), math.ceil(_REACH / mesh) + 1, dtype=torch.float64)
    weight = mesh * torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    first = weight * act(gain * z)
    second = torch.empty_like(cosines)
    for r, s in torch.combinations(torch.arange(len(cosines)), with_replacement=True):
        c = cosines[r, s]
        other = act(gain * (c * z[:, None] + (1 - c * c).sqrt() * z)) @ weight
        second[r, s] = second[s, r] = first @ other
    return float(first.sum()), second


def _normal(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float64)


def _require_sizes(**sizes: int) -> None:
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")


def _require_generator(generator: torch.Generator) -> None:
    if not isinstance(generator, torch.Generator):
        raise ValueError(f"generator must be a torch.Generator, got {generator!r}; nothing is drawn globally")

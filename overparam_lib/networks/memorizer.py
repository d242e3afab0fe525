r"""The two-layer ReLU network with 2n + d numbers that fits any n labels, written down instead of trained."""

from __future__ import annotations

import math
import sys

import torch
from torch import nn

__all__ = ["Memorizer"]

_DIRECTIONS = 8  # drawn, of which the one with the largest smallest gap is kept


class Memorizer(nn.Module):
    r"""Two-layer ReLU network :math:`\mathbb R^d\to\mathbb R` with n hidden neurons and 2n + d parameters.

    All neurons look along one direction a, each from a threshold of its own:

    .. math:: C(x) = \sum_{j=1}^n w_j\,\varphi(a\cdot x-b_j), \qquad \varphi(z)=\max(z,0).

    :meth:`fit` finds the parameters for which :math:`C(x_i)=y_i` on n distinct points, whatever the
    labels are. They are kept in float64, and :meth:`forward` computes in it.

    Parameters
    ----------
    direction : torch.Tensor
        a, shape (d,).
    thresholds : torch.Tensor
        :math:`b_1<\dots<b_n`, shape (n,).
    weights : torch.Tensor
        :math:`w_1,\dots,w_n`, shape (n,).

    Attributes
    ----------
    direction, thresholds, weights : torch.nn.Parameter
        The parameters, float64.

    Raises
    ------
    ValueError
        If an argument is not a vector of finite numbers, or there are not as many weights as thresholds.

    References
    ----------
    Zhang, Bengio, Hardt, Recht and Vinyals, "Understanding deep learning requires rethinking
    generalization", ICLR 2017, Theorem 1 and its proof.

    Examples
    --------
    >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> y = torch.tensor([1.0, -1.0, 1.0])
    >>> net = Memorizer.fit(x, y, generator=torch.Generator().manual_seed(0))
    >>> net.num_parameters, bool((net(x) - y).abs().max() < 1e-12)
    (8, True)
    """

    def __init__(self, direction: torch.Tensor, thresholds: torch.Tensor, weights: torch.Tensor) -> None:
        super().__init__()
        for name, value in (("direction", direction), ("thresholds", thresholds), ("weights", weights)):
            if value.ndim != 1 or not len(value) or not torch.isfinite(value).all():
                raise ValueError(
                    f"{name} must be a vector of finite numbers, got shape {tuple(value.shape)}"
                    f"{', with NaN or infinity' if value.ndim == 1 and len(value) else ''}"
                )
        if len(weights) != len(thresholds):
            raise ValueError(f"weights must be {len(thresholds)}, one a threshold, got {len(weights)}")
        self.direction = nn.Parameter(direction.detach().double().clone())
        self.thresholds = nn.Parameter(thresholds.detach().double().clone())
        self.weights = nn.Parameter(weights.detach().double().clone())

    @classmethod
    def fit(
        cls,
        x: torch.Tensor,
        y: torch.Tensor,
        *,
        generator: torch.Generator,
        knots: float = 0.0,
        direction: torch.Tensor | None = None,
        tolerance: float = 1e-6,
    ) -> Memorizer:
        r"""Return the network with :math:`C(x_i)=y_i` for all i.

        Sort the points by :math:`z_i=a\cdot x_i` and put a knot into each gap
        :math:`g_j=z_{j+1}-z_j`, and one before the first point:

        .. math:: b_1=z_1-1,\qquad b_{j+1}=z_j+\rho\,g_j .

        Then :math:`A_{ij}=\varphi(z_i-b_j)` is lower triangular with a positive diagonal, and w solves
        :math:`Aw=y`. The solution is found without the matrix, in O(n) operations: the slopes
        :math:`C'_j=w_1+\dots+w_j` of C between its knots satisfy

        .. math:: C'_1=y_1,\qquad
            C'_{j+1}=\frac1{1-\rho}\,\frac{y_{j+1}-y_j}{g_j}-\frac{\rho}{1-\rho}\,C'_j .

        Parameters
        ----------
        x : torch.Tensor
            Distinct points, shape (n, d).
        y : torch.Tensor
            Their labels, any finite numbers, shape (n,).
        generator : torch.Generator
            Source of the direction.
        knots : float, default 0.0
            ρ in [0, 1), where a knot lies in its gap. At 0, C is the linear interpolation of the labels
            along z. Above 1/2 the slopes grow exponentially with n in general, for constant labels for
            example.
        direction : torch.Tensor, optional
            a, shape (d,). By default the best of eight Gaussian vectors, the one whose closest
            projections are farthest apart, scaled to a mean gap of 1.
        tolerance : float, default 1e-6
            Largest accepted :math:`\max_i|C(x_i)-y_i|`, relative to :math:`\max_i|y_i|`; positive.
            ``math.inf`` accepts every fit whose weights and outputs are finite.

        Returns
        -------
        Memorizer
            The network, on the device of `x`.

        Raises
        ------
        ValueError
            If `x` is not a floating-point matrix or `y` not a vector of as many labels, something is
            not finite, two rows of `x` are equal or have the same projection, `knots` is outside
            [0, 1), `tolerance` is not positive, or rounding spoils the fit by more than `tolerance`.

        References
        ----------
        Zhang, Bengio, Hardt, Recht and Vinyals, "Understanding deep learning requires rethinking
        generalization", ICLR 2017, proof of Theorem 1 (which asks for knots strictly inside the gaps).
        """
        _require_sample(x, y)
        if not 0.0 <= knots < 1.0:
            raise ValueError(f"knots must be in [0, 1), got {knots!r}")
        if not tolerance > 0.0:
            raise ValueError(f"tolerance must be positive, got {tolerance!r}")
        x, y = x.detach().double(), y.detach().to(x.device).double()
        a = _good_direction(x, generator) if direction is None else _given_direction(direction, x)
        z, order = (x @ a).sort()
        gaps = z.diff()
        if len(gaps) and not gaps.min() > 0:
            i, j = sorted(order[gaps.argmin() + torch.arange(2, device=order.device)].tolist())
            if direction is not None:
                raise ValueError(f"direction gives rows {i} and {j} of x the same projection; give another")
            raise ValueError(
                f"x has rows {i} and {j} so close, for numbers as large as these, that rounding gives them "
                f"the same projection on each of {_DIRECTIONS} drawn directions; centre x, or drop one row"
            )
        thresholds = torch.cat([z[:1] - 1, z[:-1] + knots * gaps])
        slopes = _slopes(y[order].tolist(), gaps.tolist(), knots)
        weights = torch.tensor(slopes, dtype=torch.float64, device=x.device).diff(prepend=z.new_zeros(1))
        error = math.inf
        if torch.isfinite(weights).all():
            net = cls(a, thresholds, weights)
            error = (net(x) - y).abs().max().item()
        allowed = tolerance * max(y.abs().max().item(), sys.float_info.min)  # infinity times 0 is NaN
        if not (math.isfinite(error) and error <= allowed):
            raise ValueError(
                f"x has {len(x)} points whose labels float64 misses by up to {error:.1g}, as with "
                f"knots={knots:g} the weights reach {weights.abs().max().item():.1g}; use knots below 1/2, "
                "fewer points, or centred points that lie farther apart"
            )
        return net

    @property
    def num_parameters(self) -> int:
        """Number of parameters, 2n + d."""
        return sum(p.numel() for p in self.parameters())

    def project(self, x: torch.Tensor) -> torch.Tensor:
        r"""Return :math:`a\cdot x_i`, shape (n',), for inputs `x` of shape (n', d)."""
        if x.ndim != 2 or x.shape[1] != len(self.direction):
            raise ValueError(f"x must have shape (n, {len(self.direction)}), got {tuple(x.shape)}")
        return x.double() @ self.direction

    def activations(self, x: torch.Tensor) -> torch.Tensor:
        r"""Return :math:`\varphi(a\cdot x_i-b_j)`, shape (n', n): on the sorted sample, the matrix A."""
        return torch.relu(self.project(x)[:, None] - self.thresholds)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Evaluate the network.

        Parameters
        ----------
        x : torch.Tensor
            Inputs, shape (n', d).

        Returns
        -------
        torch.Tensor
            Outputs, shape (n',), float64.

        Raises
        ------
        ValueError
            If `x` is not a matrix with d columns.
        """
        return self.activations(x) @ self.weights

    def extra_repr(self) -> str:
        """Summarize the network in one line, for ``print``."""
        return f"{len(self.direction)} -> {len(self.weights)} -> scalar, {self.num_parameters} parameters"


def _slopes(y: list[float], gaps: list[float], knots: float) -> list[float]:
    slopes = y[:1]  # b₁ = z₁ − 1
    for j, gap in enumerate(gaps):
        secant = (y[j + 1] - y[j]) / gap
        slopes.append((secant - knots * slopes[-1]) / (1 - knots))
    return slopes


def _good_direction(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    where = {"generator": generator, "device": generator.device, "dtype": torch.float64}
    drawn = torch.randn(_DIRECTIONS, x.shape[1], **where).to(x.device)
    if len(x) == 1:
        return drawn[0]
    z = (x @ drawn.T).sort(dim=0).values
    best = (z.diff(dim=0).amin(dim=0) / (z[-1] - z[0])).argmax()  # no scale: a gap over the mean gap
    return drawn[best] * (len(x) - 1) / (z[-1, best] - z[0, best])


def _given_direction(direction: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    if direction.shape != x.shape[1:] or not torch.isfinite(direction).all():
        raise ValueError(
            f"direction must be a vector of {x.shape[1]} finite numbers, got shape {tuple(direction.shape)}"
        )
    return direction.detach().to(x)


def _require_sample(x: torch.Tensor, y: torch.Tensor) -> None:
    if x.ndim != 2 or 0 in x.shape or not x.is_floating_point():
        raise ValueError(f"x must be a floating-point matrix (n, d), got {tuple(x.shape)}, {x.dtype}")
    if y.shape != x.shape[:1] or y.is_complex():
        raise ValueError(
            f"y must be a vector of {len(x)} numbers, one for each row of x, got {tuple(y.shape)}, {y.dtype}"
        )
    for name, value in (("x", x), ("y", y)):
        if not torch.isfinite(value).all():
            raise ValueError(f"{name} holds NaN or infinity; remove those points")
    rows, where, counts = torch.unique(x, dim=0, return_inverse=True, return_counts=True)
    if len(rows) < len(x):
        twins = torch.nonzero(where == counts.argmax()).flatten().tolist()
        raise ValueError(f"x has equal rows, such as {twins[0]} and {twins[1]}; keep one of each")

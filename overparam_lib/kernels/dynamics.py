r"""Training in the kernel regime, solved in closed form in the eigenbasis of the Gram matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from overparam_lib.kernels.gram import Cross, Gram

__all__ = ["KernelDynamics"]


class KernelDynamics:
    r"""Gradient descent, or gradient flow, on the square loss with a kernel that does not change.

    A model that is linear in its parameters, :math:`u=u(0)+J(\theta-\theta(0))` on the training set, trained
    on :math:`\Phi=\frac12\|u-y\|^2`, has residuals :math:`\rho=u-y` that see the parameters only through the
    Gram matrix :math:`G=JJ^\top=\sum_i\lambda_iv_iv_i^\top`:

    .. math:: \text{gradient descent, step } \eta:\quad \rho(t) &= (I-\eta G)^t\,\rho(0),\\
        \text{gradient flow:}\quad \rho(t) &= e^{-tG}\,\rho(0).

    Write :math:`q_t(\lambda)` for :math:`(1-\eta\lambda)^t` or :math:`e^{-t\lambda}`, and
    :math:`p_t(\lambda)=(1-q_t(\lambda))/\lambda`, which is :math:`\eta t` or t at :math:`\lambda=0`. Then
    :math:`\theta(t)-\theta(0)=-J^\top p_t(G)\,\rho(0)`, and with it

    .. math:: \|\theta(t)-\theta(0)\|^2 &= \sum_i\lambda_i\,p_t(\lambda_i)^2\,(v_i\cdot\rho(0))^2,\\
        f_t(x) &= f_0(x)-k(x,X)\,p_t(G)\,\rho(0).

    Nothing is divided by an eigenvalue, so a singular G is no exception, at finite t. A wide network in the
    kernel regime follows these formulas approximately.

    Parameters
    ----------
    gram : Tensor of shape (n, n), or Gram
        G, symmetric and positive semidefinite up to rounding. A :class:`Gram` knows its kernel, and then
        the predictions refuse another one's.
    residual : Tensor of shape (n,) or (n, k)
        :math:`\rho(0)=u(0)-y`, one column an output.
    step : float, optional
        η, for gradient descent on Φ (the sum over the samples; for a mean multiply by n). None, the default,
        is gradient flow, with t the time.

    Attributes
    ----------
    eigenvalues : Tensor of shape (n,)
        :math:`\lambda_1\ge\dots\ge\lambda_n`, float64; those below zero by rounding are zero.
    eigenvectors : Tensor of shape (n, n)
        :math:`v_i` as columns.

    Raises
    ------
    ValueError
        If G is not symmetric positive semidefinite, shapes do not fit, something is not finite, the step is
        not positive, or a `Gram` is too large for the memory that it was allowed.

    References
    ----------
    Lee, Xiao, Schoenholz, Bahri, Novak, Sohl-Dickstein and Pennington, "Wide neural networks of any depth
    evolve as linear models under gradient descent", NeurIPS 2019, section 2. Arora, Du, Hu, Li and Wang,
    "Fine-grained analysis of optimization and generalization for overparameterized two-layer neural
    networks", ICML 2019, Theorem 4.1.

    Examples
    --------
    >>> G, start = torch.diag(torch.tensor([1.0, 0.25])), torch.tensor([1.0, 1.0])
    >>> KernelDynamics(G, start, step=1.0).residual(2)
    tensor([0.0000, 0.5625], dtype=torch.float64)
    """

    def __init__(self, gram: Tensor | Gram, residual: Tensor, *, step: float | None = None) -> None:
        self._known = gram if isinstance(gram, Gram) else None
        if self._known is not None:
            self._known.require_dense("the eigenbasis")
            gram = self._known.to_dense()
        _require_gram(gram)
        n = len(gram)
        if residual.ndim not in (1, 2) or len(residual) != n:
            raise ValueError(f"residual must have shape ({n},) or ({n}, k), got {tuple(residual.shape)}")
        if not torch.isfinite(residual).all():
            raise ValueError("residual holds NaN or infinity")
        if step is not None and not (math.isfinite(step) and step > 0):
            raise ValueError(f"step must be positive and finite, or None for gradient flow, got {step!r}")
        self.step = step
        values, vectors = torch.linalg.eigh(gram.double())
        if values[0] < -1e-6 * values[-1].abs():
            raise ValueError(
                f"gram must be positive semidefinite, its least eigenvalue is {values[0]:.3g}, "
                f"the largest {values[-1]:.3g}"
            )
        self.eigenvalues, self.eigenvectors = values.clamp(min=0).flip(0), vectors.flip(1)
        self._start = residual.double()
        self._scalar = residual.ndim == 1
        self._parts = self.eigenvectors.T @ (self._start[:, None] if self._scalar else self._start)

    @property
    def largest_stable_step(self) -> float:
        r""":math:`2/\lambda_1`: gradient descent converges for every smaller step, and for none larger."""
        return 2 / self.eigenvalues[0].item()

    def residual(self, t: float | Sequence[float] | Tensor) -> Tensor:
        r"""Return :math:`\rho(t)=u(t)-y`.

        Parameters
        ----------
        t : number or sequence of shape (T,)
            Steps (integers) of gradient descent, or times of gradient flow; not negative.

        Returns
        -------
        Tensor
            The residuals, of the shape of those at the start, for several t with a first dimension T.

        Raises
        ------
        ValueError
            If a t is negative, or not an integer for gradient descent.
        """
        return self._at(t, lambda one: self._back(self._of_parts(self._kept(one))))

    def loss(self, t: float | Sequence[float] | Tensor) -> Tensor:
        r"""Return :math:`\Phi(t)=\frac12\|\rho(t)\|^2`, a number or shape (T,); t as for `residual`."""
        return self._at(t, lambda one: self._of_parts(self._kept(one)).square().sum() / 2)

    def distance(self, t: float | Sequence[float] | Tensor) -> Tensor:
        r"""Return :math:`\|\theta(t)-\theta(0)\|`, a number or shape (T,); t as for `residual`."""
        root = self.eigenvalues.sqrt()
        return self._at(t, lambda one: self._of_parts(root * self._pushed(one)).norm())

    def predict(self, cross: Tensor | Cross, initial: Tensor, t: float | Sequence[float] | Tensor) -> Tensor:
        r"""Return the outputs on new points, :math:`f_t(x)=f_0(x)-k(x,X)\,p_t(G)\,\rho(0)`.

        Parameters
        ----------
        cross : Tensor of shape (n', n), or Cross
            :math:`k(x,X)`, the kernel of the new points with the training points; ``G.cross(x)`` for a Gram
            matrix G.
        initial : Tensor of shape (n',) or (n', k)
            :math:`f_0(x)`, the outputs at the start.
        t : number or sequence of shape (T,)
            As for `residual`.

        Returns
        -------
        Tensor
            Outputs of the shape of `initial`, for several t with a first dimension T.

        Raises
        ------
        ValueError
            If shapes do not fit, `cross` is of another kernel, or of other training points, than the Gram
            matrix, or as `residual` does.
        """
        if isinstance(cross, Cross):
            if self._known is not None:
                _require_same(cross, self._known)
            cross = cross.values
        if cross.ndim != 2 or cross.shape[1] != len(self._start):
            raise ValueError(f"cross must have shape (n', {len(self._start)}), got {tuple(cross.shape)}")
        expected = (len(cross), *self._start.shape[1:])
        if tuple(initial.shape) != expected:
            raise ValueError(f"initial must have shape {expected}, got {tuple(initial.shape)}")
        basis = cross.double() @ self.eigenvectors

        def outputs(one: float) -> Tensor:
            change = basis @ self._of_parts(self._pushed(one))
            return initial.double() - (change[:, 0] if self._scalar else change)

        return self._at(t, outputs)

    def _kept(self, t: float) -> Tensor:
        """q_t: what is left of each component."""
        if self.step is None:
            return (-t * self.eigenvalues).exp()
        return (1 - self.step * self.eigenvalues) ** int(t)

    def _pushed(self, t: float) -> Tensor:
        """p_t = (1 − q_t) / λ, without cancellation where tλ is small."""
        small = self.eigenvalues.clamp(min=torch.finfo(torch.float64).tiny)
        if self.step is None:
            return torch.where(self.eigenvalues > 0, -torch.expm1(-t * small) / small, float(t))
        slow = (self.step * small).clamp(max=0.5)
        gentle = -torch.expm1(int(t) * torch.log1p(-slow)) / small
        gentle = torch.where(self.eigenvalues > 0, gentle, self.step * int(t))
        fast = self.step * self.eigenvalues > 0.5
        return torch.where(fast, (1 - self._kept(t)) / small, gentle)

    def _of_parts(self, factors: Tensor) -> Tensor:
        # A component that is not there stays away, though others diverge: 0 times infinity is no number.
        return torch.where(self._parts == 0, 0.0, factors[:, None] * self._parts)

    def _back(self, parts: Tensor) -> Tensor:
        values = self.eigenvectors @ parts
        return values[:, 0] if self._scalar else values

    def _at(self, t: float | Sequence[float] | Tensor, function) -> Tensor:
        times = torch.as_tensor(t, dtype=torch.float64)
        if times.ndim > 1 or not (torch.isfinite(times) & (times >= 0)).all():
            raise ValueError(f"t must be finite and not negative, a number or a sequence, got {t!r}")
        if self.step is not None and (times != times.round()).any():
            raise ValueError(f"t counts the steps of gradient descent, so it must be an integer, got {t!r}")
        if times.ndim == 0:
            return function(times.item())
        return torch.stack([function(one) for one in times.tolist()])


def _require_same(cross: Cross, gram: Gram) -> None:
    if cross.kernel != gram.kernel:
        raise ValueError(f"cross is of the kernel {cross.kernel!r}, the Gram matrix of {gram.kernel!r}")
    if cross.points is not gram.x and not torch.equal(cross.points, gram.x):
        raise ValueError("cross is of other training points than the Gram matrix")


def _require_gram(gram: Tensor) -> None:
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or 0 in gram.shape:
        raise ValueError(f"gram must be a square matrix, got shape {tuple(gram.shape)}")
    if not torch.isfinite(gram).all():
        raise ValueError("gram holds NaN or infinity")
    if not gram.any():
        raise ValueError("gram is zero: nothing would be learned")
    asymmetry = (gram - gram.T).abs().max() / gram.abs().max()
    if asymmetry > 1e-5:
        raise ValueError(
            f"gram must be symmetric, it differs from its transpose by {asymmetry:.2g} of its size"
        )

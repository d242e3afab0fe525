"""Probes: what to measure during training. A probe is one object with its own schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import nn

__all__ = [
    "Accuracy",
    "DistanceToInit",
    "PatternsChanged",
    "Probe",
    "SingularValues",
    "at",
    "every",
    "singular_values",
]

Schedule = Callable[[int], bool]


def every(period: int) -> Schedule:
    """Measure at step 0 and then every `period` steps."""
    if period < 1:
        raise ValueError(f"period must be at least 1, got {period}")
    return lambda step: step % period == 0


def at(*steps: int) -> Schedule:
    """Measure at the given steps."""
    chosen = frozenset(steps)
    return lambda step: step in chosen


class Probe:
    """Something that is measured on a schedule, and its base class.

    Parameters
    ----------
    name : str
        Its key in the :class:`~overparam_lib.training.History`.
    measure : callable
        ``measure(model)`` returns a number or an array. It runs without gradients.
    schedule : callable or int
        ``schedule(step)`` says whether to measure after that many updates; an integer k stands for
        ``every(k)``. The last iterate is measured in any case, so ``at()`` means "only at the end".

    Examples
    --------
    >>> probe = Probe("norm", lambda model: model.weight.norm(), schedule=10)
    >>> probe.schedule(20), probe.schedule(25)
    (True, False)
    """

    def __init__(self, name: str, measure: Callable[[nn.Module], object], schedule: Schedule | int) -> None:
        self.name = name
        self.measure = measure
        self.schedule = every(schedule) if isinstance(schedule, int) else schedule

    def start(self, model: nn.Module) -> None:
        """Keep what the measurements need from the initial model."""

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> float | np.ndarray:
        """Measure now."""
        value = self.measure(model)
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        return array.item() if array.ndim == 0 else array.copy()


class Accuracy(Probe):
    r"""Fraction of samples whose largest output is their label (for a scalar network: whose sign).

    Parameters
    ----------
    x : torch.Tensor
        Inputs, shape (n, d).
    y : torch.Tensor
        Labels, shape (n,): classes 0, …, K − 1 if the model has K outputs, ±1 if it is scalar.
    schedule : callable or int
        When to measure, as in :class:`Probe`.
    name : str, default ``"accuracy"``
        Key in the history.
    """

    def __init__(
        self, x: torch.Tensor, y: torch.Tensor, schedule: Schedule | int, *, name: str = "accuracy"
    ) -> None:
        super().__init__(name, self._accuracy, schedule)
        self.x, self.y = x, y

    def _accuracy(self, model: nn.Module) -> torch.Tensor:
        out = model(self.x)
        predicted = out.argmax(dim=1) if out.ndim == 2 else torch.where(out >= 0, 1, -1)
        return (predicted == self.y).double().mean()


class DistanceToInit(Probe):
    r"""How far the trained weights are from their start.

    With W the matrix of all trained weights (or of one parameter) and :math:`w_r` its rows,

    .. math:: \|W(t)-W(0)\|_F, \qquad \frac{\|W(t)-W(0)\|_F}{\|W(0)\|_F}, \qquad
        \big(\|w_r(t)-w_r(0)\|_2\big)_{r=1}^m.

    Parameters
    ----------
    schedule : callable or int
        When to measure, as in :class:`Probe`.
    kind : {"frobenius", "relative", "neuron"}
        Which of the three. ``"neuron"`` gives an array of shape (m,).
    parameter : str, optional
        Name of the one parameter to look at. By default all that require a gradient, taken as one
        vector; with kind ``"neuron"`` there must then be just one, and it must be a matrix.
    name : str, optional
        Key in the history; by default ``"distance"``, ``"relative_distance"``, ``"neuron_distance"``.
    """

    _names = {"frobenius": "distance", "relative": "relative_distance", "neuron": "neuron_distance"}

    def __init__(
        self,
        schedule: Schedule | int,
        *,
        kind: Literal["frobenius", "relative", "neuron"] = "frobenius",
        parameter: str | None = None,
        name: str | None = None,
    ) -> None:
        if kind not in self._names:
            raise ValueError(f"kind must be one of {list(self._names)}, got {kind!r}")
        super().__init__(name or self._names[kind], self._distance, schedule)
        self.kind, self.parameter = kind, parameter

    def start(self, model: nn.Module) -> None:
        """Copy the initial weights."""
        self._initial = [p.detach().clone() for p in _parameters(model, self.parameter)]
        if self.kind == "neuron" and (len(self._initial) != 1 or self._initial[0].ndim != 2):
            shapes = [tuple(p.shape) for p in self._initial]
            raise ValueError(f"kind 'neuron' needs one matrix, found {shapes}; name it with parameter=…")

    def _distance(self, model: nn.Module) -> torch.Tensor:
        pairs = list(zip(_parameters(model, self.parameter), self._initial, strict=True))
        if self.kind == "neuron":
            return (pairs[0][0] - pairs[0][1]).norm(dim=1)
        moved = _norm([p - p0 for p, p0 in pairs])
        return moved if self.kind == "frobenius" else moved / _norm(self._initial)


class PatternsChanged(Probe):
    r"""Fraction of (neuron, input) pairs whose activation pattern differs from the start's.

    .. math:: \frac1{nm}\sum_{i,r} 1\big\{1\{w_r(t)\cdot x_i\ge0\}\ne 1\{w_r(0)\cdot x_i\ge0\}\big\}

    Parameters
    ----------
    x : torch.Tensor
        Inputs, shape (n, d). The model must have a method ``pattern(x)``, as
        :class:`~overparam_lib.networks.TwoLayer` has.
    schedule : callable or int
        When to measure, as in :class:`Probe`.
    name : str, default ``"patterns_changed"``
        Key in the history.
    """

    def __init__(self, x: torch.Tensor, schedule: Schedule | int, *, name: str = "patterns_changed") -> None:
        super().__init__(name, self._changed, schedule)
        self.x = x

    @torch.no_grad()
    def start(self, model: nn.Module) -> None:
        """Keep the initial patterns."""
        self._initial = model.pattern(self.x)

    def _changed(self, model: nn.Module) -> torch.Tensor:
        return (model.pattern(self.x) != self._initial).double().mean()


class SingularValues(Probe):
    r"""Singular values of a weight matrix :math:`W(t)` or of its update :math:`W(t)-W(0)`.

    Parameters
    ----------
    schedule : callable or int
        When to measure, as in :class:`Probe`.
    of : {"weight", "update"}
        W(t) or W(t) − W(0).
    parameter : str, optional
        Name of the weight matrix; by default the only parameter that requires a gradient.
    name : str, optional
        Key in the history; by default ``"singular_values_of_weight"`` or ``"…_of_update"``.
    """

    def __init__(
        self,
        schedule: Schedule | int,
        *,
        of: Literal["weight", "update"],
        parameter: str | None = None,
        name: str | None = None,
    ) -> None:
        if of not in ("weight", "update"):
            raise ValueError(f"of must be 'weight' or 'update', got {of!r}")
        super().__init__(name or f"singular_values_of_{of}", self._values, schedule)
        self.of, self.parameter = of, parameter

    def start(self, model: nn.Module) -> None:
        """Copy the initial weights."""
        parameters = _parameters(model, self.parameter)
        if len(parameters) != 1 or parameters[0].ndim != 2:
            shapes = [tuple(p.shape) for p in parameters]
            raise ValueError(f"SingularValues needs one matrix, found {shapes}; name it with parameter=…")
        self._initial = parameters[0].detach().clone()

    def _values(self, model: nn.Module) -> torch.Tensor:
        (weight,) = _parameters(model, self.parameter)
        return singular_values(weight - self._initial if self.of == "update" else weight)


def singular_values(matrix: torch.Tensor) -> torch.Tensor:
    r"""Return the singular values of a matrix, through the eigenvalues of its smaller Gram matrix.

    For an m × d matrix of a wide network this costs :math:`O(md\min(m,d))` multiplications done as one
    matrix product, several times less than a singular value decomposition. The Gram matrix is formed
    in float64, so values are accurate to about :math:`10^{-8}\sigma_1` and smaller ones are noise.

    Parameters
    ----------
    matrix : torch.Tensor
        Shape (m, d).

    Returns
    -------
    torch.Tensor
        Shape (min(m, d),), decreasing, float64.

    Raises
    ------
    ValueError
        If `matrix` is not a matrix or has entries that are not finite.

    Examples
    --------
    >>> singular_values(torch.tensor([[3.0, 0.0], [0.0, -4.0], [0.0, 0.0]]))
    tensor([4., 3.], dtype=torch.float64)
    """
    if matrix.ndim != 2:
        raise ValueError(f"matrix must have two dimensions, got shape {tuple(matrix.shape)}")
    if not torch.isfinite(matrix).all():
        raise ValueError("matrix has entries that are NaN or infinite")
    tall = matrix.double() if matrix.shape[0] >= matrix.shape[1] else matrix.double().T
    return torch.linalg.eigvalsh(tall.T @ tall).clamp(min=0).sqrt().flip(0)


def _parameters(model: nn.Module, name: str | None) -> list[torch.Tensor]:
    if name is not None:
        return [model.get_parameter(name)]
    return [p for p in model.parameters() if p.requires_grad]


def _norm(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([t.norm() for t in tensors]).norm()

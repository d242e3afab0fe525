"""What the networks ask of their arguments, and the activation functions that they know by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

Activation = Callable[[torch.Tensor], torch.Tensor]

_ACTIVATIONS: dict[str, Activation] = {
    "relu": F.relu,
    "identity": lambda z: z,
    "quadratic": torch.square,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "erf": torch.erf,
    "softplus": F.softplus,
}


def activation_function(activation: str | Activation) -> Activation:
    """Return the function that a name stands for; what is a function already stays as it is."""
    if callable(activation):
        return activation
    require_choice("activation", activation, tuple(_ACTIVATIONS))
    return _ACTIVATIONS[activation]


def require_positive(**sizes: int) -> None:
    """Refuse a size that is not a positive integer."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be a positive integer, got {size!r}")


def require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a value that is not among the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {list(choices)}, got {value!r}")


def require_inputs(x: torch.Tensor, in_features: int) -> None:
    """Refuse inputs that are not a matrix with `in_features` columns."""
    if x.ndim != 2 or x.shape[1] != in_features:
        raise ValueError(f"x must have shape (n, {in_features}), got {tuple(x.shape)}")

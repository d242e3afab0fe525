"""One training loop for every lecture, and the probes that watch it."""

from overparam_lib.training.loop import (
    DivergenceError,
    History,
    Series,
    fresh_samples,
    full_batch,
    loss_below,
    minibatches,
    probe_reaches,
    train,
)
from overparam_lib.training.probes import (
    Accuracy,
    DistanceToInit,
    PatternsChanged,
    Probe,
    SingularValues,
    at,
    every,
    singular_values,
)

__all__ = [
    "Accuracy",
    "DistanceToInit",
    "DivergenceError",
    "History",
    "PatternsChanged",
    "Probe",
    "Series",
    "SingularValues",
    "at",
    "every",
    "fresh_samples",
    "full_batch",
    "loss_below",
    "minibatches",
    "probe_reaches",
    "singular_values",
    "train",
]

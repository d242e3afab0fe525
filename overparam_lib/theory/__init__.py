"""Theorems as calculators: what each asks for or promises, in numbers."""

from overparam_lib.theory.clustered import (
    angle_separation,
    batch_size,
    changed_share,
    descent,
    gradient_norm,
    initial_loss,
    kink_share,
    largest_output_weight,
    movement_radius,
    required_width,
    training_steps,
)
from overparam_lib.theory.report import Assumption, BoundReport

__all__ = [
    "Assumption",
    "BoundReport",
    "angle_separation",
    "batch_size",
    "changed_share",
    "descent",
    "gradient_norm",
    "initial_loss",
    "kink_share",
    "largest_output_weight",
    "movement_radius",
    "required_width",
    "training_steps",
]

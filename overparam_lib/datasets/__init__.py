"""Data: clustered mixtures, images, and corruptions of labels."""

from overparam_lib.datasets.clustered import (
    AssumptionReport,
    ClusteredMixture,
    ClusteredSample,
    check_assumptions,
)
from overparam_lib.datasets.corruption import randomize_labels
from overparam_lib.datasets.images import ImageData, load_images

__all__ = [
    "AssumptionReport",
    "ClusteredMixture",
    "ClusteredSample",
    "ImageData",
    "check_assumptions",
    "load_images",
    "randomize_labels",
]

"""Data: clustered mixtures, teachers, images, and corruptions of labels and pixels."""

from overparam_lib.datasets.clustered import (
    AssumptionReport,
    ClusteredMixture,
    ClusteredSample,
    check_assumptions,
)
from overparam_lib.datasets.corruption import (
    gaussian_pixels,
    random_pixels,
    randomize_labels,
    shuffle_pixels,
)
from overparam_lib.datasets.files import DataError
from overparam_lib.datasets.images import ImageData, load_images
from overparam_lib.datasets.teacher import Teacher, TeacherSample

__all__ = [
    "AssumptionReport",
    "ClusteredMixture",
    "ClusteredSample",
    "DataError",
    "ImageData",
    "Teacher",
    "TeacherSample",
    "check_assumptions",
    "gaussian_pixels",
    "load_images",
    "random_pixels",
    "randomize_labels",
    "shuffle_pixels",
]

"""Random labels: the law of the corruption, and what is refused."""

import math

import pytest
import torch

from overparam_lib.datasets import randomize_labels
from overparam_lib.runtime import generator


def test_probability_zero_changes_nothing_and_one_keeps_nothing_of_the_labels():
    y = torch.arange(1000) % 10
    assert torch.equal(randomize_labels(y, probability=0.0, num_classes=10, generator=generator(0)), y)
    redrawn = randomize_labels(y, probability=1.0, num_classes=10, generator=generator(0))
    other = randomize_labels(9 - y, probability=1.0, num_classes=10, generator=generator(0))
    assert torch.equal(redrawn, other)  # the drawn labels do not depend on the true ones


@pytest.mark.parametrize("probability", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("num_classes", [2, 10])
def test_wrong_fraction_is_p_times_one_minus_one_over_k(probability, num_classes):
    n = 20_000
    y = torch.arange(n) % num_classes
    noisy = randomize_labels(y, probability=probability, num_classes=num_classes, generator=generator(1))
    expected = probability * (1 - 1 / num_classes)
    standard_error = math.sqrt(expected * (1 - expected) / n)
    assert abs((noisy != y).double().mean() - expected) < 4 * standard_error
    assert noisy.min() >= 0 and noisy.max() < num_classes


def test_input_and_global_generator_are_left_alone():
    y, state = torch.arange(10), torch.random.get_rng_state()
    randomize_labels(y, probability=1.0, num_classes=10, generator=generator(0))
    assert torch.equal(y, torch.arange(10)) and torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_type_is_kept(dtype):
    y = torch.zeros(4, dtype=dtype)
    assert randomize_labels(y, probability=0.5, num_classes=2, generator=generator(0)).dtype == dtype


@pytest.mark.parametrize(
    ("y", "probability", "message"),
    [
        (torch.arange(3), 1.5, "probability must be in"),
        (torch.arange(3), float("nan"), "probability must be in"),
        (torch.arange(3.0), 0.5, "vector of integer labels"),
        (torch.zeros(2, 2, dtype=torch.long), 0.5, "vector of integer labels"),
        (torch.tensor([0, 3]), 0.5, "must lie in 0..2, got values in 0..3"),
        (torch.tensor([-1, 0]), 0.5, "must lie in 0..2"),
    ],
)
def test_bad_input_is_refused(y, probability, message):
    with pytest.raises(ValueError, match=message):
        randomize_labels(y, probability=probability, num_classes=3, generator=generator(0))

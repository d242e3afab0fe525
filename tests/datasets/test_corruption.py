"""Random labels and pixels: the laws of the corruptions, and what is refused."""

import math

import pytest
import torch

from overparam_lib.datasets import gaussian_pixels, random_pixels, randomize_labels, shuffle_pixels
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


PIXELS = (shuffle_pixels, random_pixels, gaussian_pixels)


def positions(n, d):
    """Images whose pixels say where they were."""
    return torch.arange(d, dtype=torch.float64).expand(n, d)


def test_shuffled_pixels_are_one_permutation_of_all_sets():
    x, x_test = torch.randn(50, 12, generator=generator(0)), positions(3, 12).float()
    shuffled, shuffled_test = shuffle_pixels(x, x_test, generator=generator(1))
    order = shuffled_test[0].long()
    assert sorted(order.tolist()) == list(range(12)) and order.tolist() != list(range(12))
    assert torch.equal(shuffled, x[:, order]) and torch.equal(shuffled_test, x_test[:, order])
    torch.testing.assert_close(shuffled @ shuffled.T, x @ x.T)


def test_random_pixels_are_a_permutation_of_each_image():
    x = torch.randn(200, 64, generator=generator(0))
    (scattered,) = random_pixels(x, generator=generator(1))
    assert torch.equal(scattered.sort(dim=1).values, x.sort(dim=1).values)
    orders = random_pixels(positions(200, 64), generator=generator(1))[0]
    assert len(orders.unique(dim=0)) == 200
    two = random_pixels(positions(5, 64), positions(5, 64), generator=generator(2))
    assert not torch.equal(*two)  # the test images have permutations of their own


@pytest.mark.parametrize("corrupt", [shuffle_pixels, random_pixels])
def test_each_permutation_is_as_likely_as_any_other(corrupt):
    """Six permutations of three pixels, 6,000 draws: chi-squared with five degrees of freedom."""
    g = generator(3)
    if corrupt is shuffle_pixels:
        drawn = torch.cat([corrupt(positions(1, 3), generator=g)[0] for _ in range(6000)])
    else:
        (drawn,) = corrupt(positions(6000, 3), generator=g)
    counts = drawn.unique(dim=0, return_counts=True)[1]
    assert len(counts) == 6
    assert ((counts - 1000.0) ** 2 / 1000).sum() < 20.5  # probability 0.001


def test_random_pixels_of_different_images_are_independent():
    """Where pixel 0 comes from, in neighbouring images: all sixteen pairs equally often."""
    (orders,) = random_pixels(positions(8001, 4), generator=generator(4))
    pairs = 4 * orders[:-1, 0] + orders[1:, 0]
    counts = pairs.long().bincount(minlength=16)
    assert ((counts - 500.0) ** 2 / 500).sum() < 37.7  # 15 degrees of freedom, probability 0.001


def test_gaussian_pixels_have_the_training_sets_mean_and_variance():
    x = torch.rand(400, 64, generator=generator(0), dtype=torch.float64) ** 2
    test = torch.rand(300, 64, generator=generator(1), dtype=torch.float64) + 5
    noise, noise_test = gaussian_pixels(x, test, generator=generator(2))
    mean, std = x.mean(), x.std(correction=0)
    for drawn in (noise, noise_test):
        count = drawn.numel()
        assert abs(drawn.mean() - mean) < 4 * std / math.sqrt(count)
        assert abs(drawn.var() / std**2 - 1) < 4 * math.sqrt(2 / count)
        standard = ((drawn - mean) / std).flatten()
        fourth = (standard**4).mean()
        assert abs(fourth - 3) < 4 * math.sqrt(96 / count)  # a Gaussian's
        assert abs((standard[:-1] * standard[1:]).mean()) < 4 / math.sqrt(count)
    expected = noise.square().sum(dim=1).mean() / x.square().sum(dim=1).mean()
    assert abs(expected - 1) < 0.05


def test_the_colours_of_a_pixel_stay_together():
    x = positions(40, 12)  # 3 planes of 4 pixels
    for corrupt in (shuffle_pixels, random_pixels):
        planes = corrupt(x, generator=generator(5), channels=3)[0].unflatten(1, (3, 4))
        assert torch.equal(planes[:, 1], planes[:, 0] + 4) and torch.equal(planes[:, 2], planes[:, 0] + 8)


def test_each_colour_has_a_mean_and_variance_of_its_own():
    planes = torch.randn(500, 3, 100, generator=generator(6)) * torch.tensor([[1.0], [2], [3]])
    x = (planes + torch.tensor([[0.0], [10], [20]])).flatten(1)
    (drawn,) = gaussian_pixels(x, generator=generator(7), channels=3)
    variance, mean = torch.var_mean(drawn.unflatten(1, (3, 100)), dim=(0, 2))
    torch.testing.assert_close(mean, torch.tensor([0.0, 10, 20]), atol=0.06, rtol=0)
    torch.testing.assert_close(variance, torch.tensor([1.0, 4, 9]), atol=0, rtol=0.05)


@pytest.mark.parametrize("corrupt", PIXELS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_pixels_keep_shape_and_type_and_follow_the_generator(corrupt, dtype):
    x, state = positions(9, 8).to(dtype), torch.random.get_rng_state()
    before = x.clone()
    first, second = (corrupt(x, x[:2], generator=generator(s)) for s in (8, 8))
    assert [t.shape for t in first] == [(9, 8), (2, 8)] and {t.dtype for t in first} == {dtype}
    assert all(map(torch.equal, first, second))
    assert not torch.equal(first[0], corrupt(x, generator=generator(9))[0])
    assert torch.equal(x, before) and torch.equal(torch.random.get_rng_state(), state)


def test_many_images_are_scattered_in_portions_without_a_seam():
    (orders,) = random_pixels(positions(9000, 8), generator=generator(10))
    assert torch.equal(orders.sort(dim=1).values, positions(9000, 8))
    assert not torch.equal(orders[:4096], orders[4096:8192])


@pytest.mark.parametrize("corrupt", PIXELS)
@pytest.mark.parametrize(
    ("images", "channels", "message"),
    [
        ((), 1, "images is empty"),
        ((torch.zeros(2, 3, 3),), 1, r"images\[0\] must be .* matrix \(n, d\), got \(2, 3, 3\)"),
        ((torch.zeros(0, 3),), 1, r"images\[0\] must be"),
        ((torch.zeros(2, 3, dtype=torch.uint8),), 1, "torch.uint8"),
        ((torch.zeros(2, 3), torch.full((2, 3), torch.nan)), 1, r"images\[1\] holds NaN"),
        ((torch.zeros(2, 3), torch.zeros(2, 4)), 1, r"images\[1\] has d = 4, images\[0\] has 3"),
        ((torch.zeros(2, 4),), 3, "channels must divide d = 4, got 3"),
        ((torch.zeros(2, 4),), 0, "channels must divide"),
    ],
)
def test_bad_images_are_refused(corrupt, images, channels, message):
    with pytest.raises(ValueError, match=message):
        corrupt(*images, generator=generator(0), channels=channels)


@pytest.mark.gpu
@pytest.mark.parametrize("corrupt", PIXELS)
def test_pixels_on_a_gpu_are_those_on_the_cpu(corrupt):
    x = torch.rand(20, 12, generator=generator(0))
    (here,), (there,) = (corrupt(t, generator=generator(1), channels=3) for t in (x, x.to("cuda")))
    assert there.is_cuda
    torch.testing.assert_close(there.cpu(), here)

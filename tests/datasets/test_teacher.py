"""Teachers: labels by the formula, their moments against independent integrals, and what is refused."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import integrate
from scipy.special import expit

from overparam_lib.datasets import Teacher
from overparam_lib.datasets.teacher import _moments
from overparam_lib.runtime import generator
from overparam_lib.training import fresh_samples

ACTIVATIONS = ("relu", "sigmoid", "tanh", "erf")


def teacher(in_features=6, width=8, seed=0, **options):
    return Teacher(in_features, width, generator=generator(seed), dtype=torch.float64, **options)


def pair(cosine):
    return torch.tensor([[1.0, cosine], [cosine, 1.0]], dtype=torch.float64)


# The function.


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_outputs_are_those_of_the_formula(activation):
    t, x = teacher(activation=activation, gain=2.0), torch.randn(5, 6, generator=generator(1)).double()
    act = {"relu": lambda z: max(z, 0.0), "sigmoid": expit, "tanh": math.tanh, "erf": math.erf}[activation]
    naive = [
        sum(float(a) * act(float(w @ row)) for w, a in zip(t.hidden_weight, t.output_weight, strict=True))
        for row in x
    ]
    np.testing.assert_allclose(t(x), naive, rtol=1e-12)


@pytest.mark.parametrize("width, positive", [(1, 1), (2, 1), (5, 3), (8, 4)])
def test_rows_lie_on_the_sphere_and_half_of_the_output_weights_are_positive(width, positive):
    t = teacher(width=width, gain=3.0)
    torch.testing.assert_close(t.hidden_weight.norm(dim=1), torch.full((width,), 3.0).double())
    assert t.output_weight.abs().unique().numel() == 1
    assert (t.output_weight > 0).tolist() == [r < positive for r in range(width)]


def test_directions_are_uniform():
    """A component of a uniform unit vector in d dimensions has mean 0 and variance 1/d."""
    rows = teacher(5, 400).hidden_weight
    assert rows.mean(dim=0).abs().max() < 4 / math.sqrt(5 * 400)
    assert (rows.T @ rows / 400 - torch.eye(5) / 5).abs().max() < 0.06


# The moments.


@pytest.mark.parametrize("cosine", [-1.0, -0.99, -0.3, 0.0, 0.5, 0.999, 1.0])
def test_relu_moments_against_mpmath(cosine):
    """E φ(z)φ(z') in polar coordinates: ∫ r³ e^{-r²/2} dr / 2π times an integral over the angle."""
    mean, second = _moments(pair(cosine), "relu", 1.5)
    theta = mpmath.acos(cosine)
    sector = mpmath.quad(
        lambda p: mpmath.cos(p) * mpmath.cos(p - theta), [theta - mpmath.pi / 2, mpmath.pi / 2]
    )
    assert second[0, 1].item() == pytest.approx(float(1.5**2 * 2 * sector / (2 * mpmath.pi)), abs=1e-14)
    assert second[0, 0].item() == pytest.approx(1.5**2 / 2, rel=1e-14)
    first = mpmath.quad(lambda z: 1.5 * z * mpmath.npdf(z), [0, mpmath.inf])
    assert mean == pytest.approx(float(first), rel=1e-14)


@pytest.mark.parametrize("gain", [0.1, 1.0, 4.0, 10.0])
@pytest.mark.parametrize("cosine", [-0.9, 0.0, 0.4, 1.0])
def test_the_integration_reproduces_the_arcsine_law_of_erf(gain, cosine):
    mean, second = _moments(pair(cosine), "erf", gain)
    share = 2 * gain**2 / (1 + 2 * gain**2)
    assert second[0, 1].item() == pytest.approx(2 / math.pi * math.asin(share * cosine), abs=1e-8)
    assert mean == pytest.approx(0, abs=1e-14)


@pytest.mark.parametrize("activation, act", [("sigmoid", expit), ("tanh", np.tanh)])
@pytest.mark.parametrize("gain, cosine", [(1.0, 0.5), (4.0, -0.7), (10.0, 0.9)])
def test_smooth_moments_against_adaptive_quadrature(activation, act, gain, cosine):
    _, second = _moments(pair(cosine), activation, gain)
    sine = math.sqrt(1 - cosine**2)

    def integrand(v, z):
        density = math.exp(-(z * z + v * v) / 2) / (2 * math.pi)
        return act(gain * z) * act(gain * (cosine * z + sine * v)) * density

    value, _ = integrate.dblquad(integrand, -9, 9, -9, 9, epsabs=1e-9, epsrel=1e-9)
    assert second[0, 1].item() == pytest.approx(value, abs=2e-8)


@pytest.mark.parametrize("activation, width", tuple(itertools.product(ACTIVATIONS, (1, 4, 7))))
def test_samples_have_the_stated_mean_and_variance_one(activation, width):
    t = teacher(width=width, activation=activation, gain=3.0, seed=width)
    x, y = t.sample(200_000, generator=generator(1))
    error = y.std() / math.sqrt(len(y))
    assert abs(y.mean() - t.mean) < 4 * error
    kurtosis = (y - y.mean()).pow(4).mean().item()
    assert abs(y.var().item() - 1) < 4 * math.sqrt((kurtosis - 1) / len(y))
    assert (x.mean(dim=0).abs() < 5 / math.sqrt(len(x))).all()
    assert (t.mean == pytest.approx(0, abs=1e-12)) == (width % 2 == 0 or activation in ("tanh", "erf"))


@pytest.mark.parametrize("width", [1, 2, 8])
@pytest.mark.parametrize("gain", [0.01, 0.1])
def test_the_variance_is_one_for_nearly_linear_neurons(gain, width):
    """The smallest gains, where the sum of moments cancels most: against the arcsine law of erf."""
    t = teacher(activation="erf", width=width, gain=gain)
    inner = t.hidden_weight @ t.hidden_weight.T
    moments = 2 / math.pi * torch.asin(2 * inner / (1 + 2 * gain**2))
    assert (t.output_weight @ moments @ t.output_weight).item() == pytest.approx(1, rel=1e-8)


@pytest.mark.parametrize("width", [2, 8])
def test_the_variance_of_nearly_linear_sigmoids(width):
    """σ(z) = 1/2 + z/4 - z³/48 + O(z⁵): the variance of Σ a_r σ(w_r·x), to relative order g⁴."""
    t = teacher(activation="sigmoid", width=width, gain=0.01)
    a, inner = t.output_weight, t.hidden_weight @ t.hidden_weight.T
    covariance = inner / 16 - 2 * 3 * 0.01**2 * inner / (4 * 48)
    assert (a @ covariance @ a).item() == pytest.approx(1, rel=1e-6)


def test_the_gain_makes_no_difference_to_a_relu_teacher():
    x = torch.randn(9, 6, generator=generator(1)).double()
    torch.testing.assert_close(teacher(gain=1.0)(x), teacher(gain=7.0)(x))


# Randomness, devices and types.


def test_a_generator_determines_everything_and_the_global_state_is_left_alone():
    state = torch.random.get_rng_state()
    a, b = teacher(seed=3), teacher(seed=3)
    assert torch.equal(a.hidden_weight, b.hidden_weight)
    assert not torch.equal(a.hidden_weight, teacher(seed=4).hidden_weight)
    g = generator(5)
    first, second = a.sample(4, generator=g), a.sample(4, generator=g)
    assert torch.equal(first.x, b.sample(4, generator=generator(5)).x)
    assert not torch.equal(first.x, second.x)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_single_precision_rounds_double_precision():
    single, double = Teacher(6, 8, generator=generator(0)), teacher()
    assert single.hidden_weight.dtype == torch.float32
    assert torch.equal(single.hidden_weight, double.hidden_weight.float())
    a, b = (t.sample(20, generator=generator(1)) for t in (single, double))
    assert torch.equal(a.x, b.x.float())
    torch.testing.assert_close(a.y, b.y.float(), rtol=1e-4, atol=1e-5)


def test_a_teacher_feeds_the_stream_of_fresh_samples():
    t, g = teacher(), generator(2)
    batches = fresh_samples(lambda b: t.sample(b, generator=g), 3)
    (x, y), (x2, _) = next(batches), next(batches)
    assert x.shape == (3, 6) and torch.equal(y, t(x)) and not torch.equal(x, x2)


@pytest.mark.gpu
def test_samples_are_on_the_device_of_the_teacher():
    t = Teacher(6, 8, generator=generator(0), device="cuda")
    assert {part.device.type for part in t.sample(3, generator=generator(1))} == {"cuda"}


def test_a_teacher_reads_well():
    expected = "Teacher(in_features=6, width=8, activation='tanh', gain=2)"
    assert repr(teacher(activation="tanh", gain=2.0)) == expected


# What is refused.


@pytest.mark.parametrize(
    "options, message",
    [
        ({"in_features": 0}, "in_features must be a positive integer, got 0"),
        ({"width": 2.5}, "width must be a positive integer, got 2.5"),
        ({"width": True}, "width must be a positive integer"),
        ({"activation": "step"}, "activation must be one of .*'erf'.*got 'step'"),
        ({"gain": 0.0}, r"gain must lie in \[0.01, 10\], got 0.0"),
        ({"gain": 0.0099}, "gain must lie in"),
        ({"gain": 11.0}, "gain must lie in"),
        ({"gain": math.nan}, "gain must lie in"),
        ({"generator": None}, "generator must be a torch.Generator"),
    ],
)
def test_bad_teachers_are_refused(options, message):
    good = {"in_features": 3, "width": 2, "generator": generator(0)}
    with pytest.raises(ValueError, match=message):
        Teacher(**{**good, **options})


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("seed", range(6))
def test_two_neurons_in_one_dimension_are_refused_if_they_cancel(activation, seed):
    row = torch.randn(2, 1, generator=generator(seed), dtype=torch.float64)
    if row[0] * row[1] < 0:
        assert teacher(1, 2, seed, activation=activation).output_weight.isfinite().all()
    else:
        with pytest.raises(ValueError, match="neurons cancel; draw another or use more dimensions"):
            teacher(1, 2, seed, activation=activation)


def test_bad_requests_are_refused():
    t = teacher()
    with pytest.raises(ValueError, match=r"x must have shape \(n, 6\), got \(2, 5\)"):
        t(torch.zeros(2, 5).double())
    with pytest.raises(ValueError, match="n must be a positive integer, got 0"):
        t.sample(0, generator=generator(0))
    with pytest.raises(ValueError, match="generator must be a torch.Generator"):
        t.sample(2, generator=0)

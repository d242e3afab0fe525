"""Memorizer: its formula, what it fits and with how many parameters, and what it refuses."""

import math
from fractions import Fraction

import pytest
import torch

from overparam_lib.networks import Memorizer
from overparam_lib.runtime import generator

DOUBLE = torch.float64
LINE = torch.tensor([0.0, 1.0, 3.0, 4.0], dtype=DOUBLE)
LABELS = torch.tensor([1.0, -1.0, 2.0, 0.0], dtype=DOUBLE)


def sample(n=40, d=6, seed=0):
    g = generator(seed)
    return torch.randn(n, d, generator=g, dtype=DOUBLE), torch.randn(n, generator=g, dtype=DOUBLE)


def on_a_line(knots=0.5, **options):
    one = torch.ones(1, dtype=DOUBLE)
    return Memorizer.fit(LINE[:, None], LABELS, generator=generator(0), knots=knots, direction=one, **options)


def exact(z, y, knots):
    """Forward substitution on Aw = y in rational numbers."""
    z, y, knots = [Fraction(v) for v in z], [Fraction(v) for v in y], Fraction(knots)
    b = [z[0] - 1] + [z[j] + knots * (z[j + 1] - z[j]) for j in range(len(z) - 1)]
    w = []
    for i, target in enumerate(y):
        done = sum(w[j] * max(z[i] - b[j], 0) for j in range(i))
        w.append((target - done) / (z[i] - b[i]))
    return b, w


def test_four_points_by_hand():
    net = on_a_line()
    assert net.thresholds.tolist() == [-1.0, 0.5, 2.0, 3.5]
    assert net.weights.tolist() == pytest.approx([1.0, -6.0, 13.0, -20.0], rel=1e-14)
    a = net.activations(LINE[:, None]).detach()
    assert a.tolist() == [[1, 0, 0, 0], [2, 0.5, 0, 0], [4, 2.5, 1, 0], [5, 3.5, 2, 0.5]]
    assert torch.linalg.det(a).item() == pytest.approx(0.25, rel=1e-12)
    assert torch.linalg.eigvals(a).real.min().item() == pytest.approx(0.5, rel=1e-12)
    assert torch.linalg.svdvals(a)[-1].item() == pytest.approx(0.0776407680866, rel=1e-10)


@pytest.mark.parametrize("knots", [0.0, 0.25, 0.5, 0.75])
def test_weights_against_rational_arithmetic(knots):
    g = generator(1)
    z = torch.randint(1, 60, (25,), generator=g).double().cumsum(0) / 64
    y = torch.randint(-5, 6, (25,), generator=g).double()
    net = Memorizer.fit(
        z[:, None], y, generator=g, knots=knots, direction=torch.ones(1, dtype=DOUBLE), tolerance=1.0
    )
    thresholds, weights = exact(z.tolist(), y.tolist(), knots)
    torch.testing.assert_close(
        net.thresholds.detach(), torch.tensor(list(map(float, thresholds)), dtype=DOUBLE)
    )
    found, wanted = net.weights.detach(), torch.tensor(list(map(float, weights)), dtype=DOUBLE)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9 * wanted.abs().max().item())


@pytest.mark.parametrize("knots", [0.0, 0.5])
def test_weights_solve_the_triangular_system(knots):
    x, y = sample()
    net = Memorizer.fit(x, y, generator=generator(2), knots=knots)
    order = net.project(x).argsort()
    a = net.activations(x[order]).detach()
    assert torch.equal(a, a.tril()) and (a.diagonal() > 0).all()
    w = torch.linalg.solve_triangular(a, y[order, None], upper=False)[:, 0]
    torch.testing.assert_close(net.weights.detach(), w, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("n", "d"), [(1, 1), (1, 5), (2, 1), (40, 6), (1000, 30)])
def test_it_fits_anything_with_2n_plus_d_parameters(n, d):
    x, y = sample(n, d)
    net = Memorizer.fit(x, y, generator=generator(3))
    assert net.num_parameters == 2 * n + d
    torch.testing.assert_close(net(x).detach(), y, rtol=0, atol=1e-8)


def test_output_is_the_sum_over_neurons():
    a, b, w = [0.5, -2.0], [-1.0, 0.25, 3.0], [2.0, -1.0, 4.0]
    net = Memorizer(*(torch.tensor(v) for v in (a, b, w)))
    x = torch.tensor([[1.0, 0.0], [0.0, -1.0], [3.0, -3.0]], dtype=DOUBLE)
    for row, out in zip(x.tolist(), net(x).tolist(), strict=True):
        z = sum(p * q for p, q in zip(a, row, strict=True))
        assert out == pytest.approx(sum(v * max(z - t, 0) for v, t in zip(w, b, strict=True)), rel=1e-14)


def test_knots_at_the_points_interpolate_linearly():
    net = on_a_line(knots=0.0)
    middle = torch.tensor([[0.5], [2.0], [3.5]], dtype=DOUBLE)
    assert net(middle).tolist() == pytest.approx([0.0, 0.5, 1.0], abs=1e-14)


def test_float32_inputs_and_integer_labels_are_taken():
    x, _ = sample()
    y = torch.arange(40) % 2
    net = Memorizer.fit(x.float(), y, generator=generator(0))
    assert net(x.float()).dtype == DOUBLE
    torch.testing.assert_close(net(x.float()).detach(), y.double(), rtol=0, atol=1e-9)


def test_the_mean_gap_is_one():
    x, y = sample()
    z = Memorizer.fit(1000 * x, y, generator=generator(0)).project(1000 * x)
    assert (z.max() - z.min()).item() == pytest.approx(39)


def test_the_seed_decides_and_the_global_state_does_not():
    x, y = sample()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one, two, other = (Memorizer.fit(x, y, generator=generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one.direction, two.direction) and not torch.equal(one.direction, other.direction)


def test_state_round_trip_and_one_line():
    x, y = sample()
    one, other = (Memorizer.fit(x, y, generator=generator(seed)) for seed in (0, 1))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(x), other(x))
    assert "6 -> 40 -> scalar, 86 parameters" in repr(one)


def with_twins():
    x, y = sample()
    x[31] = x[4]
    return x, y


def with_nan(which):
    pair = sample()
    pair[which][3] = math.nan
    return pair


@pytest.mark.parametrize(
    ("pair", "options", "message"),
    [
        (with_twins(), {}, "x has equal rows, such as 4 and 31"),
        (with_nan(0), {}, "x holds NaN or infinity"),
        (with_nan(1), {}, "y holds NaN or infinity"),
        ((torch.ones(3), torch.ones(3)), {}, r"x must be a floating-point matrix \(n, d\), got \(3,\)"),
        ((torch.ones(3, 2).long(), torch.ones(3)), {}, "x must be a floating-point matrix"),
        ((torch.ones(0, 2), torch.ones(0)), {}, "x must be a floating-point matrix"),
        ((torch.ones(3, 2), torch.ones(4)), {}, "y must be a vector of 3 numbers"),
        ((torch.ones(3, 2), torch.ones(3, 1)), {}, "y must be a vector of 3 numbers"),
        (sample(), {"knots": 1.0}, r"knots must be in \[0, 1\), got 1.0"),
        (sample(), {"knots": math.nan}, "knots must be in"),
        (sample(), {"tolerance": 0.0}, "tolerance must be positive, got 0.0"),
        (sample(), {"tolerance": -1.0}, "tolerance must be positive, got -1.0"),
        (sample(), {"tolerance": math.nan}, "tolerance must be positive, got nan"),
        (sample(), {"direction": torch.ones(5)}, "direction must be a vector of 6 finite numbers"),
        (sample(), {"direction": torch.zeros(6)}, "direction gives rows .* the same projection"),
        (sample(200), {"knots": 0.6}, r"x has 200 points whose labels float64 misses .*knots=0.6"),
        (sample(3000), {"knots": 0.7}, r"float64 misses by up to inf"),
        (sample(3000), {"knots": 0.7, "tolerance": math.inf}, r"float64 misses by up to inf"),
    ],
)
def test_what_it_refuses(pair, options, message):
    with pytest.raises(ValueError, match=message):
        Memorizer.fit(*pair, generator=generator(0), **options)


def test_colliding_rows_are_named():
    x = torch.tensor([[0.0, 1.0], [5.0, 2.0], [0.0, 3.0]])
    along = torch.tensor([1.0, 0.0])
    with pytest.raises(ValueError, match="direction gives rows 0 and 2 of x the same projection"):
        Memorizer.fit(x, torch.ones(3), generator=generator(0), direction=along)


def test_rows_that_rounding_merges_are_named_without_blaming_a_direction():
    x = torch.tensor([[1e16, 0.0], [-1e16, 1.0], [1e16, 1e-3]], dtype=DOUBLE)
    with pytest.raises(ValueError, match="^x has rows 0 and 2 so close.* 8 drawn directions"):
        Memorizer.fit(x, torch.ones(3), generator=generator(0))
    with pytest.raises(ValueError, match="^x has rows 0 and 1 so close"):
        Memorizer.fit(x[[0, 2]], torch.ones(2), generator=generator(0))


@pytest.mark.parametrize("tolerance", [1e-6, math.inf])
def test_labels_that_are_all_zero_are_fitted(tolerance):
    x, y = sample()
    net = Memorizer.fit(x, 0 * y, generator=generator(0), tolerance=tolerance)
    assert (net.weights == 0).all() and (net(x) == 0).all()


def test_an_infinite_tolerance_accepts_what_rounding_has_spoilt():
    x, y = sample(200)
    net = Memorizer.fit(x, y, generator=generator(0), knots=0.6, tolerance=math.inf)
    assert torch.isfinite(net.weights).all() and (net(x) - y).abs().max() > 1e-6 * y.abs().max()


def test_weights_of_constant_labels_explode_as_in_the_closed_form():
    x, _ = sample()
    net = Memorizer.fit(x, torch.ones(40), generator=generator(0), knots=0.6, tolerance=math.inf)
    assert net.weights[-1].abs().item() == pytest.approx(2.5 * 1.5**38, rel=1e-12)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((torch.ones(2, 2), torch.ones(3), torch.ones(3)), r"direction must be a vector .* \(2, 2\)"),
        (
            (torch.ones(2), torch.tensor([math.inf]), torch.ones(1)),
            "thresholds must be .*, with NaN",
        ),
        ((torch.ones(2), torch.ones(3), torch.ones(0)), "weights must be a vector of finite numbers"),
        ((torch.ones(2), torch.ones(3), torch.ones(2)), "weights must be 3, one a threshold, got 2"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        Memorizer(*parts)


def test_inputs_of_a_wrong_shape_are_refused():
    x, y = sample()
    with pytest.raises(ValueError, match=r"x must have shape \(n, 6\), got \(40, 5\)"):
        Memorizer.fit(x, y, generator=generator(0))(x[:, :5])


@pytest.mark.gpu
def test_on_a_gpu_it_is_the_same_network():
    x, y = sample()
    there = Memorizer.fit(x.cuda(), y, generator=generator(0))
    here = Memorizer.fit(x, y, generator=generator(0))
    torch.testing.assert_close(there(x.cuda()).cpu(), here(x), rtol=0, atol=1e-9)

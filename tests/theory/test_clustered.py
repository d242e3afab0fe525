"""Gradient descent on atoms: formulas against twins, shares against counts, M against its conditions."""

import itertools
import math

import mpmath
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from overparam_lib import theory
from overparam_lib.networks import TwoLayer
from overparam_lib.runtime import generator

PROBLEM = {"separation": 0.75, "num_atoms": 6, "num_classes": 3, "epsilon": 0.02, "delta": 0.1}
PROBLEMS = [
    PROBLEM,
    PROBLEM | {"step_size": 0.3},
    {"separation": 1.0, "num_atoms": 2, "num_classes": 2, "epsilon": 0.2, "delta": 0.5},
    {"separation": 0.01, "num_atoms": 50, "num_classes": 10, "epsilon": 1e-4, "delta": 1e-3},
    {"separation": 0.3, "num_atoms": 4, "num_classes": 4, "epsilon": 0.6, "delta": 0.01},
]


def unit(*shape, seed=0):
    return normalize(torch.randn(*shape, dtype=torch.float64, generator=generator(seed)), dim=1)


def twin(m, separation, num_atoms, num_classes, epsilon, delta, step_size=1.0):
    """All quantities at width m, written anew, in 50 digits."""
    mpmath.mp.dps = 50
    one = mpmath.mpf(1)
    D, N, K, eps, delta, eta = (
        one * z for z in (separation, num_atoms, num_classes, epsilon, delta, step_size)
    )
    m = one * m
    z_0 = D * mpmath.sqrt(mpmath.pi / 2) / (2 * N)
    p_0 = D / (16 * N) * mpmath.exp(-(z_0**2) / 2)
    a = mpmath.sqrt(2 * mpmath.log(5 * K * m / delta))
    loss = mpmath.log(K) + 2 * mpmath.sqrt(mpmath.log(10 * N * K / delta))
    T = 72 * loss / (eta * p_0 * eps**2)
    R = 2 * eta * a / m * (1 + T * min(one, N * eps))
    psi = N * (mpmath.sqrt(2 * m / mpmath.pi) * R + mpmath.sqrt(mpmath.log(10 * N / delta) / (2 * m)))
    sides = {
        "output layer": (mpmath.sqrt(K) + mpmath.sqrt(2 * mpmath.log(5 / delta)), 0.095 * mpmath.sqrt(m)),
        "initial loss": (17 * mpmath.log(10 * N / delta), m),
        "kinks": (8 / p_0 * (N * K * mpmath.log(1 + 4000 * N * a) + mpmath.log(5 / delta)), m),
        "changed patterns": (psi, p_0 / (720 * a**2 * N**2)),
    }
    return {"z_0": z_0, "p_0": p_0, "a_max": a, "Phi_0": loss, "T": T, "R": R, "psi(R)": psi}, sides


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("m", [1, 10, 4096, 10**9, 10**35])
def test_each_formula_is_its_twin(problem, m):
    expected, _ = twin(m, **problem)
    shape = {key: problem[key] for key in ("num_classes", "delta")}
    geometry = {key: problem[key] for key in ("separation", "num_atoms")}
    radius = theory.movement_radius(width=m, **problem)
    shared = {"width": m, "num_atoms": problem["num_atoms"], "delta": problem["delta"]}
    found = {
        "z_0": theory.kink_share(**geometry).terms["z_0"],
        "p_0": theory.kink_share(**geometry).value,
        "a_max": theory.largest_output_weight(width=m, **shape).value,
        "Phi_0": theory.initial_loss(num_atoms=problem["num_atoms"], **shape).value,
        "T": theory.training_steps(**problem).value,
        "R": radius.value,
        "psi(R)": theory.changed_share(radius.value, **shared).value,
    }
    for name, value in found.items():
        assert value == pytest.approx(float(expected[name]), rel=1e-13), name


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_required_width_satisfies_every_condition_and_one_less_does_not(problem):
    report = theory.required_width(**problem)
    M, precision = report.value, 1e-12
    assert isinstance(M, int) and M == max(v for k, v in report.terms.items() if k.startswith("width for"))
    if M < 1e12:  # float64 tells neighbours apart
        here, below = (all(a <= b for a, b in twin(m, **problem)[1].values()) for m in (M, M - 1))
    else:
        here, below = (
            all(a <= b for a, b in twin(int(M * z), **problem)[1].values())
            for z in (1 + precision, 1 - precision)
        )
    assert here and not below
    for m in (2 * M, 100 * M, 10**6 * M):  # and so does every larger one
        assert all(a <= b for a, b in twin(m, **problem)[1].values())
    expected, _ = twin(M, **problem)
    for name in ("p_0", "Phi_0", "a_max", "T", "R", "psi(R)"):
        assert report.terms[name] == pytest.approx(float(expected[name]), rel=1e-12)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", ["output layer", "initial loss", "kinks", "changed patterns"])
def test_each_condition_alone_asks_for_its_width(problem, name):
    m = theory.required_width(**problem).terms[f"width for {name}"]
    scale = 1 if m < 1e12 else int(m * 1e-12)
    for width, holds in ((m + scale - 1, True), (m - scale, False)):
        left, right = twin(width, **problem)[1][name]
        assert (left <= right) is holds


def test_by_trying_every_width_the_same_one_is_found():
    """A problem whose conditions but the last are met at small widths, and a brute-force search for these."""
    terms = theory.required_width(**PROBLEM).terms
    for name in ("output layer", "initial loss"):
        widths = (m for m in itertools.count(1) if (s := twin(m, **PROBLEM)[1][name])[0] <= s[1])
        assert terms[f"width for {name}"] == next(widths)


@pytest.mark.parametrize(
    ("change", "sign"),
    [
        ({"separation": 0.5}, 1),
        ({"num_atoms": 8}, 1),
        ({"num_classes": 5}, 1),
        ({"epsilon": 0.01}, 1),
        ({"delta": 0.01}, 1),
        ({"epsilon": 0.04}, -1),
        ({"separation": 0.9}, -1),
    ],
)
def test_a_harder_problem_asks_for_more(change, sign):
    for quantity in (theory.required_width, theory.training_steps, theory.batch_size):
        assert sign * (quantity(**PROBLEM | change).value - quantity(**PROBLEM).value) > 0


def test_the_orders_in_the_separation_and_in_epsilon():
    """M grows like Δ'⁻⁴ and ε⁻², but for logarithms."""
    small = PROBLEM | {"separation": 1e-3, "epsilon": 1e-3}
    for key, power in (("separation", 4), ("epsilon", 2)):
        widths = [theory.required_width(**small | {key: small[key] * z}).value for z in (1, 1e-3)]
        assert math.log10(widths[1] / widths[0]) / 3 == pytest.approx(power, abs=0.35)
    steps = [theory.training_steps(**small | {"epsilon": e}).value for e in (1e-3, 1e-4)]
    assert steps[1] / steps[0] == pytest.approx(100)


def test_a_target_that_allows_every_atom_to_be_wrong_is_noted():
    assert theory.required_width(**PROBLEM).holds
    report = theory.required_width(**PROBLEM | {"epsilon": 0.1})
    assert not report.holds and "error below one: VIOLATED (1.2)" in str(report)


def test_the_probability_of_a_strip():
    """P(|N(0,1)| ≤ 0.1), and the linear upper and lower bounds that the proof uses."""
    exact = math.erf(0.1 / math.sqrt(2))
    assert exact == pytest.approx(0.079655674554058, abs=1e-15)
    upper = math.sqrt(2 / math.pi) * 0.1
    assert upper == pytest.approx(0.0797884560802865, abs=1e-15)
    assert upper * math.exp(-(0.1**2) / 2) < exact < upper
    report = theory.kink_share(separation=0.6, num_atoms=4)
    z_0, inside = report.terms["z_0"], report.terms["start in the strip"]
    assert inside <= math.erf(z_0 / math.sqrt(2)) <= inside * math.exp(z_0**2 / 2)
    assert math.prod(list(report.terms.values())[1:]) == pytest.approx(report.value, rel=1e-15)
    assert math.erfc(0.67 / math.sqrt(2)) > 0.5


def pseudo_gradients(x, weighted_errors, width, seed):
    net = TwoLayer(
        x.shape[1],
        width,
        weighted_errors.shape[1],
        parameterization="standard",
        generator=generator(seed),
        dtype=torch.float64,
    )
    with torch.no_grad():
        coefficients = (weighted_errors @ net.output_weight) * net.pattern(x)
    return (coefficients.T @ x).norm(dim=1) / (weighted_errors.abs().sum(1).max() / 2)


def one_wrong(n, classes, o=0.1):
    errors = torch.zeros(n, classes, dtype=torch.float64)
    errors[0] = -(1 - o) / (classes - 1)
    errors[0, 0] = 1 - o
    return errors / n


@pytest.mark.parametrize("seed", range(3))
def test_one_wrong_atom_among_twenty(seed):
    x = unit(20, 50, seed=seed)
    norms = pseudo_gradients(x, one_wrong(20, 10), 20_000, seed)
    share, square = (norms >= 0.33).double().mean().item(), norms.square().mean().item()
    assert share == pytest.approx(0.38, abs=0.02) and square == pytest.approx(0.56, abs=0.03)
    assert share > theory.angle_separation(x) / (16 * 20)


def pair(theta):
    return torch.tensor([[1.0, 0.0], [math.cos(theta), math.sin(theta)]], dtype=torch.float64)


def circle(n):
    return torch.cat([pair(math.pi * k / n)[1:] for k in range(n)])


def alternating(n, scale=1.0):
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(n)[:n]
    return scale * torch.stack([sign, -sign], 1) / (2 * n)


GEOMETRIES = {
    "close pair": (pair(0.05), alternating(2)),
    "wide pair": (pair(1.5), alternating(2)),
    "half circle": (circle(10), alternating(10)),
    "random": (unit(12, 6, seed=1), alternating(12)),
    "one wrong": (unit(5, 4, seed=2), one_wrong(5, 3)),
}


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_share_of_good_neurons_is_never_below_its_bound(name, seed):
    """By counting 100,000 neurons; the bound is below the count by more than four standard errors."""
    x, errors = GEOMETRIES[name]
    share = (pseudo_gradients(x, errors, 100_000, seed) >= 0.335).double().mean().item()
    bound = theory.kink_share(separation=theory.angle_separation(x), num_atoms=len(x)).value
    assert share - 4 * math.sqrt(share * (1 - share) / 100_000) > bound


def test_two_close_atoms_leave_only_the_kink():
    """The share tends to θ/π · P(|N(0,1)| ≥ 1/(3√2)), a constant above the bound."""
    share = (pseudo_gradients(pair(0.03), alternating(2), 400_000, 0) >= 1 / 3).double().mean().item()
    limit = 0.03 / math.pi * math.erfc(1 / 6)
    assert share == pytest.approx(limit, rel=0.08)
    assert 8 < limit / theory.kink_share(separation=math.sin(0.03), num_atoms=2).value < 8.5


def test_the_initial_loss_and_the_largest_weight_are_rarely_above_their_bounds():
    """With δ = 0.5 each fails with probability at most 0.1; in 200 starts, 20 expected at most."""
    x, y, failures = unit(6, 8), torch.arange(6) % 3, torch.zeros(2)
    for seed in range(200):
        net = TwoLayer(8, 100, 3, parameterization="standard", generator=generator(seed), dtype=torch.float64)
        with torch.no_grad():
            loss = cross_entropy(net(x), y, reduction="none").max()
        report = theory.initial_loss(num_atoms=6, num_classes=3, delta=0.5, width=100)
        assert report.holds
        failures[0] += loss > report.value
        bound = theory.largest_output_weight(width=100, num_classes=3, delta=0.5).value
        failures[1] += net.output_weight.abs().max() > bound
    assert (failures <= 20).all()
    narrow = theory.initial_loss(num_atoms=6, num_classes=3, delta=0.5, width=10)
    assert not narrow.holds and narrow.terms["width from which on it is valid"] == 17 * math.log(120)


@pytest.mark.parametrize("radius", [0.0, 1e-3, 1e-2])
def test_the_changed_share_is_never_below_a_count(radius):
    x = unit(4, 6)
    for seed in range(20):
        net = TwoLayer(6, 2000, parameterization="standard", generator=generator(seed), dtype=torch.float64)
        near = (net.preactivation(x).abs() <= radius).any(0).double().mean().item()
        assert near <= theory.changed_share(radius, width=2000, num_atoms=4, delta=0.1).value


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("eta_0", [0.1, 1.0, 3.0])
def test_a_step_gains_at_least_its_bound(seed, eta_0):
    x, y = unit(5, 4, seed=seed), torch.arange(5) % 3
    net = TwoLayer(4, 50, 3, parameterization="standard", generator=generator(seed), dtype=torch.float64)
    before = cross_entropy(net(x), y)
    before.backward()
    g, on = net.hidden_weight.grad, net.pattern(x)
    deficits = (1 - net(x).detach().softmax(1).gather(1, y[:, None])).sum().item() / 5
    with torch.no_grad():
        net.hidden_weight -= eta_0 / 50 * g
        gain = (before - cross_entropy(net(x), y)).item()
    report = theory.descent(
        g.norm().item(),
        step=eta_0 / 50,
        operator_norm=torch.linalg.matrix_norm(net.output_weight.detach(), 2).item(),
        deficits=deficits,
        changed=(net.pattern(x) != on).any(0).double().mean().item(),
        width=50,
        largest_weight=net.output_weight.abs().max().item(),
    )
    assert gain >= report.value


def test_the_terms_of_a_step():
    report = theory.descent(
        2.0, step=0.01, operator_norm=3.0, deficits=0.5, changed=0.1, width=20, largest_weight=1.5
    )
    assert list(report.terms.values()) == pytest.approx([0.04, -(0.01**2) * 9, -4 * 0.01 * 2 * 1.5**2 * 0.25])
    assert report.holds and report.vacuous
    assert not theory.descent(
        1.0, step=1.0, operator_norm=2.0, deficits=0.0, changed=0.0, width=1, largest_weight=1.0
    ).holds


def test_with_few_changed_patterns_a_step_gains_half_of_the_first_order():
    """The arithmetic of the proof: 1 − 0.3 − 0.2 with ‖g‖² at its bound, and (W4) at equality."""
    m, nu, a_max, n = 10**6, 0.05, 5.0, 6
    p_0 = theory.kink_share(separation=0.75, num_atoms=n).value
    g = math.sqrt(theory.gradient_norm(nu, width=m, separation=0.75, num_atoms=n, changed=p_0 / 4).value)
    assert g**2 == pytest.approx(p_0 * m * nu**2 / 36, rel=1e-14)
    report = theory.descent(
        g,
        step=1 / m,
        operator_norm=math.sqrt(1.2 * m),
        deficits=n * nu,
        changed=p_0 / (720 * a_max**2 * n**2),
        width=m,
        largest_weight=a_max,
    )
    assert report.value == pytest.approx(g**2 / m / 2, rel=1e-12)


def test_the_gradient_bound_on_a_trained_network():
    x, y = unit(4, 6, seed=3), torch.arange(4) % 2
    net = TwoLayer(6, 4000, 2, parameterization="standard", generator=generator(0), dtype=torch.float64)
    cross_entropy(net(x), y).backward()
    deficit = ((1 - net(x).detach().softmax(1).gather(1, y[:, None])) / 4).max().item()
    separation = theory.angle_separation(x)
    report = theory.gradient_norm(deficit, width=4000, separation=separation, num_atoms=4)
    assert net.hidden_weight.grad.square().sum().item() > report.value > 0
    spent = theory.gradient_norm(deficit, width=4000, separation=separation, num_atoms=4, changed=0.5)
    assert spent.vacuous and not spent.holds


def test_the_batch_size_is_its_formula_and_keeps_the_noise_small():
    report = theory.batch_size(**PROBLEM)
    p_0, T = theory.kink_share(separation=0.75, num_atoms=6).value, theory.training_steps(**PROBLEM).value
    spread = math.sqrt(6) + math.sqrt(2 * math.log((1 + 1.5 * T) / 0.1))
    assert report.value == math.ceil(8640 * spread**2 / (p_0 * 0.02**2))
    assert report.terms["samples"] == report.value * math.floor(1 + 1.5 * T)
    # √(2.4 m) ‖p̂ − p‖₁ is then at most a tenth of the gradient at ν = ε, which is √(p_0 m) ε / 6
    assert math.sqrt(2.4) * spread / math.sqrt(report.value) <= math.sqrt(p_0) * 0.02 / 60


@pytest.mark.parametrize("b", [20, 500])
def test_the_frequencies_in_a_batch_are_rarely_farther_off_than_their_bound(b):
    p, n, z = torch.tensor([0.4, 0.3, 0.2, 0.1]).double(), 4, 2 / math.sqrt(b)
    draws = torch.multinomial(p, 4000 * b, replacement=True, generator=generator(0)).reshape(4000, b)
    off = (torch.nn.functional.one_hot(draws, n).double().mean(1) - p).abs().sum(1)
    assert (off > math.sqrt(n / b) + z).double().mean() <= math.exp(-b * z**2 / 2)


def test_the_angle_separation():
    x = unit(7, 5)
    brute = min(
        math.sqrt(1 - torch.dot(x[i], x[j]).item() ** 2) for i, j in itertools.combinations(range(7), 2)
    )
    assert theory.angle_separation(x) == pytest.approx(brute, rel=1e-12)
    for theta in (1e-6, 0.3, 1.0, 2.0, math.pi - 1e-6):
        assert theory.angle_separation(pair(theta)) == pytest.approx(math.sin(theta), rel=1e-9)
    assert theory.angle_separation(torch.eye(3)) == 1.0
    distance = torch.dist(*pair(0.4)).item()
    assert theory.angle_separation(pair(0.4)) == pytest.approx(distance * math.sqrt(1 - distance**2 / 4))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(3), "x must hold two or more atoms as rows"),
        (torch.ones(1, 1), "x must hold two or more atoms"),
        (torch.eye(2, dtype=torch.int64), "torch.int64"),
        (2 * torch.eye(3), "x must have unit rows, got norms 2 to 2"),
        (torch.full((2, 2), math.nan), "x must have unit rows"),
        (torch.tensor([[1.0, 0], [0, 1], [1, 0]]), "rows 0 and 2 are; drop one"),
        (torch.tensor([[1.0, 0], [-1, 0]]), "no two parallel rows"),
    ],
)
def test_bad_atoms_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        theory.angle_separation(x)


@pytest.mark.parametrize("function", [theory.training_steps, theory.required_width, theory.batch_size])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"separation": 0.0}, r"separation must lie in \(0, 1\], got 0.0"),
        ({"separation": 1.1}, "separation must lie"),
        ({"separation": math.nan}, "separation must lie"),
        ({"num_atoms": 1}, "num_atoms must be an integer of at least 2, got 1"),
        ({"num_atoms": 2.0}, "num_atoms must be an integer"),
        ({"num_classes": True}, "num_classes must be an integer"),
        ({"epsilon": 0.0}, "epsilon must lie strictly between 0 and 1, got 0.0"),
        ({"epsilon": 1.0}, "epsilon must lie"),
        ({"delta": 1.0}, "delta must lie strictly"),
        ({"delta": math.nan}, "delta must lie strictly"),
        ({"step_size": 0.0}, r"step_size must lie in \(0, 1\]"),
        ({"step_size": 1.5}, "step_size must lie"),
    ],
)
def test_a_bad_problem_is_refused(function, change, message):
    with pytest.raises(ValueError, match=message):
        function(**PROBLEM | change)


STEP = {"step": 0.1, "operator_norm": 1.0, "deficits": 0.5, "changed": 0.1, "width": 5, "largest_weight": 1.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": 0.0}, r"step must lie in \(0, inf\), got 0.0"),
        ({"step": math.inf}, "step must lie"),
        ({"operator_norm": -1.0}, "operator_norm must lie"),
        ({"deficits": 1.5}, r"deficits must lie in \[0, 1\], got 1.5"),
        ({"changed": -0.1}, "changed must lie"),
        ({"width": 0}, "width must be an integer of at least 1"),
        ({"largest_weight": 0.0}, "largest_weight must lie"),
    ],
)
def test_a_bad_step_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        theory.descent(1.0, **STEP | change)
    with pytest.raises(ValueError, match="gradient must lie"):
        theory.descent(-1.0, **STEP)


def test_other_bad_numbers_are_refused():
    with pytest.raises(ValueError, match=r"radius must lie in \[0, inf\), got -1"):
        theory.changed_share(-1, width=5, num_atoms=2, delta=0.1)
    with pytest.raises(ValueError, match=r"deficit must lie in \[0, 1\], got 2"):
        theory.gradient_norm(2, width=5, separation=0.5, num_atoms=2)
    with pytest.raises(ValueError, match="width must be an integer of at least 1, got 0"):
        theory.largest_output_weight(width=0, num_classes=2, delta=0.1)
    with pytest.raises(ValueError, match="width must be an integer"):
        theory.movement_radius(width=10.5, **PROBLEM)
    with pytest.raises(ValueError, match="width must be an integer"):
        theory.initial_loss(num_atoms=2, num_classes=2, delta=0.1, width=0)

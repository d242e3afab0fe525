r"""Gradient descent on clustered data: the numbers in the theorem of Li and Liang (2018).

For the case that the paper treats first: each component is a single unit vector, an *atom*. There are N
atoms :math:`x_s` with probabilities :math:`p_s` and classes :math:`y_s` out of K, any two of them at an
angle whose sine is at least :math:`\Delta'`. The network is

.. math:: f_c(x)=\sum_{r=1}^m a_{c,r}\,\varphi(w_r\cdot x),\qquad w_r(0)\sim N(0,I/m),\quad
    a_{c,r}\sim N(0,1),

only the w are trained, by gradient descent with step size :math:`\eta=\eta_0/m`, :math:`\eta_0\le1`, on
:math:`\Phi=\sum_sp_s(-\ln o_{y_s}(x_s))`, o being the softmax of f. The *deficit* of an atom is
:math:`\nu_s=p_s(1-o_{y_s}(x_s))`, and :math:`\nu=\max_s\nu_s`.

The proof needs five events, each of which fails with probability at most :math:`\delta/5`: no output
weight is large, nor the norm of the output layer; few neurons start near an atom's hyperplane; large
errors make large gradients at the start; and the initial loss is small. The constants here are those of
a derivation of our own, which follows the paper's argument; the paper states orders.

References
----------
Li and Liang, "Learning overparameterized neural networks via stochastic gradient descent on structured
data", NeurIPS 2018, section 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from overparam_lib.theory.report import Assumption, BoundReport

__all__ = [
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

_PAPER = "after Li and Liang 2018, section 5"
_UNIT_NORM_TOLERANCE = 1e-5


def angle_separation(x: torch.Tensor) -> float:
    r"""Return the least sine of the angle between two atoms, :math:`\Delta'`.

    .. math:: \Delta'=\min_{s\ne s'}|\sin\angle(x_s,x_{s'})|
        =\min_{s\ne s'}\tfrac12\|x_s-x_{s'}\|\,\|x_s+x_{s'}\|

    Antipodal atoms count as equal: their neurons have their kinks in the same places.

    Parameters
    ----------
    x : torch.Tensor
        The atoms, shape (N, d), unit rows.

    Returns
    -------
    float
        Δ', in (0, 1].

    Raises
    ------
    ValueError
        If `x` is not a matrix of at least two finite unit rows, or two of them are parallel.

    Examples
    --------
    >>> angle_separation(torch.eye(3))
    1.0
    """
    if x.ndim != 2 or len(x) < 2 or not x.is_floating_point():
        raise ValueError(f"x must hold two or more atoms as rows, got {x.dtype} of shape {tuple(x.shape)}")
    norms = x.double().norm(dim=1)
    if not ((norms - 1).abs() <= _UNIT_NORM_TOLERANCE).all():
        raise ValueError(f"x must have unit rows, got norms {norms.min():.6g} to {norms.max():.6g}; divide")
    unit = x.double() / norms[:, None]
    first, second = torch.triu_indices(len(x), len(x), offset=1)
    sines = (unit[first] - unit[second]).norm(dim=1) * (unit[first] + unit[second]).norm(dim=1) / 2
    least = int(sines.argmin())
    if sines[least] <= 4 * torch.finfo(x.dtype).eps:
        pair = f"rows {int(first[least])} and {int(second[least])}"
        raise ValueError(f"x must have no two parallel rows, but {pair} are; drop one")
    return min(sines[least].item(), 1.0)


def kink_share(*, separation: float, num_atoms: int) -> BoundReport:
    r"""Bound from below the share of neurons on which a large error leaves a large gradient.

    For errors that do not depend on the neuron, a neuron with a random start has a gradient of norm
    at least :math:`0.335\,\nu` with probability at least

    .. math:: p_0=\frac{\Delta'}{16N}\,e^{-z_0^2/2},\qquad z_0=\sqrt{\frac\pi2}\,\frac{\Delta'}{2N}.

    Parameters
    ----------
    separation : float
        Δ', the least sine of an angle between two atoms, in (0, 1].
    num_atoms : int
        Number N of atoms, at least 2.

    Returns
    -------
    BoundReport
        p₀; the terms are the half-width z₀ of the strip around the worst atom's hyperplane, in units
        of :math:`1/\sqrt m`, and lower bounds of the probabilities of which p₀ is the product.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> round(kink_share(separation=1.0, num_atoms=2).value, 5)
    0.02975
    """
    separation, n = _within("separation", separation, 0, 1), _count("num_atoms", num_atoms, 2)
    strip = math.sqrt(math.pi / 2) * separation / (2 * n)
    inside = math.sqrt(2 / math.pi) * strip * math.exp(-(strip**2) / 2)
    terms = {
        "z_0": strip,
        "start in the strip": inside,
        "other patterns fixed": 0.5,
        "step in the gradient at least 0.67 nu": 0.5,
        "right side of the strip": 0.5,
    }
    return BoundReport(
        "Share of neurons with a gradient of nu/3", inside / 8, terms, (), _PAPER, kind="lower", trivial=0.0
    )


def largest_output_weight(*, width: int, num_classes: int, delta: float) -> BoundReport:
    r"""Bound the largest output weight at the start.

    .. math:: \max_{c,r}|a_{c,r}|\le a_{\max}=\sqrt{2\ln(5Km/\delta)}\quad\text{with probability }
        1-\delta/5.

    Parameters
    ----------
    width : int
        Width m.
    num_classes : int
        Number K of classes, at least 2.
    delta : float
        Failure probability δ of the whole theorem, in (0, 1); a fifth of it is spent here.

    Returns
    -------
    BoundReport
        :math:`a_{\max}`.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> round(largest_output_weight(width=1000, num_classes=2, delta=0.1).value, 3)
    4.799
    """
    m, k = _count("width", width, 1), _count("num_classes", num_classes, 2)
    delta = _below_one("delta", delta)
    value = math.sqrt(2 * (math.log(m) + math.log(5 * k / delta)))
    return BoundReport("Largest output weight", value, {"probability of failure": delta / 5}, (), _PAPER)


def initial_loss(*, num_atoms: int, num_classes: int, delta: float, width: int | None = None) -> BoundReport:
    r"""Bound the loss at the start.

    .. math:: \Phi(W(0))\le\Phi_0=\ln K+2\sqrt{\ln(10NK/\delta)}\quad\text{with probability }1-\delta/5,
        \text{ if }m\ge17\ln(10N/\delta).

    Parameters
    ----------
    num_atoms, num_classes : int
        N and K, each at least 2.
    delta : float
        Failure probability δ of the whole theorem, in (0, 1).
    width : int, optional
        Width m, if its condition is to be checked.

    Returns
    -------
    BoundReport
        Φ₀; the terms are its two summands, and the width from which on it is valid.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> round(initial_loss(num_atoms=4, num_classes=2, delta=0.1).value, 3)
    5.864
    """
    n, k = _count("num_atoms", num_atoms, 2), _count("num_classes", num_classes, 2)
    delta = _below_one("delta", delta)
    needed = 17 * math.log(10 * n / delta)
    terms = {
        "ln K": math.log(k),
        "spread of the outputs": 2 * math.sqrt(math.log(10 * n * k / delta)),
        "width from which on it is valid": needed,
    }
    checks = []
    if width is not None:
        width = _count("width", width, 1)
        checks.append(Assumption("wide enough", width >= needed, f"{width:.3g} against {needed:.3g}"))
    value = terms["ln K"] + terms["spread of the outputs"]
    return BoundReport("Initial loss", value, terms, tuple(checks), _PAPER)


def changed_share(radius: float, *, width: int, num_atoms: int, delta: float) -> BoundReport:
    r"""Bound the share of neurons that change a pattern, if none moves farther than R.

    With probability :math:`1-\delta/5` over the start, for all R at once,

    .. math:: \psi(R)=N\bigg(\sqrt{\frac{2m}\pi}\,R+\sqrt{\frac{\ln(10N/\delta)}{2m}}\bigg).

    Parameters
    ----------
    radius : float
        R, the farthest that a neuron has moved, not negative.
    width : int
        Width m.
    num_atoms : int
        Number N of atoms, at least 2.
    delta : float
        Failure probability δ of the whole theorem, in (0, 1).

    Returns
    -------
    BoundReport
        ψ(R), vacuous from 1 on; the terms are the expected share and the fluctuation.

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    The fluctuation is the inequality of Dvoretzky, Kiefer and Wolfowitz with Massart's constant.

    Examples
    --------
    >>> changed_share(1e-3, width=10_000, num_atoms=2, delta=0.1).vacuous
    False
    """
    radius = _within("radius", radius, 0, math.inf, closed=True)
    m, n = _count("width", width, 1), _count("num_atoms", num_atoms, 2)
    terms = {
        "from the movement": n * math.sqrt(2 * m / math.pi) * radius,
        "fluctuation": n * math.sqrt(math.log(10 * n / _below_one("delta", delta)) / (2 * m)),
    }
    name = "Share of neurons that changed a pattern"
    return BoundReport(name, sum(terms.values()), terms, (), _PAPER, trivial=1.0)


def gradient_norm(
    deficit: float, *, width: int, separation: float, num_atoms: int, changed: float = 0.0
) -> BoundReport:
    r"""Bound the squared gradient from below by the largest deficit: large error, large gradient.

    If at least a share :math:`p_0/2` of the neurons had a large gradient at the start, and at most a
    share ψ has changed a pattern,

    .. math:: \|\nabla\Phi\|_F^2\ge\Big(\frac{p_0}2-\psi\Big)\,m\,\frac{\nu^2}9,

    which is :math:`p_0m\nu^2/36` for :math:`\psi=p_0/4`.

    Parameters
    ----------
    deficit : float
        ν, in [0, 1].
    width : int
        Width m.
    separation : float
        Δ', in (0, 1].
    num_atoms : int
        Number N of atoms, at least 2.
    changed : float, default 0
        ψ, the share of neurons that may have changed a pattern, in [0, 1].

    Returns
    -------
    BoundReport
        The bound on the squared Frobenius norm, vacuous from 0 down.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> round(gradient_norm(0.5, width=1000, separation=1.0, num_atoms=2).value, 3)
    0.413
    """
    deficit = _within("deficit", deficit, 0, 1, closed=True)
    changed, m = _within("changed", changed, 0, 1, closed=True), _count("width", width, 1)
    p_0 = kink_share(separation=separation, num_atoms=num_atoms).value
    value = (p_0 / 2 - changed) * m * deficit**2 / 9
    fewer = Assumption("fewer changed than good", changed < p_0 / 2, f"{changed:.3g} against {p_0 / 2:.3g}")
    terms = {"p_0": p_0, "psi": changed}
    return BoundReport("Squared gradient", value, terms, (fewer,), _PAPER, kind="lower", trivial=0.0)


def descent(
    gradient: float,
    *,
    step: float,
    operator_norm: float,
    deficits: float,
    changed: float,
    width: int,
    largest_weight: float,
) -> BoundReport:
    r"""Bound from below by how much one step of gradient descent lowers the loss.

    .. math:: \Phi(W)-\Phi(W-\eta g)\ge\eta\big(1-\tfrac14\eta\|A\|_{\mathrm{op}}^2\big)\|g\|_F^2
        -4\eta\,\psi m\,a_{\max}^2\Big(\sum_s\nu_s\Big)^2,

    where :math:`g=\nabla\Phi(W)` and ψ is the share of neurons that change a pattern on the way.

    Parameters
    ----------
    gradient : float
        :math:`\|g\|_F`, not negative.
    step : float
        Step size :math:`\eta=\eta_0/m`, positive.
    operator_norm : float
        :math:`\|A\|_{\mathrm{op}}`, positive.
    deficits : float
        :math:`\sum_s\nu_s`, in [0, 1].
    changed : float
        ψ, in [0, 1].
    width : int
        Width m.
    largest_weight : float
        :math:`a_{\max}`, positive.

    Returns
    -------
    BoundReport
        The bound, vacuous from 0 down; the terms are the three of the formula.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> report = descent(1.0, step=0.1, operator_norm=2.0, deficits=0.5, changed=0.0, width=10,
    ...     largest_weight=1.0)
    >>> round(report.value, 6)
    0.09
    """
    squared = _within("gradient", gradient, 0, math.inf, closed=True) ** 2
    step, norm = _within("step", step, 0, math.inf), _within("operator_norm", operator_norm, 0, math.inf)
    row = 2 * _within("largest_weight", largest_weight, 0, math.inf)
    row *= _within("deficits", deficits, 0, 1, closed=True)
    rows = _within("changed", changed, 0, 1, closed=True) * _count("width", width, 1)
    terms = {
        "first order": step * squared,
        "curvature": -(step**2) * norm**2 * squared / 4,
        "changed patterns": -step * rows * row**2,
    }
    small = Assumption("step small enough", step * norm**2 < 4, f"{step * norm**2:.3g} against 4")
    name = "Loss removed by the step"
    return BoundReport(name, sum(terms.values()), terms, (small,), _PAPER, kind="lower", trivial=0.0)


def training_steps(
    *,
    separation: float,
    num_atoms: int,
    num_classes: int,
    epsilon: float,
    delta: float,
    step_size: float = 1.0,
) -> BoundReport:
    r"""Bound the number of steps until every deficit is at most ε.

    .. math:: T=\frac{72\,\Phi_0}{\eta_0\,p_0\,\varepsilon^2}

    Parameters
    ----------
    separation : float
        Δ', in (0, 1].
    num_atoms, num_classes : int
        N and K, each at least 2.
    epsilon : float
        ε, in (0, 1).
    delta : float
        Failure probability δ of the whole theorem, in (0, 1).
    step_size : float, default 1
        :math:`\eta_0=m\eta`, in (0, 1].

    Returns
    -------
    BoundReport
        T; the terms are p₀ and Φ₀. The width does not occur in it. It is assumed that
        :math:`2N\varepsilon<1`, without which the theorem promises nothing about the error.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> report = training_steps(
    ...     separation=1.0, num_atoms=4, num_classes=2, epsilon=0.05, delta=0.1)
    >>> print(f"{report.value:.2g}")
    1.1e+07
    """
    p_0 = kink_share(separation=separation, num_atoms=num_atoms).value
    loss = initial_loss(num_atoms=num_atoms, num_classes=num_classes, delta=delta).value
    epsilon = _below_one("epsilon", epsilon)
    value = 72 * loss / (_within("step_size", step_size, 0, 1) * p_0 * epsilon**2)
    useful = Assumption("error below one", 2 * num_atoms * epsilon < 1, f"{2 * num_atoms * epsilon:.3g}")
    return BoundReport("Steps", value, {"p_0": p_0, "Phi_0": loss}, (useful,), _PAPER)


def movement_radius(
    *,
    width: int,
    separation: float,
    num_atoms: int,
    num_classes: int,
    epsilon: float,
    delta: float,
    step_size: float = 1.0,
) -> BoundReport:
    r"""Bound how far a neuron moves until every deficit is at most ε.

    .. math:: R=\frac{2\eta_0a_{\max}}m\,\big(1+T\min(1,N\varepsilon)\big)

    Parameters
    ----------
    width : int
        Width m.
    separation, num_atoms, num_classes, epsilon, delta, step_size
        As in :func:`training_steps`.

    Returns
    -------
    BoundReport
        R; the terms are :math:`a_{\max}`, T, and :math:`\sqrt m\,R`, the movement relative to the
        typical size of a weight at the start.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> here = dict(separation=1.0, num_atoms=4, num_classes=2, epsilon=0.05, delta=0.1)
    >>> narrow, wide = (movement_radius(width=m, **here).value for m in (10**6, 10**8))
    >>> round(narrow / wide)  # 100 but for a logarithm
    89
    """
    steps = training_steps(
        separation=separation,
        num_atoms=num_atoms,
        num_classes=num_classes,
        epsilon=epsilon,
        delta=delta,
        step_size=step_size,
    )
    largest = largest_output_weight(width=width, num_classes=num_classes, delta=delta).value
    value = 2 * step_size * largest * (1 + steps.value * min(1.0, num_atoms * epsilon)) / width
    terms = {"a_max": largest, "T": steps.value, "sqrt(m) R": math.sqrt(width) * value}
    return BoundReport("Movement of a neuron", value, terms, steps.assumptions, _PAPER)


def required_width(
    *,
    separation: float,
    num_atoms: int,
    num_classes: int,
    epsilon: float,
    delta: float,
    step_size: float = 1.0,
) -> BoundReport:
    r"""Return the width M from which on gradient descent provably brings every deficit to ε.

    The smallest m that satisfies all of

    .. math::
        \sqrt K+\sqrt{2\ln(5/\delta)}&\le0.095\,\sqrt m &&\text{(output layer)}\\
        17\ln(10N/\delta)&\le m &&\text{(initial loss)}\\
        \tfrac8{p_0}\big(NK\ln(1+4000\,N a_{\max})+\ln(5/\delta)\big)&\le m &&\text{(kinks)}\\
        \psi(R)&\le\frac{p_0}{720\,a_{\max}^2N^2} &&\text{(changed patterns)}

    With :math:`m\ge M` and probability :math:`1-\delta` over the start, :math:`\nu(t)\le\varepsilon` at
    some :math:`t\le T`, and then the misclassified atoms have mass at most :math:`2N\varepsilon`.

    Parameters
    ----------
    separation, num_atoms, num_classes, epsilon, delta, step_size
        As in :func:`training_steps`.

    Returns
    -------
    BoundReport
        M, an integer, found by bisection in float64, to whose precision it is the smallest. The terms
        are the width that each condition asks for by itself, and the quantities at :math:`m=M`.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> report = required_width(
    ...     separation=1.0, num_atoms=4, num_classes=2, epsilon=0.05, delta=0.1)
    >>> print(f"{report.value:.0e}")
    4e+32
    """
    problem = {
        "separation": separation,
        "num_atoms": num_atoms,
        "num_classes": num_classes,
        "epsilon": epsilon,
        "delta": delta,
        "step_size": step_size,
    }
    steps = training_steps(**problem)
    alone = {name: _smallest(condition) for name, condition in _conditions(problem, steps).items()}
    width = max(alone.values())
    radius = movement_radius(width=width, **problem)
    changed = changed_share(radius.value, width=width, num_atoms=num_atoms, delta=delta).value
    terms = {f"width for {name}": value for name, value in alone.items()}
    terms |= {**steps.terms, **radius.terms, "R": radius.value, "psi(R)": changed}
    return BoundReport("Width", width, terms, steps.assumptions, _PAPER, kind="lower")


def batch_size(
    *,
    separation: float,
    num_atoms: int,
    num_classes: int,
    epsilon: float,
    delta: float,
    step_size: float = 1.0,
) -> BoundReport:
    r"""Return a batch size with which SGD on fresh samples does what gradient descent does.

    As long as the largest deficit is above ε and the gradient is as large as :func:`gradient_norm`
    guarantees (with :math:`\psi=\frac14p_0`), the gradient of a batch is within a tenth of the true one,
    in every step up to :math:`\frac32T`, if

    .. math:: b\ge\frac{8640}{p_0\,\varepsilon^2}
        \bigg(\sqrt N+\sqrt{2\ln\frac{1+\frac32T}\delta}\,\bigg)^2 .

    Parameters
    ----------
    separation, num_atoms, num_classes, epsilon, delta, step_size
        As in :func:`training_steps`; here δ is the probability that some batch is not good.

    Returns
    -------
    BoundReport
        b; the terms are p₀, the number :math:`\frac32T` of steps that SGD needs, and the samples used.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> report = batch_size(separation=1.0, num_atoms=4, num_classes=2, epsilon=0.05, delta=0.1)
    >>> print(f"{report.value:.1e}")
    1.5e+10
    """
    full = training_steps(
        separation=separation,
        num_atoms=num_atoms,
        num_classes=num_classes,
        epsilon=epsilon,
        delta=delta,
        step_size=step_size,
    )
    p_0, steps = full.terms["p_0"], 1.5 * full.value
    spread = math.sqrt(num_atoms) + math.sqrt(2 * math.log((1 + steps) / delta))
    value = math.ceil(8640 / (p_0 * epsilon**2) * spread**2)
    terms = {"p_0": p_0, "steps": steps, "samples": value * math.floor(1 + steps)}
    return BoundReport("Batch size", value, terms, full.assumptions, _PAPER, kind="lower")


def _conditions(problem: dict, steps: BoundReport) -> dict[str, Callable[[int], bool]]:
    """Name the four conditions on the width; each is monotone where `initial loss` holds."""
    n, k, delta = problem["num_atoms"], problem["num_classes"], problem["delta"]
    p_0, tail = steps.terms["p_0"], math.log(5 / delta)

    def largest(m: int) -> float:
        return largest_output_weight(width=m, num_classes=k, delta=delta).value

    def output_layer(m: int) -> bool:
        return math.sqrt(k) + math.sqrt(2 * tail) <= 0.095 * math.sqrt(m)

    def start(m: int) -> bool:
        return initial_loss(num_atoms=n, num_classes=k, delta=delta, width=m).holds

    def kinks(m: int) -> bool:
        return 8 / p_0 * (n * k * math.log1p(4000 * n * largest(m)) + tail) <= m

    def patterns(m: int) -> bool:
        radius = movement_radius(width=m, **problem).value
        changed = changed_share(radius, width=m, num_atoms=n, delta=delta).value
        return changed <= p_0 / (720 * largest(m) ** 2 * n**2)

    return {"output layer": output_layer, "initial loss": start, "kinks": kinks, "changed patterns": patterns}


def _smallest(condition: Callable[[int], bool]) -> int:
    """Find the smallest m ≥ 1 with a monotone condition: double until it holds, then halve the gap."""
    fails, holds = 0, 1
    while not condition(holds):
        fails, holds = holds, 2 * holds
    while holds - fails > 1:
        middle = (fails + holds) // 2
        fails, holds = (fails, middle) if condition(middle) else (middle, holds)
    return holds


def _count(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    return value


def _within(name: str, value: float, low: float, high: float, *, closed: bool = False) -> float:
    """Return a number above `low` (or equal to it, if `closed`) that is at most `high`, and finite."""
    above = low <= value if closed else low < value
    if not (above and value <= high and math.isfinite(value)):
        bounds = f"{'[' if closed else '('}{low:g}, {high:g}{']' if math.isfinite(high) else ')'}"
        raise ValueError(f"{name} must lie in {bounds}, got {value!r}")
    return float(value)


def _below_one(name: str, value: float) -> float:
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {value!r}")
    return float(value)

"""Closed forms of training with a fixed kernel, against training step by step."""

import math

import pytest
import torch
from scipy.linalg import expm

from overparam_lib.kernels import MLPNTK, KernelDynamics, TwoLayerNTK, gram
from overparam_lib.networks import TwoLayer
from overparam_lib.runtime import generator

DOUBLE = torch.float64


def linear_model(n=6, p=9, outputs=None, seed=0, rank=None):
    """Features of training and new points, parameters and targets of a linear model."""
    g = generator(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=DOUBLE)  # noqa: E731
    features, new = draw(n, p), draw(4, p)
    if rank is not None:
        mix = draw(n, rank) @ draw(rank, n) / n
        features, new = mix @ features, new
    head = () if outputs is None else (outputs,)
    return features, new, draw(p, *head), draw(n, *head)


def by_hand(features, start, y, step, steps):
    """Gradient descent on ½‖Jθ − y‖², step by step."""
    theta = start.clone()
    for _ in range(steps):
        theta = theta - step * features.T @ (features @ theta - y)
    return theta


@pytest.mark.parametrize("outputs", [None, 1, 3])
@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("share", [0.1, 0.9])  # of the largest stable step: alternating signs beyond one half
@pytest.mark.parametrize("steps", [0, 1, 37])
def test_gradient_descent(outputs, rank, share, steps):
    features, new, start, y = linear_model(outputs=outputs, rank=rank)
    gram = features @ features.T
    step = share * 2 / torch.linalg.eigvalsh(gram)[-1].item()
    solved = KernelDynamics(gram, features @ start - y, step=step)
    theta = by_hand(features, start, y, step, steps)
    close = {"rtol": 1e-9, "atol": 1e-10}
    torch.testing.assert_close(solved.residual(steps), features @ theta - y, **close)
    torch.testing.assert_close(solved.loss(steps), (features @ theta - y).square().sum() / 2, **close)
    torch.testing.assert_close(solved.distance(steps), (theta - start).norm(), **close)
    torch.testing.assert_close(solved.predict(new @ features.T, new @ start, steps), new @ theta, **close)


def test_a_gram_matrix_knows_its_kernel():
    g = generator(0)
    x, new = torch.randn(6, 3, generator=g, dtype=DOUBLE), torch.randn(4, 3, generator=g, dtype=DOUBLE)
    start, zero = torch.ones(6, dtype=DOUBLE), torch.zeros(4, dtype=DOUBLE)
    G, kernel = gram(TwoLayerNTK(), x, tile=4), TwoLayerNTK()
    solved, plain = KernelDynamics(G, start, step=0.5), KernelDynamics(kernel(x), start, step=0.5)
    expected = plain.predict(kernel(new, x), zero, 7)
    torch.testing.assert_close(solved.predict(G.cross(new), zero, 7), expected, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(plain.predict(G.cross(new), zero, 7), expected, rtol=1e-13, atol=1e-14)
    equal = gram(TwoLayerNTK(), x.clone())  # another object for the same matrix
    torch.testing.assert_close(solved.predict(equal.cross(new), zero, 7), expected, rtol=1e-13, atol=1e-14)
    with pytest.raises(ValueError, match=r"cross is of the kernel MLPNTK\(depth=1.*, the Gram matrix of Two"):
        solved.predict(gram(MLPNTK(depth=1), x).cross(new), zero, 7)
    with pytest.raises(ValueError, match="cross is of other training points"):
        solved.predict(gram(TwoLayerNTK(), x + 1).cross(new), zero, 7)
    with pytest.raises(ValueError, match="the eigenbasis needs the whole matrix"):
        KernelDynamics(gram(TwoLayerNTK(), x, max_memory=1e-12), start)


def test_a_component_that_is_not_there_stays_away_from_those_that_diverge():
    solved = KernelDynamics(torch.diag(torch.tensor([3.0, 1.0])), torch.tensor([0.0, 1.0]), step=1.0)
    assert solved.residual(5000).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("rank", [None, 2])
def test_gradient_flow(rank):
    features, new, start, y = linear_model(rank=rank)
    gram, time = features @ features.T, 0.07
    solved = KernelDynamics(gram, features @ start - y)
    decay = torch.from_numpy(expm(-time * gram.numpy()))
    torch.testing.assert_close(solved.residual(time), decay @ (features @ start - y), rtol=1e-11, atol=1e-11)
    # The flow is the limit of many small steps: θ by Richardson's extrapolation of two step sizes.
    coarse, fine = (by_hand(features, start, y, time / k, k) for k in (20_000, 40_000))
    theta = 2 * fine - coarse
    torch.testing.assert_close(solved.distance(time), (theta - start).norm(), rtol=1e-7, atol=0)
    torch.testing.assert_close(
        solved.predict(new @ features.T, new @ start, time), new @ theta, rtol=1e-6, atol=1e-7
    )


def test_several_times_at_once():
    features, new, start, y = linear_model(outputs=2)
    solved = KernelDynamics(features @ features.T, features @ start - y, step=0.01)
    assert solved.residual([0, 3]).shape == (2, 6, 2)
    assert solved.predict(new @ features.T, new @ start, torch.tensor([0, 3, 5])).shape == (3, 4, 2)
    torch.testing.assert_close(solved.loss([0, 3])[1], solved.loss(3))
    torch.testing.assert_close(solved.distance([0, 3])[0], torch.tensor(0.0, dtype=DOUBLE))


def test_the_largest_stable_step_separates_convergence_from_divergence():
    features, _, start, y = linear_model()
    gram, residual = features @ features.T, features @ start - y
    limit = KernelDynamics(gram, residual).largest_stable_step
    assert KernelDynamics(gram, residual, step=0.99 * limit).loss(20_000) < 1e-12
    assert KernelDynamics(gram, residual, step=1.01 * limit).loss(20_000) > 1e12


def test_tiny_eigenvalues_do_not_spoil_the_distance():
    """λ = 1e-18 and 0: the parameters move by ηt√λ|ρ|, which 1 − (1 − ηλ)^t would round to zero."""
    gram = torch.diag(torch.tensor([1.0, 1e-18, 0.0], dtype=DOUBLE))
    start = torch.tensor([0.0, 1.0, 1.0], dtype=DOUBLE)
    for solved, pushed in (
        (KernelDynamics(gram, start, step=0.1), 0.1 * 50),
        (KernelDynamics(gram, start), 50),
    ):
        assert solved.distance(50).item() == pytest.approx(pushed * 1e-9, rel=1e-9)
        cross = torch.eye(3, dtype=DOUBLE)
        assert solved.predict(cross, torch.zeros(3, dtype=DOUBLE), 50)[2].item() == pytest.approx(-pushed)


def test_a_wide_network_follows():
    """The wider the network, the nearer its predictions: the gap is at least halved from m to 16 m."""
    g = generator(3)
    x = torch.nn.functional.normalize(torch.randn(14, 5, generator=g, dtype=DOUBLE))
    y, gaps = torch.randn(10, generator=g, dtype=DOUBLE), []
    kernel = TwoLayerNTK("both")
    for width in (500, 8000):
        errors = []
        for seed in range(3):
            net = TwoLayer(
                5, width, parameterization="ntk", trained="both", generator=generator(seed), dtype=DOUBLE
            )
            initial = net(x).detach()
            sgd = torch.optim.SGD(net.parameters(), lr=0.5)
            for _ in range(60):
                sgd.zero_grad()
                (0.5 * (net(x[:10]) - y).square().sum()).backward()
                sgd.step()
            solved = KernelDynamics(kernel(x[:10]), initial[:10] - y, step=0.5)
            predicted = solved.predict(kernel(x[10:], x[:10]), initial[10:], 60)
            errors.append((net(x[10:]) - predicted).square().mean().sqrt().item())
        gaps.append(sum(errors) / 3)
    assert gaps[1] < 0.5 * gaps[0]


@pytest.mark.parametrize(
    ("gram", "residual", "options", "message"),
    [
        (torch.ones(2, 3), torch.ones(2), {}, r"gram must be a square matrix, got shape \(2, 3\)"),
        (torch.tensor([[1.0, math.nan], [math.nan, 1.0]]), torch.ones(2), {}, "gram holds NaN"),
        (torch.zeros(2, 2), torch.ones(2), {}, "gram is zero"),
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]]), torch.ones(2), {}, "gram must be symmetric"),
        (torch.diag(torch.tensor([1.0, -0.5])), torch.ones(2), {}, "gram must be positive semidefinite"),
        (torch.eye(2), torch.ones(3), {}, r"residual must have shape \(2,\) or \(2, k\), got \(3,\)"),
        (torch.eye(2), torch.tensor([1.0, math.inf]), {}, "residual holds NaN or infinity"),
        (torch.eye(2), torch.ones(2), {"step": 0.0}, "step must be positive and finite"),
    ],
)
def test_bad_arguments_are_refused(gram, residual, options, message):
    with pytest.raises(ValueError, match=message):
        KernelDynamics(gram, residual, **options)


def test_bad_times_and_points_are_refused():
    solved = KernelDynamics(torch.eye(2), torch.ones(2), step=0.5)
    for t, message in ((-1, "not negative"), (1.5, "must be an integer"), (math.inf, "finite")):
        with pytest.raises(ValueError, match=message):
            solved.residual(t)
    with pytest.raises(ValueError, match=r"cross must have shape \(n', 2\), got \(4, 3\)"):
        solved.predict(torch.ones(4, 3), torch.ones(4), 1)
    with pytest.raises(ValueError, match=r"initial must have shape \(4,\), got \(4, 1\)"):
        solved.predict(torch.ones(4, 2), torch.ones(4, 1), 1)

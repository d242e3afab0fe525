"""Gram-Gauss-Newton against tabulated steps, dense Jacobians and block Gauss-Seidel; and what it refuses."""

import copy
import gc
import io
import math
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from overparam_lib.networks import MLP, TwoLayer
from overparam_lib.optim import GramGaussNewton
from overparam_lib.runtime import generator

DOUBLE = torch.float64
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


class Net(nn.Module):
    """A network with its forward pass and an input shape."""

    def __init__(self, forward, shape, **layers):
        super().__init__()
        self.run, self.shape = forward, shape
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.run(self, x)


# The example with four hidden neurons, tabulated to fourteen digits.


class Four(nn.Module):
    """Output weights are (1, -1, 1, -1), divided by √4."""

    START = ((0.3, -0.2), (-0.5, 0.4), (0.1, 0.7), (-0.6, -0.1))

    def __init__(self, activation, layered):
        super().__init__()
        self.activation = activation
        start = torch.tensor(self.START, dtype=DOUBLE)
        if layered:
            self.hidden = nn.Linear(2, 4, bias=False, dtype=DOUBLE)
            self.hidden.weight.data = start
        else:
            self.weight = nn.Parameter(start)

    @property
    def rows(self):
        return self.hidden.weight if hasattr(self, "hidden") else self.weight

    def forward(self, x):
        z = self.hidden(x) if hasattr(self, "hidden") else x @ self.weight.T
        return self.activation(z) @ torch.tensor([0.5, -0.5, 0.5, -0.5], dtype=DOUBLE)


X = torch.tensor([[0.6, 0.8], [1.0, 0.0], [-0.28, 0.96]], dtype=DOUBLE)
Y = torch.tensor([0.5, -0.25, 1.0], dtype=DOUBLE)
LAYERED = pytest.mark.parametrize("layered", [True, False], ids=["layer", "bare"])


def residual(net):
    return (net(X) - Y).norm().item()


def close(found, expected, atol=1e-11):
    torch.testing.assert_close(
        torch.as_tensor(found, dtype=DOUBLE), torch.tensor(expected, dtype=DOUBLE), rtol=0, atol=atol
    )


@LAYERED
def test_the_tabulated_steps_of_tanh(layered):
    net = Four(torch.tanh, layered)
    optimizer = GramGaussNewton(net)
    norms = [optimizer.step(lambda: net(X) - Y).norm().item()]
    close(
        net.rows.detach(),
        [
            [-0.40149027301027, 0.29183657102134],
            [0.24686043994976, 0.25514398672778],
            [-0.0072179373486662, 1.1120103471745],
            [0.17949047584173, -1.0013613387497],
        ],
    )
    norms += [optimizer.step(lambda: net(X) - Y).norm().item() for _ in range(4)]
    close(
        norms, [1.4710108901109, 0.19754580177836, 0.02559013103849, 0.00010839440155736, 9.5510205358975e-9]
    )
    assert residual(net) < 1e-15
    assert optimizer.by_jacobian == (() if layered else ("weight",))


@LAYERED
def test_the_tabulated_steps_of_softplus(layered):
    net = Four(F.softplus, layered)
    optimizer = GramGaussNewton(net)
    norms = [optimizer.step(lambda: net(X) - Y).norm().item()]
    close(net.rows[0].detach(), [-0.27296184480755, 0.30818712055556])
    norms += [optimizer.step(lambda: net(X) - Y).norm().item() for _ in range(3)]
    close(norms, [1.2215988299838, 0.040244916606801, 0.00023199472590964, 6.0489505091667e-9])
    assert residual(net) < 1e-15


@LAYERED
def test_the_tabulated_damped_step(layered):
    net = Four(torch.tanh, layered)
    GramGaussNewton(net, lr=1.0, damping=0.1).step(lambda: net(X) - Y)
    close(net.rows[0].detach(), [-0.27512073447275, 0.27804565856574])


@LAYERED
@pytest.mark.parametrize(
    ("activation", "norm"), [(torch.tanh, 0.17469369012966), (F.softplus, 0.049417641951565)]
)
def test_the_tabulated_batches(layered, activation, norm):
    net = Four(activation, layered)
    optimizer = GramGaussNewton(net)
    for rows in ([0, 1], [2]):
        optimizer.step(lambda rows=rows: net(X[rows]) - Y[rows])
    close(residual(net), norm)


# Dense Jacobians.


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.out = nn.Embedding(7, 4, padding_idx=2), nn.Linear(4, 2)

    def forward(self, x):
        return self.out(torch.tanh(self.words(x)).mean(dim=1))


class Doubled(nn.Linear):
    def forward(self, x):
        return F.linear(x, 2 * self.weight, self.bias)


class Cube(torch.autograd.Function):
    """An operation by hand, whose backward pass cannot be batched."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        assert float(slope.abs().max()) >= 0  # needs a number
        return 3 * x**2 * slope


class ByHand(nn.Module):
    shape = (9,)

    def __init__(self):
        super().__init__()
        self.scale, self.linear = nn.Parameter(torch.ones(9)), nn.Linear(9, 2)

    def forward(self, x):
        return self.linear(Cube.apply(self.scale * x))


def tied():
    net = Net(lambda s, x: s.b(torch.tanh(s.a(x))), (4,), a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    net.b.weight = net.a.weight
    return net


def tied_transposed():
    a = nn.Linear(4, 3)
    return Net(lambda s, x: F.linear(torch.tanh(s.a(x)), s.a.weight.T), (4,), a=a)


def hooked():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    net[0].register_forward_hook(lambda module, given, out: 2 * out)
    net.shape = (3,)
    return net


def image(*body, shape, features, k=1, act=torch.tanh):
    def forward(s, x):
        out = s.head(act(s.body(x)).flatten(1))
        return out[:, 0] if k == 1 else out

    return Net(forward, shape, body=nn.Sequential(*body), head=nn.Linear(features, k))


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.a, self.norm = nn.Conv2d(channels, channels, 3, padding=1), nn.GroupNorm(2, channels)
        self.b = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return x + self.b(F.relu(self.norm(self.a(x)), inplace=True))


def vectors_and_sequences(s, x):
    h = torch.tanh(s.a(x))
    return s.b(s.a(h.sum(dim=1)))


def reused(s, x):
    """A convolution on two sizes of image."""
    h = torch.tanh(s.a(x))
    return s.a(F.avg_pool2d(h, 3)).flatten(1).sum(dim=1)


def mixed(s, x):
    """Every known layer once."""
    h = s.group(s.image(x))
    h = s.layer(torch.tanh(s.line(h.flatten(2))))
    return s.out(torch.tanh(s.positions(h)).sum(dim=1))


NETS = {
    # name: (network, what must go through Jacobians)
    "mlp, scalar": (lambda: MLP(4, (7, 6), activation="tanh", generator=generator(0)), ()),
    "mlp, column": (lambda: MLP(4, (9,), 1, generator=generator(0)), ()),
    "mlp, three outputs": (lambda: MLP(4, (9, 8), 3, activation="tanh", generator=generator(0)), ()),
    "residual convolutions": (
        lambda: image(nn.Conv2d(1, 4, 3, padding=1), Residual(4), Residual(4), shape=(1, 5, 5), features=100),
        (),
    ),
    "convolutions, two outputs": (
        lambda: image(
            nn.Conv2d(2, 4, 3, stride=2, padding=(2, 1)),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 4, 2, groups=2, dilation=(1, 2)),
            shape=(2, 7, 8),
            features=32,
            k=2,
        ),
        (),
    ),
    "convolutions, strided lines": (
        lambda: image(
            nn.Conv2d(2, 4, (3, 2), stride=(3, 2), dilation=(2, 1), bias=False), shape=(2, 11, 8), features=48
        ),
        (),
    ),
    "convolutions, same, even": (
        lambda: image(nn.Conv2d(2, 3, (4, 3), padding="same"), shape=(2, 5, 5), features=75),
        (),
    ),
    "one dimension": (
        lambda: image(
            nn.Conv1d(3, 4, 3, stride=2, padding=1),
            nn.Conv1d(4, 4, 2, padding="same"),
            shape=(3, 9),
            features=20,
            k=2,
        ),
        (),
    ),
    "all layers": (
        lambda: Net(
            mixed,
            (1, 4, 4),
            image=nn.Conv2d(1, 4, 3, padding=1),
            group=nn.GroupNorm(2, 4),
            line=nn.Conv1d(4, 5, 3),
            layer=nn.LayerNorm((5, 14)),
            positions=nn.Linear(14, 6),
            out=nn.Linear(6, 2),
        ),
        (),
    ),
    "shared": (
        lambda: Net(
            lambda s, x: s.b(torch.tanh(s.a(torch.tanh(s.a(x)))))[:, 0],
            (4,),
            a=nn.Linear(4, 4),
            b=nn.Linear(4, 1),
        ),
        (),
    ),
    "shared by vectors and sequences": (
        lambda: Net(vectors_and_sequences, (3, 4), a=nn.Linear(4, 4), b=nn.Linear(4, 2)),
        (),
    ),
    "shared by two sizes": (lambda: Net(reused, (2, 7, 7), a=nn.Conv2d(2, 2, 2)), ()),
    "in place, on positions": (
        lambda: Net(
            lambda s, x: s.b(F.relu(s.a(x), inplace=True)).sum(dim=1),
            (5, 3),
            a=nn.Linear(3, 9),
            b=nn.Linear(9, 2),
        ),
        (),
    ),
    "a hook that doubles": (hooked, ()),
    "unused layer": (
        lambda: Net(lambda s, x: s.a(x)[:, 0], (9,), a=nn.Linear(9, 1), b=nn.Linear(3, 2)),
        (),
    ),
    "two layers, bare weights": (
        lambda: TwoLayer(4, 9, 2, parameterization="ntk", trained="both", generator=generator(0)),
        ("hidden_weight", "output_weight"),
    ),
    "by hand": (ByHand, ("scale",)),
    "tied": (tied, ("a.weight",)),
    "tied, transposed": (tied_transposed, ("a.weight",)),
    "subclass": (
        lambda: Net(
            lambda s, x: s.b(torch.tanh(s.a(x))), (4,), a=Doubled(4, 9), b=nn.Linear(9, 1, bias=False)
        ),
        ("a.weight", "a.bias"),
    ),
    "a weight as a layer's input": (
        lambda: Net(
            lambda s, x: s.b(s.a.weight.expand(len(x), 4)) * s.c(x) + s.a(x),
            (4,),
            a=nn.Linear(4, 1, bias=False),
            b=nn.Linear(4, 1),
            c=nn.Linear(4, 1),
        ),
        ("a.weight",),
    ),
    "weight norm": (
        lambda: Net(
            lambda s, x: s.a(x)[:, 0], (9,), a=nn.utils.parametrizations.weight_norm(nn.Linear(9, 1))
        ),
        ("a.bias", "a.parametrizations.weight.original0", "a.parametrizations.weight.original1"),
    ),
    "batch norm, evaluated": (
        lambda: Net(
            lambda s, x: s.b(torch.tanh(s.n(s.a(x)))),
            (4,),
            a=nn.Linear(4, 9),
            n=nn.BatchNorm1d(9),
            b=nn.Linear(9, 1),
        ).eval(),
        ("n.weight", "n.bias"),
    ),
    "samples that depend on each other": (
        lambda: Net(
            lambda s, x: s.b(torch.tanh(s.a(x)) - torch.tanh(s.a(x)).mean(dim=0) / 2),
            (4,),
            a=nn.Linear(4, 9),
            b=nn.Linear(9, 1),
        ),
        ("a.weight", "a.bias"),
    ),
    "turned outputs": (
        lambda: Net(lambda s, x: s.b(torch.tanh(s.a(x))).flip(0), (4,), a=nn.Linear(4, 9), b=nn.Linear(9, 1)),
        ("a.weight", "a.bias", "b.weight"),
    ),
    "input changed in place": (
        lambda: Net(
            lambda s, x: (lambda h: s.a(h) + 0 * h.mul_(2).sum())(x.clone())[:, 0], (9,), a=nn.Linear(9, 1)
        ),
        None,
    ),
}


def made(name, n=5, dtype=DOUBLE):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = NETS[name][0]().to(dtype)
        for parameter in net.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        shape = getattr(net, "shape", None) or (net.in_features,)
        x = torch.randn(n, *shape, dtype=dtype)
        return net, x, torch.randn(net(x).shape, dtype=dtype)


def by_rows(net, x):
    """The Jacobian (nk, p) of the batch, one residual at a time, and the outputs, flat."""
    outputs, parameters = net(x).reshape(-1), list(net.parameters())
    rows = [
        torch.autograd.grad(o, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
        for o in outputs
    ]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows]), outputs.detach()


def flat(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


DENSE = [name for name in NETS if NETS[name][1] is not None]


@pytest.mark.parametrize("name", DENSE)
def test_a_pure_step_is_the_pseudo_inverse(name):
    net, x, y = made(name, n=3)
    before, (jacobian, outputs) = flat(net), by_rows(net, x)
    assert torch.linalg.matrix_rank(jacobian) == len(jacobian)
    expected = before - torch.linalg.pinv(jacobian) @ (outputs - y.reshape(-1))
    optimizer = GramGaussNewton(net)
    found = optimizer.step(lambda: net(x) - y)
    torch.testing.assert_close(flat(net), expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(found.reshape(-1), outputs - y.reshape(-1), rtol=1e-13, atol=1e-13)
    assert not found.requires_grad and set(optimizer.by_jacobian) == set(NETS[name][1])


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize(("lr", "damping"), [(0.5, 0.3), (2.0, 0.1)])
def test_push_through(name, lr, damping):
    """Jᵀ(λJJᵀ + αI)⁻¹r = (λJᵀJ + αI)⁻¹Jᵀr: the system of parameters gives the same step."""
    net, x, y = made(name)
    before, (jacobian, outputs) = flat(net), by_rows(net, x)
    matrix = jacobian.T @ jacobian / lr + damping * torch.eye(len(before), dtype=DOUBLE)
    expected = before - torch.linalg.solve(matrix, jacobian.T @ (outputs - y.reshape(-1)))
    optimizer = GramGaussNewton(net, lr=lr, damping=damping)
    for _ in range(2):
        optimizer.step(lambda: net(x) - y)
        if optimizer.state_dict()["state"][0]["step"] == 1:
            torch.testing.assert_close(flat(net), expected, rtol=1e-9, atol=1e-11)
    assert optimizer.last_damping == damping and optimizer.raised == 0


def test_embedding():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Words().double()
    x, y = torch.tensor([[0, 1, 1, 2], [3, 2, 2, 0], [6, 5, 1, 1]]), torch.ones(3, 2, dtype=DOUBLE)
    before, (jacobian, outputs) = flat(net), by_rows(net, x)
    optimizer = GramGaussNewton(net, damping=0.1)
    optimizer.step(lambda: net(x) - y)
    system = jacobian @ jacobian.T + 0.1 * torch.eye(6, dtype=DOUBLE)
    expected = before - jacobian.T @ torch.linalg.solve(system, outputs - y.reshape(-1))
    torch.testing.assert_close(flat(net), expected, rtol=1e-11, atol=1e-12)
    assert optimizer.by_jacobian == ()


def test_an_input_that_is_changed_in_place_is_left_to_autograd_which_refuses():
    net, x, y = made("input changed in place")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        GramGaussNewton(net).step(lambda: net(x) - y)


def test_float32():
    net, x, y = made("residual convolutions")
    single = copy.deepcopy(net).float()
    GramGaussNewton(net, damping=0.1).step(lambda: net(x) - y)
    GramGaussNewton(single, damping=0.1).step(lambda: single(x.float()) - y.float())
    assert flat(single).dtype == torch.float32
    torch.testing.assert_close(flat(single).double(), flat(net), rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("name", DENSE)
def test_on_a_gpu_it_is_the_same_step(name):
    net, x, y = made(name)
    other, xc, yc = copy.deepcopy(net).cuda(), x.cuda(), y.cuda()
    one, two = GramGaussNewton(net, damping=0.1), GramGaussNewton(other, damping=0.1)
    for _ in range(3):
        one.step(lambda: net(x) - y)
        two.step(lambda: other(xc) - yc)
    torch.testing.assert_close(flat(other).cpu(), flat(net), rtol=1e-8, atol=1e-9)


# The theory's two rates.


def test_the_residuals_shrink_quadratically():
    net = MLP(5, (40,), activation="tanh", generator=generator(0), dtype=DOUBLE)
    g = generator(1)
    x, y = torch.randn(10, 5, generator=g, dtype=DOUBLE), 2 * torch.randn(10, generator=g, dtype=DOUBLE)
    optimizer = GramGaussNewton(net)
    norms = [optimizer.step(lambda: net(x) - y).norm().item() for _ in range(8)]
    small = [norm for norm in norms if 1e-10 < norm < 2]
    assert len(small) >= 4 and norms[-1] < 1e-12
    orders = [math.log(c / b) / math.log(b / a) for a, b, c in zip(small, small[1:], small[2:], strict=False)]
    assert all(1.8 < order < 2.2 for order in orders), orders


@pytest.mark.parametrize("outputs", [1, 2])
def test_an_epoch_with_a_fixed_kernel_is_block_gauss_seidel(outputs):
    """For a model linear in its parameters the kernel is fixed: r ← (I − K(D + L)⁻¹)r, an epoch."""
    g = generator(3)
    x, y = torch.randn(12, 20, generator=g, dtype=DOUBLE), torch.randn(12, outputs, generator=g, dtype=DOUBLE)
    net = nn.Linear(20, outputs, dtype=DOUBLE)
    kernel = torch.kron(x @ x.T + 1, torch.eye(outputs, dtype=DOUBLE))
    batches = [range(0, 4), range(4, 8), range(8, 12)]
    block = torch.tensor([i // (4 * outputs) for i in range(12 * outputs)])
    lower = torch.where(block[:, None] >= block, kernel, torch.zeros_like(kernel))  # D + L
    diagonal = torch.where(block[:, None] == block, kernel, torch.zeros_like(kernel))
    optimizer = GramGaussNewton(net)
    for _ in range(3):
        r = (net(x) - y).detach().reshape(-1)
        z = torch.linalg.solve(lower, r)
        for batch in batches:
            rows = list(batch)
            optimizer.step(lambda rows=rows: net(x[rows]) - y[rows])
        after = (net(x) - y).detach().reshape(-1)
        torch.testing.assert_close(after, r - kernel @ z, rtol=0, atol=1e-11)
        energy = [e @ torch.linalg.solve(kernel, e) for e in (r, after)]
        torch.testing.assert_close(energy[1], energy[0] - z @ diagonal @ z, rtol=1e-9, atol=1e-11)


# An optimizer of PyTorch's kind.


def problem(seed=0, n=8, dtype=DOUBLE):
    g = generator(seed + 1)
    net = MLP(4, (30,), activation="tanh", generator=generator(seed), dtype=dtype)
    return net, torch.randn(n, 4, generator=g, dtype=dtype), torch.randn(n, generator=g, dtype=dtype)


def run(net, optimizer, x, y, steps, scheduler=None):
    for i in range(steps):
        rows = [(3 * i + j) % len(x) for j in range(4)]
        optimizer.step(lambda rows=rows: net(x[rows]) - y[rows])
        if scheduler is not None:
            scheduler.step()


def test_a_scheduler_and_a_damping_function():
    net, x, y = problem()
    twin = copy.deepcopy(net)
    optimizer = GramGaussNewton(net, lr=1.0, damping=lambda step: 0.1 * 2**-step)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    run(net, optimizer, x, y, 3, scheduler)
    for i in range(3):
        single = GramGaussNewton(twin, lr=0.5**i, damping=0.1 * 2**-i)
        rows = [(3 * i + j) % len(x) for j in range(4)]
        single.step(lambda rows=rows: twin(x[rows]) - y[rows])
    assert torch.equal(flat(net), flat(twin))
    assert optimizer.last_damping == optimizer.param_groups[0]["damping"] == 0.025


def test_damping_in_the_parameter_group():
    net, x, y = problem()
    twin = copy.deepcopy(net)
    optimizer = GramGaussNewton(net, damping=5.0)
    optimizer.param_groups[0]["damping"] = 0.1
    run(net, optimizer, x, y, 2)
    run(twin, GramGaussNewton(twin, damping=0.1), x, y, 2)
    assert torch.equal(flat(net), flat(twin))


def test_a_step_size_of_zero_changes_nothing():
    net, x, y = problem()
    before = flat(net)
    found = GramGaussNewton(net, lr=0.0).step(lambda: net(x) - y)
    assert torch.equal(flat(net), before) and torch.equal(found, (net(x) - y).detach())


@pytest.mark.parametrize("name", ["mlp, three outputs", "two layers, bare weights"])
def test_checkpoint_and_resume_give_the_same_trajectory(name):
    net, x, y = made(name, n=8)
    options = {"lr": 0.7, "damping": lambda step: 0.1 / (1 + step), "check_every": 3}
    optimizer = GramGaussNewton(net, **options)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    run(net, optimizer, x, y, 4, scheduler)
    file = io.BytesIO()
    torch.save([net.state_dict(), optimizer.state_dict(), scheduler.state_dict()], file)
    run(net, optimizer, x, y, 5, scheduler)

    other = made(name)[0]
    resumed = GramGaussNewton(other, **options)
    again = torch.optim.lr_scheduler.StepLR(resumed, 2)
    for each, state in zip((other, resumed, again), torch.load(io.BytesIO(file.getvalue())), strict=True):
        each.load_state_dict(state)
    run(other, resumed, x, y, 5, again)
    assert torch.equal(flat(other), flat(net))
    assert resumed.state_dict() == optimizer.state_dict()


def test_nothing_is_left_behind():
    net, x, y = problem()
    state, hooks = torch.get_rng_state(), [len(m._forward_hooks) for m in net.modules()]
    optimizer = GramGaussNewton(net, damping=0.1)
    seen = []

    def closure():
        r = net(x) - y
        seen.append(weakref.ref(r))
        return r

    gc.disable()
    try:
        for _ in range(3):
            optimizer.step(closure)
        assert len(seen) == 3 and not any(r() is not None for r in seen)  # freed without the collector
    finally:
        gc.enable()
    assert torch.equal(state, torch.get_rng_state())
    assert [len(m._forward_hooks) for m in net.modules()] == hooks
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_it_works_where_gradients_are_off():
    net, x, y = problem()
    twin = copy.deepcopy(net)
    with torch.no_grad():
        GramGaussNewton(net, damping=0.1).step(lambda: net(x) - y)
    GramGaussNewton(twin, damping=0.1).step(lambda: twin(x) - y)
    assert torch.equal(flat(net), flat(twin))


def test_frozen_parameters_stay():
    net, x, y = problem()
    net.layers[0].bias.requires_grad_(False)
    optimizer = GramGaussNewton(net, damping=0.1)
    optimizer.step(lambda: net(x) - y)
    net.layers[0].weight.requires_grad_(False)  # later, too
    before = [p.detach().clone() for p in net.layers[0].parameters()]
    moved = net.layers[1].weight.detach().clone()
    optimizer.step(lambda: net(x) - y)
    assert all(torch.equal(a, b) for a, b in zip(before, net.layers[0].parameters(), strict=True))
    assert not torch.equal(moved, net.layers[1].weight)


def test_dropout_has_a_mask_for_each_sample():
    net = nn.Sequential(nn.Linear(4, 30), nn.Dropout(0.5), nn.Tanh(), nn.Linear(30, 1)).double()
    _, x, y = problem()
    twin, state = copy.deepcopy(net), torch.get_rng_state()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        optimizer = GramGaussNewton(net, damping=0.1)
        optimizer.step(lambda: net(x)[:, 0] - y)
        torch.manual_seed(1)
        jacobian, outputs = by_rows(twin, x)
    assert optimizer.by_jacobian == () and torch.equal(state, torch.get_rng_state())
    system = jacobian @ jacobian.T + 0.1 * torch.eye(8, dtype=DOUBLE)
    expected = flat(twin) - jacobian.T @ torch.linalg.solve(system, outputs - y)
    torch.testing.assert_close(flat(net), expected, rtol=1e-10, atol=1e-11)


def test_residuals_may_be_weighted():
    net, x, y = problem()
    twin, w = copy.deepcopy(net), torch.linspace(0.5, 2, 8, dtype=DOUBLE)
    GramGaussNewton(net, damping=0.1).step(lambda: w * (net(x) - y))
    jacobian, outputs = by_rows(twin, x)
    jacobian = w[:, None] * jacobian
    system = jacobian @ jacobian.T + 0.1 * torch.eye(8, dtype=DOUBLE)
    expected = flat(twin) - jacobian.T @ torch.linalg.solve(system, w * (outputs - y))
    torch.testing.assert_close(flat(net), expected, rtol=1e-10, atol=1e-11)


def test_batches_in_parts_are_the_whole_batch():
    net, x, y = problem()
    twin = copy.deepcopy(net)
    GramGaussNewton(twin, damping=0.1).step(lambda: twin(x) - y)
    optimizer = GramGaussNewton(net, damping=0.1)
    optimizer.step(lambda: torch.cat([net(x[:3]) - y[:3], net(x[3:]) - y[3:]]))
    torch.testing.assert_close(flat(net), flat(twin), rtol=1e-11, atol=1e-12)
    assert len(optimizer.by_jacobian) == 4


def test_gradients_are_not_accumulated():
    net, x, y = problem()
    optimizer, before = GramGaussNewton(net), flat(net)
    (net(x) - y).square().sum().backward()
    with pytest.raises(ValueError, match=r"layers.0.weight has a gradient.*call zero_grad\(\)"):
        optimizer.step(lambda: net(x) - y)
    assert torch.equal(flat(net), before)
    optimizer.zero_grad()
    optimizer.step(lambda: net(x) - y)
    (net(x) - y).square().sum().backward()
    optimizer.zero_grad(set_to_none=False)  # zeros are no gradients
    optimizer.step(lambda: net(x) - y)

    def with_backward():
        r = net(x) - y
        r.square().sum().backward(retain_graph=True)
        return r

    with pytest.raises(ValueError, match="does not call backward"):
        optimizer.step(with_backward)


@pytest.mark.parametrize("where", ["outside", "inside", "in the model"])
def test_autocast_is_refused(where):
    net, x, y = problem(dtype=torch.float32)
    before = flat(net)
    autocast = lambda: torch.autocast("cpu", dtype=torch.bfloat16)  # noqa: E731
    if where == "in the model":
        net.forward, forward = autocast()(net.forward), net.forward
        assert forward is not net.forward

    def closure():
        if where == "inside":
            with autocast():
                return net(x) - y
        return net(x) - y

    with pytest.raises(ValueError, match="autocast"):
        if where == "outside":
            with autocast():
                GramGaussNewton(net).step(closure)
        else:
            GramGaussNewton(net).step(closure)
    assert torch.equal(flat(net), before)


def test_groups_are_refused():
    net, *_ = problem()
    optimizer = GramGaussNewton(net)
    assert len(optimizer.param_groups) == 1 and len(optimizer.param_groups[0]["params"]) == 4
    with pytest.raises(ValueError, match="one Gram matrix, so there is one group"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})


@pytest.mark.parametrize(
    ("closure", "message"),
    [
        (lambda net, x, y: None, r"tensor of shape \(n,\) or \(n, k\), and not their mean.*got None"),
        (lambda net, x, y: (net(x) - y).square().mean(), r"not their mean or the loss; got shape \(\)"),
        (lambda net, x, y: (net(x) - y)[:0], r"got shape \(0,\)"),
        (lambda net, x, y: (net(x) - y).reshape(2, 2, 2), r"got shape \(2, 2, 2\)"),
        (lambda net, x, y: (net(x) - y).detach(), "without a graph"),
        (lambda net, x, y: (net(x) - y).half(), "torch.float16; the Gram matrix needs float32 or float64"),
        (lambda net, x, y: (net(x) - y).float(), "layers.* computes in torch.float64 and the residuals"),
        (lambda net, x, y: net(x) * math.nan, "NaN or infinity"),
        (lambda net, x, y: net(x) - y + math.inf, "NaN or infinity"),
        (lambda net, x, y: x.clone().requires_grad_() - 1, "do not depend on the model's parameters"),
    ],
)
@pytest.mark.parametrize("lr", [1.0, 0.0])
def test_closures_that_return_something_else_are_refused(closure, message, lr):
    net, x, y = problem()
    before, optimizer = flat(net), GramGaussNewton(net, lr=lr)
    with pytest.raises(ValueError, match=message):
        optimizer.step(lambda: closure(net, x, y))
    assert torch.equal(flat(net), before)
    optimizer.step(lambda: net(x) - y)  # and it has not lost its way
    assert optimizer.by_jacobian == ()


@pytest.mark.parametrize("steps", [1, 2])
def test_nan_after_some_steps_is_refused_without_a_warning(steps):
    net, x, y = problem()
    optimizer = GramGaussNewton(net, damping=0.1)
    for _ in range(steps):
        optimizer.step(lambda: net(x) - y)
    before = flat(net)
    with pytest.raises(ValueError, match="NaN or infinity"):
        optimizer.step(lambda: net(x) * math.nan if steps == 1 else net(x) - math.nan * y)
    assert torch.equal(flat(net), before)
    optimizer.step(lambda: net(x) - y)
    assert optimizer.by_jacobian == ()


def test_a_broadcast_of_the_labels_is_refused():
    net = nn.Linear(4, 1, dtype=DOUBLE)
    _, x, y = problem()
    for outputs, labels in ((net, y), (lambda x: net(x)[:, 0], y[:, None])):
        model = Whole(outputs, net)
        with pytest.raises(ValueError, match="the labels were broadcast"):
            GramGaussNewton(model).step(lambda model=model, labels=labels: model(x) - labels)


class Whole(nn.Module):
    def __init__(self, forward, layer):
        super().__init__()
        self.run, self.layer = forward, layer

    def forward(self, x):
        return self.run(x)


def test_a_layer_may_see_another_layers_weight_as_its_input():
    """The weight is moved before the term of the layer that saw it is used."""

    class Seen(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(4, 3), nn.Linear(8, 3)

        def forward(self, x):
            return (self.c(self.a(x)) * self.b(self.a.weight.detach())).sum(dim=1)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Seen().double()
    _, x, y = problem()  # as many samples as the weight has rows
    optimizer = GramGaussNewton(net, damping=0.1)
    for _ in range(3):
        expected = expected_step(net, x, y, 0.1)
        optimizer.step(lambda: net(x) - y)
        torch.testing.assert_close(flat(net), expected, rtol=1e-9, atol=1e-10)


def test_a_gram_matrix_too_large_for_its_type_is_refused():
    """The search for a damping that serves must end."""
    net, x = nn.Linear(3, 1, bias=False), torch.full((6, 3), 0.9e19)
    with pytest.raises(ValueError, match="too large for torch.float32"):
        GramGaussNewton(net).step(lambda: net(x)[:, 0] - torch.arange(6.0))
    with pytest.raises(ValueError, match="too large for torch.float32"):
        GramGaussNewton(net, damping=1e39).step(lambda: net(torch.ones(6, 3))[:, 0])


def test_parameters_of_two_types_are_refused_before_any_moves():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.ones(4).double()), nn.Parameter(torch.ones(4))

        def forward(self, x):
            return x @ self.a + x @ self.b.double()

    net, (_, x, y) = Mixed(), problem()
    with pytest.raises(ValueError, match="b have another type than the residuals, torch.float64"):
        GramGaussNewton(net, damping=0.1).step(lambda: net(x) - y)
    assert (net.a == 1).all() and (net.b == 1).all()


def test_copies_and_pickles_take_the_model_along():
    net, x, y = problem()
    optimizer = GramGaussNewton(net, damping=0.1)
    optimizer.step(lambda: net(x) - y)
    for same in (copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))):
        model, other = same((net, optimizer))
        assert other.last_damping == 0.1
        expected = expected_step(model, x, y, 0.1)
        other.step(lambda model=model: model(x) - y)
        torch.testing.assert_close(flat(model), expected, rtol=1e-10, atol=1e-11)


def test_another_optimizers_state_and_bare_parameters_are_refused():
    net, x, y = problem()
    other = torch.optim.Adam(net.parameters())
    net(x).sum().backward()
    other.step()
    with pytest.raises(ValueError, match="state_dict is not of a GramGaussNewton"):
        GramGaussNewton(net).load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="model must be a torch.nn.Module"):
        GramGaussNewton(net.parameters())


def test_the_returned_residuals_are_those_before_the_step():
    class Free(nn.Module):
        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(torch.arange(3.0))

    net = Free()
    assert GramGaussNewton(net).step(lambda: net.p).tolist() == [0.0, 1.0, 2.0]


def test_no_closure_is_refused():
    net, *_ = problem()
    with pytest.raises(ValueError, match="closure must be a function"):
        GramGaussNewton(net).step(None)


def test_batch_normalization_is_refused():
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 1)).double()
    _, x, y = problem()
    optimizer = GramGaussNewton(net, damping=0.1)
    with pytest.raises(ValueError, match=r"batch normalization by the batch's statistics \(1\)"):
        optimizer.step(lambda: net(x)[:, 0] - y)
    net.eval()
    optimizer.step(lambda: net(x)[:, 0] - y)
    assert optimizer.by_jacobian == ("1.weight", "1.bias")
    net[1] = nn.BatchNorm1d(5, affine=False, track_running_stats=False).double().eval()
    with pytest.raises(ValueError, match="batch normalization"):
        optimizer.step(lambda: net(x)[:, 0] - y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr must be finite and not negative"),
        ({"lr": math.nan}, "lr must be finite"),
        ({"damping": -0.1}, "damping must be finite and not negative"),
        ({"damping": lambda step: math.inf}, "damping must be finite"),
        ({"check_every": 0}, "check_every must be a positive integer"),
    ],
)
def test_bad_options_are_refused(options, message):
    net, *_ = problem()
    with pytest.raises(ValueError, match=message):
        GramGaussNewton(net, **options)


def test_options_that_turn_bad_are_refused():
    net, x, y = problem()
    optimizer, before = GramGaussNewton(net, damping=lambda step: -step), flat(net)
    optimizer.step(lambda: net(x) - y)
    with pytest.raises(ValueError, match="damping must be finite and not negative, got -1"):
        optimizer.step(lambda: net(x) - y)
    assert not torch.equal(flat(net), before)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_models_that_cannot_be_trained_are_refused():
    net, *_ = problem()
    with pytest.raises(ValueError, match="run it once before"):
        GramGaussNewton(nn.LazyLinear(2))
    with pytest.raises(ValueError, match="several devices"):
        GramGaussNewton(nn.DataParallel(net))
    with pytest.raises(ValueError, match="compiled"):
        GramGaussNewton(torch.compile(net))
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        GramGaussNewton(net.requires_grad_(False))


def test_new_parameters_are_refused():
    net, x, y = problem()
    optimizer = GramGaussNewton(net, damping=0.1)
    optimizer.step(lambda: net(x) - y)
    net.layers[1] = nn.Linear(30, 1, dtype=DOUBLE)
    with pytest.raises(ValueError, match=r"that it had not.*\(layers.1.weight, layers.1.bias\)"):
        optimizer.step(lambda: net(x) - y)


# A singular Gram matrix.


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_damping_is_raised_where_the_gram_matrix_is_singular(dtype):
    net, x, y = problem(dtype=dtype)
    x[1], x[3] = x[0], x[2]  # the same inputs with other labels
    before, optimizer = flat(net), GramGaussNewton(net)
    with pytest.warns(RuntimeWarning, match="damping raised from 0 to"):
        optimizer.step(lambda: net(x) - y)
    start, *_ = problem(dtype=dtype)
    jacobian, outputs = (found.double() for found in by_rows(start, x))
    eps = torch.finfo(dtype).eps
    least = math.sqrt(eps) * (jacobian @ jacobian.T).diagonal().mean().item()
    assert optimizer.raised == 1 and optimizer.last_damping == pytest.approx(least, rel=1e-5)
    system = jacobian @ jacobian.T + least * torch.eye(8, dtype=DOUBLE)
    expected = jacobian.T @ torch.linalg.solve(system, outputs - y.double())
    moved = (before - flat(net)).double()
    assert (moved - expected).norm() < 10 * math.sqrt(eps) * expected.norm()
    optimizer.step(lambda: net(x) - y)  # a second warning would fail the test
    assert optimizer.raised == 2


def test_dead_networks_do_not_move():
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 1, bias=False)).double()
    net[0].bias.data.fill_(-100.0)
    _, x, y = problem()
    before, optimizer = flat(net), GramGaussNewton(net)
    with pytest.warns(RuntimeWarning, match="damping raised"):
        optimizer.step(lambda: net(x)[:, 0] - y)
    assert torch.equal(flat(net), before)


# What a network does in a second way.


class Gated(nn.Module):
    """A second use of the weight, or a coupling of samples, with a coefficient that starts at zero."""

    def __init__(self, second):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4, dtype=DOUBLE), nn.Linear(4, 1, dtype=DOUBLE)
        self.register_buffer("gate", torch.zeros((), dtype=DOUBLE))
        self.second = second

    def forward(self, x):
        h = torch.tanh(self.a(x))
        more = h @ self.a.weight if self.second == "use" else h.mean(dim=0)
        return self.b(h + self.gate * more)[:, 0]


def expected_step(net, x, y, damping):
    jacobian, outputs = by_rows(net, x)
    system = jacobian @ jacobian.T + damping * torch.eye(len(x), dtype=DOUBLE)
    return flat(net) - jacobian.T @ torch.linalg.solve(system, outputs - y)


def test_a_second_use_is_found_before_it_has_an_effect():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Gated("use")
    _, x, y = problem()
    optimizer = GramGaussNewton(net, damping=0.1)
    for step in range(4):
        net.gate.fill_(0.0 if step < 3 else 1.0)
        expected = expected_step(net, x, y, 0.1)
        optimizer.step(lambda: net(x) - y)
        assert optimizer.by_jacobian == ("a.weight",)
        torch.testing.assert_close(flat(net), expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("every", [1, 100])
def test_samples_that_begin_to_depend_on_each_other_are_found_at_once(every):
    """A mean over samples is not known to keep them apart, so the graph is checked each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Gated("coupling")
    _, x, y = problem()
    optimizer = GramGaussNewton(net, damping=0.1, check_every=every)
    for _ in range(4):
        optimizer.step(lambda: net(x) - y)
    assert optimizer.by_jacobian == ()
    net.gate.fill_(1.0)
    expected = expected_step(net, x, y, 0.1)
    optimizer.step(lambda: net(x) - y)
    assert optimizer.by_jacobian == ("a.weight", "a.bias")
    torch.testing.assert_close(flat(net), expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("late", [2, 9])
def test_dependence_that_zero_gradients_hide_is_found_when_they_end(late):
    """A head and a step size that start at zero: for some steps the first layer has no gradient."""

    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 1)
            nn.init.zeros_(self.b.weight)

        def forward(self, x):
            h = torch.tanh(self.a(x))
            return self.b(h - h.mean(dim=0))[:, 0]

    net, (_, x, y) = Centred().double(), problem()
    optimizer = GramGaussNewton(net, lr=0.0, damping=0.1)
    for _ in range(late):
        optimizer.step(lambda: net(x) - y)
    optimizer.param_groups[0]["lr"] = 1.0
    for _ in range(3):
        expected = expected_step(net, x, y, 0.1)
        optimizer.step(lambda: net(x) - y)
        torch.testing.assert_close(flat(net), expected, rtol=1e-10, atol=1e-11)
    assert optimizer.by_jacobian == ("a.weight", "a.bias")


@pytest.mark.parametrize("every", [1, 4])
def test_a_layer_that_changes_what_it_does_is_found_at_the_next_check(every):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0)).double()
    factor, layer = [1.0], net[0]
    layer.forward = lambda x: factor[0] * nn.functional.linear(x, layer.weight, layer.bias)
    _, x, y = problem()
    optimizer = GramGaussNewton(net, damping=0.1, check_every=every)
    for _ in range(4):
        optimizer.step(lambda: net(x)[: len(x)] - y)
    assert optimizer.by_jacobian == ()
    factor[0] = 3.0
    if every > 1:
        optimizer.step(lambda: net(x) - y)  # the documented gap
    expected = expected_step(net, x, y, 0.1)
    optimizer.step(lambda: net(x) - y)
    torch.testing.assert_close(flat(net), expected, rtol=1e-10, atol=1e-11)
    assert optimizer.by_jacobian == ("0.weight", "0.bias")


def test_a_network_that_changes_its_graph_is_checked_again():
    class Switched(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.mix = nn.Linear(4, 4), nn.Linear(4, 1), False

        def forward(self, x):
            h = torch.tanh(self.a(x))
            return self.b(h - h.mean(dim=0) if self.mix else h)[:, 0]

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Switched().double()
    _, x, y = problem()
    optimizer = GramGaussNewton(net, damping=0.1)
    for step in range(6):
        net.mix = step in (3, 5)
        expected = expected_step(net, x, y, 0.1)
        optimizer.step(lambda: net(x) - y)
        assert optimizer.by_jacobian == (("a.weight", "a.bias") if net.mix else ())
        torch.testing.assert_close(flat(net), expected, rtol=1e-10, atol=1e-11)


def test_an_input_that_is_changed_later_on_is_refused_by_autograd():
    net, x, y = problem()
    optimizer = GramGaussNewton(net, damping=0.1)

    def closure(change):
        r = net(x) - y
        if change:
            x.mul_(2)
        return r

    for _ in range(3):
        optimizer.step(lambda: closure(False))
    before = flat(net)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        optimizer.step(lambda: closure(True))
    assert torch.equal(flat(net), before)


def test_a_layer_that_changes_its_ways_is_refused_and_then_checked():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.out = nn.Embedding(7, 4), nn.Linear(4, 1)

        def forward(self, x):
            return self.out(self.words(x).mean(dim=1))[:, 0]

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Words().double()
    x, y = torch.tensor([[0, 1, 1, 2], [3, 2, 2, 0], [6, 5, 1, 1]]), torch.ones(3, dtype=DOUBLE)
    optimizer = GramGaussNewton(net, damping=0.1)
    for _ in range(3):
        optimizer.step(lambda: net(x) - y)
    net.words.scale_grad_by_freq = True
    before = flat(net)
    with pytest.raises(ValueError, match="no longer what they were.*words.weight; take the step again"):
        optimizer.step(lambda: net(x) - y)
    assert torch.equal(flat(net), before)
    optimizer.step(lambda: net(x) - y)
    assert optimizer.by_jacobian == ("words.weight",)


def test_few_graphs_are_remembered():
    net, x, y = problem(n=80)
    optimizer = GramGaussNewton(net, damping=0.1)
    for n in range(1, 71):
        optimizer.step(lambda n=n: net(x[:n]) - y[:n])
    assert 1 <= len(optimizer._seen) <= 64 and optimizer.by_jacobian == ()


def test_a_graph_that_comes_seldom_is_checked_in_its_own_time():
    """The small batch that ends an epoch never comes at a multiple of the period."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Gated("coupling")
    _, x, y = problem()
    optimizer = GramGaussNewton(net, damping=0.1, check_every=4)
    epoch = ([0, 1, 2], [3, 4, 5], [4, 5, 6], [6, 7])
    for rows in (3 * epoch)[:-1]:
        optimizer.step(lambda rows=rows: net(x[rows]) - y[rows])
    assert optimizer.by_jacobian == ()
    net.gate.fill_(1.0)
    expected = expected_step(net, x[6:], y[6:], 0.1)
    with pytest.warns(RuntimeWarning, match="steps since the check of step 7 may have been wrong"):
        optimizer.step(lambda: net(x[6:]) - y[6:])
    torch.testing.assert_close(flat(net), expected, rtol=1e-10, atol=1e-11)
    for rows in epoch:  # the other graphs are checked again at once
        expected = expected_step(net, x[rows], y[rows], 0.1)
        optimizer.step(lambda rows=rows: net(x[rows]) - y[rows])
        torch.testing.assert_close(flat(net), expected, rtol=1e-10, atol=1e-11)


def test_a_batch_of_another_size_is_another_graph():
    net, x, y = made("mlp, scalar", n=8)
    optimizer = GramGaussNewton(net, damping=0.1)
    for rows in ([0, 1, 2], [3, 4, 5], [6, 7], [0, 1, 2], [7], [6, 7]):
        expected = expected_step(net, x[rows], y[rows], 0.1)
        optimizer.step(lambda rows=rows: net(x[rows]) - y[rows])
        torch.testing.assert_close(flat(net), expected, rtol=1e-10, atol=1e-11)

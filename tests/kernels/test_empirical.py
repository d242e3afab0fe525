"""The empirical kernel against dense Jacobians, for layers that are known, shared, tied, bare or refused."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev
from torch.nn import functional as F

from overparam_lib.kernels import EmpiricalNTK, TwoLayerNTK
from overparam_lib.networks import MLP, TwoLayer
from overparam_lib.runtime import generator

DOUBLE = torch.float64
# PyTorch's own words on an even kernel, and on what it does not batch.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),
    pytest.mark.filterwarnings("ignore:There is a performance drop"),
]


def dense(model, x1, x2=None, names=None):
    """J Jᵀ, one sample at a time, by forward evaluation of the whole Jacobian."""
    names = names or [n for n, p in model.named_parameters() if p.requires_grad]
    known = {n: p.detach() for n, p in model.named_parameters()}
    fixed = {**known, **dict(model.named_buffers())}

    def rows(x):
        jacobians = []
        for row in x:
            f = lambda moving, row=row: functional_call(model, {**fixed, **moving}, (row[None],)).reshape(-1)  # noqa: E731
            found = jacrev(f)({n: known[n] for n in names})
            jacobians.append(torch.cat([found[n].flatten(1) for n in names], dim=1))
        return torch.stack(jacobians)

    one = rows(x1)
    two = one if x2 is None else rows(x2)
    return torch.einsum("icp,jdp->ijcd", one, two)


class Net(nn.Module):
    """A network with its forward pass and an input shape."""

    def __init__(self, forward, shape, **layers):
        super().__init__()
        self.run, self.shape = forward, shape
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.run(self, x)


class Scaled(nn.Linear):
    """A subclass that does something else with its weight."""

    def forward(self, x):
        return F.linear(x, 2 * self.weight, self.bias)


def tied():
    net = Net(lambda s, x: s.b(torch.tanh(s.a(x))), (4,), a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    net.b.weight = net.a.weight
    return net


def tied_transposed():
    a = nn.Linear(4, 3)
    return Net(lambda s, x: F.linear(torch.tanh(s.a(x)), s.a.weight.T), (4,), a=a)


def attention():
    def forward(s, x):
        q, k = s.q(x), s.k(x)
        return s.out((q @ k.transpose(1, 2)).softmax(-1) @ x).mean(dim=1)

    return Net(forward, (5, 4), q=nn.Linear(4, 3), k=nn.Linear(4, 3), out=nn.Linear(4, 2))


def conv(*layers, shape, head):
    return Net(
        lambda s, x: s.head(torch.tanh(s.body(x)).flatten(1)), shape, body=nn.Sequential(*layers), head=head
    )


class Bare(nn.Module):
    shape = (3,)

    def __init__(self):
        super().__init__()
        self.scale, self.linear = nn.Parameter(torch.randn(3)), nn.Linear(3, 2)

    def forward(self, x):
        return self.linear(torch.sin(self.scale * x)) * self.scale[0]


class Folded(nn.Module):
    """Positions folded into the first dimension, so that the layer does not see samples."""

    shape = (4, 3)

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        return torch.tanh(self.linear(x.reshape(-1, 3))).reshape(len(x), -1).sum(1, keepdim=True)


class Turned(nn.Module):
    """Positions first, as many as samples: the layer's first dimension is not the sample's."""

    shape = (5, 3)

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        return torch.tanh(self.linear(x.transpose(0, 1))).transpose(0, 1).flatten(1).square().sum(1)


NETS = {
    # name: (network, what must go through Jacobians)
    "mlp, scalar": (lambda: MLP(4, (7, 6), generator=generator(0)), ()),
    "mlp, three outputs": (lambda: MLP(4, (7,), 3, activation="tanh", generator=generator(0)), ()),
    "linear on positions": (
        lambda: Net(
            lambda s, x: s.b(torch.tanh(s.a(x))).sum(dim=1), (5, 3), a=nn.Linear(3, 4), b=nn.Linear(4, 2)
        ),
        (),
    ),
    "many positions": (
        lambda: Net(lambda s, x: torch.tanh(s.a(x)).mean(dim=(1, 2)), (40, 2), a=nn.Linear(2, 2)),
        (),
    ),
    "conv2d": (
        lambda: conv(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 3, 3),
            shape=(2, 5, 5),
            head=nn.Linear(27, 2),
        ),
        (),
    ),
    "conv2d, strides, dilation, groups": (
        lambda: conv(
            nn.Conv2d(4, 6, 3, stride=2, padding=(2, 1), groups=2, bias=False),
            nn.Conv2d(6, 6, 2, dilation=(1, 2), groups=3),
            shape=(4, 7, 8),
            head=nn.LazyLinear(1),
        ),
        (),
    ),
    "conv2d, even kernel, same": (
        lambda: conv(nn.Conv2d(2, 3, (4, 3), padding="same"), shape=(2, 5, 5), head=nn.Linear(75, 1)),
        (),
    ),
    "conv1d": (
        lambda: conv(
            nn.Conv1d(3, 4, 3, stride=2, padding=1),
            nn.Conv1d(4, 4, 2, padding="same"),
            shape=(3, 9),
            head=nn.Linear(20, 2),
        ),
        (),
    ),
    "layer norm": (
        lambda: Net(
            lambda s, x: s.b(torch.tanh(s.n(s.a(x)))),
            (4,),
            a=nn.Linear(4, 5),
            n=nn.LayerNorm(5),
            b=nn.Linear(5, 2),
        ),
        (),
    ),
    "layer norm on positions": (
        lambda: Net(lambda s, x: torch.tanh(s.n(x)).sum(dim=(1, 2)), (3, 4, 5), n=nn.LayerNorm((4, 5))),
        (),
    ),
    "group norm": (
        lambda: conv(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), shape=(2, 5, 5), head=nn.Linear(36, 2)),
        (),
    ),
    "group norm of vectors": (
        lambda: Net(lambda s, x: s.b(torch.tanh(s.n(x))), (6,), n=nn.GroupNorm(3, 6), b=nn.Linear(6, 1)),
        (),
    ),
    "shared layer": (
        lambda: Net(
            lambda s, x: s.b(torch.tanh(s.a(torch.tanh(s.a(x))))), (4,), a=nn.Linear(4, 4), b=nn.Linear(4, 2)
        ),
        (),
    ),
    "attention": (attention, ()),
    "unused layer": (lambda: Net(lambda s, x: s.a(x), (3,), a=nn.Linear(3, 2), b=nn.Linear(3, 2)), ()),
    "two layers, bare weights": (
        lambda: TwoLayer(4, 6, 2, parameterization="ntk", trained="both", generator=generator(0)),
        ("hidden_weight", "output_weight"),
    ),
    "bare": (Bare, ("scale",)),
    "tied": (tied, ("a.weight",)),
    "tied, transposed": (tied_transposed, ("a.weight",)),
    "subclass": (lambda: Net(lambda s, x: s.a(x), (3,), a=Scaled(3, 2)), ("a.weight", "a.bias")),
    "weight norm": (
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)),
        ("bias", "parametrizations.weight.original0", "parametrizations.weight.original1"),
    ),
    "circular padding": (
        lambda: conv(
            nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), shape=(2, 4, 4), head=nn.Linear(48, 1)
        ),
        ("body.0.weight", "body.0.bias"),
    ),
    "transposed convolution": (
        lambda: conv(nn.ConvTranspose2d(2, 3, 3), shape=(2, 3, 3), head=nn.Linear(75, 1)),
        ("body.0.weight", "body.0.bias"),
    ),
    "batch norm, evaluated": (
        lambda: Net(
            lambda s, x: s.b(torch.tanh(s.n(s.a(x)))),
            (4,),
            a=nn.Linear(4, 5),
            n=nn.BatchNorm1d(5),
            b=nn.Linear(5, 2),
        ).eval(),
        ("n.weight", "n.bias"),
    ),
    "folded positions": (Folded, ("linear.weight", "linear.bias")),
    "turned positions": (Turned, ("linear.weight", "linear.bias")),
}


def made(name, n=5, dtype=DOUBLE):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = NETS[name][0]()
        shape = getattr(net, "shape", (getattr(net, "in_features", None),))
        net(torch.randn(2, *shape))  # a lazy layer takes its size
        net = net.to(dtype)
        for parameter in net.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        return net, torch.randn(n, *shape, dtype=dtype), torch.randn(3, *shape, dtype=dtype)


def shaped(kernel, expected):
    return expected[:, :, 0, 0] if kernel.ndim == 2 else expected


@pytest.mark.parametrize("name", NETS)
def test_it_is_the_dense_product_of_jacobians(name):
    net, x, z = made(name)
    kernel = EmpiricalNTK(net)
    close = {"rtol": 1e-10, "atol": 1e-11}
    for inputs in ((x,), (x, z)):
        found = kernel(*inputs)
        torch.testing.assert_close(found, shaped(found, dense(net, *inputs)), **close)
    assert set(kernel.by_jacobian) == set(NETS[name][1])


@pytest.mark.parametrize("name", NETS)
def test_the_size_of_blocks_does_not_matter(name):
    net, x, z = made(name)
    whole = EmpiricalNTK(net)(x)
    tiny = EmpiricalNTK(net, max_memory=1e-9)
    torch.testing.assert_close(tiny(x), whole, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(tiny(x, z), EmpiricalNTK(net)(x, z), rtol=1e-11, atol=1e-12)


def test_embedding():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.out = nn.Embedding(7, 4, padding_idx=2), nn.Linear(4, 2)

        def forward(self, x):
            return self.out(torch.tanh(self.words(x)).mean(dim=1))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Words().double()
    x = torch.tensor([[0, 1, 1, 2], [3, 2, 2, 0], [6, 5, 1, 1]])
    kernel = EmpiricalNTK(net)
    found = kernel(x)

    def rows():
        for row in x:
            out = net(row[None])[0]
            yield torch.stack(
                [
                    torch.cat(
                        [
                            g.flatten()
                            for g in torch.autograd.grad(o, list(net.parameters()), retain_graph=True)
                        ]
                    )
                    for o in out
                ]
            )

    jacobian = torch.stack(list(rows()))
    torch.testing.assert_close(
        found, torch.einsum("icp,jdp->ijcd", jacobian, jacobian), rtol=1e-11, atol=1e-12
    )
    assert kernel.by_jacobian == ()


def test_symmetric_to_the_last_digit_and_positive():
    net, x, _ = made("conv2d")
    found = EmpiricalNTK(net)(x)
    assert torch.equal(found, found.permute(1, 0, 3, 2))
    assert torch.linalg.eigvalsh(found.permute(0, 2, 1, 3).reshape(10, 10))[0] > -1e-10


def test_chosen_parameters():
    net, x, _ = made("mlp, three outputs")
    first = EmpiricalNTK(net, params=["layers.0.weight"])(x)
    torch.testing.assert_close(first, dense(net, x, names=["layers.0.weight"]))
    rest = EmpiricalNTK(net, params=[net.layers[0].bias, *net.layers[1].parameters()])(x)
    torch.testing.assert_close(first + rest, EmpiricalNTK(net)(x))
    net.layers[0].weight.requires_grad_(False)
    torch.testing.assert_close(EmpiricalNTK(net)(x), rest)


def test_inputs_of_different_lengths():
    """A layer sees several positions in one batch, and one in the other."""
    net = Net(lambda s, x: s.b(torch.tanh(s.a(x)).sum(dim=1)), (4,), a=nn.Linear(4, 3), b=nn.Linear(3, 2))
    net = net.double()
    x1 = torch.randn(5, 3, 4, generator=generator(0), dtype=DOUBLE)
    x2 = torch.randn(2, 1, 4, generator=generator(1), dtype=DOUBLE)
    torch.testing.assert_close(EmpiricalNTK(net)(x1, x2), dense(net, x1, x2), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(EmpiricalNTK(net)(x2, x1), dense(net, x2, x1), rtol=1e-11, atol=1e-11)


def test_a_layer_by_layer_in_one_batch_and_by_jacobian_in_the_other():
    """Folded frames are samples of a layer only where each sample has one; layouts must then agree."""

    def forward(s, x):
        n, t = x.shape[:2]
        h = torch.tanh(s.c(x.flatten(0, 1))).mean((2, 3))
        return s.h(h.view(n, t, -1).mean(1))

    net = Net(forward, (2, 5, 5), c=nn.Conv2d(2, 3, (3, 2)), h=nn.Linear(3, 1)).double()
    x1 = torch.randn(3, 4, 2, 5, 5, generator=generator(0), dtype=DOUBLE)
    x2 = torch.randn(3, 1, 2, 5, 5, generator=generator(1), dtype=DOUBLE)
    torch.testing.assert_close(EmpiricalNTK(net)(x1, x2), dense(net, x1, x2), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(EmpiricalNTK(net)(x2, x1), dense(net, x2, x1), rtol=1e-11, atol=1e-11)


def sorted_inside(s, x):
    order = x[:, 0].argsort()
    return s.b(torch.tanh(s.a(x[order]))[order.argsort()])


def turned(s, x):  # as many positions as samples
    return s.b(torch.tanh(s.a(x.transpose(0, 1))).mean(dim=0))


@pytest.mark.parametrize("forward", [sorted_inside, turned])
def test_what_a_first_batch_hides_is_seen_in_the_next(forward):
    """Rows in order, or all equal, do not show that they are moved; the graph is the same for others."""
    net = Net(forward, (4,), a=nn.Linear(4, 4), b=nn.Linear(4, 2)).double()
    shape = (5, 4) if forward is sorted_inside else (5, 5, 4)
    x = torch.randn(shape, generator=generator(0), dtype=DOUBLE)
    plain = x[x[:, 0].argsort()] if forward is sorted_inside else torch.ones_like(x)
    kernel = EmpiricalNTK(net)
    torch.testing.assert_close(kernel(plain), dense(net, plain), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(kernel(x), dense(net, x), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(kernel(plain, x), dense(net, plain, x), rtol=1e-11, atol=1e-11)


def test_noise_in_training_mode_is_refused_after_a_call_in_evaluation_mode():
    net = Net(lambda s, x: s.a(x + torch.randn_like(x) if s.training else x), (4,), a=nn.Linear(4, 1))
    kernel, x = EmpiricalNTK(net.eval()), torch.randn(5, 4)
    kernel(x)
    net.train()
    with pytest.raises(ValueError, match="depends on other samples of the batch, or is random"):
        kernel(x)


def test_parameters_that_are_frozen_or_freed_later():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    x = torch.randn(5, 3, generator=generator(0), dtype=DOUBLE)
    net[0].requires_grad_(False)
    kernel, chosen = EmpiricalNTK(net), EmpiricalNTK(net, ["2.weight"])
    kernel(x)
    net.requires_grad_(True)
    torch.testing.assert_close(kernel(x), dense(net, x), rtol=1e-11, atol=1e-11)
    net[2].requires_grad_(False)
    torch.testing.assert_close(kernel(x), dense(net, x), rtol=1e-11, atol=1e-11)
    with pytest.raises(ValueError, match=r"params has 2\.weight, which no longer require"):
        chosen(x)


def test_a_network_that_works_in_place_leaves_the_inputs_alone():
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 1)).double()
    x = torch.randn(5, 3, generator=generator(0), dtype=DOUBLE)
    before = x.clone()
    expected = dense(net[1], x.relu())
    torch.testing.assert_close(
        EmpiricalNTK(net)(x), expected[:, :, 0, 0][..., None, None], rtol=1e-11, atol=1e-11
    )
    assert torch.equal(x, before)


class Switched(nn.Module):
    """Takes other ways when told to, and counts how often it runs."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.way, self.runs = nn.Linear(4, 4), nn.Linear(4, 2), "layers", 0

    def forward(self, x):
        self.runs += 1
        h = torch.tanh(self.a(x))
        if self.way == "functional":  # the weight is used a second time, behind the layer's back
            h = torch.tanh(F.linear(h, self.a.weight))
        if self.way == "mixing":
            h = h + h.mean(dim=0)
        return self.b(h)


def test_a_network_is_tested_once_while_it_and_its_weights_are_the_same():
    torch.manual_seed(0)
    net = Switched().double()
    kernel, x = EmpiricalNTK(net), torch.randn(5, 4, generator=generator(0), dtype=DOUBLE)
    torch.testing.assert_close(kernel(x), dense(net, x), rtol=1e-11, atol=1e-11)
    first, net.runs = net.runs, 0
    assert torch.equal(kernel(x), kernel(x)) and net.runs == 2 < first
    net.way = "functional"
    torch.testing.assert_close(kernel(x), dense(net, x), rtol=1e-11, atol=1e-11)
    assert kernel.by_jacobian == ("a.weight",)
    net.way, net.runs = "layers", 0
    kernel(x)
    assert kernel.by_jacobian == () and net.runs == 1
    with torch.no_grad():
        net.b.weight.mul_(2)
    net.runs = 0
    torch.testing.assert_close(kernel(x), dense(net, x), rtol=1e-11, atol=1e-11)
    net.runs = 0
    EmpiricalNTK(net)(x)
    assert net.runs > 1
    net.way = "mixing"
    with pytest.raises(ValueError, match="an output depends on other samples"):
        kernel(x)
    with pytest.raises(ValueError, match="an output depends on other samples"):
        kernel(x)


def test_new_weights_are_tested_anew():
    """A coefficient that was zero hid how the samples mix."""

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.share = nn.Linear(4, 1), nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return self.a(x + self.share * x.mean(dim=0))

    net = Mixed().double()
    kernel, x = EmpiricalNTK(net, ["a.weight", "a.bias"]), torch.randn(5, 4, dtype=DOUBLE)
    torch.testing.assert_close(kernel(x), dense(net, x, names=["a.weight", "a.bias"]), rtol=1e-11, atol=1e-11)
    with torch.no_grad():
        net.share.fill_(0.5)
    with pytest.raises(ValueError, match="an output depends on other samples"):
        kernel(x)


def test_nan_of_any_sample_is_refused():
    net = MLP(3, (4,), generator=generator(0))
    x = torch.ones(9, 3)
    kernel = EmpiricalNTK(net)
    kernel(x)
    x[7] = math.nan
    with pytest.raises(ValueError, match="outputs hold NaN"):
        kernel(x)


def test_the_network_is_left_alone():
    net, x, _ = made("bare")
    net(x).sum().backward()
    before = [(p.detach().clone(), p.grad.clone()) for p in net.parameters()]
    state = torch.get_rng_state()
    EmpiricalNTK(net)(x)
    assert torch.equal(state, torch.get_rng_state())
    for parameter, (value, gradient) in zip(net.parameters(), before, strict=True):
        assert torch.equal(parameter, value) and torch.equal(parameter.grad, gradient)
    assert not any(module._forward_hooks for module in net.modules())


def test_it_works_where_gradients_are_off():
    net, x, _ = made("mlp, scalar")
    with torch.no_grad():
        off = EmpiricalNTK(net)(x)
    torch.testing.assert_close(off, EmpiricalNTK(net)(x))
    assert not off.requires_grad


def test_float32():
    net, x, _ = made("conv2d")
    exact = EmpiricalNTK(net)(x)
    found = EmpiricalNTK(net.float())(x.float())
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() < 1e-5 * exact.abs().max()


def test_it_tends_to_the_kernel_of_infinite_width():
    x = F.normalize(torch.randn(4, 3, generator=generator(0), dtype=DOUBLE))
    limit, errors = TwoLayerNTK("both")(x), []
    for width in (100, 10_000):
        nets = [
            TwoLayer(3, width, parameterization="ntk", trained="both", generator=generator(s), dtype=DOUBLE)
            for s in range(5)
        ]
        errors.append(sum((EmpiricalNTK(net)(x) - limit).norm().item() for net in nets) / 5)
    assert errors[1] / errors[0] == pytest.approx(1 / math.sqrt(100), rel=0.5)


class Normalized(nn.Module):
    def forward(self, x):
        return x - x.mean(dim=0)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), r"batch normalization in training mode \(1\)"),
        (nn.Sequential(nn.Linear(3, 4), nn.Dropout()), r"dropout in training mode \(1\)"),
        (nn.Sequential(nn.Linear(3, 4), Normalized()), "depends on other samples"),
        (nn.Sequential(nn.Linear(3, 4), nn.Unflatten(1, (2, 2))), r"outputs of shape \(3,\) or \(3, k\)"),
    ],
)
def test_networks_without_a_kernel_are_refused(net, message):
    with pytest.raises(ValueError, match=message):
        EmpiricalNTK(net)(torch.randn(6, 3, generator=generator(0)))


def test_bad_arguments_are_refused():
    net = nn.Linear(3, 2)
    for options, message in (
        ({"params": ["wieght"]}, "'wieght', which is no parameter of the model; it has weight, bias"),
        ({"params": [nn.Parameter(torch.ones(2))]}, "no parameter of the model"),
        ({"params": []}, "params is empty"),
        ({"max_memory": 0}, "max_memory must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            EmpiricalNTK(net, **options)
    with pytest.raises(ValueError, match="x2 must hold at least one input"):
        EmpiricalNTK(net)(torch.ones(2, 3), torch.ones(0, 3))
    with pytest.raises(ValueError, match="NaN"):
        EmpiricalNTK(net)(torch.full((2, 3), math.nan))
    net.weight.requires_grad_(False)
    with pytest.raises(ValueError, match="weight, which does not require a gradient"):
        EmpiricalNTK(net, params=["weight"])


class Cast(nn.Module):
    """A network whose parts compute in types of their own."""

    def __init__(self, inner, outer=torch.float64):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 2))
            self.scale = nn.Parameter(torch.randn(3))
        self.inner, self.outer = inner, outer
        self.to(inner)

    def forward(self, x):
        return self.net(x.to(self.inner) * self.scale).to(self.outer)


def test_a_network_in_float32_may_have_outputs_in_float64():
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    kernel = EmpiricalNTK(Cast(torch.float32))
    found = kernel(x)
    assert found.dtype == torch.float64 and kernel.by_jacobian == ("scale",)
    expected = EmpiricalNTK(Cast(torch.float64))(x.double())
    # The types' starting weights are the same to float32's digits.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("outer", [torch.bfloat16, torch.float32])
def test_types_that_are_too_coarse_are_refused(outer):
    with pytest.raises(ValueError, match="computes in torch.bfloat16, which is too coarse"):
        EmpiricalNTK(Cast(torch.bfloat16, outer))(torch.ones(2, 3))
    net = Cast(torch.float32, outer)
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ValueError, match="no autocast"):
        EmpiricalNTK(net)(torch.ones(2, 3))


@pytest.mark.gpu
@pytest.mark.parametrize("name", NETS)
def test_on_a_gpu_it_is_the_same_kernel(name):
    net, x, _ = made(name)
    expected = EmpiricalNTK(net)(x)
    torch.testing.assert_close(EmpiricalNTK(net.cuda())(x.cuda()).cpu(), expected, rtol=1e-9, atol=1e-10)

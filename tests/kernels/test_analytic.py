"""The closed forms, against fifty digits, published values and wide random networks."""

import math

import pytest
import torch
from mpmath import mp, mpf

from overparam_lib.kernels import MLPNTK, TwoLayerNTK
from overparam_lib.networks import TwoLayer
from overparam_lib.runtime import generator

DOUBLE = torch.float64
mp.dps = 50
KERNELS = [
    *(TwoLayerNTK(trained=layers) for layers in ("first", "second", "both")),
    *(MLPNTK(depth=depth) for depth in (1, 2, 5)),
    MLPNTK(depth=3, weight_variance=2.0, bias_variance=0.1),
    MLPNTK(depth=2, weight_variance=1.5, bias_variance=2.0),
]
ALL = pytest.mark.parametrize("kernel", KERNELS, ids=repr)


def exactly(kernel, x, z, nngp=False):
    """The kernel by its definition, with fifty digits; or the covariance of a deep network's outputs."""
    x, z = [mpf(v) for v in x.tolist()], [mpf(v) for v in z.tolist()]
    dot = lambda a, b: sum(s * t for s, t in zip(a, b, strict=True))  # noqa: E731

    def angle(covariance, one, two):
        return mp.acos(max(mpf(-1), min(mpf(1), covariance / mp.sqrt(one * two))))

    if isinstance(kernel, TwoLayerNTK):
        theta, norms = angle(dot(x, z), dot(x, x), dot(z, z)), mp.sqrt(dot(x, x) * dot(z, z))
        first = dot(x, z) * (mp.pi - theta) / (2 * mp.pi)
        second = norms * (mp.sin(theta) + (mp.pi - theta) * mp.cos(theta)) / (2 * mp.pi)
        return {"first": first, "second": second, "both": first + second}[kernel.trained]
    w, b = mpf(kernel.weight_variance), mpf(kernel.bias_variance)
    covariance, one, two = dot(x, z) + b, dot(x, x) + b, dot(z, z) + b
    theta_kernel = covariance
    for _ in range(kernel.depth):
        theta, size = angle(covariance, one, two), mp.sqrt(one * two)
        covariance = w * size * (mp.sin(theta) + (mp.pi - theta) * mp.cos(theta)) / (2 * mp.pi) + b
        theta_kernel = theta_kernel * w * (mp.pi - theta) / (2 * mp.pi) + covariance
        one, two = w * one / 2 + b, w * two / 2 + b
    return covariance if nngp else theta_kernel


def hard_rows(d=7, seed=0):
    """Rows at all angles: 1e-5 and less apart, opposite, nearly opposite, equal, of very different norms."""
    g = generator(seed)
    x = torch.randn(4, d, generator=g, dtype=DOUBLE)
    away = torch.randn(4, d, generator=g, dtype=DOUBLE)
    steps = (1e-2, 1e-3, 1e-5, 1e-8)
    near = [x[i] + steps[i] * away[i] for i in range(4)]
    opposite = [-x[0], -x[1] + 1e-5 * away[1], -3 * x[2] + 1e-9 * away[2]]
    return torch.stack([*x, *near, *opposite, x[0], 2 * x[1], 1e-3 * x[2], 50 * x[3]])


def worst(kernel, x, nngp=False):
    """The largest error of the matrix, over its largest entry."""
    found = (kernel.nngp(x) if nngp else kernel(x)).double()
    exact = [[exactly(kernel, a.double(), b.double(), nngp) for b in x] for a in x]
    error = max(abs(mpf(found[i, j].item()) - exact[i][j]) for i in range(len(x)) for j in range(len(x)))
    return float(error / max(max(map(abs, row)) for row in exact))


@ALL
def test_float64_agrees_with_fifty_digits(kernel):
    assert worst(kernel, torch.nn.functional.normalize(hard_rows())) < 1e-13
    assert worst(kernel, hard_rows(seed=1)) < 1e-13


@ALL
def test_float32_agrees_with_fifty_digits(kernel):
    assert worst(kernel, torch.nn.functional.normalize(hard_rows()).float()) < 1e-6
    assert worst(kernel, hard_rows(seed=1).float()) < 1e-6


@pytest.mark.parametrize("nngp", [False, True])
@pytest.mark.parametrize("kernel", [MLPNTK(20), MLPNTK(20, bias_variance=0.1)], ids=repr)
def test_depth_does_not_spoil_the_digits(kernel, nngp):
    """Sizes multiplied from layer to layer in float32 would be wrong by 1.3e-6 here."""
    x = hard_rows(seed=1)
    assert worst(kernel, x, nngp) < 1e-13
    assert worst(kernel, x.float(), nngp) < 1e-6
    assert worst(kernel, torch.nn.functional.normalize(x).float(), nngp) < 1e-6


@pytest.mark.parametrize("bias", [1e-4, 1e-6, 1e-10, 1e-14])
def test_a_small_bias_does_not_spoil_nearly_opposite_inputs(bias):
    g = generator(3)
    x = torch.nn.functional.normalize(torch.randn(3, 6, generator=g, dtype=DOUBLE))
    away = torch.randn(3, 6, generator=g, dtype=DOUBLE)
    steps = torch.tensor([[1e-2], [1e-5], [0.0]], dtype=DOUBLE)
    rows = torch.cat([x, -10 * (x + steps * away)])
    kernel = MLPNTK(2, bias_variance=bias)
    assert worst(kernel, rows) < 1e-13
    assert worst(kernel, rows.float()) < 1e-6


def test_the_usual_way_would_fail_here():
    """With clip and arccos the same rows lose half of the digits: the test above can fail."""
    x = torch.nn.functional.normalize(hard_rows())
    cos = (x @ x.T).clamp(-1, 1)
    usual = cos * (math.pi - cos.arccos()) / (2 * math.pi)
    exact = torch.tensor([[float(exactly(TwoLayerNTK(), a, b)) for b in x] for a in x], dtype=DOUBLE)
    assert (usual - exact).abs().max() > 1e-11
    cos = (x.float() @ x.float().T).clamp(-1, 1)
    usual = cos * (math.pi - cos.arccos()) / (2 * math.pi)
    assert (usual - exact).abs().max() > 1e-5


@pytest.mark.parametrize(
    ("cosine", "first", "second"),
    [
        (0.9, 0.3853951680920822, 0.454769199422336),
        (0.8, 0.3180668941203466, 0.4135598599754838),
        (0.5, 1 / 6, 0.3044988905221147),
        (0.0, 0.0, 0.1591549430918953),
        (-0.5, -1 / 12, 0.05449889052211468),
        (-0.9, -0.06460483190791782, 0.004769199422336038),
        (-1.0, 0.0, 0.0),
    ],
)
def test_two_layer_values(cosine, first, second):
    x = torch.tensor([[1.0, 0.0], [cosine, math.sqrt(1 - cosine**2)]], dtype=DOUBLE)
    for layers, value in (("first", first), ("second", second), ("both", first + second)):
        matrix = TwoLayerNTK(trained=layers)(x)
        assert matrix[0, 1].item() == pytest.approx(value, abs=2e-16 + 1e-15)
        ones = [1.0 if layers == "both" else 0.5] * 2
        assert matrix.diagonal().tolist() == pytest.approx(ones, rel=1e-15)


@pytest.mark.parametrize(
    ("depth", "nngp", "ntk"),
    [
        (1, 0.4827442838354876, 0.6618402890416911),
        (2, 0.597548485180469, 1.034601299612843),
        (3, 0.6758208545216649, 1.40403372656695),
        (5, 0.7743435428681321, 2.119000297281331),
    ],
)
def test_deep_values_at_cosine_three_tenths(depth, nngp, ntk):
    x = torch.tensor([[1.0, 0.0], [0.3, math.sqrt(0.91)]], dtype=DOUBLE)
    kernel = MLPNTK(depth=depth)
    assert kernel.nngp(x)[0, 1].item() == pytest.approx(nngp, rel=1e-14)
    assert kernel(x)[0, 1].item() == pytest.approx(ntk, rel=1e-14)
    assert kernel(x).diagonal().tolist() == [depth + 1] * 2


def test_deep_values_with_biases_and_other_norms():
    x = torch.tensor(
        [[math.sqrt(1.5), 0.0], [0.4 / math.sqrt(1.5), math.sqrt(0.7 - 0.16 / 1.5)]], dtype=DOUBLE
    )
    plain, biased = MLPNTK(depth=2), MLPNTK(depth=3, weight_variance=2.0, bias_variance=0.1)
    assert plain.nngp(x)[0, 1].item() == pytest.approx(0.650315748955266, rel=1e-14)
    assert plain(x)[0, 1].item() == pytest.approx(1.196633957662833, rel=1e-14)
    assert biased.nngp(x)[0, 1].item() == pytest.approx(1.107527492571813, rel=1e-14)
    assert biased(x).flatten().tolist() == pytest.approx([7.0, 2.374499016802013, 2.374499016802013, 3.8])


def test_one_hidden_layer_is_the_two_layer_kernel():
    """Both networks are the same up to the scale of the second layer: Θ = 2 (first + second)."""
    x = hard_rows()
    torch.testing.assert_close(MLPNTK(depth=1)(x), 2 * TwoLayerNTK("both")(x), rtol=1e-14, atol=1e-14)


def test_pentagon():
    turn = torch.arange(5, dtype=DOUBLE) * 2 * math.pi / 5
    found = torch.linalg.eigvalsh(TwoLayerNTK()(torch.stack([turn.cos(), turn.sin()], dim=1)))
    expected = [0.3, 0.3, 0.52360679775, 0.688196601125, 0.688196601125]
    assert found.tolist() == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize(
    ("gap", "least"), [(0.1, 0.0183339004911), (0.01, 0.00161646964578), (0.001, 0.000159404863494)]
)
def test_a_near_duplicate_pair(gap, least):
    x = torch.tensor([[1.0, 0.0], [math.cos(gap), math.sin(gap)]], dtype=DOUBLE)
    assert torch.linalg.eigvalsh(TwoLayerNTK()(x))[0].item() == pytest.approx(least, rel=1e-11)


@pytest.mark.parametrize("layers", ["first", "second", "both"])
def test_a_wide_network_has_this_kernel(layers):
    """Gradients of networks of width 4,000, mean over 30 starts, within five standard errors."""
    x = torch.nn.functional.normalize(torch.randn(3, 4, generator=generator(1), dtype=DOUBLE))
    grams = []
    for seed in range(30):
        net = TwoLayer(
            4, 4000, parameterization="ntk", trained=layers, generator=generator(seed), dtype=DOUBLE
        )
        trained = [p for p in net.parameters() if p.requires_grad]
        rows = [
            torch.cat([g.flatten() for g in torch.autograd.grad(out, trained, retain_graph=True)])
            for out in net(x)
        ]
        grams.append(torch.stack(rows) @ torch.stack(rows).T)
    grams = torch.stack(grams)
    error = (grams.mean(dim=0) - TwoLayerNTK(trained=layers)(x)).abs()
    assert (error <= 5 * grams.std(dim=0) / math.sqrt(30) + 1e-12).all()


@ALL
def test_the_matrix_does_not_depend_on_tiles(kernel, monkeypatch):
    x = torch.randn(23, 5, generator=generator(0), dtype=DOUBLE)
    whole = kernel(x)
    monkeypatch.setattr("overparam_lib.kernels.analytic._BLOCK", {"cpu": (7, 11)})
    torch.testing.assert_close(kernel(x), whole, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(kernel(x[:9], x), whole[:9], rtol=1e-14, atol=1e-14)


@ALL
def test_the_symmetric_case_is_symmetric_with_an_exact_diagonal(kernel):
    x = hard_rows()
    matrix = kernel(x)
    assert torch.equal(matrix, matrix.T)
    torch.testing.assert_close(matrix.diagonal(), kernel.diagonal(x), rtol=1e-15, atol=0)
    single = kernel(x.float())
    torch.testing.assert_close(single.diagonal(), kernel.diagonal(x.float()), rtol=3e-7, atol=0)
    assert torch.linalg.eigvalsh(matrix)[0] > -1e-12 * matrix.max()


@ALL
def test_type_and_shape_are_those_of_the_inputs(kernel):
    x, z = torch.randn(3, 5, generator=generator(0)), torch.randn(2, 5, generator=generator(1))
    assert kernel(x, z).shape == (3, 2) and kernel(x, z).dtype == torch.float32
    assert kernel(x.double()).dtype == DOUBLE and kernel.diagonal(x).dtype == torch.float32


def test_a_kernel_is_its_parameters():
    assert MLPNTK(3) == MLPNTK(depth=3) != MLPNTK(3, bias_variance=0.1)
    assert TwoLayerNTK("first") != TwoLayerNTK("both")
    assert repr(MLPNTK(3)) == "MLPNTK(depth=3, weight_variance=2.0, bias_variance=0.0)"


@pytest.mark.parametrize(
    ("x1", "x2", "message"),
    [
        (torch.ones(3), None, r"x1 must be a matrix of inputs, shape \(n, d\), got shape \(3,\)"),
        (torch.ones(0, 3), None, "x1 must be a matrix"),
        (torch.ones(2, 3, dtype=torch.int64), None, "x1 must be float32 or float64, got torch.int64"),
        (torch.ones(2, 3).half(), None, "x1 must be float32 or float64, got torch.float16"),
        (torch.tensor([[1.0], [math.nan]]), None, r"x1 holds NaN or infinity, in rows \[1\]"),
        (torch.tensor([[1.0], [0.0]]), None, r"x1 has rows of zeros, \[1\]"),
        (torch.full((2, 3), 1e-160, dtype=DOUBLE), None, r"x1 has rows whose squares underflow, \[0, 1\]"),
        (torch.full((2, 3), 1e200, dtype=DOUBLE), None, r"x1 has rows whose norm overflows, \[0, 1\]"),
        (torch.ones(2, 3), torch.ones(2, 4), "x2 must have the 3 columns of x1"),
        (torch.ones(2, 3), torch.ones(2, 3, dtype=DOUBLE), "x2 must have the type of x1, torch.float32"),
        (torch.ones(2, 3), torch.zeros(1, 3), r"x2 has rows of zeros, \[0\]"),
    ],
)
def test_bad_inputs_are_refused(x1, x2, message):
    for kernel in (TwoLayerNTK(), MLPNTK(2)):
        with pytest.raises(ValueError, match=message):
            kernel(x1, x2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TwoLayerNTK("all"), "trained must be one of"),
        (lambda: MLPNTK(0), "depth must be a positive integer"),
        (lambda: MLPNTK(True), "depth must be a positive integer"),
        (lambda: MLPNTK(2, weight_variance=0.0), "weight_variance must be positive"),
        (lambda: MLPNTK(2, bias_variance=-1.0), "bias_variance must be finite and not negative"),
    ],
)
def test_bad_parameters_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.gpu
@ALL
def test_on_a_gpu_it_is_the_same_kernel(kernel):
    x = hard_rows()
    torch.testing.assert_close(kernel(x.cuda()).cpu(), kernel(x), rtol=1e-13, atol=1e-13)

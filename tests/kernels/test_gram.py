"""Gram matrices: dense, in tiles and on disk alike; singular ones are refused; solves resume."""

import dataclasses
import functools
import importlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import overparam_lib
from overparam_lib.kernels import MLPNTK, EmpiricalNTK, SingularGramError, TwoLayerNTK, gram
from overparam_lib.networks import MLP
from overparam_lib.runtime import generator

MODULE = importlib.import_module("overparam_lib.kernels.gram")  # the function has the module's name
DOUBLE = torch.float64
KERNEL = MLPNTK(depth=2)
NOTHING = 1e-12  # GiB: less than any matrix takes


def inputs(n=60, d=5, dtype=DOUBLE):
    return torch.randn(n, d, generator=generator(0), dtype=dtype)


def vectors(n=60, k=None):
    return torch.randn(*(n, k)[: 1 if k is None else 2], generator=generator(1), dtype=DOUBLE)


@pytest.fixture(params=["dense", "tiles", "disk", "dense from disk"])
def made(request, tmp_path):
    """A Gram matrix in each of the ways in which it can be held."""

    def make(x, kernel=KERNEL, tile=25):
        memory = 1.0 if request.param.startswith("dense") else NOTHING
        return gram(
            kernel, x, max_memory=memory, tile=tile, out=tmp_path if "disk" in request.param else None
        )

    return make


def test_all_ways_agree_with_numpy(made):
    x, b, y = inputs(), vectors(k=3), vectors()
    matrix = KERNEL(x).numpy()
    G = made(x)
    np.testing.assert_allclose(G.to_dense(), matrix, rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(G.matvec(b), matrix @ b.numpy(), rtol=1e-12, atol=1e-11)
    np.testing.assert_allclose(G.matvec(y), matrix @ y.numpy(), rtol=1e-12, atol=1e-11)
    exact = np.linalg.solve(matrix, b.numpy())
    found = G.solve(b, rtol=1e-12)
    np.testing.assert_allclose(found.x, exact, rtol=1e-8, atol=1e-9)
    assert found.residual < 1e-11 and found.jitter == 0.0
    assert (found.iterations == 0) == G.dense
    expected = y.numpy() @ np.linalg.solve(matrix, y.numpy())
    assert G.quadratic_form(y, rtol=1e-11) == pytest.approx(expected, rel=1e-9)
    assert G.smallest_eigenvalue() == pytest.approx(np.linalg.eigvalsh(matrix)[0], rel=1e-3)
    assert G.shape == (60, 60)


@pytest.mark.parametrize("tile", [23, 59, 60, 1000])
def test_the_size_of_tiles_does_not_matter(tile):
    x, b = inputs(), vectors(k=2)
    whole, cut = gram(KERNEL, x), gram(KERNEL, x, max_memory=NOTHING, tile=tile)
    torch.testing.assert_close(cut.matvec(b), whole.matvec(b), rtol=1e-13, atol=1e-12)
    torch.testing.assert_close(cut.solve(b, rtol=1e-12).x, whole.solve(b).x, rtol=1e-8, atol=1e-9)


def test_jitter_is_added_and_reported(made):
    x, b = inputs(), vectors()
    found = made(x).solve(b, jitter=0.3, rtol=1e-11)
    expected = np.linalg.solve(KERNEL(x).numpy() + 0.3 * np.eye(60), b.numpy())
    np.testing.assert_allclose(found.x, expected, rtol=1e-7, atol=1e-8)
    assert found.jitter == 0.3


def test_eigenpairs():
    x = inputs()
    values, columns = gram(KERNEL, x).eigh()
    assert (values.diff() <= 0).all()
    torch.testing.assert_close(columns @ values.diag() @ columns.T, KERNEL(x), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="eigh needs the whole matrix, 2.68e-05 GiB; raise max_memory"):
        gram(KERNEL, x, max_memory=NOTHING).eigh()


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_coinciding_inputs_are_named(dtype):
    x = inputs(dtype=dtype)
    x[41] = x[7]
    b = vectors()
    with pytest.raises(SingularGramError, match="inputs 7 and 41 coincide") as caught:
        gram(KERNEL, x).solve(b)
    assert caught.value.rows == (7, 41)
    jitter = float(str(caught.value).rsplit(" ", 1)[1])
    solved = gram(KERNEL, x).solve(b, jitter=jitter)
    assert solved.jitter == jitter and torch.isfinite(solved.x).all()


def test_dependent_features_of_different_inputs_are_refused():
    """Three antipodal pairs in the plane: no two inputs are parallel, and the kernel is singular."""
    turn = torch.tensor([0.0, 70.0, 110.0], dtype=DOUBLE).deg2rad()
    half = torch.stack([turn.cos(), turn.sin()], dim=1)
    with pytest.raises(
        SingularGramError, match="linearly dependent, or nearly so, though no two inputs coincide"
    ) as caught:
        gram(TwoLayerNTK(), torch.cat([half, -half])).solve(vectors(6))
    assert caught.value.rows is None
    two = torch.cat([half[:2], -half[:2]])
    assert gram(TwoLayerNTK(), two).smallest_eigenvalue() == pytest.approx(0.328989928337, rel=1e-11)


def test_gradients_that_do_not_arrive_say_so():
    x = inputs()
    x[41] = x[7]
    way = r"(which reached the relative residual .* in 40 iterations|not positive definite)"
    for tile in (60, 25):
        G = gram(KERNEL, x, max_memory=NOTHING, tile=tile)
        with pytest.raises(SingularGramError, match=f"{way}.* inputs 7 and 41 coincide") as caught:
            G.solve(vectors(), rtol=1e-12, max_iterations=40)
        assert caught.value.rows == (7, 41)


def test_float32_tiles_serve_float64_vectors():
    x, y = inputs(300, 10, torch.float32), vectors(300).sign()
    exact = y @ torch.linalg.solve(KERNEL(x.double()), y)
    found = gram(KERNEL, x, max_memory=NOTHING, tile=64).quadratic_form(y, rtol=1e-5)
    assert found == pytest.approx(exact.item(), rel=1e-3)


def test_float32_tiles_solve_to_the_tolerance_or_say_so():
    """The residual that is carried along drifts from the true one: without refinement it stays above 5e-6."""
    x, y = inputs(300, 10, torch.float32), vectors(300).sign()
    G = gram(MLPNTK(depth=1), x, max_memory=NOTHING, tile=64)
    for rtol in (1e-6, 1e-10):
        found = G.solve(y, rtol=rtol)
        left = ((y - G.to_dense().double() @ found.x).norm() / y.norm()).item()
        assert found.residual == pytest.approx(left, rel=1e-3) and left <= rtol
    with pytest.warns(UserWarning, match="has the relative residual .*, not 1e-17: rounding allows no less"):
        assert G.solve(y, rtol=1e-17).residual < 1e-12


def test_a_preconditioner_that_fails_is_done_without():
    """Of a matrix of low rank in float32 no Cholesky factor exists without a shift."""
    x = inputs(300, 2, torch.float32)
    kernel, y = TwoLayerNTK("second"), vectors(300)
    found = gram(kernel, x, max_memory=NOTHING, tile=100).solve(y, jitter=0.1, rtol=1e-8)
    exact = torch.linalg.solve(kernel(x).double() + 0.1 * torch.eye(300), y)
    torch.testing.assert_close(found.x, exact, rtol=1e-5, atol=1e-5)


def test_a_solution_that_is_worse_than_none_is_refused():
    x = inputs(20)
    x[5] = x[4]
    with pytest.raises(SingularGramError, match="inputs 4 and 5 coincide"):
        gram(TwoLayerNTK(), x, max_memory=NOTHING, tile=7).solve(vectors(20), jitter=1e-17)


def test_the_smallest_eigenvalue_leaves_the_state_of_a_solve_alone(tmp_path):
    G = gram(KERNEL, inputs(), max_memory=NOTHING, tile=20, out=tmp_path)
    with pytest.raises(SingularGramError, match="in 2 iterations"):
        G.solve(vectors(), rtol=1e-12, max_iterations=2)
    kept = (tmp_path / "solve.npz").read_bytes()
    G.smallest_eigenvalue()
    assert (tmp_path / "solve.npz").read_bytes() == kept


def test_the_preconditioner_saves_iterations(monkeypatch):
    x, b = inputs(200, 3), vectors(200)
    G = gram(TwoLayerNTK(), x, max_memory=NOTHING, tile=200)
    with_it = G.solve(b, rtol=1e-4).iterations
    monkeypatch.setattr(MODULE, "_PIVOTS", 1)
    without = gram(TwoLayerNTK(), x, max_memory=NOTHING, tile=200).solve(b, rtol=1e-4).iterations
    assert with_it < without / 2


def test_an_empirical_kernel():
    net = MLP(5, (20,), generator=generator(0), dtype=DOUBLE)
    x, y = inputs(30), vectors(30)
    expected = y @ torch.linalg.solve(EmpiricalNTK(net)(x), y)
    found = gram(EmpiricalNTK(net), x, max_memory=NOTHING, tile=11).quadratic_form(y, rtol=1e-11)
    assert found == pytest.approx(expected.item(), rel=1e-8)


# -- on disk


def test_tiles_are_computed_once(tmp_path):
    calls = []

    class Counted(TwoLayerNTK):
        def __call__(self, *arguments):
            calls.append(arguments)
            return super().__call__(*arguments)

    kernel, x = Counted(), inputs()
    G = gram(kernel, x, max_memory=NOTHING, tile=20, out=tmp_path)
    G.matvec(vectors())
    before = len(calls)
    G.matvec(vectors())
    again = gram(kernel, x, max_memory=NOTHING, tile=20, out=tmp_path)
    again.matvec(vectors())
    assert len(calls) == before + 1  # the one that looks at the kernel's outputs
    assert len(list(tmp_path.glob("tile-*.npy"))) == 6
    assert not list(tmp_path.glob(".*"))


def test_a_folder_of_another_matrix_is_refused(tmp_path):
    x = inputs()
    gram(KERNEL, x, max_memory=NOTHING, out=tmp_path)
    for kernel, other, tile in ((MLPNTK(3), x, 2048), (KERNEL, x + 1, 2048), (KERNEL, x, 30)):
        with pytest.raises(ValueError, match="holds another matrix, or other tiles"):
            gram(kernel, other, max_memory=NOTHING, out=tmp_path, tile=tile)
    assert json.loads((tmp_path / "gram.json").read_text())["tile"] == 2048


def test_a_solve_that_was_stopped_goes_on(tmp_path, monkeypatch):
    x, b = inputs(100, 3), vectors(100, 2)
    options = {"max_memory": NOTHING, "tile": 50, "out": tmp_path}
    monkeypatch.setattr(MODULE, "_PIVOTS", 4)
    whole = gram(KERNEL, x, max_memory=NOTHING, tile=50).solve(b, rtol=1e-8)
    G = gram(KERNEL, x, **options)
    product, left = G.matvec, iter(range(5))

    def stopping(v):
        next(left)  # StopIteration at the sixth
        return product(v)

    G.matvec = stopping
    with pytest.raises(StopIteration):
        G.solve(b, rtol=1e-8)
    assert (tmp_path / "solve.npz").exists()
    again = gram(KERNEL, x, **options)
    product, count = again.matvec, []
    again.matvec = lambda v: count.append(1) or product(v)
    resumed = again.solve(b, rtol=1e-8)
    assert torch.equal(resumed.x, whole.x) and resumed.iterations == whole.iterations
    assert len(count) == whole.iterations - 5
    assert not (tmp_path / "solve.npz").exists()


def test_a_solve_goes_on_without_tiles_on_disk(tmp_path):
    x, b = inputs(100, 3), vectors(100)
    options = {"max_memory": NOTHING, "tile": 50, "out": tmp_path, "keep_tiles": False}
    whole = gram(KERNEL, x, max_memory=NOTHING, tile=50).solve(b, rtol=1e-10)
    with pytest.raises(SingularGramError, match="in 2 iterations"):
        gram(KERNEL, x, **options).solve(b, rtol=1e-10, max_iterations=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gram.json", "solve.npz"]
    again = gram(KERNEL, x, **options)
    product, count = again.matvec, []
    again.matvec = lambda v: count.append(1) or product(v)
    found = again.solve(b, rtol=1e-10)
    assert torch.equal(found.x, whole.x) and len(count) == whole.iterations - 2


def test_the_state_of_another_solve_is_not_used(tmp_path):
    x, b = inputs(), vectors()
    G = gram(KERNEL, x, max_memory=NOTHING, tile=20, out=tmp_path)
    with pytest.raises(SingularGramError, match="in 2 iterations"):
        G.solve(b, rtol=1e-12, max_iterations=2)
    with pytest.warns(UserWarning, match="is of another solve, which is forgotten"):
        found = G.solve(2 * b, rtol=1e-12).x
    torch.testing.assert_close(found, torch.linalg.solve(KERNEL(x), 2 * b), rtol=1e-7, atol=1e-8)


_KILLED = """
import sys, torch
from overparam_lib.kernels import MLPNTK, gram
x = torch.randn(600, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
G = gram(MLPNTK(depth=8), x, max_memory=1e-12, tile=60, out=sys.argv[1])
print("started", flush=True)
print(repr(G.quadratic_form(torch.ones(600, dtype=torch.float64), rtol=1e-10)))
"""


def test_a_process_that_is_killed_leaves_whole_tiles(tmp_path):
    root = str(Path(overparam_lib.__file__).parents[1])
    command = [sys.executable, "-c", _KILLED, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": root, "TQDM_DISABLE": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    process.stdout.readline()
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("tile-*.npy"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    kept = list(tmp_path.glob("tile-*.npy"))
    assert kept and all(np.load(path).ndim == 2 for path in kept)
    x = torch.randn(600, 40, generator=generator(0), dtype=DOUBLE)
    y = torch.ones(600, dtype=DOUBLE)
    again = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    expected = y @ torch.linalg.solve(MLPNTK(depth=8)(x), y)
    assert float(again.stdout.split()[-1]) == pytest.approx(expected.item(), rel=1e-7)


def test_tiles_of_a_network_are_known_again_by_its_weights(tmp_path):
    x, y = inputs(30), vectors(30)
    options = {"max_memory": NOTHING, "tile": 11, "out": tmp_path}
    net = MLP(5, (20,), generator=generator(0), dtype=DOUBLE)
    first = gram(EmpiricalNTK(net), x, **options).matvec(y)
    twin = MLP(5, (20,), generator=generator(0), dtype=DOUBLE)
    assert torch.equal(gram(EmpiricalNTK(twin), x, **options).matvec(y), first)
    for other in (EmpiricalNTK(net, ["layers.0.weight"]), EmpiricalNTK(net)):
        with torch.no_grad():
            net.layers[1].bias += other.names == EmpiricalNTK(net).names  # the second: other weights
        with pytest.raises(ValueError, match="holds another matrix"):
            gram(other, x, **options)


@pytest.mark.parametrize("memory", [1.0, NOTHING])
def test_the_matrix_is_of_the_kernel_and_inputs_as_they_were(memory):
    net, x, y = MLP(5, (20,), generator=generator(0), dtype=DOUBLE), inputs(30), vectors(30)
    kernel = EmpiricalNTK(net)
    expected = kernel(x) @ y
    G = gram(kernel, x, max_memory=memory, tile=11)
    x.mul_(2)
    torch.testing.assert_close(G.matvec(y), expected, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        net.layers[0].weight.mul_(2)
    if G.dense:
        torch.testing.assert_close(G.matvec(y), expected, rtol=1e-12, atol=1e-12)
    else:
        with pytest.raises(ValueError, match="network has changed since the Gram matrix was made"):
            G.matvec(y)
    with pytest.raises(ValueError, match="network has changed since the Gram matrix was made"):
        G.cross(x)


def test_a_kernel_that_cannot_be_known_again_is_not_kept_on_disk(tmp_path):
    def nameless(x1, x2=None):
        return KERNEL(x1, x2)

    class Anonymous:
        __call__ = staticmethod(nameless)

    class Scaled(TwoLayerNTK):
        def __init__(self, factor):
            super().__init__()
            object.__setattr__(self, "factor", factor)

        def __call__(self, *arguments):
            return self.factor * super().__call__(*arguments)

    @dataclasses.dataclass
    class Weighted:
        weights: torch.Tensor

        def __call__(self, x1, x2=None):
            return KERNEL(x1 * self.weights, None if x2 is None else x2 * self.weights)

    for kernel in (nameless, Anonymous(), Scaled(2.0), Weighted(torch.ones(5)), functools.partial(nameless)):
        assert gram(kernel, inputs(), max_memory=NOTHING).matvec(vectors()).shape == (60,)
        with pytest.raises(ValueError, match="neither a method fingerprint"):
            gram(kernel, inputs(), max_memory=NOTHING, out=tmp_path)


# -- on the workers of a scheduler


@pytest.fixture(scope="module")
def client():
    distributed = pytest.importorskip("distributed")
    quiet = {"dashboard_address": None, "silence_logs": 50}
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, **quiet) as cluster,
        distributed.Client(cluster) as connected,
    ):
        yield connected


@pytest.mark.slow
def test_workers_find_the_same(client, tmp_path):
    x, b = inputs(), vectors(k=2)
    for options in ({}, {"out": tmp_path}):
        local = gram(KERNEL, x, max_memory=NOTHING, tile=25)
        spread = gram(KERNEL, x, max_memory=NOTHING, tile=25, client=client, **options)
        assert not spread.dense
        torch.testing.assert_close(spread.matvec(b), local.matvec(b), rtol=1e-14, atol=1e-13)
        torch.testing.assert_close(spread.to_dense(), KERNEL(x), rtol=1e-14, atol=1e-14)
    assert len(list(tmp_path.glob("tile-*.npy"))) == 6
    torch.testing.assert_close(spread.solve(b, jitter=1.0).x, local.solve(b, jitter=1.0).x)
    kept = gram(KERNEL, x, tile=25, client=client)
    assert kept.dense
    torch.testing.assert_close(kept.eigh()[0], gram(KERNEL, x).eigh()[0], rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_workers_may_be_killed(client, tmp_path, times):
    """Workers die in the midst of tiles; at the second death nobody may have the inputs any more."""
    here = os.getpid()

    class Deadly(TwoLayerNTK):
        def __call__(self, x1, x2=None):
            if os.getpid() != here and len(x1) > 1:
                for life in range(times):
                    try:
                        (tmp_path / str(life)).touch(exist_ok=False)
                    except FileExistsError:
                        continue
                    os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(x1, x2)

    x, v = inputs(), vectors()
    with torch.no_grad():
        found = gram(Deadly(), x, max_memory=NOTHING, tile=10, client=client).matvec(v)
    assert len(list(tmp_path.iterdir())) == times
    torch.testing.assert_close(found, gram(TwoLayerNTK(), x).matvec(v), rtol=1e-12, atol=1e-13)


@pytest.mark.slow
def test_an_error_on_a_worker_is_told(client):
    class Broken(TwoLayerNTK):
        def __call__(self, x1, x2=None):
            if len(x1) > 1:
                raise ValueError("this tile is not to be had")
            return super().__call__(x1, x2)

    with pytest.raises(ValueError, match="this tile is not to be had"):
        gram(Broken(), inputs(), max_memory=NOTHING, tile=25, client=client).matvec(vectors())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gram(KERNEL, torch.ones(0, 3)), "x must hold at least one input"),
        (lambda: gram(KERNEL, inputs(), max_memory=0), "max_memory must be positive"),
        (
            lambda: gram(KERNEL, inputs(), client="tcp://host:8786"),
            "client must be a dask.distributed.Client",
        ),
        (lambda: gram(KERNEL, inputs(), tile=0), "tile must be a positive integer"),
        (lambda: gram(EmpiricalNTK(torch.nn.Linear(5, 2).double()), inputs()), "kernel must have one output"),
        (lambda: gram(KERNEL, inputs()).matvec(torch.ones(3)), r"v must have shape \(60,\) or \(60, k\)"),
        (lambda: gram(KERNEL, inputs()).solve(torch.full((60,), math.nan)), "b holds NaN"),
        (lambda: gram(KERNEL, inputs()).solve(vectors(), jitter=-1.0), "jitter must be finite"),
        (lambda: gram(KERNEL, inputs()).solve(vectors(), rtol=0.0), "rtol must be between 0 and 1"),
        (lambda: gram(KERNEL, inputs()).quadratic_form(vectors(k=2)), "y must be a vector"),
        (lambda: gram(KERNEL, inputs()).solve(torch.ones(60, 0)), r"b has no columns, shape \(60, 0\)"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.gpu
def test_on_a_gpu_the_answer_is_the_same():
    x, y = inputs(), vectors()
    found = gram(KERNEL, x.cuda(), max_memory=NOTHING, tile=20).quadratic_form(y.cuda(), rtol=1e-10)
    assert found == pytest.approx((y @ torch.linalg.solve(KERNEL(x), y)).item(), rel=1e-8)

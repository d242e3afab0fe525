"""The training loop against hand-written loops, and its contracts."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from overparam_lib.networks import TwoLayer
from overparam_lib.runtime import generator
from overparam_lib.training import (
    DistanceToInit,
    DivergenceError,
    History,
    Probe,
    at,
    every,
    fresh_samples,
    full_batch,
    loss_below,
    minibatches,
    probe_reaches,
    train,
)

DOUBLE = torch.float64


def problem(n=20, d=4, seed=0):
    x = torch.randn(n, d, generator=generator(seed), dtype=DOUBLE)
    return x, torch.sin(x.sum(dim=1))


def network(d=4, m=16):
    return TwoLayer(d, m, parameterization="ntk", generator=generator(9), dtype=DOUBLE)


def run(model, batches, steps, lr=0.1, optimizer=torch.optim.SGD, **options):
    options.setdefault("progress", False)
    return train(
        model,
        batches,
        loss=F.mse_loss,
        optimizer=optimizer(model.parameters(), lr=lr),
        steps=steps,
        **options,
    )


def test_equals_a_hand_written_loop():
    x, y = problem()
    ours, naive = network(), network()
    history = run(ours, full_batch(x, y), 30)
    losses = []
    for _ in range(30):
        loss = (naive(x) - y).square().mean()
        (gradient,) = torch.autograd.grad(loss, naive.hidden_weight)
        losses.append(loss.item())
        with torch.no_grad():
            naive.hidden_weight -= 0.1 * gradient
    np.testing.assert_allclose(history.loss, losses, rtol=1e-12)
    torch.testing.assert_close(ours.hidden_weight, naive.hidden_weight, rtol=1e-12, atol=1e-14)
    assert history.steps == 30 and history.stopped == "steps done"


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.LBFGS])
def test_any_torch_optimizer_lowers_the_loss(optimizer):
    x, y = problem()
    history = run(network(), full_batch(x, y), 20, lr=0.05, optimizer=optimizer)
    assert history.loss[-1] < 0.9 * history.loss[0]


def test_any_model_and_any_loss():
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    x, y = problem()[0].float(), torch.arange(20) % 3
    sgd = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    history = train(model, full_batch(x, y), loss=F.cross_entropy, optimizer=sgd, steps=100, progress=False)
    assert history.loss[-1] < 0.5 * history.loss[0]


def test_an_epoch_of_minibatches_sees_each_sample_once():
    x = torch.arange(12.0)[:, None]
    batches = minibatches(x, x[:, 0], 5, generator=generator(0))
    for _ in range(3):
        epoch = torch.cat([next(batches)[0], next(batches)[0]])[:, 0]
        assert len(epoch.unique()) == 10  # two samples are left over and dropped


def test_minibatches_keep_inputs_and_targets_together_and_are_seeded():
    x = torch.arange(12.0)[:, None]
    one, two = (minibatches(x, -x[:, 0], 4, generator=generator(3)) for _ in range(2))
    for _ in range(7):
        (xa, ya), (xb, yb) = next(one), next(two)
        assert torch.equal(xa[:, 0], -ya) and torch.equal(xa, xb) and torch.equal(ya, yb)


def test_sampling_with_replacement_is_uniform():
    x = torch.arange(5.0)[:, None]
    batches = minibatches(x, x[:, 0], 5, generator=generator(0), replacement=True)
    drawn = torch.stack([next(batches)[1] for _ in range(2000)])
    counts = torch.bincount(drawn.long().ravel(), minlength=5).double()
    standard_error = (10_000 * 0.2 * 0.8) ** 0.5
    assert (counts - 2000).abs().max() < 4 * standard_error
    assert any(len(row.unique()) < 5 for row in drawn)  # with replacement, some batch repeats a sample


def test_fresh_samples_draws_anew_each_step():
    g = generator(0)
    seen = []
    batches = fresh_samples(
        lambda b: (torch.randn(b, 4, generator=g, dtype=DOUBLE), torch.zeros(b), "ignored"), 3
    )
    for _ in range(4):
        x, y = next(batches)
        assert x.shape == (3, 4) and y.shape == (3,)
        seen.append(x)
    assert len(torch.cat(seen).unique(dim=0)) == 12


def test_probes_see_the_iterate_before_the_update_and_the_last_one():
    x, y = problem()
    model = network()
    start = model.hidden_weight.detach().clone()
    weights = Probe("weights", lambda net: net.hidden_weight, every(4))
    history = run(model, full_batch(x, y), 10, probes=[weights])
    assert history["weights"].steps.tolist() == [0, 4, 8, 10]
    np.testing.assert_array_equal(history["weights"].values[0], start)
    np.testing.assert_array_equal(history.final("weights"), model.hidden_weight.detach())
    reference = network()
    run(reference, full_batch(x, y), 4)
    np.testing.assert_array_equal(history["weights"].values[1], reference.hidden_weight.detach())


def test_last_iterate_is_measured_once_when_the_schedule_names_it():
    history = run(network(), full_batch(*problem()), 8, probes=[DistanceToInit(every(4))])
    assert history["distance"].steps.tolist() == [0, 4, 8]


def test_zero_steps_measures_the_start():
    history = run(network(), full_batch(*problem()), 0, probes=[DistanceToInit(at())])
    assert history.steps == 0 and history.final("distance") == 0.0


def test_stops_when_the_loss_is_low():
    history = run(network(), full_batch(*problem()), 10_000, lr=0.5, stop=loss_below(0.05))
    assert history.stopped == "loss below 0.05"
    assert history.loss[-1] < 0.05 <= history.loss[:-1].min()


def test_windowed_stop_looks_at_the_mean():
    history = History(losses=[1.0, 0.0, 0.0])
    assert loss_below(0.4, window=3)(history) is not None or sum(history.losses) / 3 >= 0.4
    assert loss_below(0.3, window=3)(history) is None
    assert loss_below(0.3, window=2)(history) == "loss below 0.3"
    assert loss_below(0.3, window=4)(history) is None


def test_stops_when_a_probe_reaches_its_target():
    probe = DistanceToInit(every(5))
    history = run(
        network(), full_batch(*problem()), 10_000, probes=[probe], stop=[probe_reaches("distance", 0.5)]
    )
    assert history.stopped == "distance reached 0.5"
    assert history.final("distance") >= 0.5 > history["distance"].values[-2]
    assert history.steps % 5 == 0


def test_a_finite_source_ends_the_run():
    x, y = problem()
    history = run(network(), [(x, y)] * 3, 10)
    assert (history.steps, history.stopped) == (3, "batches exhausted")


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_continuing_a_run_equals_one_long_run(optimizer):
    x, y = problem()
    halves, whole = network(), network()
    opts = [optimizer(net.parameters(), lr=0.05) for net in (halves, whole)]
    probes = [[DistanceToInit(every(5))] for _ in range(2)]
    options = {"loss": F.mse_loss, "progress": False}
    history = train(halves, full_batch(x, y), optimizer=opts[0], steps=10, probes=probes[0], **options)
    train(halves, full_batch(x, y), optimizer=opts[0], steps=13, probes=probes[0], history=history, **options)
    once = train(whole, full_batch(x, y), optimizer=opts[1], steps=23, probes=probes[1], **options)
    assert torch.equal(halves.hidden_weight, whole.hidden_weight)
    np.testing.assert_array_equal(history.loss, once.loss)
    np.testing.assert_array_equal(history["distance"].steps, once["distance"].steps)
    np.testing.assert_array_equal(history["distance"].values, once["distance"].values)


def test_interrupt_ends_the_run_and_keeps_the_history():
    x, y = problem()

    def interrupted():
        yield x, y
        yield x, y
        raise KeyboardInterrupt

    history = run(network(), interrupted(), 10, probes=[DistanceToInit(at())])
    assert (history.steps, history.stopped) == (2, "interrupted")
    assert history["distance"].steps.tolist() == [2]


def test_divergence_is_an_error_that_keeps_the_history():
    x, y = problem()
    with pytest.raises(DivergenceError, match="try a smaller step size") as caught:
        run(network(), full_batch(x, y), 5000, lr=1e4)
    assert 0 < caught.value.history.steps < 5000
    assert not np.isfinite(caught.value.history.loss[-1])


@pytest.mark.parametrize(
    ("progress", "disabled", "shown"), [(True, "0", True), (True, "1", False), (False, "0", False)]
)
def test_progress_bar_shows_if_wanted_and_allowed(capsys, monkeypatch, progress, disabled, shown):
    monkeypatch.setenv("TQDM_DISABLE", disabled)
    at_once = lambda **options: tqdm(**(options | {"delay": 0}))  # noqa: E731
    monkeypatch.setattr("overparam_lib.training.loop.tqdm", at_once)
    run(network(), full_batch(*problem()), 2, progress=progress)
    captured = capsys.readouterr()
    assert ("step" in captured.err) is shown and captured.out == ""


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: run(network(), full_batch(x, y), -1), "steps must not be negative"),
        (lambda x, y: full_batch(x, y[:-1]), "same positive length, got 20 and 19"),
        (lambda x, y: full_batch(x[:0], y[:0]), "same positive length, got 0 and 0"),
        (lambda x, y: minibatches(x, y, 21, generator=generator(0)), r"batch_size must lie in 1\.\.20"),
        (lambda x, y: minibatches(x, y, 0, generator=generator(0)), r"batch_size must lie in 1\.\.20"),
        (
            lambda x, y: run(network(), full_batch(x, y), 1, probes=[DistanceToInit(1), DistanceToInit(2)]),
            "different names",
        ),
        (
            lambda x, y: run(network(), full_batch(x, y), 1, probes=[DistanceToInit(1)], history=History()),
            r"no measurement of the probes \['distance'\]",
        ),
    ],
)
def test_bad_arguments_are_refused_at_once(call, message):
    with pytest.raises(ValueError, match=message):
        call(*problem())


def test_unknown_probe_name_lists_the_known_ones():
    history = run(network(), full_batch(*problem()), 1, probes=[DistanceToInit(1)])
    with pytest.raises(KeyError, match="distance"):
        history["accuracy"]


@pytest.mark.gpu
def test_training_on_a_gpu_follows_the_cpu():
    x, y = problem()
    on_cpu, on_gpu = network(), network().cuda()
    cpu = run(on_cpu, full_batch(x, y), 50)
    gpu = run(on_gpu, full_batch(x.cuda(), y.cuda()), 50, probes=[DistanceToInit(10)])
    np.testing.assert_allclose(cpu.loss, gpu.loss, rtol=1e-9)

r"""Gram-Gauss-Newton (Cai et al. 2019): Gauss-Newton steps at about the price of gradient descent."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from overparam_lib.kernels.graph import structure
from overparam_lib.kernels.layers import (
    Explicit,
    Term,
    Use,
    collect,
    inner_products,
    owners,
    uncovered,
    watched,
)

__all__ = ["GramGaussNewton"]

# A solve counts as failed if it leaves more than this part of the residuals unexplained.
_SOLVED = 1e-2
_GRAPHS = 64  # structures whose check is remembered
_ROWS = 32  # of a Jacobian, that autograd computes at once


class _Checked(NamedTuple):
    """The last check of a graph: what layers cover and what not, how many checks so far, and the step."""

    covered: frozenset[str]
    uncovered: tuple[str, ...]
    times: int
    step: int


class GramGaussNewton(torch.optim.Optimizer):
    r"""Gauss-Newton for the square loss, through the Gram matrix of the batch.

    For a batch with residuals :math:`r=f(x)-y` and Jacobian :math:`J=\partial r/\partial\theta`, a step is

    .. math:: \theta \leftarrow \theta - J^\top(\lambda JJ^\top+\alpha I)^{-1}r,
        \qquad \lambda = 1/\texttt{lr},\quad \alpha = \texttt{damping}.

    With λ = 1 and α = 0 it is the shortest step that solves the linearized problem :math:`r+J\Delta=0`, the
    pseudo-inverse's :math:`\Delta=-J^+r`. The matrix to invert has a row for each residual of the batch, not
    for each parameter. The identity
    :math:`J^\top(\lambda JJ^\top+\alpha I)^{-1}=(\lambda J^\top J+\alpha I)^{-1}J^\top` shows it as a damped
    Gauss-Newton step, which for :math:`\lambda\to0` becomes gradient descent on
    :math:`\tfrac12\lVert r\rVert^2` of rate 1/α.

    Equally, the step is :math:`\texttt{lr}\cdot J^\top(JJ^\top+\texttt{lr}\,\alpha I)^{-1}r`. So a scheduler
    that lowers `lr` shortens the step and, at the same α, weakens the damping relative to
    :math:`JJ^\top`; to change the length alone, keep ``lr * damping`` constant.

    :meth:`step` takes a closure that evaluates the model and returns the residuals, without calling
    `backward`::

        optimizer = GramGaussNewton(model, lr=1.0, damping=0.1)
        residuals = optimizer.step(lambda: model(x) - y)
        loss = 0.5 * residuals.square().sum()

    For residuals of shape (n,) this is one forward and one backward pass: the layers' inputs and output
    derivatives give the Gram matrix and the step, and no weight's gradient is formed. With k residuals a
    sample it is one backward pass for each of the k, and a system of nk equations.

    Parameters
    ----------
    model : torch.nn.Module
        The network. All its parameters that require a gradient are trained, in one group: they share one
        Gram matrix, so that groups with options of their own are refused.
    lr : float, default 1.0
        η = 1/λ, not negative. Schedulers may change it.
    damping : float or callable, default 0.0
        α, not negative; or a function of the number of steps taken that returns it. A number is kept in the
        parameter group, where it may be changed. The default is the theorem's; batches of real data ask for
        a positive value, on the scale of the Gram matrix's small eigenvalues.
    check_every : int, default 100
        Steps after which the check against autograd described below is made anew, where it is not made in
        every step anyway.

    Attributes
    ----------
    by_jacobian : tuple of str
        After a step: names of the parameters that went through Jacobians of single residuals.
    last_damping : float
        The α of the last step, larger than asked for if it had to be raised.
    raised : int
        Number of steps in which α was raised.

    Raises
    ------
    ValueError
        If an option is none of the above, the model has nothing to train, or it is wrapped for several
        devices or compiled.

    Notes
    -----
    *Layers.* The weights and biases of `Linear`, `Conv1d`, `Conv2d`, `Embedding`, `LayerNorm` and
    `GroupNorm`, used once or several times, are covered by products of what hooks see. For any other
    parameter (bare, tied between modules, of another layer, or used outside its layer) the rows of J come
    from autograd, one residual at a time: right for any network, at the price of n backward passes and n
    times its size. A convolution's rows of J may be formed as well, where this is cheaper than pairs of
    positions.

    *What is checked.* Which parameters are covered is decided by a comparison with autograd, of a random
    combination of all residuals' gradients, for each parameter, to four digits in float32 and nine in
    float64. In this way samples that depend on each other, outputs in another order than the inputs,
    subclasses and parametrizations are found. It costs about one more backward pass. It is made in each
    step, unless every operation is known to keep the samples apart, as in common feedforward and
    convolutional networks: then in the first two steps that have a graph, and once more when `check_every`
    steps have gone by. Graphs are told apart by their operations, their edges, the parameters at their
    leaves and the shapes of the layers' outputs. A parameter with more edges in the graph than its layers
    account for is not covered, even if the extra use has no effect as yet; nor is one whose layer's input
    was changed in place.

    *What can still be wrong.* A layer whose ``forward`` was replaced, and that between two checks changes
    what it does to its weight, a constant factor say, without a change of the graph. ``check_every=1``
    leaves no such gap.

    *Batches in parts.* Steps do not add up as gradients do, since the Gram matrix has entries between any
    two samples, and gradients found in ``.grad`` are refused. A closure may evaluate the model several times
    and return ``torch.cat`` of the residuals: that is the step of the whole batch, through Jacobians.

    *Precision.* float32 and float64. TF32, which PyTorch allows for convolutions on GPUs, rounds to three
    digits: layers that fail the check by that go through Jacobians, so set
    ``torch.backends.cudnn.allow_tf32 = False``. If the Cholesky factorization fails, or its solution leaves
    more than a hundredth of r, then lr·α is raised to √ε of the type times the mean of the diagonal of
    :math:`JJ^\top`, and tenfold from there on; the first time with a warning.

    References
    ----------
    Cai, Gao, Hou, Chen, Wang, He, Zhang and Wang, "Gram-Gauss-Newton method: learning overparameterized
    neural networks for regression problems", arXiv:1905.11675, 2019: the step for a
    mini-batch, with their λ and α.

    Examples
    --------
    >>> net = nn.Linear(3, 1, bias=False)
    >>> x, y = torch.eye(3)[:2], torch.tensor([[1.0], [2.0]])
    >>> _ = GramGaussNewton(net).step(lambda: net(x) - y)
    >>> (net(x) - y).abs().max() < 1e-6
    tensor(True)
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float = 1.0,  # η = 1/λ
        damping: float | Callable[[int], float] = 0.0,  # α
        check_every: int = 100,
    ) -> None:
        _require_number("lr", lr)
        if not (isinstance(check_every, int) and check_every >= 1):
            raise ValueError(f"check_every must be a positive integer, got {check_every!r}")
        if not isinstance(model, nn.Module):
            raise ValueError(f"model must be a torch.nn.Module, not its parameters or groups, got {model!r}")
        parameters = _trained(model)
        self._model, self._check_every, self._all = model, check_every, parameters
        self._owners, self._norms = owners(model, list(parameters)), _norms(model)
        self._damping = damping if callable(damping) else None
        self._seen: dict[Hashable, _Checked] = {}
        self.by_jacobian: tuple[str, ...] = ()
        alpha = damping(0) if callable(damping) else damping
        _require_number("damping", alpha)
        super().__init__(parameters.values(), {"lr": lr, "damping": alpha})
        self._state = self.state[self.param_groups[0]["params"][0]]
        self._state.update(step=0, damping=float(alpha), raised=0)

    @property
    def last_damping(self) -> float:
        """The α of the last step."""
        return self._state["damping"]

    @property
    def raised(self) -> int:
        """The number of steps in which α was raised."""
        return self._state["raised"]

    def add_param_group(self, param_group: dict) -> None:
        """Refuse a second group: the parameters share one Gram matrix, step size and damping.

        Raises
        ------
        ValueError
            For any group after the model's own.
        """
        if self.param_groups:
            raise ValueError(
                "param_group: the parameters share one Gram matrix, so there is one group, the model's "
                "trainable parameters; freeze those that are not to move by requires_grad_(False)"
            )
        super().add_param_group(param_group)

    def __getstate__(self) -> dict:
        """Keep the model too, for copies and pickles."""
        own = {"_model": self._model, "_damping": self._damping, "_check_every": self._check_every}
        return {**super().__getstate__(), **own, "by_jacobian": self.by_jacobian}

    def __setstate__(self, state: dict) -> None:
        """Find the parameters' names again."""
        super().__setstate__(state)
        names = {id(parameter): name for name, parameter in self._model.named_parameters()}
        self._all = {names[id(parameter)]: parameter for parameter in self.param_groups[0]["params"]}
        self._owners, self._norms = owners(self._model, list(self._all)), _norms(self._model)
        self._seen = {}
        self._state = self.state[self.param_groups[0]["params"][0]]

    def load_state_dict(self, state_dict: dict) -> None:
        """Take the options, the count of steps and the damping from another optimizer's `state_dict`."""
        kept = list(state_dict["state"].values())
        if len(kept) != 1 or not {"step", "damping", "raised"} <= kept[0].keys():
            raise ValueError("state_dict is not of a GramGaussNewton: it has no step, damping and raised")
        super().load_state_dict(state_dict)
        self._state = self.state[self.param_groups[0]["params"][0]]

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        """Evaluate the residuals of a batch and take a step.

        Parameters
        ----------
        closure : callable
            Evaluates the model, with gradients on, and returns the residuals f(x) − y, of shape (n,) or
            (n, k), with their graph. It is called once and must not call `backward`.

        Returns
        -------
        Tensor
            The closure's residuals, before the step, without their graph.

        Raises
        ------
        ValueError
            If the closure returns anything else, a NaN or an infinity; if a batch normalization uses the
            batch's statistics; if autocast is on; if gradients have been accumulated in ``.grad``; if the
            model's trainable parameters are no longer those the optimizer was made for. The parameters
            are unchanged then.
        """
        if not callable(closure):
            raise ValueError(f"closure must be a function that returns the residuals, got {closure!r}")
        self._refuse_batch_statistics(self._norms)
        device = self.param_groups[0]["params"][0].device.type
        with watched(self._owners) as uses, _calls(self._model, device) as shapes, torch.enable_grad():
            residuals = closure()
        self._refuse(residuals, shapes)
        lr, damping = self._options()
        terms = self._terms(residuals, uses)
        before = residuals.detach().clone()  # a closure may return a parameter itself
        flat = before.reshape(-1)
        gram = _gram(terms, before)
        if not lr:
            self._refuse_not_finite(gram, flat)
        else:
            v, self._state["damping"] = self._solve(gram, flat, lr, damping)
            v = v.reshape(len(residuals), -1) * lr
            # Last those through Jacobians: one of them may be, as it stands, the input of a layer.
            for name in sorted(terms, key=lambda name: name in self.by_jacobian):
                for part in terms[name]:
                    part.subtract(self._all[name], v)
        self._state["step"] += 1
        return before

    def _options(self) -> tuple[float, float]:
        group = self.param_groups[0]
        if self._damping is not None:
            group["damping"] = self._damping(self._state["step"])
        for name in ("lr", "damping"):
            _require_number(name, group[name])
        return float(group["lr"]), float(group["damping"])

    def _refuse_batch_statistics(self, norms: dict[str, _BatchNorm]) -> None:
        for name, module in norms.items():
            if module.training or module.running_mean is None:
                raise ValueError(
                    f"model has batch normalization by the batch's statistics ({name}): each residual would "
                    "depend on all samples, and the rows of J would not be the samples' own; use GroupNorm "
                    "or LayerNorm, or put that layer into evaluation mode"
                )

    def _refuse(self, residuals: object, shapes: list[torch.Size]) -> None:
        """Refuse what is not a batch's residuals, and gradients that the step would not use."""
        shaped = isinstance(residuals, Tensor) and residuals.ndim in (1, 2) and residuals.numel() > 0
        if not shaped:
            found = f"shape {tuple(residuals.shape)}" if isinstance(residuals, Tensor) else f"{residuals!r}"
            raise ValueError(
                "closure must return the residuals f(x) − y of the batch, a tensor of shape (n,) or (n, k), "
                f"and not their mean or the loss; got {found}"
            )
        n = len(residuals)
        single = [tuple(shape) for shape in shapes if tuple(shape) in ((n,), (n, 1))]
        if n > 1 and residuals.shape == (n, n) and single:
            raise ValueError(
                f"closure returned residuals of shape ({n}, {n}) for a model with outputs of shape "
                f"{single[0]}: the labels were broadcast; give both the same shape"
            )
        if residuals.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"closure returned residuals of type {residuals.dtype}; the Gram matrix needs float32 or "
                "float64, so leave autocast, and reduced types, out of the closure"
            )
        if not residuals.requires_grad:
            raise ValueError(
                "closure returned residuals without a graph: they must be computed from the model's "
                "outputs, not detached, and not under torch.no_grad()"
            )
        for name, parameter in self._all.items():
            if parameter.grad is not None and bool(parameter.grad.any()):
                raise ValueError(
                    f"{name} has a gradient: steps do not add up as gradients do, so none are accumulated; "
                    "the closure returns the residuals of the whole batch and does not call backward; call "
                    "zero_grad() to drop what came from elsewhere"
                )

    def _terms(self, residuals: Tensor, uses: list[Use]) -> dict[str, list[Term]]:
        """Return each parameter's part of the Jacobian, by layers where they cover it."""
        for use in uses:
            if use.dtype != residuals.dtype:
                raise ValueError(
                    f"{use.name or 'model'} computes in {use.dtype} and the residuals are {residuals.dtype}: "
                    "the closure must compute in one type, labels included, without autocast"
                )
        parameters, step = {n: p for n, p in self._all.items() if p.requires_grad}, self._state["step"]
        if other := [name for name, p in parameters.items() if p.dtype != residuals.dtype]:
            raise ValueError(
                f"{', '.join(other)} have another type than the residuals, {residuals.dtype}: the model and "
                "the labels must have one type"
            )
        graph = structure(residuals, parameters, uses)
        last = self._seen.get(graph.key)
        # Where a number may tell which row goes where, or a gradient that was zero hid it, one check is not
        # enough.
        fresh = last is not None and last.times >= 2 and step - last.step < self._check_every
        due = not (fresh and graph.by_rows)
        retain_graph = due or bool(last.uncovered)
        captured = collect(residuals, uses, list(parameters), retain_graph=retain_graph, compact=True)
        if due:
            self._refuse_not_finite(residuals)
            self._refuse_other_parameters()
            self._refuse_batch_statistics(_norms(self._model))
            found = graph.strays() | set(uncovered(captured, parameters, torch.Generator().manual_seed(step)))
            last = self._remember(graph.key, last, found, captured.terms)
        elif lost := last.covered - captured.terms.keys():
            self._seen.clear()
            raise ValueError(
                f"model has layers that are no longer what they were at the last check: those of "
                f"{', '.join(sorted(lost))}; take the step again, which checks anew"
            )
        known = last.uncovered
        self.by_jacobian = known
        for name, jacobian in _jacobians(residuals, {name: parameters[name] for name in known}).items():
            captured.terms[name] = [Explicit(jacobian, parameters[name].shape)]
        if not any(captured.terms.values()):
            raise ValueError("closure returned residuals that do not depend on the model's parameters")
        return captured.terms

    def _remember(
        self, key: Hashable, last: _Checked | None, wrong: set[str], terms: dict[str, list[Term]]
    ) -> _Checked:
        """Keep the outcome of a check, and say so if it is worse than that of the check before."""
        step, found = self._state["step"], tuple(name for name in self._all if name in wrong)
        covered = frozenset(name for name, parts in terms.items() if parts and name not in wrong)
        late = [] if last is None else [name for name in found if name not in last.uncovered]
        if late and step > last.step + 1:
            warnings.warn(
                f"{', '.join(late)} did not pass the check of step {step}, and from here on goes through "
                f"Jacobians; steps since the check of step {last.step} may have been wrong, which "
                "check_every=1 avoids",
                RuntimeWarning,
                stacklevel=6,
            )
        if late or len(self._seen) >= _GRAPHS:
            self._seen.clear()  # what happened in one graph may have happened in the others
        self._seen[key] = _Checked(covered, found, 1 if last is None else last.times + 1, step)
        return self._seen[key]

    def _refuse_other_parameters(self) -> None:
        now = _trained(self._model)
        if other := [name for name, p in now.items() if self._all.get(name) is not p]:
            raise ValueError(
                f"model has parameters that it had not when the optimizer was made ({', '.join(other)}): "
                "make a new optimizer"
            )

    def _refuse_not_finite(self, *found: Tensor) -> None:
        if not all(bool(torch.isfinite(each).all()) for each in found):
            self._seen.clear()  # a check that met a NaN has told nothing
            raise ValueError("closure returned residuals that hold NaN or infinity, or have such derivatives")

    def _solve(self, gram: Tensor, r: Tensor, lr: float, damping: float) -> tuple[Tensor, float]:
        """Solve (G + lr·α I) v = r, and return v and the α that was used."""
        shift = lr * damping
        while True:
            shifted = gram.clone()
            shifted.diagonal().add_(shift)
            factor, info = torch.linalg.cholesky_ex(shifted)
            v = torch.cholesky_solve(r[:, None], factor)[:, 0]
            # A singular matrix may have a factor by rounding alone; its solution is then far off.
            left, right = torch.addmv(r, shifted, v, alpha=-1).norm().item(), r.norm().item()
            if info.item() == 0 and left <= _SOLVED * right:
                break
            self._refuse_not_finite(gram, r)
            # With less the step would be rounding, with more it would be needlessly short.
            least = math.sqrt(torch.finfo(gram.dtype).eps) * (float(gram.diagonal().mean()) or 1.0)
            shift = max(10 * shift, least)
            if not shift < torch.finfo(gram.dtype).max / 16:
                raise ValueError(
                    f"the Gram matrix, or lr * damping, is too large for {gram.dtype}: the training diverges,"
                    " or another scale of the residuals is needed"
                )
        used = damping if shift == lr * damping else shift / lr
        if used != damping:
            if not self._state["raised"]:
                warnings.warn(
                    f"the Gram matrix is singular to {gram.dtype}'s precision: damping raised from "
                    f"{damping:g} to {used:.3g} in step {self._state['step']}; later raises are counted in "
                    "the attribute raised",
                    RuntimeWarning,
                    stacklevel=5,
                )
            self._state["raised"] += 1
        return v, used


def _gram(terms: dict[str, list[Term]], residuals: Tensor) -> Tensor:
    """Return J Jᵀ, shape (nk, nk)."""
    (n, *outputs) = residuals.shape
    k = math.prod(outputs)
    # Both orders of two uses are needed: each is the other's transpose.
    return inner_products(terms, terms, residuals.new_zeros(n, k, n, k)).view(n * k, n * k)


def _jacobians(residuals: Tensor, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return the Jacobians (n, k, p) from autograd, some rows at a time."""
    if not parameters:
        return {}
    with torch.enable_grad():
        flat = residuals.reshape(-1)
    moving = list(parameters.values())
    blocks = [_rows(flat, moving, rows) for rows in torch.eye(len(flat)).to(flat).split(_ROWS)]
    n = len(residuals)
    return {
        name: torch.cat([block[i] for block in blocks]).reshape(n, len(flat) // n, -1)
        for i, name in enumerate(parameters)
    }


def _rows(flat: Tensor, parameters: list[nn.Parameter], rows: Tensor) -> list[Tensor]:
    options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")
            return list(torch.autograd.grad(flat, parameters, rows, is_grads_batched=True, **options))
    except RuntimeError:  # an operation that is not made for it
        single = [torch.autograd.grad(flat, parameters, row, **options) for row in rows]
        return [torch.stack(found) for found in zip(*single, strict=True)]


@contextmanager
def _calls(model: nn.Module, device: str) -> Iterator[list[torch.Size]]:
    """Note the shapes of the model's outputs, and refuse to run it under autocast."""
    shapes: list[torch.Size] = []

    def after(module: nn.Module, given: tuple, out: object) -> None:
        if torch.is_autocast_enabled(device):
            raise ValueError(
                "closure runs the model under autocast: its rounding of J, at three digits or so, is larger "
                "than the Gram matrix's small eigenvalues; leave autocast out of the closure"
            )
        if isinstance(out, Tensor):
            shapes.append(out.shape)

    handle = model.register_forward_hook(after)
    try:
        yield shapes
    finally:
        handle.remove()


def _norms(model: nn.Module) -> dict[str, _BatchNorm]:
    return {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that require a gradient, by name, of a model that can be trained here."""
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise ValueError("model is wrapped for several devices, whose residuals have one common Gram matrix")
    if hasattr(model, "_orig_mod"):
        raise ValueError("model is compiled, which hides its layers: give the module that was compiled")
    found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not found:
        raise ValueError("model has no parameter that requires a gradient")
    if lazy := [n for n, p in found.items() if isinstance(p, nn.parameter.UninitializedParameter)]:
        raise ValueError(f"model has parameters without a size ({', '.join(lazy)}): run it once before")
    return found


def _require_number(name: str, value: object) -> None:
    if not (isinstance(value, (int, float, Tensor)) and math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be finite and not negative, got {value!r}")

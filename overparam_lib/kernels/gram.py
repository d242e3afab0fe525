r"""Gram matrices of any size: dense where they fit, else in tiles, solved by conjugate gradients.

The tiles are computed here, or on the workers of a Dask scheduler.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import os
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

__all__ = ["Cross", "Gram", "SingularGramError", "Solution", "gram"]

_GIB = 2**30
_PIVOTS = 500
_CHECKPOINT = "solve.npz"
_LOST = 3  # times that the inputs are sent out anew, if all workers that had them are gone


class SingularGramError(ValueError):
    """The Gram matrix is singular, or too nearly so for its precision.

    Attributes
    ----------
    rows : tuple of two int, or None
        The two inputs whose rows of the matrix are nearest to each other, if they are the reason.
    """

    def __init__(self, message: str, rows: tuple[int, int] | None = None) -> None:
        super().__init__(message)
        self.rows = rows


class Solution(NamedTuple):
    r"""What a solve found.

    Attributes
    ----------
    x : Tensor of shape (n,) or (n, k)
        The solution, float64.
    residual : float
        Largest relative residual :math:`\|Gx-b\|/\|b\|` of a column.
    jitter : float
        What was added to the diagonal, zero if nothing was.
    iterations : int
        Number of steps of conjugate gradients, zero for a dense solve.
    """

    x: Tensor
    residual: float
    jitter: float
    iterations: int


@dataclass(frozen=True)
class Cross:
    r"""The kernel of new points with those of a Gram matrix; made by :meth:`Gram.cross`.

    Attributes
    ----------
    kernel : callable
        The Gram matrix's kernel.
    points : Tensor of shape (n, …)
        X, its inputs.
    values : Tensor of shape (n', n)
        :math:`k(x,X)`.
    """

    kernel: Callable[..., Tensor]
    points: Tensor
    values: Tensor


def gram(
    kernel: Callable[..., Tensor],
    x: Tensor,
    *,
    max_memory: float = 4.0,
    tile: int = 2048,
    out: str | os.PathLike | None = None,
    keep_tiles: bool = True,
    client: Any = None,
) -> Gram:
    r"""Make the Gram matrix :math:`G_{ij}=k(x_i,x_j)` of a kernel on inputs.

    The matrix is computed at once and kept if it fits into `max_memory`. If it does not, its upper half is
    cut into tiles, which are computed anew for each product, or, with `out`, computed once and kept on disk.
    What can be asked of the matrix is nearly the same in each case, and the answer is, up to rounding.

    With `client` the tiles are computed, and multiplied, by the workers of a Dask scheduler, and the work of
    a worker that is lost is done by another one. Vectors stay here. The inputs are sent to every worker.

    Parameters
    ----------
    kernel : callable
        A kernel with one output, such as :class:`MLPNTK`: ``kernel(x1, x2)`` of shape (n1, n2), and
        ``kernel(x)`` in the symmetric case.
    x : Tensor of shape (n, …)
        The inputs.
    max_memory : float, default 4.0
        GiB for the matrix.
    tile : int, default 2048
        Rows and columns of a tile.
    out : path, optional
        Folder for the tiles, and for the state of a solve. What an earlier run of the same kernel on the same
        inputs has left there is used, so that a run that was stopped goes on where it was. With `client` it
        must be on a file system that the workers share.
    keep_tiles : bool, default True
        Whether `out` is for the tiles too. If not, they are computed anew for each product, and only the
        state of a solve is kept there.
    client : dask.distributed.Client, optional
        Where the tiles are computed: ``Client()`` is a cluster on this machine, ``Client(address)`` any
        scheduler. The workers need this library; the extra ``cluster`` brings Dask. None,
        the default, computes them in this process.

    Returns
    -------
    Gram
        The matrix.

    Raises
    ------
    ValueError
        If an argument is out of its range, the kernel has several outputs, `out` holds the tiles of another
        matrix, or the kernel does not say what tells it apart from others, which `out` needs: it has
        neither a method ``fingerprint`` nor a ``repr`` of its own.

    Examples
    --------
    >>> from overparam_lib.kernels import TwoLayerNTK
    >>> G = gram(TwoLayerNTK(), torch.eye(3, dtype=torch.float64))
    >>> round(G.quadratic_form(torch.ones(3, dtype=torch.float64)), 9)  # G is half of the identity
    6.0
    """
    if x.ndim < 1 or len(x) == 0:
        raise ValueError(f"x must hold at least one input, got shape {tuple(x.shape)}")
    if not max_memory > 0:
        raise ValueError(f"max_memory must be positive, in GiB, got {max_memory!r}")
    if isinstance(tile, bool) or not isinstance(tile, int) or tile < 1:
        raise ValueError(f"tile must be a positive integer, got {tile!r}")
    if client is not None and not (hasattr(client, "submit") and hasattr(client, "scatter")):
        raise ValueError(f"client must be a dask.distributed.Client, got {client!r}")
    return Gram(kernel, x, max_memory=max_memory, tile=tile, out=out, keep_tiles=keep_tiles, client=client)


class Gram:
    """The Gram matrix of a kernel on inputs; made by :func:`gram`.

    Attributes
    ----------
    shape : tuple of two int
        (n, n).
    dense : bool
        Whether the whole matrix is kept in memory.
    """

    def __init__(self, kernel, x, *, max_memory, tile, out, keep_tiles, client) -> None:
        one = kernel(x[:1])
        if tuple(one.shape) != (1, 1):
            raise ValueError(f"kernel must have one output, it gives shape {tuple(one.shape)} for one input")
        x = x.detach().clone()
        self.kernel, self.x, self.shape = kernel, x, (len(x), len(x))
        self.dtype, self.device = one.dtype, one.device
        self.dense = len(x) ** 2 * one.element_size() <= max_memory * _GIB
        self._kept: Tensor | None = None
        self._store = None if out is None else _Store(Path(out), self._identity(), tile)
        self._tiles = _Tiles(kernel, x, tile, self._store if keep_tiles else None)
        self._workers = None if client is None else _Workers(client, self._tiles)
        # What is computed later must be of the kernel as it is now; and `x` of a caller may change.
        self._known_as = kernel.fingerprint() if hasattr(kernel, "fingerprint") else None
        if self.dense:
            self._whole()

    def matvec(self, v: Tensor) -> Tensor:
        """Return the product with one or several vectors.

        Parameters
        ----------
        v : Tensor of shape (n,) or (n, k)
            The vectors, as columns.

        Returns
        -------
        Tensor
            G v, of the shape of `v`, float64.

        Raises
        ------
        ValueError
            If the shape does not fit.
        """
        columns = self._columns("v", v)
        return self._times(columns, self.dtype).reshape(v.shape)

    def to_dense(self) -> Tensor:
        """Return the whole matrix, shape (n, n), with the kernel's type, however large it is."""
        return self._whole().clone() if self.dense else self._assembled()

    def cross(self, x: Tensor) -> Cross:
        """Return the kernel of new points with those of this matrix.

        Parameters
        ----------
        x : Tensor of shape (n', …)
            New inputs.

        Returns
        -------
        Cross
            With values of shape (n', n).
        """
        self._refuse_change()
        parts = [_compute(self.kernel, x, self.x[self._tiles.part(i)]) for i in self._tiles.starts]
        return Cross(self.kernel, self.x, torch.cat(parts, dim=1))

    def eigh(self) -> tuple[Tensor, Tensor]:
        r"""Return all eigenvalues, :math:`\lambda_1\ge\dots\ge\lambda_n`, and the eigenvectors as columns.

        Returns
        -------
        values : Tensor of shape (n,), float64
        vectors : Tensor of shape (n, n), float64

        Raises
        ------
        ValueError
            If the matrix does not fit into the memory that was allowed.
        """
        self.require_dense("eigh")
        values, vectors = torch.linalg.eigh(self._whole().double())
        return values.flip(0), vectors.flip(1)

    def require_dense(self, what: str) -> None:
        """Raise a ValueError, which says what for, if the matrix does not fit into the memory allowed."""
        if not self.dense:
            size = self.shape[0] ** 2 * torch.empty((), dtype=self.dtype).element_size() / _GIB
            raise ValueError(f"{what} needs the whole matrix, {size:.3g} GiB; raise max_memory, or use solve")

    def solve(
        self, b: Tensor, *, rtol: float = 1e-6, jitter: float = 0.0, max_iterations: int = 1000
    ) -> Solution:
        r"""Solve :math:`(G+\text{jitter}\cdot I)\,x=b`.

        By Cholesky's factorization where the matrix is kept; else by conjugate gradients, all columns at
        once, preconditioned by a Nyström approximation from 500 inputs, with float64 vectors.

        Parameters
        ----------
        b : Tensor of shape (n,) or (n, k)
            Right-hand sides, as columns.
        rtol : float, default 1e-6
            Relative residual at which conjugate gradients stop.
        jitter : float, default 0.0
            Added to the diagonal; the result reports it.
        max_iterations : int, default 1000
            After which conjugate gradients give up.

        Returns
        -------
        Solution
            With what was reached.

        Raises
        ------
        SingularGramError
            If the matrix is singular or too nearly so: it names two inputs that coincide, if that is the
            reason, and a jitter that would serve.
        ValueError
            If the shape does not fit, or an argument is out of its range.
        """
        columns = self._columns("b", b)
        if not (math.isfinite(jitter) and jitter >= 0):
            raise ValueError(f"jitter must be finite and not negative, got {jitter!r}")
        if not 0 < rtol < 1:
            raise ValueError(f"rtol must be between 0 and 1, got {rtol!r}")
        if self.dense:
            x, iterations = self._cholesky(columns, jitter), 0
            residual = _relative(self._residual(columns, x, jitter), columns)
        else:
            x, iterations, residual = self._refined(columns, rtol, jitter, max_iterations, self._store)
            if residual >= 1:  # no better than nothing
                raise self._singular(f"singular to its precision ({self.dtype})")
            if residual > rtol:
                warnings.warn(
                    f"the solution has the relative residual {residual:.2g}, not {rtol:.2g}: rounding allows "
                    "no less",
                    stacklevel=2,
                )
        return Solution(x.reshape(b.shape), residual, jitter, iterations)

    def quadratic_form(self, y: Tensor, *, rtol: float = 1e-6, jitter: float = 0.0) -> float:
        r"""Return :math:`y^\top(G+\text{jitter}\cdot I)^{-1}y` for a vector `y`; arguments as for `solve`."""
        if y.ndim != 1:
            raise ValueError(f"y must be a vector, got shape {tuple(y.shape)}")
        return (y.double() @ self.solve(y, rtol=rtol, jitter=jitter).x).item()

    def smallest_eigenvalue(self, *, rtol: float = 1e-4) -> float:
        r"""Return :math:`\lambda_n`, from all eigenvalues or, in tiles, by inverse iteration.

        Parameters
        ----------
        rtol : float, default 1e-4
            Relative change at which inverse iteration stops.
        """
        if self.dense:
            return torch.linalg.eigvalsh(self._whole().double())[0].item()
        start = torch.Generator().manual_seed(0)
        v = torch.randn(self.shape[0], 4, generator=start, dtype=torch.float64).to(self.device)
        before = math.inf
        for _ in range(100):
            v, _ = torch.linalg.qr(self._refined(v, 1e-8, 0.0, 1000, None)[0])
            now = torch.linalg.eigvalsh(v.T @ self.matvec(v))[0].item()
            if abs(now - before) <= rtol * abs(now):
                return now
            before = now
        raise RuntimeError(f"inverse iteration did not settle; the last value was {before:.6g}")

    # -- the matrix in tiles

    def _identity(self) -> str:
        data = self.x.detach().cpu().contiguous().numpy().tobytes()
        content = f"{tuple(self.x.shape)} {self.dtype} {hashlib.sha256(data).hexdigest()}"
        return f"{_fingerprint(self.kernel)} on {content}"

    def _refuse_change(self) -> None:
        if self._known_as is not None and self.kernel.fingerprint() != self._known_as:
            raise ValueError(
                "the kernel's network has changed since the Gram matrix was made: make a new one, or put its "
                "parameters back"
            )

    def _whole(self) -> Tensor:
        if self._kept is None:
            in_tiles = self._tiles.store is not None or self._workers is not None
            self._kept = self._assembled() if in_tiles else _compute(self.kernel, self.x, None)
        return self._kept

    def _assembled(self) -> Tensor:
        self._refuse_change()
        whole = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        pairs = self._tiles.pairs()
        made = self._tiles.made(pairs) if self._workers is None else self._workers.made(pairs)
        for (i, j), part in _shown(zip(pairs, made, strict=True), len(pairs)):
            rows, columns = self._tiles.part(i), self._tiles.part(j)
            whole[rows, columns] = part
            whole[columns, rows] = part.T
        return whole

    def _times(self, v: Tensor, precision: torch.dtype) -> Tensor:
        """Multiply tile by tile: float64 sums of products with the given precision."""
        if self.dense and self.dtype == torch.float64:
            return self._whole() @ v
        total, pairs = torch.zeros_like(v), self._tiles.pairs()
        if self.dense:
            products = self._tiles.products(pairs, v, precision, self._whole())
        else:
            self._refuse_change()
            source = self._tiles if self._workers is None else self._workers
            products = source.products(pairs, v, precision)
        for (i, j), (upper, lower) in _shown(zip(pairs, products, strict=True), len(pairs)):
            total[self._tiles.part(i)] += upper
            if lower is not None:
                total[self._tiles.part(j)] += lower
        return total

    # -- solving

    def _cholesky(self, b: Tensor, jitter: float) -> Tensor:
        whole = self._whole().double()
        if jitter:
            whole = whole + jitter * torch.eye(len(whole), dtype=whole.dtype, device=whole.device)
        factor, failed = torch.linalg.cholesky_ex(whole)
        # The squared pivots tell how near to singular: rounding alone makes some n·eps of the diagonal.
        precision = torch.finfo(self.dtype).eps * len(whole) if not jitter else 0.0
        if failed or factor.diagonal().square().min() <= precision * whole.diagonal().max():
            raise self._singular(f"singular to its precision ({self.dtype})")
        return torch.cholesky_solve(b, factor)

    def _singular(self, how: str) -> SingularGramError:
        """Return the error that names the two inputs whose rows are nearest, if they are the reason."""
        (row, column), apart = self._nearest()
        jitter = 10 * torch.finfo(self.dtype).eps * self.shape[0] * self._diagonal().max().item()
        near = apart < 1e-6
        why = (
            f"inputs {row} and {column} coincide, or nearly so"
            if near
            else "its features are linearly dependent, or nearly so, though no two inputs coincide"
        )
        return SingularGramError(
            f"the Gram matrix is {how}: {why}. Remove what is redundant, or solve with a jitter such as "
            f"{jitter:.1g}",
            (row, column) if near else None,
        )

    def _nearest(self) -> tuple[tuple[int, int], float]:
        r"""Find the two inputs with the least :math:`|\phi(x)-\phi(x')|^2/(|\phi(x)|^2+|\phi(x')|^2)`."""
        size, best = self._diagonal(), ((0, 0), math.inf)
        pairs = self._tiles.pairs()
        for i, j in _shown(pairs, len(pairs)):
            rows, columns = self._tiles.part(i), self._tiles.part(j)
            tile = self._whole()[rows, columns] if self.dense else self._tiles.load(i, j)
            total = (size[rows, None] + size[columns]).clamp(min=torch.finfo(torch.float64).tiny)
            apart = (total - 2 * tile.double()) / total
            if i == j:
                apart.fill_diagonal_(math.inf)
            row, column = divmod(int(apart.argmin()), apart.shape[1])
            if (share := apart[row, column].item()) < best[1]:
                best = ((i + row, j + column), share)
        return best

    def _residual(self, b: Tensor, x: Tensor, jitter: float) -> Tensor:
        return b - self._times(x, torch.float64) - jitter * x

    def _refined(
        self, b: Tensor, rtol: float, jitter: float, most: int, store: _Store | None
    ) -> tuple[Tensor, int, float]:
        """Solve by conjugate gradients, and for what rounding has left again, as long as that helps.

        The residual that conjugate gradients carry along drifts away from the true one, by the rounding of
        the products; the true one is computed from products in float64.
        """
        target, precondition = rtol * b.norm(dim=0), self._nystroem(jitter)
        content = hashlib.sha256(b.cpu().numpy().tobytes()).hexdigest()
        tag = f"{content} {jitter} {rtol}"
        state = store.resume(tag, b.device) if store is not None else None
        if state is None:
            state = _start(torch.zeros_like(b), b, precondition, torch.tensor(0), torch.tensor(math.inf))
        while True:
            keep = (lambda state: store.checkpoint(tag, state)) if store is not None else None
            state = self._gradients(state, b, target, jitter, most, precondition, keep)
            true = self._residual(b, state["x"], jitter)
            worst = _relative(true, b)
            if (true.norm(dim=0) <= target).all() or not 2 * worst < state["before"]:
                break
            state = _start(state["x"], true, precondition, state["done"], torch.tensor(worst))
        if store is not None:
            store.forget()
        return state["x"], int(state["done"]), worst

    def _gradients(self, state, b, target, jitter, most, precondition, keep) -> dict[str, Tensor]:
        """Conjugate gradients, each column with its own step; the state is kept after each iteration."""
        while (state["r"].norm(dim=0) > target).any():
            if state["done"] >= most:
                left = _relative(state["r"], b)
                raise self._singular(
                    f"too nearly singular for conjugate gradients, which reached the relative residual "
                    f"{left:.2g} in {most} iterations (more may serve)"
                )
            p = state["p"]
            image = self.matvec(p) + jitter * p
            curvature = (p * image).sum(dim=0)
            if ((curvature < 0) & (state["r"].norm(dim=0) > target)).any():
                raise self._singular(f"not positive definite to its precision ({self.dtype})")
            step = torch.where(curvature > 0, state["rz"] / curvature.clamp(min=1e-300), 0.0)
            x, r = state["x"] + step * p, state["r"] - step * image
            z = precondition(r)
            rz = (r * z).sum(dim=0)
            turn = torch.where(state["rz"] > 0, rz / state["rz"].clamp(min=1e-300), 0.0)
            state = {**state, "x": x, "r": r, "p": z + turn * p, "rz": rz, "done": state["done"] + 1}
            if keep is not None:
                keep(state)
        return state

    def _nystroem(self, jitter: float) -> Callable[[Tensor], Tensor]:
        r"""Return :math:`v\mapsto(BB^\top+\rho I)^{-1}v`, where :math:`BB^\top\approx G` (Nyström)."""
        n = self.shape[0]
        pivots = torch.randperm(n, generator=torch.Generator().manual_seed(0))[: min(_PIVOTS, n // 2)]
        if len(pivots) < 2:
            return lambda v: v
        chosen = self.x[pivots.to(self.x.device)]
        core = self.kernel(chosen).double()
        factor = _factor(core, max(1e-8, 10 * len(core) * torch.finfo(self.dtype).eps))
        if factor is None:
            return lambda v: v
        cross = torch.cat(
            [_compute(self.kernel, part, chosen).double() for part in self.x.split(self._tiles.size)]
        )
        basis = torch.linalg.solve_triangular(factor, cross.T, upper=False).T
        diagonal = self._diagonal()
        rest = (
            max(((diagonal - basis.square().sum(dim=1)).mean().item()), 1e-8 * diagonal.mean().item())
            + jitter
        )
        inner = basis.T @ basis + rest * torch.eye(len(core), dtype=core.dtype, device=core.device)
        inner = torch.linalg.cholesky(inner)
        return lambda v: (v - basis @ torch.cholesky_solve(basis.T @ v, inner)) / rest

    def _diagonal(self) -> Tensor:
        if hasattr(self.kernel, "diagonal"):
            parts = [self.kernel.diagonal(part) for part in self.x.split(self._tiles.size)]
        else:
            parts = [self._tiles.load(i, i).diagonal() for i in self._tiles.starts]
        return torch.cat(parts).double()

    # -- checks

    def _columns(self, name: str, v: Tensor) -> Tensor:
        if v.ndim not in (1, 2) or len(v) != self.shape[0]:
            raise ValueError(
                f"{name} must have shape ({self.shape[0]},) or ({self.shape[0]}, k), got {tuple(v.shape)}"
            )
        if v.ndim == 2 and not v.shape[1]:
            raise ValueError(f"{name} has no columns, shape {tuple(v.shape)}")
        if not torch.isfinite(v).all():
            raise ValueError(f"{name} holds NaN or infinity")
        return v.detach().to(self.device, torch.float64).reshape(len(v), -1)


class _Tiles:
    """The upper half of the matrix in tiles, computed when asked for, or once if there is a store.

    It holds all that a worker elsewhere needs. Tiles are named by their first row and column.
    """

    def __init__(self, kernel: Callable[..., Tensor], x: Tensor, size: int, store: _Store | None) -> None:
        self.kernel, self.x, self.size, self.store = kernel, x, size, store
        self.starts = range(0, len(x), size)

    def pairs(self) -> list[tuple[int, int]]:
        """Return the tiles' names."""
        return list(itertools.combinations_with_replacement(self.starts, 2))

    def part(self, start: int) -> slice:
        return slice(start, min(start + self.size, len(self.x)))

    def load(self, i: int, j: int) -> Tensor:
        """Return a tile."""
        if self.store is not None and (kept := self.store.load(i, j)) is not None:
            return kept.to(self.x.device)
        tile = _compute(self.kernel, self.x[self.part(i)], None if i == j else self.x[self.part(j)])
        if self.store is not None:
            self.store.save(i, j, tile)
        return tile

    def made(self, pairs: Iterable[tuple[int, int]]) -> Iterator[Tensor]:
        return (self.load(i, j) for i, j in pairs)

    def products(
        self, pairs: Iterable, v: Tensor, precision: torch.dtype, whole: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield what each tile, and its mirror image, contribute to the product with `v`."""
        v = v.to(precision)
        for i, j in pairs:
            tile = self.load(i, j) if whole is None else whole[self.part(i), self.part(j)]
            yield _product(tile, v[self.part(i)], v[self.part(j)], i == j)


class _Workers:
    """The same tiles, computed and multiplied on the workers of a Dask scheduler.

    The results come in the order in which they were asked for, so that sums do not depend on who was fast.
    What a lost worker was doing the scheduler gives to another one. Only the inputs, which no task has made,
    are lost if all workers that had them are: they are then sent out anew.
    """

    def __init__(self, client: Any, tiles: _Tiles) -> None:
        self.client, self.tiles, self.device = client, tiles, tiles.x.device
        self.there: Any = None

    def made(self, pairs: Iterable[tuple[int, int]]) -> Iterator[Tensor]:
        return (tile.to(self.device) for tile in self._results(_Tiles.load, [(i, j) for i, j in pairs]))

    def products(self, pairs: Iterable, v: Tensor, precision: torch.dtype) -> Iterator[tuple]:
        v, part = v.to(precision).cpu(), self.tiles.part
        tasks = [(i, j, v[part(i)].clone(), v[part(j)].clone()) for i, j in pairs]
        for upper, lower in self._results(_loaded_product, tasks):
            yield upper.to(self.device), None if lower is None else lower.to(self.device)

    def _results(self, function: Callable, tasks: list[tuple]) -> Iterator[Any]:
        """Yield function(tiles, *task) of each task; only so many wait for their turn as keep all busy."""
        done, lost = 0, 0
        while done < len(tasks):
            threads = sum(self.client.nthreads().values())
            waiting, rest = deque(), iter(tasks[done:])
            try:
                while True:
                    for task in itertools.islice(rest, 2 * max(1, threads) - len(waiting)):
                        waiting.append(self.client.submit(function, self._sent(), *task, pure=False))
                    if not waiting:
                        return
                    result = waiting.popleft().result()
                    lost = 0
                    yield result
                    done += 1
            except CancelledError:
                lost, self.there = lost + 1, None
                if lost > _LOST:
                    raise

    def _sent(self) -> Any:
        if self.there is None:
            local = _Tiles(self.tiles.kernel, self.tiles.x.detach().cpu(), self.tiles.size, self.tiles.store)
            self.there = self.client.scatter(local, broadcast=True, hash=False)
        return self.there


class _Store:
    """A folder of tiles, each written under another name and renamed; and the state of one solve."""

    def __init__(self, folder: Path, identity: str, tile: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        content, path = {"matrix": identity, "tile": tile}, folder / "gram.json"
        if path.exists() and json.loads(path.read_text("utf-8")) != content:
            raise ValueError(f"out={str(folder)!r} holds another matrix, or other tiles; give another folder")
        self._write(path, json.dumps(content).encode())

    def load(self, i: int, j: int) -> Tensor | None:
        path = self._path(i, j)
        return torch.from_numpy(np.load(path)) if path.exists() else None

    def save(self, i: int, j: int, tile: Tensor) -> None:
        self._replace(self._path(i, j), lambda file: np.save(file, tile.cpu().numpy()))

    def checkpoint(self, tag: str, state: dict[str, Tensor]) -> None:
        arrays = {key: value.cpu().numpy() for key, value in state.items()}
        self._replace(self.folder / _CHECKPOINT, lambda file: np.savez(file, tag=np.array(tag), **arrays))

    def resume(self, tag: str, device: torch.device) -> dict[str, Tensor] | None:
        path = self.folder / _CHECKPOINT
        if not path.exists():
            return None
        with np.load(path) as kept:
            if str(kept["tag"]) != tag:
                warnings.warn(f"{path} is of another solve, which is forgotten", stacklevel=4)
                return None
            return {key: torch.from_numpy(kept[key]).to(device) for key in kept.files if key != "tag"}

    def forget(self) -> None:
        (self.folder / _CHECKPOINT).unlink(missing_ok=True)

    def _path(self, i: int, j: int) -> Path:
        return self.folder / f"tile-{i}-{j}.npy"

    def _write(self, path: Path, content: bytes) -> None:
        self._replace(path, lambda file: file.write(content))

    def _replace(self, path: Path, write: Callable) -> None:
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex}.new")
        try:
            with temporary.open("wb") as file:
                write(file)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _compute(kernel: Callable[..., Tensor], x1: Tensor, x2: Tensor | None) -> Tensor:
    return (kernel(x1) if x2 is None else kernel(x1, x2)).detach()


def _product(tile: Tensor, v1: Tensor, v2: Tensor, same: bool) -> tuple[Tensor, Tensor | None]:
    tile = tile.to(v1.dtype)
    return (tile @ v2).double(), None if same else (tile.T @ v1).double()


def _loaded_product(tiles: _Tiles, i: int, j: int, v1: Tensor, v2: Tensor) -> tuple[Tensor, Tensor | None]:
    return _product(tiles.load(i, j), v1, v2, i == j)


def _start(x: Tensor, r: Tensor, precondition: Callable, done: Tensor, before: Tensor) -> dict[str, Tensor]:
    """Return the state of conjugate gradients at x with the residual r."""
    z = precondition(r)
    return {"x": x, "r": r, "p": z, "rz": (r * z).sum(dim=0), "done": done, "before": before}


def _factor(core: Tensor, shift: float) -> Tensor | None:
    """Return a Cholesky factor after as small a shift, relative to the diagonal, as serves; None if none."""
    eye = torch.eye(len(core), dtype=core.dtype, device=core.device)
    while shift < 1:
        factor, failed = torch.linalg.cholesky_ex(core + shift * core.diagonal().mean() * eye)
        if not failed:
            return factor
        shift *= 100
    return None


def _relative(residual: Tensor, b: Tensor) -> float:
    return (residual.norm(dim=0) / b.norm(dim=0).clamp(min=1e-300)).max().item()


def _shown(work: Iterable, count: int) -> Iterator:
    return iter(tqdm(work, desc="tiles", total=count, leave=False, delay=3))


def _fingerprint(kernel: Callable[..., Tensor]) -> str:
    """Return what tells a kernel apart from others, also in another process."""
    if hasattr(kernel, "fingerprint"):
        return kernel.fingerprint()
    text, hidden = repr(kernel), False
    if dataclasses.is_dataclass(kernel):  # what a subclass has beside the fields its repr does not tell
        hidden = bool(set(vars(kernel)) - {field.name for field in dataclasses.fields(kernel)})
    short = any(sign in text for sign in (" at 0x", "tensor(", "array(", "..."))
    if hidden or short or type(kernel).__repr__ is object.__repr__:
        raise ValueError(
            f"out needs to know a kernel again, and {kernel!r} has neither a method fingerprint() nor a repr "
            "that tells it apart from others"
        )
    return f"{type(kernel).__module__} {text}"

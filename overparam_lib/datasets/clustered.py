"""Clustered data: each class a mixture of small components, as in Li & Liang (2018)."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import betainc
from torch import Tensor
from torch.nn.functional import normalize

__all__ = ["AssumptionReport", "ClusteredMixture", "ClusteredSample", "check_assumptions"]

# The diameter of a component over Δ/(8q): the usual one, and the least where room is scarce.
# Below 0.3 the few points of a sample could span less than the 0.2 that is promised.
_USUAL_RATIO, _LEAST_RATIO = 0.6, 0.3
_STARTS = 4
_TOLERANCE = 1e-5  # of unit norms and antipodes, which float32 gives to about 1e-7
_EXACT = "donot_use_mm_for_euclid_dist"


class ClusteredSample(NamedTuple):
    """Points of a mixture, with the class and the component that each was drawn from.

    Attributes
    ----------
    x : Tensor of shape (n, d)
        The inputs.
    y : Tensor of shape (n,), int64
        The class of each point, in 0..K-1.
    component : Tensor of shape (n,), int64
        The component of each point, in 0..Kq-1. Class c owns the components cq to cq+q-1.
    """

    x: Tensor
    y: Tensor
    component: Tensor


class ClusteredMixture:
    r"""A distribution of K classes, each an equal mixture of q components in :math:`\mathbb{R}^d`.

    Made by :meth:`separated`, which meets the theorem's assumptions A1 and A2 (and A3 where there is
    room), or by :meth:`gaussian`, the mixture of the paper's experiment, which does not.

    Attributes
    ----------
    num_classes : int
        Number of classes, K (k in the paper).
    components_per_class : int
        Number of components of a class, q (l in the paper).
    dim : int
        Input dimension, d.
    separation : float or None
        Least distance between the supports of different classes, Δ (δ in the paper); None where
        the supports are unbounded.
    centers : Tensor of shape (Kq, d)
        The component centres; those of class c are the rows cq to cq+q-1.
    prototypes : Tensor of shape (Kq, d)
        The point that each component would give without its noise: its centre, of unit norm where the
        samples are. Their span is where the network's updates are expected.

    References
    ----------
    Y. Li and Y. Liang, Learning overparameterized neural networks via stochastic gradient descent on
    structured data, NeurIPS 2018: assumptions A1 and A2, and the experiment on synthetic data.
    """

    def __init__(
        self,
        centers: Tensor,
        law: Callable[[Tensor, Tensor], Tensor],
        *,
        components_per_class: int,
        separation: float | None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        # `law` turns (n, d) centres and (n, d) standard normal noise, both float64, into points.
        self._centers, self._law = centers, law
        self.components_per_class = components_per_class
        self.num_classes, self.dim = centers.shape[0] // components_per_class, centers.shape[1]
        self.separation = separation
        self._target = {"device": torch.empty(0, device=device).device, "dtype": _floating(dtype)}

    @classmethod
    def separated(
        cls,
        *,
        num_classes: int,
        components_per_class: int,
        dim: int,
        separation: float,
        generator: torch.Generator,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> ClusteredMixture:
        r"""Build data for the theorem: unit-norm points in small components, classes Δ apart.

        .. math::
            \|x\| = 1, \qquad
            \operatorname{dist}(\operatorname{supp} D_{c,s}, \operatorname{supp} D_{c',s'}) \ge Δ
            \ \ (c \ne c'), \qquad
            0.2 \le \frac{\operatorname{diam}(\operatorname{supp} D_{c,s})}{Δ/(8q)} \le 1 .

        A component is a cap of the sphere around its centre, whose diameter is 0.6 Δ/(8q), or down to
        0.3 Δ/(8q) where there is no room for more. A point is
        :math:`\sqrt{1 - r^2\|v\|^2}\,μ + r v`, with 2r the diameter and v the tangent part at the
        centre μ of a uniformly random unit vector: the mass is near the rim in every dimension, so a
        few points span most of the cap.

        The centres come as close as the separation lets them. If Kq ≤ d they are the vertices of a
        regular simplex shrunk into a cap around a random direction, all at one distance: also those of
        one class, which the theorem does not need. Otherwise a bounded search keeps all components
        apart or, where that fails, the classes, with the components of one class nearer each other, in
        the last resort at one point; the result is drawn together until two classes are at the required
        distance. With one class any separation is vacuous and only sets the diameter; the centres are
        random.

        These are the assumptions A1 and A2. A3, which keeps classes away from each other's antipodes,
        holds as well if Kq ≤ d and Δ ≤ 1.3: two points of the simplex at distance c have
        :math:`\|x + x'\| = \sqrt{4 - c^2}`. Elsewhere it may fail, and :meth:`check_assumptions` tells.

        Parameters
        ----------
        num_classes : int
            Number of classes, K.
        components_per_class : int
            Number of components of a class, q.
        dim : int
            Input dimension d, at least 2.
        separation : float
            Distance Δ that the supports of different classes keep at least, rounding included.
        generator : torch.Generator
            Source of the rotation and of the starts of the search.
        device, dtype : optional
            Where and in what type the samples are, as in ``torch.nn.Linear``.

        Returns
        -------
        ClusteredMixture
            The distribution.

        Raises
        ------
        ValueError
            If an argument is not a positive number of its kind; if Δ exceeds the simplex bound
            :math:`\sqrt{2K/(K-1)}` (:math:`\sqrt 2` if K > d + 1), or K the volume bound, the number of
            caps of angular radius arcsin(Δ/2) that the sphere has room for; if the search failed; or
            if Δ/(8q) is too small for the floating point type.

        Examples
        --------
        >>> generator = torch.Generator().manual_seed(0)
        >>> mixture = ClusteredMixture.separated(
        ...     num_classes=3, components_per_class=2, dim=20, separation=0.8, generator=generator)
        >>> sample = mixture.sample(100, generator=generator)
        >>> sample.x.shape, mixture.check_assumptions(sample).holds
        (torch.Size([100, 20]), True)
        """
        classes, q = _count("num_classes", num_classes), _count("components_per_class", components_per_class)
        dim, separation = _count("dim", dim), _positive("separation", separation)
        _refuse_impossible(separation, classes, dim)
        # Not below float32's, so that the draw is the same in float32 and float64.
        epsilon = max(torch.finfo(dtype).eps for dtype in (_floating(dtype), torch.float32))
        if separation < 128 * q * epsilon:
            raise ValueError(
                f"separation={separation:g} asks for diameters that rounding on the unit sphere would blur; "
                f"use at least {128 * q * epsilon:.2g} for components_per_class={q} and this dtype"
            )
        # Rounding moves a point by at most epsilon/2, and so takes at most epsilon off a distance.
        centers, radius = _place(classes, q, dim, separation, 8 * epsilon, _checked_generator(generator))
        law = partial(_in_cap, radius=radius)
        return cls(centers, law, components_per_class=q, separation=separation, device=device, dtype=dtype)

    @classmethod
    def gaussian(
        cls,
        *,
        num_classes: int = 10,
        components_per_class: int = 2,
        dim: int = 1000,
        center_scale: float = 5.0,
        spread: float = 1.0,
        unit_norm: bool = True,
        generator: torch.Generator,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> ClusteredMixture:
        r"""Build the Gaussian mixture of the paper's experiment, normalised to unit norm by default.

        .. math::
            μ_{c,s} \sim \mathcal{N}(0, \tfrac{s_0^2}{d} I), \qquad
            x \mid c, s \sim \mathcal{N}(μ_{c,s}, \tfrac{s^2}{d} I), \qquad x \leftarrow x / \|x\| .

        Two points of one component are about :math:`\sqrt{2}\, s` apart before they are normalised, so
        in high dimension the diameter condition of the theorem fails unless s is below about s_0/(8q).

        Parameters
        ----------
        num_classes : int
            Number of classes, K.
        components_per_class : int
            Number of components of a class, q.
        dim : int
            Input dimension, d.
        center_scale : float
            Typical norm of a centre, s_0.
        spread : float
            Typical distance of a point from its centre, s; 0 makes each component a single point.
        unit_norm : bool
            Whether each sampled point is divided by its norm.
        generator : torch.Generator
            Source of the centres.
        device, dtype : optional
            Where and in what type the samples are, as in ``torch.nn.Linear``.

        Returns
        -------
        ClusteredMixture
            The distribution.

        Raises
        ------
        ValueError
            If an argument is not a positive number of its kind.

        Examples
        --------
        >>> generator = torch.Generator().manual_seed(0)
        >>> ClusteredMixture.gaussian(generator=generator).sample(5, generator=generator).x.shape
        torch.Size([5, 1000])
        """
        classes, q = _count("num_classes", num_classes), _count("components_per_class", components_per_class)
        dim, center_scale = _count("dim", dim), _positive("center_scale", center_scale)
        spread = _positive("spread", spread, or_zero=True)
        centers = center_scale / math.sqrt(dim) * _normal(_checked_generator(generator), classes * q, dim)
        law = partial(_around_center, scale=spread / math.sqrt(dim), unit_norm=unit_norm)
        return cls(centers, law, components_per_class=q, separation=None, device=device, dtype=dtype)

    @property
    def centers(self) -> Tensor:
        """The component centres, shape (Kq, d)."""
        return self._centers.to(**self._target)

    @property
    def prototypes(self) -> Tensor:
        """The point that each component would give without its noise, shape (Kq, d)."""
        return self._law(self._centers, torch.zeros_like(self._centers)).to(**self._target)

    def sample(self, n: int, *, generator: torch.Generator) -> ClusteredSample:
        """Draw independent points; each component, and so each class, is equally likely.

        Parameters
        ----------
        n : int
            Number of points.
        generator : torch.Generator
            Source of the draw, which is made on the generator's device, in float64.

        Returns
        -------
        ClusteredSample
            Points, classes and components, on the mixture's device.

        Raises
        ------
        ValueError
            If ``n`` is not a positive integer or ``generator`` is not a ``torch.Generator``.
        """
        n, where = _count("n", n), _checked_generator(generator).device
        component = torch.randint(len(self._centers), (n,), generator=generator, device=where)
        x = self._law(self._centers.to(where)[component], _normal(generator, n, self.dim, device=None))
        component = component.to(self._target["device"])
        return ClusteredSample(x.to(**self._target), component // self.components_per_class, component)

    def check_assumptions(self, sample: ClusteredSample) -> AssumptionReport:
        """Measure the theorem's assumptions on a sample, with this mixture's q: :func:`check_assumptions`."""
        return check_assumptions(sample, components_per_class=self.components_per_class)

    def __repr__(self) -> str:
        """Show the four numbers that define the problem."""
        names = ("num_classes", "components_per_class", "dim", "separation")
        return f"ClusteredMixture({', '.join(f'{name}={getattr(self, name)}' for name in names)})"


@dataclass(frozen=True)
class AssumptionReport:
    """What a finite sample says about the theorem's assumptions; printing it gives one line for each.

    Attributes
    ----------
    separation : float
        Smallest distance between two points of different classes, Δ; infinite if there is one class.
    diameters : tuple of float
        Diameter of each component of the sample, in increasing order of its index.
    components_per_class : int
        Number of components of a class, q.
    norms : tuple of two floats
        Smallest and largest norm of a point.
    antipodal_separation : float
        Smallest distance of a point from the antipode -x of a point of another class; infinite if there
        is one class.
    """

    separation: float
    diameters: tuple[float, ...]
    components_per_class: int
    norms: tuple[float, float]
    antipodal_separation: float

    @property
    def largest_diameter(self) -> float:
        """Diameter of the widest component."""
        return max(self.diameters)

    @property
    def allowed_diameter(self) -> float:
        """Largest diameter that A1 allows, Δ/(8q)."""
        return self.separation / (8 * self.components_per_class)

    @property
    def diameter_ratio(self) -> float:
        """Largest diameter over the allowed one: at most 1 if A1 holds."""
        return self.largest_diameter / self.allowed_diameter if self.separated else math.inf

    @property
    def separated(self) -> bool:
        """Whether points of different classes are apart, Δ > 0 (first half of A1)."""
        return self.separation > 0

    @property
    def small_components(self) -> bool:
        """Whether every component has at most the allowed diameter (second half of A1)."""
        return self.diameter_ratio <= 1

    @property
    def unit_norm(self) -> bool:
        """Whether every point has norm 1, to within 1e-5 (A2)."""
        return max(1 - self.norms[0], self.norms[1] - 1) <= _TOLERANCE

    @property
    def needed_from_antipodes(self) -> float:
        """Least antipodal separation that A3 accepts: the least Δ that A1 leaves, 8q times a diameter."""
        least = 8 * self.components_per_class * self.largest_diameter
        return max(min(least, self.separation), _TOLERANCE)

    @property
    def antipodes_apart(self) -> bool:
        """Whether points keep away from the antipodes of other classes, with a Δ that A1 leaves (A3)."""
        return self.antipodal_separation >= self.needed_from_antipodes

    @property
    def holds(self) -> bool:
        """Whether all the assumptions hold on the sample, with one Δ."""
        return self.separated and self.small_components and self.unit_norm and self.antipodes_apart

    def __str__(self) -> str:
        """Give one line an assumption, with its numbers to three digits."""
        verdict = {True: "holds", False: "violated"}
        lines = (
            f"A1, classes apart:    {verdict[self.separated]} (separation {self.separation:.3g})",
            f"A1, small components: {verdict[self.small_components]} "
            f"(largest diameter {self.largest_diameter:.3g}, allowed {self.allowed_diameter:.3g}, "
            f"ratio {self.diameter_ratio:.3g}, q = {self.components_per_class})",
            f"A2, unit norm:        {verdict[self.unit_norm]} "
            f"(norms {self.norms[0]:.3g} to {self.norms[1]:.3g})",
            f"A3, antipodes apart:  {verdict[self.antipodes_apart]} "
            f"(antipodal separation {self.antipodal_separation:.3g}, "
            f"needed {self.needed_from_antipodes:.3g})",
        )
        return "\n".join(lines)


def check_assumptions(
    sample: ClusteredSample, *, components_per_class: int | None = None
) -> AssumptionReport:
    r"""Measure how far a sample meets the theorem's assumptions A1, A2 and A3.

    .. math::
        Δ = \min_{y_i \ne y_j} \|x_i - x_j\|, \qquad
        \max_s \operatorname{diam}\{x_i : i \in s\} \le \frac{Δ}{8q}, \qquad \|x_i\| = 1, \qquad
        \min_{y_i \ne y_j} \|x_i + x_j\| \ge Δ_3 .

    A1 and A3 ask for one number, at most the two least distances and at least 8q times the largest
    diameter D. A1 is judged with the largest that it could be, Δ, and A3 with the smallest,
    :math:`Δ_3 = \min(8qD, Δ)`; so both hold if and only if there is one that serves both. Points
    within 1e-5 of being antipodes count as antipodes.

    A sample can refute the assumptions of its distribution but not prove them: a larger one has a
    smaller Δ and larger diameters.

    Parameters
    ----------
    sample : ClusteredSample
        Finite points x (n, d), with integer classes y (n,) and components (n,).
    components_per_class : int, optional
        Number of components of a class, q; by default the largest number seen in one class.

    Returns
    -------
    AssumptionReport
        The measured separations, diameters and norms, and what they say. Distances have a relative
        error of at most about 1e-8; the cost is n² distances, in blocks.

    Raises
    ------
    ValueError
        If the sample is empty, its shapes or types do not match, x is not finite, a component
        belongs to two classes, or a class has more components than ``components_per_class``.

    References
    ----------
    Li & Liang 2018, assumptions A1 (with λ = 1/(8q)) and A2. A3 is the book's: without biases the
    odd part of a network is linear, and some data with A1 and A2 are out of its reach.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> print(check_assumptions(ClusteredSample(x, torch.tensor([0, 1]), torch.tensor([0, 1]))))
    A1, classes apart:    holds (separation 1.41)
    A1, small components: holds (largest diameter 0, allowed 0.177, ratio 0, q = 1)
    A2, unit norm:        holds (norms 1 to 1)
    A3, antipodes apart:  holds (antipodal separation 1.41, needed 1e-05)
    """
    x, y, component = _checked_sample(sample)
    seen = int(_components_by_class(y, component).max())
    q = seen if components_per_class is None else _count("components_per_class", components_per_class)
    if q < seen:
        raise ValueError(f"components_per_class={q}, but a class of the sample has {seen} components")
    separation, antipodal, diameters = _extreme_distances(x, y, component)
    norms = x.norm(dim=1)
    return AssumptionReport(
        separation=separation,
        diameters=tuple(diameters.tolist()),
        components_per_class=q,
        norms=(norms.min().item(), norms.max().item()),
        antipodal_separation=antipodal,
    )


def _count(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"{name} must be a positive integer, found {value!r}")
    return int(value)


def _positive(name: str, value: float, or_zero: bool = False) -> float:
    number = not isinstance(value, bool) and isinstance(value, numbers.Real) and math.isfinite(value)
    if not number or value < 0 or (value == 0 and not or_zero):
        raise ValueError(f"{name} must be a finite number {'>= 0' if or_zero else '> 0'}, found {value!r}")
    return float(value)


def _floating(dtype: torch.dtype | None) -> torch.dtype:
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating point type, found {dtype}")
    return dtype


def _checked_generator(generator: torch.Generator) -> torch.Generator:
    if not isinstance(generator, torch.Generator):
        raise ValueError(f"generator must be a torch.Generator, found {type(generator).__name__}")
    return generator


def _checked_sample(sample: ClusteredSample) -> tuple[Tensor, Tensor, Tensor]:
    x, y, component = (torch.as_tensor(part) for part in sample)
    found = f"found {x.dtype} of shape {tuple(x.shape)}"
    if x.ndim != 2 or x.numel() == 0 or not x.is_floating_point():
        raise ValueError(f"sample.x must be floating point, not empty and of shape (n, d), {found}")
    if not x.isfinite().all():
        raise ValueError("sample.x must be finite, found NaN or infinity")
    for name, part in (("y", y), ("component", component)):
        if part.shape != x.shape[:1] or part.is_floating_point() or part.is_complex():
            found = f"found {part.dtype} of shape {tuple(part.shape)}"
            raise ValueError(f"sample.{name} must be integer and of shape ({len(x)},), {found}")
    return x.detach().double(), y.to(x.device), component.to(x.device)


def _components_by_class(y: Tensor, component: Tensor) -> Tensor:
    pairs = torch.stack([y.long(), component.long()], dim=1).unique(dim=0)
    if len(pairs) > len(pairs[:, 1].unique()):
        raise ValueError("sample.component must be a global index, found one component in two classes")
    return pairs[:, 0].unique(return_counts=True)[1]


def _extreme_distances(
    x: Tensor, y: Tensor, component: Tensor, block: int = 256
) -> tuple[float, float, Tensor]:
    """Return the least distance between classes, that from antipodes, and the diameters of the components."""
    component = component.unique(return_inverse=True)[1]
    separation, antipodal, diameters = math.inf, math.inf, x.new_zeros(int(component.max()) + 1)
    for start in range(0, len(x), block):
        rows, rest = slice(start, start + block), slice(start, None)
        other_class = y[rows, None] != y[rest]
        distances = _distances(x[rows], x[rest])
        separation = min(separation, distances.where(other_class, math.inf).min().item())
        widest = distances.where(component[rows, None] == component[rest], 0).amax(dim=1)
        diameters.scatter_reduce_(0, component[rows], widest, "amax")
        del distances  # so that one such block is held at a time
        distances = _distances(-x[rows], x[rest], same=False)
        antipodal = min(antipodal, distances.where(other_class, math.inf).min().item())
    return separation, antipodal, diameters


def _distances(rows: Tensor, points: Tensor, same: bool = True) -> Tensor:
    """Return the distances of rows to points, those of near ones by differences.

    With ``same`` the rows are the first points, whose distance from themselves is 0.
    """
    distances = torch.cdist(rows, points, compute_mode="use_mm_for_euclid_dist")
    # Much faster, but it loses 1e-16 of the squared norms: too much where the distance is far smaller.
    if same:
        distances.fill_diagonal_(math.inf)
    if (distances < 1e-3 * points.norm(dim=1).max()).any():
        distances = torch.cdist(rows, points, compute_mode=_EXACT)
    return distances.fill_diagonal_(0) if same else distances


def _normal(generator: torch.Generator, *shape: int, device: str | None = "cpu") -> Tensor:
    where = generator.device
    return torch.randn(shape, generator=generator, device=where, dtype=torch.float64).to(device or where)


def _in_cap(centers: Tensor, noise: Tensor, *, radius: float) -> Tensor:
    direction = normalize(noise, dim=1)
    tangent = radius * (direction - (direction * centers).sum(dim=1, keepdim=True) * centers)
    return (1 - tangent.square().sum(dim=1, keepdim=True)).sqrt() * centers + tangent


def _around_center(centers: Tensor, noise: Tensor, *, scale: float, unit_norm: bool) -> Tensor:
    points = centers + scale * noise
    return normalize(points, dim=1) if unit_norm else points


def _simplex_bound(num_points: int, dim: int) -> float:
    """Bound the least distance among K unit vectors: sqrt(2K/(K-1)) if K <= d+1, else sqrt(2).

    The first is 0 <= |sum of x_i|² written out, and the regular simplex reaches it; the second holds
    since no more than d+1 vectors have negative inner products with each other.
    """
    return math.sqrt(2 * num_points / (num_points - 1) if num_points <= dim + 1 else 2)


def _cap_share(distance: float, dim: int) -> float:
    """Return the share of the sphere within the angle φ = arcsin(Δ/2) of a unit vector.

    Such caps around unit vectors at distance Δ do not overlap, so no more than one over this share
    fit: the volume bound. It is I(Δ²/4; (d-1)/2, 1/2)/2, with I the regularised incomplete beta
    function; φ/π if d = 2, and (1 - cos φ)/2 if d = 3.
    """
    return betainc((dim - 1) / 2, 0.5, distance**2 / 4) / 2


def _refuse_impossible(separation: float, classes: int, dim: int) -> None:
    if dim == 1:
        raise ValueError("dim=1 has two unit vectors and no component of positive diameter; use dim >= 2")
    if classes == 1:
        return
    asked = f"separation={separation:g} for num_classes={classes} in dim={dim}"
    if separation > (bound := _simplex_bound(classes, dim)):
        raise ValueError(
            f"{asked} exceeds the simplex bound: that many unit vectors are at most {bound:.4g} apart"
        )
    if classes * (share := _cap_share(separation, dim)) > 1 + 1e-9:
        raise ValueError(
            f"{asked} exceeds the volume bound: room for at most {math.floor(1 / share + 1e-9)} unit vectors"
        )


def _place(
    classes: int, q: int, dim: int, separation: float, slack: float, generator: torch.Generator
) -> tuple[Tensor, float]:
    """Return unit-norm centres and the radius (half the diameter) of the caps around them."""
    aimed, least = (ratio * separation / (16 * q) for ratio in (_USUAL_RATIO, _LEAST_RATIO))
    if classes == 1:
        if aimed > 1:
            raise ValueError(
                f"separation={separation:g} asks for a diameter beyond that of the unit sphere; "
                f"with one class use at most {separation / aimed:.4g}"
            )
        return normalize(_normal(generator, q, dim), dim=1), aimed
    # All angles below are seen from the origin: between the supports, then between the centres.
    supports = 2 * math.asin(min(1.0, (separation + slack) / 2))
    widest, narrowest = (supports + 2 * math.asin(radius) for radius in (aimed, least))
    labels = torch.arange(classes * q, device="cpu") // q
    apart = labels[:, None] != labels
    best = 0.0
    for _ in range(_STARTS):
        for centers, axis in _arrangements(apart, q, dim, min(widest, math.pi), generator):
            chord = torch.cdist(centers, centers, compute_mode=_EXACT)[apart].min().item()
            found = 2 * math.asin(min(1.0, chord / 2))
            if found >= narrowest:
                reached = min(found, widest)
                return _drawn_together(centers, axis, apart, reached), math.sin((reached - supports) / 2)
            best = max(best, found)
    kept = 2 * math.sin(max(0.0, best / 2 - math.asin(least)))
    raise ValueError(
        f"separation={separation:g} was not reached for num_classes={classes}, components_per_class={q}, "
        f"dim={dim}: the closest placement found keeps the classes {kept:.4g} apart; "
        "lower separation, or raise dim"
    )


def _arrangements(
    apart: Tensor, q: int, dim: int, angle: float, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield unit vectors that should keep an angle between classes, and an axis; the best kind first."""
    total = len(apart)
    classes = total // q
    if total <= dim + 1:
        yield _simplex(total, dim, generator)
    axis = normalize(_normal(generator, dim), dim=0)
    if classes <= dim + 1:
        vertices, _ = _simplex(classes, dim, generator)
    else:
        vertices = _repelled(_normal(generator, classes, dim), angle * apart[::q, ::q].double())
    vertices = vertices.repeat_interleave(q, dim=0)
    for spread in (1.0, 0.5, 0.25) if q > 1 else ():
        angles = angle * apart.double().clamp(min=spread).fill_diagonal_(0)
        jitter = 0.25 * spread * angle / math.sqrt(dim) * _normal(generator, total, dim)
        yield _repelled(vertices + jitter, angles), axis
    yield vertices, axis


def _simplex(num_points: int, dim: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return a randomly turned regular simplex and an axis, orthogonal to it where there is room."""
    frame, triangle = torch.linalg.qr(_normal(generator, dim, min(num_points, dim)))
    frame = frame * triangle.diagonal().sign()  # LAPACK's signs are no fair coins
    ones = frame.new_ones(num_points, 1)
    vertices = normalize(torch.linalg.qr(ones, mode="complete").Q[:, 1:], dim=1)
    return vertices @ frame[:, : num_points - 1].T, frame[:, -1]


def _repelled(start: Tensor, angles: Tensor) -> Tensor:
    """Push unit vectors apart until each pair has at least its angle: least squares over the violations."""
    cosines = angles.cos().numpy()
    scale = 1 - cosines.min()

    def energy(flat):
        points = flat.reshape(start.shape)
        norms = np.linalg.norm(points, axis=1, keepdims=True)
        units = points / norms
        excess = np.maximum(units @ units.T - cosines, 0) / scale
        slope = 4 / scale * excess @ units
        slope -= (slope * units).sum(axis=1, keepdims=True) * units
        return (excess**2).sum(), (slope / norms).ravel()

    options = {"maxiter": 500, "ftol": 1e-13, "gtol": 1e-9}
    solution = minimize(energy, start.numpy().ravel(), jac=True, method="L-BFGS-B", options=options)
    return normalize(torch.from_numpy(solution.x).reshape(start.shape), dim=1)


def _drawn_together(centers: Tensor, axis: Tensor, apart: Tensor, angle: float) -> Tensor:
    """Scale all angles to an axis by one factor, such that the nearest classes come to the given angle.

    With φ the angle to the axis, the angle δ between two points follows from the haversine formula
    sin²(δ/2) = sin²((φ - φ')/2) + sin φ sin φ' sin²(ψ/2), where ψ is the angle between their bearings.
    """
    along = centers @ axis
    across = centers - along[:, None] * axis
    polar = torch.atan2(across.norm(dim=1), along)
    bearings = normalize(across, dim=1)
    between = torch.cdist(bearings, bearings, compute_mode=_EXACT).square() / 4

    def nearest(factor):
        scaled = factor * polar
        sines = scaled.sin()
        haversine = ((scaled[:, None] - scaled) / 2).sin().square() + sines[:, None] * sines * between
        return haversine[apart].min().item()

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if nearest(middle) >= math.sin(angle / 2) ** 2 else (middle, high)
    scaled = (high * polar)[:, None]
    return normalize(scaled.cos() * axis + scaled.sin() * bearings, dim=1)

"""Clustered mixtures against brute force, known packings and the bounds that exclude a request."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist, squareform

from overparam_lib.datasets import clustered
from overparam_lib.datasets.clustered import ClusteredMixture, ClusteredSample, check_assumptions


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def separated(num_classes=3, components_per_class=2, dim=10, separation=0.8, seed=0, **options):
    return ClusteredMixture.separated(
        num_classes=num_classes,
        components_per_class=components_per_class,
        dim=dim,
        separation=separation,
        generator=seeded(seed),
        **options,
    )


def measured(sample):
    """Return the separation and the diameters of the components, from all distances at once."""
    distances = squareform(pdist(sample.x.double().numpy()))
    y, component = sample.y.numpy(), sample.component.numpy()
    across = distances[y[:, None] != y]
    diameters = [distances[np.ix_(component == s, component == s)].max() for s in np.unique(component)]
    return across.min() if across.size else math.inf, diameters


def antipodal(sample):
    """Return the least length of x + x' over pairs of different classes, from all sums of a point at once."""
    x, y = sample.x.double().numpy(), sample.y.numpy()
    sums = (np.linalg.norm(x + point, axis=1)[y != own] for point, own in zip(x, y, strict=True))
    return min((lengths.min() for lengths in sums if lengths.size), default=math.inf)


def hexagon(turn=0.0):
    """Return the corners of a regular hexagon, two classes in turns: each corner's antipode is another's."""
    angle = turn + torch.arange(3, dtype=torch.float64) * 2 * math.pi / 3
    corners = torch.stack([angle.cos(), angle.sin()], dim=1)
    return ClusteredSample(torch.cat([corners, -corners]), torch.arange(6) // 3, torch.arange(6))


def blobs(centers, diameter, labels, components, points=40):
    """Return points on circles in the plane: exactly the diameter wide, with the extreme points at hand."""
    angles = torch.arange(points, dtype=torch.float64) * 2 * math.pi / points
    circle = diameter / 2 * torch.stack([angles.cos(), angles.sin()], dim=1)
    x = torch.cat([torch.tensor(center, dtype=torch.float64) + circle for center in centers])
    y, component = (torch.tensor(part).repeat_interleave(points) for part in (labels, components))
    return ClusteredSample(x, y, component)


def xor(components):
    return blobs([(0, 0), (2, 2), (0, 2), (2, 0)], 0.1, [0, 0, 1, 1], components)


# The theorem's construction.

REQUESTS = [
    (1, 1, 2, 0.5),
    (1, 4, 3, 5.0),
    (2, 1, 2, 1.98),
    (2, 3, 2, 1.2),
    (3, 1, 2, 1.69),
    (3, 2, 10, 0.8),
    (5, 1, 4, 1.5),
    (5, 3, 6, 1.3),
    (6, 1, 2, 0.96),
    (6, 2, 2, 0.9),
    (8, 2, 3, 0.9),
    (10, 2, 15, 0.5),
    (10, 2, 19, 1.3),
    (10, 2, 100, 0.01),
    (10, 2, 1000, 1.0),
    (12, 1, 3, 0.99),
    (20, 1, 10, 1.3),
]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("num_classes, q, dim, separation", REQUESTS)
def test_separated_keeps_its_promises(num_classes, q, dim, separation, seed):
    mixture = separated(num_classes, q, dim, separation, seed)
    sample = mixture.sample(25 * num_classes * q, generator=seeded(seed + 100))
    distance, diameters = measured(sample)
    allowed = separation / (8 * q)
    assert sample.x.dtype == torch.float32
    torch.testing.assert_close(sample.x.norm(dim=1), torch.ones(len(sample.x)), rtol=0, atol=1e-6)
    assert distance >= separation
    assert 0.2 * allowed <= min(diameters) and max(diameters) <= allowed
    report = mixture.check_assumptions(sample)
    assert report.separated and report.small_components and report.unit_norm


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    "num_classes, q, dim, separation",
    [(1, 2, 2, 0.5), (2, 1, 2, 1.3), (2, 2, 4, 1.3), (3, 2, 10, 0.8), (5, 1, 5, 1.3), (10, 2, 100, 0.01)],
)
def test_separated_keeps_away_from_antipodes_where_there_is_room(num_classes, q, dim, separation, seed):
    mixture = separated(num_classes, q, dim, separation, seed)
    sample = mixture.sample(20 * num_classes * q, generator=seeded(seed + 100))
    assert antipodal(sample) >= separation
    assert mixture.check_assumptions(sample).holds


def test_separated_may_come_near_antipodes_where_there_is_not():
    """Two classes nearly 2 apart are nearly antipodal, and six on a circle make a hexagon."""
    for request in ((2, 1, 2, 1.98), (6, 1, 2, 0.96)):
        mixture = separated(*request)
        report = mixture.check_assumptions(mixture.sample(200, generator=seeded()))
        assert report.separated and report.small_components and report.unit_norm
        assert not report.antipodes_apart and not report.holds


@pytest.mark.parametrize("num_classes, q, dim, separation", [r for r in REQUESTS if r[0] > 1])
def test_the_separation_got_is_about_the_one_asked_for(num_classes, q, dim, separation):
    mixture = separated(num_classes, q, dim, separation, dtype=torch.float64)
    sample = mixture.sample(25 * num_classes * q, generator=seeded(7))
    # Supports are at the separation, so centres at no more than that and one diameter.
    assert separation <= measured(sample)[0] <= separation * (1 + 1 / (8 * q))
    centers = ClusteredSample(
        mixture.centers, torch.arange(num_classes * q) // q, torch.arange(num_classes * q)
    )
    assert separation < measured(centers)[0] <= separation * (1 + 0.7 / (8 * q))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("separation", [1e-3, 0.1, 1.0, 1.6])
def test_no_point_of_the_supports_comes_too_near(separation, dtype):
    """In the plane the two ends of each arc are sampled, so this is the worst case, rounding included."""
    mixture = separated(3, 1, 2, separation, dtype=dtype)
    sample = mixture.sample(3_000, generator=seeded())
    report = mixture.check_assumptions(sample)
    assert separation <= report.separation <= separation * (1 + 1e-3) + 2e-6
    assert report.largest_diameter == pytest.approx(0.6 * separation / 8, rel=1e-3)


@pytest.mark.parametrize(
    "num_classes, q, dim, separation", [(10, 2, 20, 1.0), (4, 2, 50, 0.1), (2, 1, 2, 0.5)]
)
def test_centers_are_equidistant_where_there_is_room(num_classes, q, dim, separation):
    centers = separated(num_classes, q, dim, separation, dtype=torch.float64).centers
    distances = pdist(centers.numpy())
    np.testing.assert_allclose(distances, distances.mean(), rtol=1e-9)


def test_centers_come_closer_with_the_separation_around_one_direction():
    near, far = (separated(4, 2, 20, s, dtype=torch.float64).centers for s in (0.1, 1.0))
    axis = torch.nn.functional.normalize(near.mean(dim=0), dim=0)
    torch.testing.assert_close(axis, torch.nn.functional.normalize(far.mean(dim=0), dim=0))
    assert (near @ axis).min() > 0.99 > 0.9 > (far @ axis).max()


def test_centers_are_turned_at_random():
    first = torch.stack(
        [separated(2, 1, 3, 1.0, seed, dtype=torch.float64).centers[0] for seed in range(400)]
    )
    # The mean of 400 uniform unit vectors in three dimensions has norm 1/20 on average (root mean square).
    assert first.mean(dim=0).norm() < 4 / 20
    torch.testing.assert_close(
        first.T @ first / 400, torch.eye(3, dtype=torch.float64) / 3, rtol=0, atol=0.08
    )


@pytest.mark.parametrize("dim", [2, 3, 4, 5, 10, 40])
def test_a_full_simplex_is_reached_up_to_the_room_its_components_need(dim):
    bound = math.sqrt(2 * (dim + 1) / dim)
    mixture = separated(dim + 1, 1, dim, 0.97 * bound, dtype=torch.float64)
    assert pdist(mixture.centers.numpy()).max() <= bound * (1 + 1e-9) or dim == 2
    assert mixture.check_assumptions(mixture.sample(30 * (dim + 1), generator=seeded())).holds


def test_three_arcs_at_99_hundredths_of_the_simplex_bound_do_not_fit_on_a_circle():
    separation = 0.99 * math.sqrt(3)
    gap, arc = 2 * math.asin(separation / 2), 2 * math.asin(0.2 * separation / 16)
    assert 3 * (gap + arc) > 2 * math.pi  # so the refusal is right: no arcs of the least diameter fit
    with pytest.raises(ValueError, match="was not reached"):
        separated(3, 1, 2, separation)


@pytest.mark.parametrize("num_classes", [4, 6, 9, 15])
def test_arcs_fill_the_circle_to_within_half_a_percent(num_classes):
    """On the circle the largest separation is known: K gaps and K arcs of 0.3 Δ/8 make a full turn."""
    low, high = 0.0, 2.0
    for _ in range(60):
        middle = (low + high) / 2
        turn = num_classes * 2 * (math.asin(middle / 2) + math.asin(0.3 * middle / 16))
        low, high = (middle, high) if turn < 2 * math.pi else (low, middle)
    assert separated(num_classes, 1, 2, 0.995 * low).separation == 0.995 * low
    with pytest.raises(ValueError, match="was not reached"):
        separated(num_classes, 1, 2, 1.001 * low)


@pytest.mark.parametrize(
    "num_points, dim, best", [(6, 3, math.sqrt(2)), (12, 3, 1.0514622), (10, 5, math.sqrt(2))]
)
def test_the_search_comes_near_the_best_known_packings(num_points, dim, best):
    """Octahedron, icosahedron and the cross-polytope in five dimensions."""
    assert separated(num_points, 1, dim, 0.95 * best).num_classes == num_points
    with pytest.raises(ValueError, match="separation=.* num_classes=.*dim="):
        separated(num_points, 1, dim, 0.999 * best)


@pytest.mark.parametrize("seed", range(10))
def test_the_search_starts_again_where_it_got_stuck(seed):
    """Twelve classes near the limit in four dimensions: one start in ten ends in a worse packing."""
    assert separated(12, 2, 4, 1.19, seed).separation == 1.19


def test_components_of_a_class_share_a_side_where_not_all_fit_apart():
    """Six arcs at 1.2 overfill the circle, two groups of three do not."""
    assert 6 * 2 * math.asin(0.6) > 2 * math.pi
    centers = separated(2, 3, 2, 1.2, dtype=torch.float64).centers
    distances = squareform(pdist(centers.numpy()))
    assert distances[:3, 3:].min() >= 1.2
    assert distances[:3, :3][~np.eye(3, dtype=bool)].min() > 0.1


# Requests that cannot be met.


@pytest.mark.parametrize(
    "num_classes, dim, separation, bound",
    [
        (2, 5, 2.01, "2 apart"),
        (3, 2, 1.74, "1.732"),
        (4, 3, 1.64, "1.633"),
        (5, 3, 1.42, "1.414"),
        (9, 100, 1.51, "1.5"),
    ],
)
def test_the_simplex_bound_refuses(num_classes, dim, separation, bound):
    with pytest.raises(
        ValueError, match=f"separation={separation}.*num_classes={num_classes}.*simplex.*{bound}"
    ):
        separated(num_classes, 1, dim, separation)


@pytest.mark.parametrize(
    "num_classes, dim, separation, room",
    [(7, 2, 1.0, 6), (6, 2, 1.01, 5), (13, 2, 0.52, 11), (17, 3, 1.0, 14)],
)
def test_the_volume_bound_refuses(num_classes, dim, separation, room):
    with pytest.raises(ValueError, match=f"num_classes={num_classes}.*volume bound.*at most {room} "):
        separated(num_classes, 1, dim, separation)


@pytest.mark.parametrize("distance", [1e-3, 0.3, 1.0, 1.7, 2.0])
def test_the_share_of_a_cap_is_the_elementary_one_in_two_and_three_dimensions(distance):
    angle = math.asin(distance / 2)
    assert clustered._cap_share(distance, 2) == pytest.approx(angle / math.pi, rel=1e-10)
    assert clustered._cap_share(distance, 3) == pytest.approx((1 - math.cos(angle)) / 2, rel=1e-8)


def test_the_share_of_a_cap_is_the_share_of_random_points_in_it():
    points = torch.nn.functional.normalize(
        torch.randn(200_000, 6, generator=seeded(), dtype=torch.float64), dim=1
    )
    share = clustered._cap_share(1.2, 6)
    seen = (points[:, 0] >= math.cos(math.asin(0.6))).double().mean().item()
    assert abs(seen - share) < 5 * math.sqrt(share / 200_000)


def test_half_a_sphere_is_a_cap_in_every_dimension():
    assert [clustered._cap_share(2.0, dim) for dim in (2, 7, 1000)] == [0.5] * 3


def test_one_class_needs_no_room_but_its_diameter_must_fit():
    assert separated(1, 2, 3, 50.0).separation == 50.0
    with pytest.raises(ValueError, match="separation=100.*at most 53.33"):
        separated(1, 2, 3, 100.0)


def test_a_separation_near_rounding_is_refused():
    assert separated(separation=5e-5).separation == 5e-5
    with pytest.raises(ValueError, match="separation=1e-05.*at least 3.1e-05"):
        separated(separation=1e-5)
    with pytest.raises(ValueError, match="separation=0.8.*rounding"):
        separated(separation=0.8, dtype=torch.bfloat16)


def test_the_line_has_no_components():
    with pytest.raises(ValueError, match="dim=1.*dim >= 2"):
        separated(num_classes=2, components_per_class=1, dim=1, separation=1.0)


@pytest.mark.parametrize("name", ["num_classes", "components_per_class", "dim"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, "3", None, math.nan])
def test_counts_must_be_positive_integers(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a positive integer"):
        separated(**{name: value})
    with pytest.raises(ValueError, match=f"{name} must be a positive integer"):
        ClusteredMixture.gaussian(generator=seeded(), **{name: value})


@pytest.mark.parametrize("value", [0, -0.5, math.nan, math.inf, "1", None, True])
def test_lengths_must_be_positive_numbers(value):
    with pytest.raises(ValueError, match="separation must be a finite number > 0"):
        separated(separation=value)
    with pytest.raises(ValueError, match="center_scale must be a finite number > 0"):
        ClusteredMixture.gaussian(center_scale=value, generator=seeded())
    if value != 0:
        with pytest.raises(ValueError, match="spread must be a finite number >= 0"):
            ClusteredMixture.gaussian(spread=value, generator=seeded())


@pytest.mark.parametrize("generator", [None, 0, torch.default_generator.initial_seed])
def test_randomness_comes_from_a_generator_only(generator):
    with pytest.raises(ValueError, match="generator must be a torch.Generator"):
        ClusteredMixture.gaussian(generator=generator)
    with pytest.raises(ValueError, match="generator must be a torch.Generator"):
        ClusteredMixture.separated(
            num_classes=2, components_per_class=1, dim=3, separation=1.0, generator=generator
        )
    with pytest.raises(ValueError, match="generator must be a torch.Generator"):
        separated().sample(3, generator=generator)


def test_other_bad_requests_are_refused():
    with pytest.raises(ValueError, match="dtype must be a floating point type"):
        separated(dtype=torch.int64)
    with pytest.raises(ValueError, match="n must be a positive integer"):
        separated().sample(0, generator=seeded())


# Sampling.


def mixtures(**options):
    narrow = ClusteredMixture.gaussian(num_classes=3, dim=10, spread=0.2, generator=seeded(), **options)
    return separated(**options), narrow


@pytest.mark.parametrize("kind", [0, 1])
def test_a_sample_has_the_stated_shapes_and_indices(kind):
    mixture = mixtures()[kind]
    sample = mixture.sample(500, generator=seeded())
    assert sample.x.shape == (500, 10) and sample.y.shape == sample.component.shape == (500,)
    assert sample.y.dtype == sample.component.dtype == torch.int64
    assert sample._fields == ("x", "y", "component")
    assert set(sample.component.tolist()) == set(range(6))
    assert torch.equal(sample.y, sample.component // 2)
    assert mixture.centers.shape == mixture.prototypes.shape == (6, 10)
    assert (mixture.num_classes, mixture.components_per_class, mixture.dim) == (3, 2, 10)


@pytest.mark.parametrize("kind", [0, 1])
def test_each_point_is_nearest_to_its_own_component(kind):
    mixture = mixtures()[kind]
    sample = mixture.sample(300, generator=seeded())
    assert torch.equal(torch.cdist(sample.x, mixture.prototypes).argmin(dim=1), sample.component)


@pytest.mark.parametrize("kind", [0, 1])
def test_components_are_equally_likely(kind):
    counts = mixtures()[kind].sample(60_000, generator=seeded()).component.bincount(minlength=6)
    # Each count is binomial with mean 10,000 and standard deviation 91.
    assert (counts - 10_000).abs().max() < 5 * 91


@pytest.mark.parametrize("kind", [0, 1])
def test_a_generator_determines_everything_and_the_global_state_is_left_alone(kind):
    before = torch.random.get_rng_state()
    numpy_before = np.random.get_state()[1].copy()
    first, second = (mixtures()[kind] for _ in range(2))
    a, b = (m.sample(50, generator=seeded(5)) for m in (first, second))
    assert all(torch.equal(left, right) for left, right in zip(a, b, strict=True))
    assert torch.equal(first.centers, second.centers)
    generator = seeded(5)
    assert not torch.equal(*(first.sample(50, generator=generator).x for _ in range(2)))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()


def test_the_search_is_determined_by_its_generator_too():
    first, second, third = (separated(8, 2, 3, 0.9, seed).centers for seed in (0, 0, 1))
    assert torch.equal(first, second) and not torch.equal(first, third)


@pytest.mark.parametrize("kind", [0, 1])
def test_single_and_double_precision_give_the_same_draw(kind):
    single, double = (mixtures(dtype=dtype)[kind] for dtype in (torch.float32, torch.float64))
    a, b = (m.sample(50, generator=seeded(5)) for m in (single, double))
    assert (a.x.dtype, b.x.dtype) == (torch.float32, torch.float64)
    assert torch.equal(a.component, b.component) and torch.equal(a.x, b.x.float())
    assert torch.equal(single.centers, double.centers.float())


def test_the_default_dtype_is_torchs(monkeypatch):
    monkeypatch.setattr(torch, "get_default_dtype", lambda: torch.float64)
    assert separated().sample(2, generator=seeded()).x.dtype == torch.float64


def test_the_noise_in_a_cap_is_symmetric_and_reaches_the_rim():
    """Its tangent part has mean 0 and squared length r²(d-1)/d on average, as a unit vector's has."""
    mixture = separated(2, 1, 4, 1.0, dtype=torch.float64)
    sample = mixture.sample(40_000, generator=seeded())
    points, center = sample.x[sample.component == 0], mixture.centers[0]
    tangent = points - (points @ center)[:, None] * center
    radius = 0.6 / 16
    assert tangent.norm(dim=1).max() == pytest.approx(radius, rel=1e-3)
    assert tangent.norm(dim=1).max() <= radius
    assert tangent.square().sum(dim=1).mean() == pytest.approx(0.75 * radius**2, rel=0.01)
    assert tangent.mean(dim=0).norm() < 5 * radius / math.sqrt(len(points))


def test_a_mixture_reads_well():
    assert repr(separated()) == (
        "ClusteredMixture(num_classes=3, components_per_class=2, dim=10, separation=0.8)"
    )


@pytest.mark.gpu
@pytest.mark.parametrize("source", ["cpu", "cuda"])
def test_samples_are_on_the_device_whatever_the_generators(source):
    generator = torch.Generator(source).manual_seed(0)
    mixture = ClusteredMixture.separated(
        num_classes=3, components_per_class=2, dim=5, separation=0.9, generator=generator, device="cuda"
    )
    sample = mixture.sample(100, generator=generator)
    assert {part.device.type for part in (*sample, mixture.centers, mixture.prototypes)} == {"cuda"}
    assert mixture.check_assumptions(sample).holds


# The mixture of the paper's experiment.


def test_gaussian_centers_and_points_have_the_stated_spread():
    mixture = ClusteredMixture.gaussian(unit_norm=False, generator=seeded(), dtype=torch.float64)
    sample = mixture.sample(2_000, generator=seeded(1))
    assert mixture.centers.shape == (20, 1000) and mixture.separation is None
    # A squared norm is a mean of 1000 squared normals: relative standard deviation 0.045 each.
    assert mixture.centers.square().sum(dim=1).mean() == pytest.approx(25, rel=5 * 0.045 / math.sqrt(20))
    noise = sample.x - mixture.centers[sample.component]
    assert noise.square().sum(dim=1).mean() == pytest.approx(1, rel=5 * 0.045 / math.sqrt(2_000))
    assert torch.equal(mixture.prototypes, mixture.centers)


def test_gaussian_points_are_the_raw_ones_over_their_norm():
    raw, unit = (
        ClusteredMixture.gaussian(unit_norm=unit_norm, generator=seeded(), dtype=torch.float64)
        for unit_norm in (False, True)
    )
    a, b = (m.sample(30, generator=seeded(1)).x for m in (raw, unit))
    torch.testing.assert_close(b, a / a.norm(dim=1, keepdim=True))
    torch.testing.assert_close(unit.prototypes, raw.centers / raw.centers.norm(dim=1, keepdim=True))
    assert torch.equal(unit.centers, raw.centers)


def test_gaussian_without_spread_gives_its_prototypes():
    mixture = ClusteredMixture.gaussian(spread=0, generator=seeded())
    sample = mixture.sample(50, generator=seeded())
    assert torch.equal(sample.x, mixture.prototypes[sample.component])


def test_the_papers_mixture_violates_the_diameter_condition_and_a_narrow_one_does_not():
    paper, narrow = (ClusteredMixture.gaussian(spread=s, generator=seeded()) for s in (1.0, 0.2))
    report = paper.check_assumptions(paper.sample(400, generator=seeded()))
    assert report.separated and report.unit_norm and not report.small_components and not report.holds
    assert 2 < report.diameter_ratio < 5  # 8 q s / s_0 = 3.2 in high dimension
    assert narrow.check_assumptions(narrow.sample(400, generator=seeded())).holds


# Measuring the assumptions.


def test_the_papers_illustration_needs_two_components_a_class():
    """Two classes, each two discs of diameter 0.1 at opposite corners of a square of side 2."""
    report = check_assumptions(xor([0, 1, 2, 3]))
    assert report.separation == pytest.approx(1.9, rel=1e-12)
    assert report.components_per_class == 2 and report.allowed_diameter == pytest.approx(0.11875)
    assert report.diameters == pytest.approx((0.1,) * 4)
    assert report.separated and report.small_components and not report.unit_norm and not report.holds
    whole = check_assumptions(xor([0, 0, 1, 1]))
    # The farthest points lie on the diagonal, and the 40 points of a circle include its ends.
    assert whole.components_per_class == 1 and not whole.small_components
    assert whole.largest_diameter == pytest.approx(2 * math.sqrt(2) + 0.1, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "n, dim, scale", [(1, 3, 1.0), (2, 1, 1.0), (300, 5, 1.0), (700, 40, 1e-3), (257, 2, 1e6)]
)
def test_distances_are_those_of_brute_force(n, dim, scale, dtype):
    generator = seeded(n)
    component = torch.randint(9, (n,), generator=generator)
    x = (scale * torch.randn(n, dim, generator=generator, dtype=torch.float64)).to(dtype)
    sample = ClusteredSample(x, component // 3, component)
    report = check_assumptions(sample, components_per_class=3)
    distance, diameters = measured(sample)
    assert report.separation == pytest.approx(distance, rel=1e-7)
    assert report.antipodal_separation == pytest.approx(antipodal(sample), rel=1e-7)
    assert report.diameters == pytest.approx(diameters, rel=1e-7)
    norms = np.linalg.norm(x.double().numpy(), axis=1)
    assert report.norms == pytest.approx((norms.min(), norms.max()))


@pytest.mark.parametrize("tiny", [1e-3, 1e-6, 1e-9, 1e-12])
@pytest.mark.parametrize("origin", [0.0, 1.0])
def test_near_points_are_measured_accurately(tiny, origin):
    """Points a tiny step apart on the unit scale: 2 - 2<x, x'> would give noise or 0."""
    x = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]], dtype=torch.float64) + origin
    x[1, 0] += tiny
    step = float(x[1, 0] - x[0, 0])
    across = check_assumptions(ClusteredSample(x, torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2])))
    assert across.separation == pytest.approx(step, rel=1e-8)
    within = check_assumptions(ClusteredSample(x, torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1])))
    assert within.diameters == (pytest.approx(step, rel=1e-8), 0.0)


def test_every_pair_of_a_long_sample_is_looked_at():
    """The nearest pair across classes, and the farthest within one, in every pair of blocks in turn."""
    for first, second in itertools.combinations((0, 255, 256, 511, 512, 700), 2):
        x = torch.arange(701, dtype=torch.float64)[:, None] * 10
        component = torch.arange(701)
        x[second], component[second] = x[first] + 0.5, component[first]
        assert max(check_assumptions(ClusteredSample(x, component, component)).diameters) == 0.5
        assert check_assumptions(ClusteredSample(x, torch.arange(701), torch.arange(701))).separation == 0.5


def test_every_pair_of_a_long_sample_is_looked_at_for_antipodes():
    """The pair nearest to being antipodes, in every pair of blocks in turn."""
    for first, second in itertools.combinations((0, 255, 256, 511, 512, 700), 2):
        x = 10.0 + torch.arange(701, dtype=torch.float64)[:, None]
        x[second] = -x[first] + 0.25
        report = check_assumptions(ClusteredSample(x, torch.arange(701), torch.arange(701)))
        assert report.antipodal_separation == 0.25


@pytest.mark.parametrize("tiny", [1e-3, 1e-6, 1e-9, 1e-12])
def test_points_near_an_antipode_are_measured_accurately(tiny):
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    x[1, 1] = tiny
    report = check_assumptions(ClusteredSample(x, torch.arange(2), torch.arange(2)))
    assert report.antipodal_separation == pytest.approx(tiny, rel=1e-8)
    assert report.antipodes_apart == (tiny >= 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("turn", [0.0, 0.1, 1.0])
def test_the_hexagon_violates_the_third_assumption_alone(turn, dtype):
    sample = hexagon(turn)
    report = check_assumptions(sample._replace(x=sample.x.to(dtype)))
    assert report.separation == pytest.approx(1, rel=1e-6) and report.components_per_class == 3
    assert report.separated and report.small_components and report.unit_norm
    assert report.antipodal_separation == 0 and not report.antipodes_apart and not report.holds


def test_no_network_without_biases_gets_the_hexagon_right():
    """The reason for the third assumption: differences of outputs at antipodes add up to zero."""
    generator = seeded()
    x = hexagon(0.3).x
    for scale in (0.1, 1.0, 10.0):
        w, a = (scale * torch.randn(50, 2, generator=generator, dtype=torch.float64) for _ in range(2))
        outputs = (x @ w.T).clamp(min=0) @ a
        margin = outputs[:, 0] - outputs[:, 1]
        margin[3:] *= -1  # positive where a corner is right
        assert margin.sum().abs() <= 1e-12 * margin.abs().max() and margin.min() < 0


@pytest.mark.parametrize("third, holds", [(0.5, True), (0.31, True), (0.29, False), (0.0, False)])
def test_the_third_assumption_needs_a_number_that_serves_the_first_too(third, holds):
    """Diameter D = 0.3/8 and separation near 1: Δ may be between 8D = 0.3 and that, and is the antipodes'."""
    circle = [0.0, 2 * math.asin(0.3 / 16), math.pi - 2 * math.asin(third / 2)]
    angle = torch.tensor(circle, dtype=torch.float64)
    x = torch.stack([angle.cos(), angle.sin()], dim=1)
    report = check_assumptions(ClusteredSample(x, torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1])))
    assert report.antipodal_separation == pytest.approx(third, abs=1e-12)
    assert report.needed_from_antipodes == pytest.approx(0.3, rel=1e-12)
    assert report.separated and report.small_components and report.unit_norm
    assert report.antipodes_apart == report.holds == holds


def test_coinciding_points_of_two_classes_are_not_separated():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    report = check_assumptions(ClusteredSample(x, torch.tensor([0, 1]), torch.tensor([0, 1])))
    assert report.separation == 0 and not report.separated and not report.small_components
    assert report.diameter_ratio == math.inf and "violated (separation 0)" in str(report)


def test_one_class_is_separated_from_nothing():
    report = check_assumptions(ClusteredSample(torch.eye(3), torch.zeros(3).long(), torch.arange(3)))
    assert report.separation == report.antipodal_separation == math.inf
    assert report.diameter_ratio == 0 and report.holds
    assert report.components_per_class == 3


def test_indices_need_not_be_contiguous():
    x = torch.tensor([[1.0, 0], [0.8, 0.6], [0, 1], [-1, 0]])
    report = check_assumptions(ClusteredSample(x, torch.tensor([7, 7, -2, -2]), torch.tensor([40, 40, 3, 9])))
    assert report.components_per_class == 2
    assert report.diameters == pytest.approx((0, 0, math.sqrt(0.4)))  # components 3, 9 and 40


def test_a_sample_that_misses_a_component_is_held_to_the_mixtures_q():
    mixture = separated(components_per_class=4, dim=20)
    sample = mixture.sample(3, generator=seeded())
    assert mixture.check_assumptions(sample).components_per_class == 4
    assert check_assumptions(sample).components_per_class < 4


def test_unit_norm_is_asked_to_within_a_hundred_thousandth():
    def report(norm):
        return check_assumptions(ClusteredSample(norm * torch.eye(2), torch.arange(2), torch.arange(2)))

    assert [report(norm).unit_norm for norm in (1 - 2e-5, 1 - 5e-6, 1 + 5e-6, 1 + 2e-5)] == [
        False,
        True,
        True,
        False,
    ]


def test_the_report_prints_one_line_an_assumption():
    assert str(check_assumptions(xor([0, 1, 2, 3]))).splitlines() == [
        "A1, classes apart:    holds (separation 1.9)",
        "A1, small components: holds (largest diameter 0.1, allowed 0.119, ratio 0.842, q = 2)",
        "A2, unit norm:        violated (norms 0.05 to 2.88)",
        "A3, antipodes apart:  holds (antipodal separation 1.9, needed 1.6)",
    ]
    assert str(check_assumptions(hexagon())).splitlines()[3] == (
        "A3, antipodes apart:  violated (antipodal separation 0, needed 1e-05)"
    )


def test_a_report_cannot_be_changed():
    with pytest.raises(AttributeError):
        check_assumptions(xor([0, 1, 2, 3])).separation = 3.0


GOOD = {"x": torch.eye(3), "y": torch.tensor([0, 1, 1]), "component": torch.tensor([0, 1, 2])}


@pytest.mark.parametrize(
    "part, value, message",
    [
        ("x", torch.eye(3).index_fill(0, torch.tensor(1), math.nan), "sample.x must be finite"),
        ("x", torch.eye(3) / 0, "sample.x must be finite"),
        ("x", torch.ones(3), "sample.x must be floating point.*shape \\(3,\\)"),
        ("x", torch.ones(3, 0), "sample.x must be floating point, not empty"),
        ("x", torch.ones(0, 3), "sample.x must be floating point, not empty"),
        ("x", torch.eye(3).long(), "sample.x must be floating point.*int64"),
        ("y", torch.zeros(3), "sample.y must be integer.*float32"),
        ("y", torch.zeros(2).long(), "sample.y must be integer and of shape \\(3,\\).*\\(2,\\)"),
        ("component", torch.zeros(3, 1).long(), "sample.component must be integer"),
        ("component", torch.tensor([0, 0, 1]), "sample.component.*one component in two classes"),
    ],
)
def test_bad_samples_are_refused(part, value, message):
    with pytest.raises(ValueError, match=message):
        check_assumptions(ClusteredSample(**{**GOOD, part: value}))


def test_a_wrong_number_of_components_is_refused():
    with pytest.raises(
        ValueError, match="components_per_class=1, but a class of the sample has 2 components"
    ):
        check_assumptions(ClusteredSample(**GOOD), components_per_class=1)
    with pytest.raises(ValueError, match="components_per_class must be a positive integer"):
        check_assumptions(ClusteredSample(**GOOD), components_per_class=0)

"""The style's helpers."""

import matplotlib
import numpy as np
import pytest

from overparam_lib.plotting import band, log_log_fit, ordered_colors

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402


def test_band_reaches_from_smallest_to_largest_run_around_the_mean():
    fig, ax = plt.subplots()
    runs = np.array([[1.0, 5.0], [3.0, 1.0], [2.0, 0.0]])
    band(ax, [0, 1], runs, label="m = 4", color="C0")
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [2.0, 2.0])
    vertices = ax.collections[0].get_paths()[0].vertices
    for x, low, high in ((0, 1.0, 3.0), (1, 0.0, 5.0)):
        heights = vertices[vertices[:, 0] == x, 1]
        assert (heights.min(), heights.max()) == (low, high)
    plt.close(fig)


@pytest.mark.parametrize("runs", [[1.0, 2.0], [[1.0, 2.0, 3.0]]])
def test_band_refuses_shapes_that_do_not_fit(runs):
    fig, ax = plt.subplots()
    with pytest.raises(ValueError, match=r"runs must have shape \(seeds, 2\)"):
        band(ax, [0, 1], runs, label="", color="C0")
    plt.close(fig)


@pytest.mark.parametrize("power", [-0.5, 0.0, 2.0])
def test_log_log_fit_recovers_a_power_law(power):
    x = np.array([10.0, 30.0, 100.0])
    assert log_log_fit(x, 3 * x**power) == pytest.approx((power, 3.0))


@pytest.mark.parametrize(("x", "y"), [([1, 2], [0, 1]), ([-1, 2], [1, 1]), ([2, 2], [1, 3])])
def test_log_log_fit_refuses_what_has_no_power_law(x, y):
    with pytest.raises(ValueError, match="power law"):
        log_log_fit(x, y)


def test_ordered_colors_darken():
    luminance = [np.dot(c, [0.2126, 0.7152, 0.0722]) for c in ordered_colors(5)]
    assert all(a > b + 0.05 for a, b in zip(luminance, luminance[1:], strict=False))

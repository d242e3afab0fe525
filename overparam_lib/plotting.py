"""One style for the book's figures, and the figures that recur."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

__all__ = ["band", "log_log_fit", "ordered_colors", "set_style"]


def set_style() -> None:
    """Set the book's style: light, colour-blind safe, legible at the width of a phone.

    Changes Matplotlib's defaults for the session, as :func:`seaborn.set_theme` does.
    """
    import seaborn as sns  # two seconds to import: only who draws pays

    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    mpl.rcParams.update(
        {
            "figure.figsize": (6.4, 3.8),
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "axes.titlesize": "medium",
            "legend.fontsize": "small",
            "legend.frameon": True,
            "lines.linewidth": 1.8,
        }
    )


def ordered_colors(count: int) -> list[tuple[float, float, float]]:
    """Return colours that read as an order (small to large), for instance one a width.

    Parameters
    ----------
    count : int
        How many.

    Returns
    -------
    list of tuple
        RGB colours from light to dark; lightness alone tells them apart.
    """
    return [mpl.colormaps["viridis_r"](t)[:3] for t in np.linspace(0.15, 0.95, count)]


def band(ax: Axes, x: Sequence[float], runs: np.ndarray, *, label: str, color, marker: str = "") -> None:
    """Draw the mean of several runs as a line, within a band from the smallest to the largest.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Where to draw.
    x : array
        Abscissas, shape (k,).
    runs : array
        One run (seed) a row, shape (seeds, k).
    label : str
        Entry in the legend.
    color : color
        Of line and band.
    marker : str, default none
        Marker of the mean.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    runs = np.asarray(runs, dtype=float)
    if runs.ndim != 2 or runs.shape[1] != len(x):
        raise ValueError(f"runs must have shape (seeds, {len(x)}), got {runs.shape}")
    ax.plot(x, runs.mean(axis=0), label=label, color=color, marker=marker)
    ax.fill_between(x, runs.min(axis=0), runs.max(axis=0), color=color, alpha=0.25, linewidth=0)


def log_log_fit(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    r"""Fit the power law :math:`y\approx c\,x^p` by least squares on logarithms.

    Parameters
    ----------
    x, y : array
        Positive numbers, shape (k,), with at least two different `x`.

    Returns
    -------
    power, factor : float
        p and c.

    Raises
    ------
    ValueError
        If a number is not positive, or there are not two different `x`.

    Examples
    --------
    >>> power, factor = log_log_fit([1, 10, 100], [5, 0.5, 0.05])
    >>> round(power, 6), round(factor, 6)
    (-1.0, 5.0)
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if not ((x > 0).all() and (y > 0).all()) or len(set(x)) < 2:
        raise ValueError(f"a power law needs positive numbers at two or more x, got x={x}, y={y}")
    power, log_factor = np.polyfit(np.log(x), np.log(y), 1)
    return float(power), float(np.exp(log_factor))

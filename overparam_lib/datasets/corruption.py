"""Corruptions that destroy the relation between inputs and labels, drawn once and then kept."""

from __future__ import annotations

import torch

__all__ = ["randomize_labels"]


def randomize_labels(
    y: torch.Tensor, *, probability: float, num_classes: int, generator: torch.Generator
) -> torch.Tensor:
    r"""Replace each label, with the given probability, by a class drawn uniformly.

    .. math:: \tilde y_i = \begin{cases} c_i \sim \mathrm{Uniform}\{0,\dots,K-1\} & \text{with
        probability } p,\\ y_i & \text{otherwise.}\end{cases}

    The true class may be drawn again, so the expected fraction of wrong labels is
    :math:`p\,(1 - 1/K)`. The labels are drawn once, by this call: labels drawn anew in each epoch
    could not be fitted.

    Parameters
    ----------
    y : torch.Tensor
        True labels in 0, …, K − 1, shape (n,), an integer type. It is not changed.
    probability : float
        Probability p in [0, 1] that a label is replaced.
    num_classes : int
        Number K of classes.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    torch.Tensor
        New labels, shape (n,), on the device and with the type of `y`.

    Raises
    ------
    ValueError
        If `probability` is outside [0, 1], or `y` is not a vector of integers in 0, …, K − 1.

    References
    ----------
    Zhang, Bengio, Hardt, Recht and Vinyals, "Understanding deep learning requires rethinking
    generalization", ICLR 2017, section 2.1.

    Examples
    --------
    >>> y = torch.arange(6) % 3
    >>> g = torch.Generator().manual_seed(0)
    >>> bool((randomize_labels(y, probability=0.0, num_classes=3, generator=g) == y).all())
    True
    """
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"probability must be in [0, 1], got {probability!r}")
    if y.ndim != 1 or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise ValueError(f"y must be a vector of integer labels, got shape {tuple(y.shape)}, {y.dtype}")
    if y.numel() and not 0 <= int(y.min()) <= int(y.max()) < num_classes:
        raise ValueError(
            f"y must lie in 0..{num_classes - 1}, got values in {int(y.min())}..{int(y.max())}; "
            "raise num_classes or relabel"
        )
    where = generator.device
    replaced = torch.rand(y.shape, generator=generator, device=where, dtype=torch.float64) < probability
    drawn = torch.randint(num_classes, y.shape, generator=generator, device=where)
    return torch.where(replaced.to(y.device), drawn.to(y), y)

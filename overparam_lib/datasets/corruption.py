"""Corruptions that destroy the structure of a data set: of its labels, or of its images' pixels.

Each is drawn once, by the call, and then kept. Test labels are never corrupted; test images go through
the same transformation as the training images.

References
----------
Zhang, Bengio, Hardt, Recht and Vinyals, "Understanding deep learning requires rethinking
generalization", ICLR 2017, section 2.1.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["gaussian_pixels", "random_pixels", "randomize_labels", "shuffle_pixels"]

_IMAGES_AT_ONCE = 4096  # bounds the memory of the random keys


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


def shuffle_pixels(*images: Tensor, generator: torch.Generator, channels: int = 1) -> tuple[Tensor, ...]:
    r"""Reorder the pixels by one fixed permutation, the same for all images of all sets.

    .. math:: \tilde x_{i,j} = x_{i,\pi(j)}, \qquad \pi \text{ uniform among the permutations of }
        \{1,\dots,d\}.

    Neighbourhoods are lost, and nothing else: norms and inner products stay as they are, so that a
    network without convolutions learns the images as well as before.

    Parameters
    ----------
    *images : torch.Tensor
        Sets of images, the training set and the test set say, each of shape (n, d) with the same d. They
        are not changed.
    generator : torch.Generator
        Source of randomness.
    channels : int, default 1
        Number of colours. An image is `channels` planes of d / `channels` pixels, and the colours of a
        pixel move together.

    Returns
    -------
    tuple of torch.Tensor
        As many sets as were given, with their shapes, types and devices.

    Raises
    ------
    ValueError
        If a set is not a matrix of finite floating-point numbers, their widths differ, or `channels`
        does not divide d.

    References
    ----------
    Zhang, Bengio, Hardt, Recht and Vinyals, "Understanding deep learning requires rethinking
    generalization", ICLR 2017, section 2.1, "shuffled pixels".

    Examples
    --------
    >>> x, x_test = torch.eye(4), torch.eye(4)
    >>> x, x_test = shuffle_pixels(x, x_test, generator=torch.Generator().manual_seed(0))
    >>> bool((x == x_test).all()), x.sum().item()
    (True, 4.0)
    """
    planes = _planes(images, channels)
    order = torch.randperm(planes[0].shape[2], generator=generator, device=generator.device)
    return tuple(p[:, :, order.to(p.device)].flatten(1) for p in planes)


def random_pixels(*images: Tensor, generator: torch.Generator, channels: int = 1) -> tuple[Tensor, ...]:
    r"""Reorder the pixels of each image by a permutation of its own.

    .. math:: \tilde x_{i,j} = x_{i,\pi_i(j)}, \qquad \pi_1, \pi_2, \dots \text{ independent and uniform.}

    An image keeps the values of its pixels, hence its norm, and nothing of where they were.

    Parameters
    ----------
    *images : torch.Tensor
        Sets of images, each of shape (n, d) with the same d. They are not changed.
    generator : torch.Generator
        Source of randomness.
    channels : int, default 1
        Number of colours, as in :func:`shuffle_pixels`.

    Returns
    -------
    tuple of torch.Tensor
        As many sets as were given, with their shapes, types and devices.

    Raises
    ------
    ValueError
        As :func:`shuffle_pixels` does.

    References
    ----------
    Zhang, Bengio, Hardt, Recht and Vinyals, "Understanding deep learning requires rethinking
    generalization", ICLR 2017, section 2.1, "random pixels".

    Examples
    --------
    >>> (x,) = random_pixels(torch.eye(3), generator=torch.Generator().manual_seed(0))
    >>> x.sum(dim=1)
    tensor([1., 1., 1.])
    """
    return tuple(_each_its_own_order(p, generator).flatten(1) for p in _planes(images, channels))


def gaussian_pixels(*images: Tensor, generator: torch.Generator, channels: int = 1) -> tuple[Tensor, ...]:
    r"""Replace all pixels by independent Gaussian noise with the training set's mean and variance.

    .. math:: \tilde x_{i,j} \sim \mathcal N(\mu, \sigma^2), \qquad \mu = \frac{1}{nd} \sum_{i,j} x_{i,j},
        \quad \sigma^2 = \frac{1}{nd} \sum_{i,j} (x_{i,j} - \mu)^2,

    over the first set; with several `channels`, each has a mean and a variance of its own. The expected
    squared norm of a new image, :math:`d(\mu^2 + \sigma^2)`, is the mean one of the old images; a single
    norm is not kept, so scale the result to unit norm where a theorem asks for it.

    Parameters
    ----------
    *images : torch.Tensor
        Sets of images, each of shape (n, d) with the same d; the first, the training set, gives mean and
        variance to all. They are not changed.
    generator : torch.Generator
        Source of randomness.
    channels : int, default 1
        Number of colours: an image is `channels` planes of d / `channels` pixels.

    Returns
    -------
    tuple of torch.Tensor
        As many sets as were given, with their shapes, types and devices.

    Raises
    ------
    ValueError
        As :func:`shuffle_pixels` does.

    References
    ----------
    Zhang, Bengio, Hardt, Recht and Vinyals, "Understanding deep learning requires rethinking
    generalization", ICLR 2017, section 2.1, "Gaussian".

    Examples
    --------
    >>> (x,) = gaussian_pixels(torch.full((2, 3), 0.5), generator=torch.Generator().manual_seed(0))
    >>> x  # a variance of zero leaves the mean
    tensor([[0.5000, 0.5000, 0.5000],
            [0.5000, 0.5000, 0.5000]])
    """
    planes = _planes(images, channels)
    variance, mean = torch.var_mean(planes[0], dim=(0, 2), correction=0, keepdim=True)
    return tuple(
        (mean.to(p.device) + variance.to(p.device).sqrt() * _noise(p, generator)).flatten(1) for p in planes
    )


def _planes(images: tuple[Tensor, ...], channels: int) -> list[Tensor]:
    """Check the sets, and view them as (n, channels, pixels)."""
    if not images:
        raise ValueError("images is empty; give at least one set of images")
    for i, x in enumerate(images):
        if x.ndim != 2 or 0 in x.shape or not x.is_floating_point():
            raise ValueError(
                f"images[{i}] must be a floating-point matrix (n, d), got {tuple(x.shape)}, {x.dtype}"
            )
        if not torch.isfinite(x).all():
            raise ValueError(f"images[{i}] holds NaN or infinity; remove those images")
        if x.shape[1] != images[0].shape[1]:
            raise ValueError(f"images[{i}] has d = {x.shape[1]}, images[0] has {images[0].shape[1]}")
    if channels < 1 or images[0].shape[1] % channels:
        raise ValueError(f"channels must divide d = {images[0].shape[1]}, got {channels}")
    return [x.unflatten(1, (channels, -1)) for x in images]


def _each_its_own_order(planes: Tensor, generator: torch.Generator) -> Tensor:
    """Sort each image's pixels by random keys, the same for all its channels."""
    shuffled = torch.empty_like(planes)
    for old, new in zip(planes.split(_IMAGES_AT_ONCE), shuffled.split(_IMAGES_AT_ONCE), strict=True):
        # float64: among a thousand keys in float32 two are often equal.
        size = (len(old), 1, old.shape[2])
        keys = torch.rand(size, generator=generator, device=generator.device, dtype=torch.float64)
        new.copy_(old.gather(2, keys.argsort(dim=2).to(old.device).expand_as(old)))
    return shuffled


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=generator.device, dtype=like.dtype).to(like)

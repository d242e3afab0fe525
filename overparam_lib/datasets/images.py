"""Image data sets as tensors. The embedded one, scikit-learn's handwritten digits, needs no network."""

from __future__ import annotations

from typing import NamedTuple

import torch

__all__ = ["ImageData", "load_images"]

_DIGITS_TEST = 497  # of 1,797 images: 1,300 are left for training
_DIGITS_SPLIT_SEED = 2718


class ImageData(NamedTuple):
    """A data set of images, split into a training and a test set.

    Attributes
    ----------
    x : torch.Tensor
        Training images, shape (n, d): pixels in row-major order.
    y : torch.Tensor
        Training labels, shape (n,), dtype int64.
    x_test, y_test : torch.Tensor
        The same for the test set.
    shape : tuple of int
        Channels, height and width of one image; their product is d.
    """

    x: torch.Tensor
    y: torch.Tensor
    x_test: torch.Tensor
    y_test: torch.Tensor
    shape: tuple[int, int, int]


def load_images(
    name: str = "digits",
    *,
    unit_norm: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> ImageData:
    r"""Load a data set of images.

    Parameters
    ----------
    name : str, default ``"digits"``
        ``"digits"``: 1,797 real handwritten digits of 8 × 8 pixels that come with scikit-learn, cut
        into 1,300 training and 497 test images by a fixed permutation.
    unit_norm : bool, default True
        Scale each image to :math:`\|x\|_2 = 1`, as the theorems assume; else pixels lie in [0, 1].
    device, dtype : optional
        Where and in which floating type the images are returned, as in :class:`torch.nn.Linear`.

    Returns
    -------
    ImageData
        Training and test set.

    Raises
    ------
    ValueError
        If there is no data set of that name.

    Examples
    --------
    >>> digits = load_images("digits")
    >>> digits.x.shape, digits.x_test.shape, digits.shape
    (torch.Size([1300, 64]), torch.Size([497, 64]), (1, 8, 8))
    """
    if name != "digits":
        raise ValueError(f"name must be one of ['digits'], got {name!r}")
    x, y = _digits()
    if unit_norm:
        x = x / x.norm(dim=1, keepdim=True)
    x = x.to(device=device, dtype=dtype or torch.get_default_dtype())
    y = y.to(device=device)
    return ImageData(x[:-_DIGITS_TEST], y[:-_DIGITS_TEST], x[-_DIGITS_TEST:], y[-_DIGITS_TEST:], (1, 8, 8))


def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    from sklearn.datasets import load_digits  # takes a second to import; only this data set needs it

    bunch = load_digits()
    x = torch.from_numpy(bunch.data) / 16.0
    y = torch.from_numpy(bunch.target).long()
    # The file lists the writers one after another: without a permutation the test set would hold
    # writers that the training set does not.
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(_DIGITS_SPLIT_SEED))
    return x[order], y[order]

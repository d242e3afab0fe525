"""Image data sets as tensors. The embedded one, scikit-learn's handwritten digits, needs no network."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from overparam_lib.datasets import files

__all__ = ["IMAGE_SETS", "ImageData", "ImageSet", "load_images"]

_CLASSES = 10
_DIGITS_TEST = 497  # of 1,797 images: 1,300 are left for training
_DIGITS_SPLIT_SEED = 2718
_CIFAR_BATCHES = (1, 2, 3, 4, 5)
_CIFAR_TEST = "cifar10/test_batch.bin"
_ROWS_AT_ONCE = 256  # so that the float64 copy stays in the processor's cache

Pair = tuple[Tensor, Tensor]  # training and test set, or images and labels


class ImageSet(NamedTuple):
    """The size of a data set.

    Attributes
    ----------
    train, test : int
        Numbers of images.
    shape : tuple of int
        Channels, height and width of one image.
    """

    train: int
    test: int
    shape: tuple[int, int, int]


IMAGE_SETS = {
    "digits": ImageSet(1300, _DIGITS_TEST, (1, 8, 8)),
    "mnist": ImageSet(60_000, 10_000, (1, 28, 28)),
    "fashion_mnist": ImageSet(60_000, 10_000, (1, 28, 28)),
    "cifar10": ImageSet(50_000, 10_000, (3, 32, 32)),
}


class ImageData(NamedTuple):
    """A data set of images, split into a training and a test set.

    Attributes
    ----------
    x : torch.Tensor
        Training images, shape (n, d): channel by channel, each in row-major order.
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
    batches: Sequence[int] | None = None,
    test_batches: Sequence[int] | None = None,
    root: str | os.PathLike | None = None,
    download: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> ImageData:
    r"""Load a data set of images.

    The files of all but the digits are looked for in `root`, else in the folder that the environment
    variable ``OVERPARAM_DATA`` names, else in the user's cache: at ``<folder>/<name>/<file>``, and then
    at ``<folder>/<file>``. A file that is there is used if it has the SHA-256 of the published one;
    otherwise it is downloaded to ``<folder>/<name>/<file>``.

    Parameters
    ----------
    name : str, default ``"digits"``
        ``"digits"``: 1,797 real handwritten digits of 8 × 8 pixels that come with scikit-learn, cut
        into 1,300 training and 497 test images by a fixed permutation. ``"mnist"`` (digits) and
        ``"fashion_mnist"`` (clothes): 60,000 and 10,000 images of 28 × 28 pixels. ``"cifar10"`` (objects
        and animals): 50,000 and 10,000 images of 3 × 32 × 32, red plane first. Each has ten classes, and
        keeps the order of its files.
    unit_norm : bool, default True
        Scale each image to :math:`\|x\|_2 = 1`, as the theorems assume; else pixels lie in [0, 1].
    batches : sequence of int, optional
        CIFAR-10 only: which of the training batches 1 to 5, of 10,000 images each, to train on, in that
        order; by default all five. Only the files that are needed are looked for.
    test_batches : sequence of int, optional
        CIFAR-10 only: the training batches to hold out as the test set, in place of the official test
        batch. What is measured on them is not the CIFAR-10 test error, and should not be called so.
    root : path, optional
        Folder of the files.
    download : bool, default True
        Whether missing files may be downloaded.
    device, dtype : optional
        Where and in which floating type the images are returned, as in :class:`torch.nn.Linear`.

    Returns
    -------
    ImageData
        Training and test set.

    Raises
    ------
    ValueError
        If there is no data set of that name, `batches` and `test_batches` are not disjoint choices from
        1 to 5, or `dtype` is not a floating type.
    DataError
        If a file is missing or corrupt and cannot be downloaded whole. The message says which, and what
        to do; nothing is left half written.

    Examples
    --------
    >>> digits = load_images("digits")
    >>> digits.x.shape, digits.x_test.shape, digits.shape
    (torch.Size([1300, 64]), torch.Size([497, 64]), (1, 8, 8))
    """
    if name not in IMAGE_SETS:
        raise ValueError(f"name must be one of {list(IMAGE_SETS)}, got {name!r}")
    dtype = dtype or torch.get_default_dtype()
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating type, got {dtype}")
    where = {"root": root, "download": download}
    if name == "cifar10":
        pixels, labels = _cifar(*_chosen(batches, test_batches), **where)
    elif batches is not None or test_batches is not None:
        raise ValueError(f"batches and test_batches are for 'cifar10' alone; {name!r} has none")
    else:
        pixels, labels = _digits() if name == "digits" else _idx_set(name, **where)
    top = 16 if name == "digits" else 255
    x, x_test = (_scaled(p, top, unit_norm, device, dtype) for p in pixels)
    y, y_test = (t.to(device=device, dtype=torch.int64) for t in labels)
    return ImageData(x, y, x_test, y_test, IMAGE_SETS[name].shape)


def _digits() -> tuple[Pair, Pair]:
    from sklearn.datasets import load_digits  # takes a second to import; only this data set needs it

    bunch = load_digits()
    x, y = torch.from_numpy(bunch.data), torch.from_numpy(bunch.target)
    # The file lists the writers one after another: without a permutation the test set would hold
    # writers that the training set does not.
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(_DIGITS_SPLIT_SEED))
    train, test = order[:-_DIGITS_TEST], order[-_DIGITS_TEST:]
    return (x[train], x[test]), (y[train], y[test])


def _idx_set(name: str, **where) -> tuple[Pair, Pair]:
    _, height, width = IMAGE_SETS[name].shape
    pixels, labels = [], []
    for part in ("train", "t10k"):
        x = _idx(f"{name}/{part}-images-idx3-ubyte.gz", (height, width), **where)
        labelled = f"{name}/{part}-labels-idx1-ubyte.gz"
        y = _labels(_idx(labelled, (), **where), labelled, where["root"])
        if len(x) != len(y):
            raise files.problem(labelled, f"{len(y)} labels are for {len(x)} images", root=where["root"])
        pixels.append(x.flatten(1))
        labels.append(y)
    return tuple(pixels), tuple(labels)


def _idx(name: str, item: tuple[int, ...], *, root, download: bool) -> Tensor:
    """Parse an IDX file of bytes: 0, 0, 8, number of dimensions; the dimensions, big-endian; the values."""
    packed = files.read(name, root=root, download=download)
    try:
        raw = gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise files.problem(name, f"it is not a whole gzip file ({error})", root=root) from error
    start = 4 + 4 * (1 + len(item))
    if raw[:4] != bytes((0, 0, 8, 1 + len(item))) or len(raw) < start:
        reason = f"it does not begin like an IDX file of bytes in {1 + len(item)} dimensions"
        raise files.problem(name, reason, root=root)
    shape = struct.unpack_from(f">{1 + len(item)}I", raw, 4)
    if shape[1:] != item or shape[0] == 0 or len(raw) - start != math.prod(shape):
        reason = f"its header says {shape}, and {len(raw) - start:,} values follow"
        raise files.problem(name, reason, root=root)
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=start).reshape(shape).copy())


def _labels(y: Tensor, name: str, root) -> Tensor:
    if y.max() >= _CLASSES:
        raise files.problem(name, f"a label is {int(y.max())}; there are {_CLASSES} classes", root=root)
    return y


def _chosen(batches: Sequence[int] | None, test_batches: Sequence[int] | None) -> tuple[list[str], list[str]]:
    """Name the files to train and to test on."""
    for argument, chosen in (("batches", batches), ("test_batches", test_batches)):
        known = chosen is None or (set(chosen) <= set(_CIFAR_BATCHES) and len(set(chosen)) == len(chosen) > 0)
        if not known:
            raise ValueError(f"{argument} must be different numbers from 1 to 5, got {chosen!r}")
    train = _CIFAR_BATCHES if batches is None else batches
    if set(train) & set(test_batches or ()):
        raise ValueError(f"batches {train} and test_batches {test_batches} overlap; hold out others")
    names = ([f"cifar10/data_batch_{int(i)}.bin" for i in chosen] for chosen in (train, test_batches or ()))
    train, held_out = names
    return train, held_out or [_CIFAR_TEST]


def _cifar(train: list[str], test: list[str], **where) -> tuple[Pair, Pair]:
    x, y = _cifar_batches(train, **where)
    try:
        x_test, y_test = _cifar_batches(test, **where)
    except files.DataError as error:
        if test != [_CIFAR_TEST]:
            raise
        hint = "Or hold out a training batch instead: batches=(1, 2, 3, 4), test_batches=(5,)."
        raise files.DataError(f"{error}\n{hint}") from error
    return (x, x_test), (y, y_test)


def _cifar_batches(names: list[str], **where) -> Pair:
    pixels, labels = zip(*(_cifar_batch(name, **where) for name in names), strict=True)
    return torch.cat(pixels), torch.cat(labels)


def _cifar_batch(name: str, *, root, download: bool) -> Pair:
    """Split a binary batch into pixels and labels: records of one byte of label and 3 × 32 × 32 of pixels."""
    raw = files.read(name, root=root, download=download)
    record = 1 + math.prod(IMAGE_SETS["cifar10"].shape)
    if not raw or len(raw) % record:
        raise files.problem(name, f"{len(raw):,} bytes are no whole number of images", root=root)
    table = torch.from_numpy(np.frombuffer(raw, np.uint8).reshape(-1, record).copy())
    return table[:, 1:], _labels(table[:, 0], name, root)


def _scaled(pixels: Tensor, top: int, unit_norm: bool, device, dtype: torch.dtype) -> Tensor:
    """Scale pixels in 0..top to [0, 1], or to unit vectors: computed in float64, then rounded."""
    x = torch.empty(pixels.shape, device=device, dtype=dtype)
    for some, into in zip(pixels.split(_ROWS_AT_ONCE), x.split(_ROWS_AT_ONCE), strict=True):
        exact = some.to(torch.float64) / top
        into.copy_(exact / exact.norm(dim=1, keepdim=True) if unit_norm else exact)
    return x

"""The embedded digits, and the published data sets on their real files."""

import functools
import re
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch
from sklearn.datasets import load_digits

from overparam_lib.datasets import DataError, files, load_images
from overparam_lib.datasets.images import IMAGE_SETS


def test_digits_are_scikit_learns_split_once():
    data = load_images("digits", unit_norm=False, dtype=torch.float64)
    assert data.x.shape == (1300, 64) and data.x_test.shape == (497, 64) and data.shape == (1, 8, 8)
    ours = np.column_stack([np.vstack([data.x, data.x_test]), np.hstack([data.y, data.y_test])])
    source = load_digits()
    theirs = np.column_stack([source.data / 16, source.target])
    assert not np.array_equal(ours, theirs)  # permuted, so that both sets hold all writers
    order = [np.lexsort(table.T) for table in (ours, theirs)]
    np.testing.assert_array_equal(ours[order[0]], theirs[order[1]])
    again = load_images("digits", unit_norm=False, dtype=torch.float64)
    assert torch.equal(data.x, again.x) and torch.equal(data.y_test, again.y_test)


def test_both_sets_hold_all_ten_classes_in_similar_shares():
    data = load_images("digits")
    for y in (data.y, data.y_test):
        shares = torch.bincount(y, minlength=10) / len(y)
        assert shares.min() > 0.07 and shares.max() < 0.13


def test_unit_norm_scales_images_and_nothing_else():
    unit, raw = (load_images("digits", unit_norm=u, dtype=torch.float64) for u in (True, False))
    torch.testing.assert_close(unit.x.norm(dim=1), torch.ones(1300, dtype=torch.float64))
    torch.testing.assert_close(unit.x * raw.x.norm(dim=1, keepdim=True), raw.x)
    assert 0 <= raw.x.min() and raw.x.max() == 1


def test_dtype_is_the_default_unless_asked_for():
    assert load_images("digits").x.dtype == torch.get_default_dtype()
    assert load_images("digits", dtype=torch.float16).x_test.dtype == torch.float16
    assert load_images("digits").y.dtype == torch.int64


def test_unknown_name_is_refused():
    with pytest.raises(ValueError, match="'digits'.*got 'imagenet'"):
        load_images("imagenet")


def real(name, **options):
    """A data set from the real files, which `OVERPARAM_DATA` or the cache must hold."""
    try:
        return load_images(name, download=False, **options)
    except DataError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def raw():
    """The sets in [0, 1], read once."""
    return functools.cache(lambda name, **options: real(name, unit_norm=False, **options))


CIFAR = {"batches": (1,), "test_batches": (5,)}
SETS = [("mnist", {}), ("fashion_mnist", {}), ("cifar10", CIFAR)]


@pytest.mark.parametrize(("name", "options"), SETS, ids=[name for name, _ in SETS])
def test_real_sets_have_their_size_and_range(raw, name, options):
    data, size = raw(name, **options), IMAGE_SETS[name]
    n = len(options["batches"]) * 10_000 if options else size.train
    d = size.shape[0] * size.shape[1] * size.shape[2]
    assert data.x.shape == (n, d) and data.x_test.shape == (10_000, d) and data.shape == size.shape
    assert data.y.shape == (n,) and data.y_test.shape == (10_000,)
    assert data.y.dtype == data.y_test.dtype == torch.int64
    for x in (data.x, data.x_test):
        assert x.dtype == torch.float32 and x.min() == 0 and x.max() == 1 and x.is_contiguous()


def pixel_sum(x):
    return int((x * 255).round().sum(dtype=torch.float64))


def test_mnist_is_the_published_one(raw):
    data = raw("mnist")
    assert data.y[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.y_test[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert data.y.bincount().tolist() == counts
    assert data.y_test.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert pixel_sum(data.x) == 1_567_298_545 and pixel_sum(data.x[:1]) == 27_525
    assert pixel_sum(data.x_test) == 264_923_200 and pixel_sum(data.x_test[-1:]) == 41_833


def test_fashion_mnist_is_the_published_one(raw):
    data = raw("fashion_mnist")
    assert data.y[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert data.y_test[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    assert data.y.bincount().tolist() == [6000] * 10 and data.y_test.bincount().tolist() == [1000] * 10
    assert pixel_sum(data.x) == 3_431_114_169 and pixel_sum(data.x_test[:1]) == 33_456


def test_cifar10_is_the_published_one(raw):
    data = raw("cifar10", **CIFAR)
    assert data.y[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert data.y.bincount().tolist() == [1005, 974, 1032, 1016, 999, 937, 1030, 1001, 1025, 981]
    assert pixel_sum(data.x) == 3_718_380_578 and pixel_sum(data.x_test) == 3_711_772_382
    # The planes of the whole training set have these means; each batch is within a standard error or so.
    means = data.x.unflatten(1, (3, 1024)).mean(dim=(0, 2))
    torch.testing.assert_close(means, torch.tensor([0.4914, 0.48216, 0.44653]), atol=0.005, rtol=0)


def test_a_row_is_an_image_row_by_row(raw):
    """The zero that is MNIST's second image is dark in the middle and at the corners, light around."""
    zero = raw("mnist").x[1].reshape(28, 28)
    assert zero[13:15, 13:15].max() == 0 and zero[:3].max() == 0
    assert zero[13, :13].max() > 0.5 and zero[13, 15:].max() > 0.5 and zero[15:, 13].max() > 0.5


@pytest.mark.parametrize(("name", "options"), SETS, ids=[name for name, _ in SETS])
def test_real_images_have_unit_norm_and_keep_their_direction(raw, name, options):
    unit, data = real(name, dtype=torch.float64, **options).x_test, raw(name, **options).x_test.double()
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(10_000, dtype=torch.float64))
    torch.testing.assert_close(unit * data.norm(dim=1, keepdim=True), data, atol=1e-7, rtol=1e-6)


def test_the_registry_lists_what_the_sets_consist_of():
    assert {name: len(files.files_of(name)) for name in IMAGE_SETS} == {
        "digits": 0,
        "mnist": 4,
        "fashion_mnist": 4,
        "cifar10": 6,
    }
    for file in files.registry().values():
        assert re.fullmatch("[0-9a-f]{64}", file.sha256) and file.size > 0
        origin = files.registry().get(file.source, file).source
        assert re.fullmatch(r"https?://\S+\.gz", origin)
        assert Path(origin).name == Path(file.name).name or origin.endswith(".tar.gz")


def test_the_folder_is_root_else_the_variable_else_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("OVERPARAM_DATA", str(tmp_path))
    assert files.cache_folder() == tmp_path and files.cache_folder(tmp_path / "a") == tmp_path / "a"
    monkeypatch.setenv("OVERPARAM_DATA", "~/data")
    assert files.cache_folder() == Path.home() / "data"
    monkeypatch.setenv("OVERPARAM_DATA", "")
    assert files.cache_folder() == pooch.os_cache("overparam")
    monkeypatch.delenv("OVERPARAM_DATA")
    assert files.cache_folder() == pooch.os_cache("overparam")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mnist", {"batches": (1,)}, "for 'cifar10' alone; 'mnist' has none"),
        ("digits", {"test_batches": (1,)}, "for 'cifar10' alone"),
        ("cifar10", {"batches": ()}, r"batches must be different numbers from 1 to 5, got \(\)"),
        ("cifar10", {"batches": (0, 1)}, "batches must be different numbers"),
        ("cifar10", {"batches": (1, 1)}, "batches must be different numbers"),
        ("cifar10", {"test_batches": (6,)}, "test_batches must be different numbers"),
        ("cifar10", {"test_batches": []}, "test_batches must be different numbers"),
        ("cifar10", {"test_batches": (5,)}, r"batches \(1, 2, 3, 4, 5\) and test_batches \(5,\) overlap"),
        ("digits", {"dtype": torch.uint8}, "dtype must be a floating type, got torch.uint8"),
    ],
)
def test_bad_choices_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        load_images(name, **options)

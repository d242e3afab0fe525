"""The embedded digits."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from overparam_lib.datasets import load_images


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

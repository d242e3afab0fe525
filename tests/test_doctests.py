"""The examples in the docstrings run and show what they say."""

import doctest
import importlib
import pkgutil

import pytest

import overparam_lib

MODULES = [module.name for module in pkgutil.walk_packages(overparam_lib.__path__, "overparam_lib.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, monkeypatch):
    monkeypatch.setenv("OVERPARAM_PROFILE", "cpu")  # restored even if an example sets it
    monkeypatch.delenv("OVERPARAM_CLAIM_LOG", raising=False)
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples():
    found = sum(
        len(t.examples)
        for name in MODULES
        for t in doctest.DocTestFinder().find(importlib.import_module(name))
    )
    assert found >= 15

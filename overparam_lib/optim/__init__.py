"""Optimizers that are no part of PyTorch."""

from overparam_lib.optim.gram_gauss_newton import GramGaussNewton

__all__ = ["GramGaussNewton"]

"""Neural tangent kernels: objects that carry their parameterization and are called on inputs."""

from overparam_lib.kernels.analytic import MLPNTK, AnalyticKernel, TwoLayerNTK

__all__ = ["MLPNTK", "AnalyticKernel", "TwoLayerNTK"]

"""Neural tangent kernels: objects that carry their parameterization and are called on inputs."""

from overparam_lib.kernels.analytic import MLPNTK, AnalyticKernel, TwoLayerNTK
from overparam_lib.kernels.dynamics import KernelDynamics

__all__ = ["MLPNTK", "AnalyticKernel", "KernelDynamics", "TwoLayerNTK"]

"""Neural tangent kernels: objects that carry their parameterization and are called on inputs."""

from overparam_lib.kernels.analytic import MLPNTK, AnalyticKernel, TwoLayerNTK
from overparam_lib.kernels.dynamics import KernelDynamics
from overparam_lib.kernels.empirical import EmpiricalNTK
from overparam_lib.kernels.gram import Cross, Gram, SingularGramError, Solution, gram

__all__ = [
    "MLPNTK",
    "AnalyticKernel",
    "Cross",
    "EmpiricalNTK",
    "Gram",
    "KernelDynamics",
    "SingularGramError",
    "Solution",
    "TwoLayerNTK",
    "gram",
]

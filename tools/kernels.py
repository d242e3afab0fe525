"""The environment variables under which the lectures' kernels run."""

from __future__ import annotations

import os

# One thread: with both cores busy, two threads a process make small networks several times slower.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

# What makes two runs of a lecture store the same outputs.
REPRODUCIBLE = {
    **ONE_THREAD,
    "OVERPARAM_PROFILE": "cpu",
    "PYTHONHASHSEED": "0",
    "TQDM_DISABLE": "1",
}

# The arithmetic of an older processor: stored outputs must not depend on the newest instructions.
PORTABLE = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}

# The agg backend takes the figures out of the outputs; a log of claims belongs to the checks alone.
_UNWANTED = ("MPLBACKEND", "OVERPARAM_CLAIM_LOG")


def kernel_environment(**extra: str) -> dict[str, str]:
    """Return this process's environment, with what a reproducible kernel needs in it."""
    inherited = {key: value for key, value in os.environ.items() if key not in _UNWANTED}
    return {**inherited, **REPRODUCIBLE, **extra}

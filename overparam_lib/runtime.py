"""Where a program runs: profile, device, seeded generators, and a description of the machine.

The book's lectures run at two sizes. Under the ``"cpu"`` profile they finish within a minute on two
cores; under ``"gpu"`` they use the full widths. A lecture asks :func:`by_profile` for each size, so
that the same cells serve both.
"""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Literal, TypeVar

import torch

__all__ = ["by_profile", "data_folder", "describe", "device", "generator", "profile"]

T = TypeVar("T")
_PROFILES = ("cpu", "gpu")


def profile() -> Literal["cpu", "gpu"]:
    """Return the profile in force.

    Returns
    -------
    str
        The value of the environment variable ``OVERPARAM_PROFILE`` if it is set, else ``"gpu"`` where
        CUDA is available and ``"cpu"`` elsewhere.

    Raises
    ------
    ValueError
        If ``OVERPARAM_PROFILE`` is neither ``cpu`` nor ``gpu``.
    """
    chosen = os.environ.get("OVERPARAM_PROFILE", "")
    if not chosen:
        return "gpu" if torch.cuda.is_available() else "cpu"
    if chosen not in _PROFILES:
        raise ValueError(f"OVERPARAM_PROFILE is {chosen!r}; set it to 'cpu' or 'gpu', or unset it")
    return chosen


def by_profile(*, cpu: T, gpu: T) -> T:
    """Return the argument that belongs to the profile in force.

    Parameters
    ----------
    cpu, gpu : object
        The value under each profile.

    Returns
    -------
    object
        ``cpu`` or ``gpu``.

    Examples
    --------
    >>> import os
    >>> os.environ["OVERPARAM_PROFILE"] = "cpu"
    >>> by_profile(cpu=4096, gpu=65536)
    4096
    """
    return {"cpu": cpu, "gpu": gpu}[profile()]


def device() -> torch.device:
    """Return the device on which the profile in force computes.

    Returns
    -------
    torch.device
        ``cuda`` under the ``"gpu"`` profile, ``cpu`` under the ``"cpu"`` profile.

    Raises
    ------
    RuntimeError
        If the profile is ``"gpu"`` and this PyTorch sees no CUDA device.
    """
    if profile() == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RuntimeError("OVERPARAM_PROFILE is 'gpu' but PyTorch sees no CUDA device; set it to 'cpu'")
    return torch.device("cuda")


def generator(seed: int, *, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a new generator with the given seed; PyTorch's global generator is left alone.

    Parameters
    ----------
    seed : int
        Any integer that :meth:`torch.Generator.manual_seed` takes.
    device : torch.device or str, default ``"cpu"``
        Where the numbers are drawn. The library moves what it draws, so that the default gives the
        same random numbers to a computation on any device.

    Returns
    -------
    torch.Generator
        The seeded generator.

    Raises
    ------
    ValueError
        If `seed` is not an integer.

    Examples
    --------
    >>> import torch
    >>> a, b = (torch.rand(3, generator=generator(7)) for _ in range(2))
    >>> bool((a == b).all())
    True
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"seed must be an integer, got {seed!r}")
    return torch.Generator(device=device).manual_seed(seed)


def describe() -> str:
    """Describe the run: library versions, profile, device and number of threads.

    Returns
    -------
    str
        A few lines of text. They differ from machine to machine, so a lecture prints them in the one
        cell whose output is not compared.
    """
    versions = ", ".join(f"{name} {_version(name)}" for name in ("torch", "numpy", "matplotlib"))
    return "\n".join(
        [
            f"overparam_lib {_version('overparam_lib')} (Python {platform.python_version()}, {versions})",
            f"profile {profile()}, device {_device_name()}, {torch.get_num_threads()} threads",
        ]
    )


def data_folder() -> Path:
    """Return the folder of the files that travel with the library (recordings, hashes).

    Returns
    -------
    pathlib.Path
        ``data/`` of the checkout when the library runs from one, else the copy inside the installed
        package.

    Raises
    ------
    FileNotFoundError
        If neither is there, which means that the installation is incomplete.
    """
    package = Path(__file__).resolve().parent
    installed = package / "_data"
    if installed.is_dir():
        return installed
    if (package.parent / "pyproject.toml").is_file() and (package.parent / "data").is_dir():
        return package.parent / "data"
    raise FileNotFoundError(f"no data folder in {package} nor beside it; reinstall overparam_lib")


def _version(name: str) -> str:
    try:
        return metadata.version(name.replace("_", "-"))
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _device_name() -> str:
    where = device()
    return torch.cuda.get_device_name(where) if where.type == "cuda" else f"cpu ({platform.machine()})"

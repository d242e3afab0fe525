"""Profile, device, generators, and the folder of the files that travel with the library."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from overparam_lib import runtime


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_environment_variable_sets_the_profile(monkeypatch, name):
    monkeypatch.setenv("OVERPARAM_PROFILE", name)
    assert runtime.profile() == name
    assert runtime.by_profile(cpu=["cpu"], gpu=["gpu"]) == [name]


@pytest.mark.parametrize("cuda", [False, True])
def test_without_the_variable_the_profile_follows_cuda(monkeypatch, cuda):
    monkeypatch.delenv("OVERPARAM_PROFILE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert runtime.profile() == ("gpu" if cuda else "cpu")
    assert runtime.device().type == ("cuda" if cuda else "cpu")


def test_cpu_profile_computes_on_the_cpu_even_where_cuda_is(monkeypatch):
    monkeypatch.setenv("OVERPARAM_PROFILE", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert runtime.device() == torch.device("cpu")


def test_gpu_profile_without_a_gpu_says_what_to_do(monkeypatch):
    monkeypatch.setenv("OVERPARAM_PROFILE", "gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="set it to 'cpu'"):
        runtime.device()


def test_unknown_profile_is_refused(monkeypatch):
    monkeypatch.setenv("OVERPARAM_PROFILE", "tpu")
    with pytest.raises(ValueError, match="OVERPARAM_PROFILE is 'tpu'"):
        runtime.profile()


def test_generator_is_seeded_and_leaves_the_global_one_alone():
    before = torch.random.get_rng_state()
    draws = [torch.randn(5, generator=runtime.generator(seed)) for seed in (3, 3, 4)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("seed", [1.0, "1", None, True])
def test_generator_refuses_what_is_not_an_integer(seed):
    with pytest.raises(ValueError, match="seed must be an integer"):
        runtime.generator(seed)


def test_describe_names_versions_profile_and_device(monkeypatch):
    monkeypatch.setenv("OVERPARAM_PROFILE", "cpu")
    text = runtime.describe()
    assert f"torch {torch.__version__.split('+')[0]}" in text
    assert "profile cpu, device cpu" in text
    assert f"{torch.get_num_threads()} threads" in text


def test_data_folder_of_a_checkout_is_the_top_level_one():
    assert runtime.data_folder() == Path(runtime.__file__).parents[1] / "data"


def test_data_folder_of_an_installed_package_is_inside_it(tmp_path):
    package = tmp_path / "overparam_lib"
    package.mkdir()
    shutil.copy(runtime.__file__, package / "runtime.py")
    (package / "__init__.py").touch()
    code = "from overparam_lib.runtime import data_folder; print(data_folder())"
    run = [sys.executable, "-c", code]
    without = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    assert "FileNotFoundError" in without.stderr and "reinstall" in without.stderr
    (package / "_data").mkdir()
    with_data = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert with_data.stdout.strip() == str(package.resolve() / "_data")


@pytest.mark.gpu
def test_generator_gives_the_same_numbers_to_a_gpu_run():
    on_gpu = torch.randn(5, generator=runtime.generator(0)).to("cuda")
    assert torch.equal(on_gpu.cpu(), torch.randn(5, generator=runtime.generator(0)))

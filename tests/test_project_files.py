"""Licenses, citation, changelog and hooks agree with the package and with one another."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import tomllib
import yaml

import overparam_lib
from tools import ROOT


def read(name):
    return (ROOT / name).read_text("utf-8")


def test_the_licenses_are_named_alike_everywhere():
    project = tomllib.loads(read("pyproject.toml"))["project"]
    assert project["license"] == "BSD-3-Clause" and project["license-files"] == ["LICENSE"]
    assert read("LICENSE").startswith("BSD 3-Clause License\n\nCopyright (c) 2026")
    assert "SPDX-License-Identifier: CC-BY-4.0\n" in read("LICENSE-text")
    assert "https://creativecommons.org/licenses/by/4.0/legalcode\n" in read("LICENSE-text")
    assert yaml.safe_load(read("CITATION.cff"))["license"] == ["BSD-3-Clause", "CC-BY-4.0"]
    for name in ("BSD-3-Clause", "CC-BY-4.0", "LICENSE-text", "CITATION.cff"):
        assert name in read("README.md")


def test_one_version_is_told():
    version = overparam_lib.__version__
    assert tomllib.loads(read("pyproject.toml"))["project"]["version"] == version
    assert yaml.safe_load(read("CITATION.cff"))["version"] == version
    assert re.search(r"^## \[(.*?)\]", read("CHANGELOG.md"), re.M)[1] in (version, "Unreleased")


def test_the_citation_has_what_its_format_demands():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["message"] and citation["title"]
    assert citation["authors"] == [{"name": "The authors of Over-parameterized Learning"}]


def hooks():
    return yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]


def test_hooks_are_local_and_call_what_the_environment_has():
    assert [repository["repo"] for repository in hooks()] == ["local"]
    for hook in hooks()[0]["hooks"]:
        program, *arguments = shlex.split(hook["entry"])
        assert hook["language"] == "system"
        assert program.startswith(".venv/bin/")
        assert (Path(sys.executable).parent / Path(program).name).exists()
        assert all((ROOT / a).exists() for a in arguments if "/" in a)


@pytest.mark.parametrize(
    ("path", "looked_at"),
    [
        ("chapters/2_clustered_data/3_what_sgd_does.ipynb", True),
        ("tools/hygiene.py", True),
        ("chapters/2_clustered_data/index.md", False),
    ],
)
def test_the_hook_for_lectures_looks_at_lectures(path, looked_at):
    (pattern,) = (hook["files"] for hook in hooks()[0]["hooks"] if hook["id"] == "lectures")
    assert bool(re.search(pattern, path)) is looked_at


def targets(text):
    return set(re.findall(r"^([a-z-]+):", text, re.M))


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "intro.md"])
def test_every_command_that_a_page_names_exists(page):
    code = "\n".join(re.findall(r"```.*?```|`[^`]+`", read(page), re.S))
    named = set(re.findall(r"\bmake ([a-z-]+)", code))
    assert named and named <= targets(read("Makefile"))


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_to_files_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", read(page))
    assert links and all((ROOT / link).exists() for link in links)

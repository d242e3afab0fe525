"""The workflows call what there is, with pinned actions and no more rights than they need."""

import re

import pytest
import yaml

from tools import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
_PERMITTED = {"contents: read", "contents: write", "pages: write", "id-token: write"}


def load(path):
    workflow = yaml.safe_load(path.read_text("utf-8"))
    return {"on" if key is True else key: value for key, value in workflow.items()}  # YAML 1.1 reads `on` so


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def targets(workflow):
    """The make targets that a workflow calls."""
    lines = [line for step in steps(workflow) for line in step.get("run", "").splitlines()]
    called = (re.match(r"make ([^#]*)", line.strip()) for line in lines)
    return [word for found in called if found for word in found[1].split() if "=" not in word]


def test_there_are_two():
    assert [path.name for path in WORKFLOWS] == ["publish.yml", "test.yml"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_target_exists(path):
    makefile = (ROOT / "Makefile").read_text("utf-8")
    called = targets(load(path))
    assert called
    assert [name for name in called if not re.search(rf"^{name}:", makefile, re.M)] == []


def test_a_workflow_calls_what_it_is_for():
    test, publish = load(WORKFLOWS[1]), load(WORKFLOWS[0])
    assert targets(test) == ["env", "test"]
    assert targets(publish) == ["env", "twins"]
    assert re.search(r"^twins: book\b", (ROOT / "Makefile").read_text("utf-8"), re.M)
    assert publish["env"]["REPOSITORY"] == "https://github.com/${{ github.repository }}"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_githubs_own_at_a_major_version(path):
    used = [step["uses"] for step in steps(load(path)) if "uses" in step]
    assert used and all(re.fullmatch(r"actions/[\w-]+@v\d+", name) for name in used)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_permissions_are_few(path):
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        given = {f"{key}: {value}" for key, value in job.get("permissions", {}).items()}
        assert given <= _PERMITTED
        # What may write runs none of the book's code.
        writes = any(right.endswith("write") for right in given)
        assert not (writes and any("make" in step.get("run", "") for step in job["steps"])), name
        assert "pull_request" not in workflow["on"] or not writes


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_python_is_the_locks(path):
    versions = [s["with"]["python-version"] for s in steps(load(path)) if "setup-python" in s.get("uses", "")]
    assert versions == ["3.11"]


def test_a_missing_target_is_found():
    workflow = {"jobs": {"a": {"steps": [{"run": "echo\nmake env X=1 \nmake nothing  # why"}]}}}
    assert targets(workflow) == ["env", "nothing"]

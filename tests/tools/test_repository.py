"""The repository's address: from the setting, else from a GitHub remote."""

import subprocess

import pytest

from tools.repository import address, theme_options

ADDRESS = "https://github.com/someone/a-book.2"


@pytest.fixture
def checkout(tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    return tmp_path


def set_origin(folder, url):
    subprocess.run(["git", "-C", str(folder), "remote", "add", "origin", url], check=True)


def test_no_address_is_known_without_a_remote(checkout):
    assert address({}, checkout) is None


@pytest.mark.parametrize(
    "url",
    [
        ADDRESS,
        ADDRESS + ".git",
        "git@github.com:someone/a-book.2.git",
        "ssh://git@github.com/someone/a-book.2.git",
        "https://someone:secret@github.com/someone/a-book.2",
    ],
)
def test_a_github_remote_is_the_address(checkout, url):
    set_origin(checkout, url)
    assert address({}, checkout) == ADDRESS


@pytest.mark.parametrize("url", ["/srv/git/book", "https://example.org/someone/book", "../book"])
def test_another_remote_is_not(checkout, url):
    set_origin(checkout, url)
    assert address({}, checkout) is None


def test_the_setting_comes_first(checkout):
    set_origin(checkout, "https://github.com/other/book")
    assert address({"REPOSITORY": ADDRESS}, checkout) == ADDRESS


def test_a_setting_that_is_no_address_is_refused(checkout):
    with pytest.raises(SystemExit, match="must look like https://github.com/OWNER/NAME"):
        address({"REPOSITORY": "my book"}, checkout)


def test_buttons_need_the_address():
    assert theme_options(None) == {}
    options = theme_options(ADDRESS)
    assert options["repository_url"] == ADDRESS
    assert set(options["launch_buttons"]) == {"notebook_interface", "binderhub_url", "colab_url", "thebe"}

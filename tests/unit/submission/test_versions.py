import subprocess
import sys

import pytest
from gmt_launchers.submission.versions import (
    compare_command,
    own_versions,
    print_command,
    printed_versions,
    require_same,
)

from gmt.errors import UserError


def shell(command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, shell=True, capture_output=True, text=True, timeout=240, check=False)


def test_an_environment_has_its_own_versions() -> None:
    require_same("the cluster", own_versions())
    assert shell(compare_command(sys.executable)).returncode == 0
    assert printed_versions("a line\n" + shell(print_command(sys.executable)).stdout + "another\n") == own_versions()


def test_each_difference_is_a_sentence_and_pythons_patch_version_does_not_count() -> None:
    require_same("the cluster", {"Python": ".".join(own_versions()["Python"].split(".")[:2]) + ".99"})
    with pytest.raises(UserError) as caught:
        require_same("the cluster", {"Python": "3.14.1", "Ray": "2.61.0", "gmt-lab": None})
    assert [sentence.rpartition("got ")[2] for sentence in caught.value.sentences] == ["3.14.1", "2.61.0", "none"]
    command = compare_command(sys.executable).replace(f"Ray={own_versions()['Ray']}", "Ray=2.1.0")
    done = shell(command)
    assert done.returncode == 1
    assert (
        done.stderr
        == f"error: this environment must have Ray 2.1.0 as the machine that submits, got {own_versions()['Ray']}\n"
    )


def test_output_without_versions_gives_none() -> None:
    assert printed_versions("sh: python: not found\n") is None

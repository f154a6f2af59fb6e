import subprocess
import sys

import pytest
from gmt_launchers.submission.versions import answer, demand, here, question, require_same

from gmt.errors import UserError


def shell(command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, shell=True, capture_output=True, text=True, timeout=240, check=False)


def test_the_same_environment_is_the_same() -> None:
    require_same("the cluster", here())
    assert shell(demand(sys.executable)).returncode == 0
    assert answer("a line\n" + shell(question(sys.executable)).stdout + "another\n") == here()


def test_each_difference_is_a_sentence_and_pythons_patch_is_none() -> None:
    require_same("the cluster", {"Python": ".".join(here()["Python"].split(".")[:2]) + ".99"})
    with pytest.raises(UserError) as caught:
        require_same("the cluster", {"Python": "3.14.1", "Ray": "2.61.0", "gmt-lab": None})
    assert [sentence.rpartition("got ")[2] for sentence in caught.value.sentences] == ["3.14.1", "2.61.0", "none"]
    command = demand(sys.executable).replace(f"Ray={here()['Ray']}", "Ray=2.1.0")
    done = shell(command)
    assert done.returncode == 1
    assert (
        done.stderr == f"error: this environment must have Ray 2.1.0 as the machine that submits, got {here()['Ray']}\n"
    )


def test_what_says_nothing_has_no_answer() -> None:
    assert answer("sh: python: not found\n") is None

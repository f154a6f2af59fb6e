"""Questions with one right answer: how the answer is found in what a model says."""

import os
import re
import signal
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmt.errors import MachineFault, UserError
from gmt.tasks import answers
from gmt.tasks.answer_search import answer_in
from gmt.tasks.answers import find_answer
from tests.unit.tasks.test_dataset import held_out, write


@pytest.mark.parametrize(
    ("pattern", "column", "right", "wrong"),
    [
        (r"(-)?\d+", "4", ["it is 4", "3, no, 4"], ["5", "none", ""]),
        (r"#### (\d+)|(\d+)", "#### 4", ["4", "so 4", "1 #### 4"], ["#### 5", "x", "4 #### 5"]),
        (r"#### (\d+)|(\d+)", "4", ["4", "#### 4"], ["5"]),
        (r"(?:a(x)?b|c(y)?d)", "ab", ["ab", "cd ab"], ["cd", "axb"]),
        (r"(\w+) (\w+)", "one two", ["one three"], ["two one"]),
        (r"\d+", "a 4", ["4"], ["44"]),
        (None, " 4\n", ["4", " 4 "], ["4."]),
    ],
)
def test_the_answer_is_the_first_group_that_takes_part_or_the_whole_match(
    tmp_path: Path, pattern: str | None, column: str, right: list[str], wrong: list[str]
) -> None:
    suite = held_out(write(tmp_path, [{"q": "?", "a": column}]), answer_pattern=pattern).suite("own")
    assert [suite.score(0, text) for text in right] == [1.0] * len(right)
    assert [suite.score(0, text) for text in wrong] == [0.0] * len(wrong)


def test_a_pattern_that_finds_nothing_in_an_answer_is_no_answer(tmp_path: Path) -> None:
    """It would find the same nothing in whatever a model says, and all would be right."""
    path = write(tmp_path, [{"q": "?", "a": "4"}] * 3)
    with pytest.raises(
        UserError, match=r"row 1 must hold an answer that .* finds, got '4' \(3 rows in all are wrong\)"
    ):
        held_out(path, answer_pattern=r"\d*").suite("own")


@pytest.mark.parametrize(
    "pattern", ["(", "a{99999999999}", "(" * 5000 + ")" * 5000, 5, "", "(?P<a>x)(?P<a>y)", "[z-a]"]
)
def test_an_invalid_pattern_is_refused_when_the_run_is_planned(tmp_path: Path, pattern: object) -> None:
    with pytest.raises(UserError, match="answer_pattern must be a"):
        held_out(write(tmp_path, [{"q": "?", "a": "4"}]), answer_pattern=pattern)


def test_a_conversation_is_evaluated_by_its_only_question(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "2 + 2"}, {"role": "assistant", "content": "4"}]
    suite = held_out(write(tmp_path, [{"m": turns}]), columns={"messages": "m"}).suite("own")
    assert (suite.prompts, suite.score(0, "4")) == (["2 + 2"], 1.0)
    longer = write(tmp_path, [{"m": turns}, {"m": turns * 2}])
    with pytest.raises(UserError, match="row 2 must hold a user's turn and an answer"):
        held_out(longer, columns={"messages": "m"}).suite("own")


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        held_out("x", data={"path": "x"}, columns={"prompt": "q"}, answer_pattern="(", max_new_tokens=0)
    assert [sentence.partition(" ")[0] for sentence in caught.value.sentences] == [
        "data", "max_new_tokens", "columns", "answer_pattern",
    ]  # fmt: skip


SLOW = r"(\w+\s?)+$"
LETTERS = "a" * 40 + "."  # some days


def test_a_pattern_that_takes_for_ever_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "LIMIT_S", 0.2)
    sentence = r"answer_pattern must find an answer within 0.2 s, but .* in a text of 41 characters that begins with"
    suite = held_out(write(tmp_path, [{"q": "?", "a": "b"}]), answer_pattern=SLOW).suite("own")
    assert suite.score(0, "b") == 1.0
    with pytest.raises(UserError, match=sentence):
        suite.score(0, LETTERS)
    assert suite.score(0, "b") == 1.0, "the next text is searched again"
    with pytest.raises(UserError, match=sentence):
        held_out(write(tmp_path, [{"q": "?", "a": LETTERS}] * 1000), answer_pattern=SLOW).suite("own")


def test_other_threads_run_while_a_pattern_takes_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "LIMIT_S", 0.3)
    turns = 0

    def search() -> None:
        with pytest.raises(answers.TooSlow):
            find_answer(SLOW, LETTERS)

    thread = threading.Thread(target=search)
    thread.start()
    while thread.is_alive():
        thread.join(0.01)
        turns += 1
    assert turns > 10


def test_a_search_that_is_interrupted_answers_no_other_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            find_answer(SLOW, LETTERS)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert find_answer(r"\d+", "1 2") == "2"


def test_a_search_that_was_killed_is_a_fault_of_the_machine() -> None:
    find_answer("a", "a")
    process = answers._search(os.getpid())._process
    assert process is not None
    process.kill()
    process.wait()
    with pytest.raises(MachineFault, match="exit code -9"):
        find_answer("a", "a")
    assert find_answer("a", "a") == "a"


def test_a_forked_process_searches_by_itself() -> None:
    find_answer("a", "a")
    child = os.fork()
    if not child:
        os._exit(int(find_answer(r"\d", "3") or 9))
    assert all(find_answer(r"\d", "4") == "4" for _ in range(100))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


@given(
    pattern=st.sampled_from([r"\d+", r"(-)?\d+", r"(a)|(b)", r"\s*(\S+)\s*$", ".", "", r"(?s).*x", r"[\w ]+$"]),
    text=st.text(st.characters(), max_size=40),
)
def test_the_answer_is_what_the_same_search_finds_here(pattern: str, text: str) -> None:
    assert find_answer(pattern, text) == answer_in(pattern, text)
    found = list(re.finditer(pattern, text))
    groups = [group for match in found[-1:] for group in (*match.groups(), match.group()) if group is not None]
    assert find_answer(pattern, text) == (groups[0].strip() if groups else None)

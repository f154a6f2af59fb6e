"""Whatever is typed behind `gmt run` and `gmt sweep`, the answer is what was asked for or one sentence."""

import itertools
import logging
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from gmt.cli import run_command
from gmt.commands.parsers import make_parser, sub_parsers
from gmt.composition import as_text, parse_override, user_errors
from gmt.errors import UserError
from gmt.settings import text as checked_text

pytestmark = pytest.mark.heavy

STARTS_NOTHING = "method.mask_ratio=1.5"  # refused wherever a run is built
COMMANDS = {"run": ["run"], "run -m": ["run", "-m"], "sweep": ["sweep", "study=quickstart"]}
FLAGS = {
    "--help": (0, "gmt "),
    "--hydra-help": (0, "Hydra"),
    "--cfg job": (0, "mask_ratio: 1.5"),
    "--cfg hydra": (0, "sweeper"),
    "--cfg all": (0, "sweeper"),
    "--cfg job --resolve": (0, "mask_ratio: 1.5"),
    "--cfg job --package method": (0, "mask_ratio: 1.5"),
    "--cfg job --package nowhere": (2, "--package must name a part of the config, got 'nowhere'"),
    "--cfg nothing": (2, "--cfg"),
    "--cfg": (2, "--cfg"),
    "--cfg job --info all": (2, "give one of them"),
    "--info": (2, "--info"),  # it takes the next word
    "--info all": (0, "Config"),
    "--info config": (0, "Config"),
    "--info defaults": (0, "Defaults"),
    "--info defaults-tree": (0, "Defaults"),
    "--info plugins": (0, "Plugins"),
    "--info searchpath": (0, "search path"),
    "--info nothing": (2, "--info"),
    "--resolve": (2, "--resolve needs --cfg job"),
    "--package method": (2, "--package needs --cfg job"),
    "--run": (2, ""),
    "--multirun": (2, "1.5"),
    "--config-name x": (2, "takes no --config-name"),
    "--config-path x": (2, "takes no --config-path"),
    "--config-dir nowhere": (2, "nowhere"),
    "--experimental-rerun x": (2, "takes no --experimental-rerun"),
    "--shell-completion": (2, "takes no --shell-completion"),
    "-sc install=bash": (2, "takes no --shell-completion"),
    "-sc query=bash": (2, "takes no --shell-completion"),
    "--nothing": (2, "--nothing"),
    "nothing": (2, "an override must be KEY=VALUE or ~KEY, got 'nothing'"),
}


@pytest.fixture(autouse=True)
def _as_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["gmt"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # Hydra adds one to print by
    monkeypatch.setattr(logging.getLogger(), "level", logging.WARNING)


def said(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> tuple[int, str, list[str]]:
    """The exit code, the output, and the lines of the errors."""
    try:
        code = run_command(arguments)
    except SystemExit as end:  # Hydra's help
        code = int(end.code or 0)
    output, errors = capsys.readouterr()
    return code, output, errors.splitlines()


def _pairs() -> Iterator[Any]:
    """Every flag with every command; what takes a second is slow where `gmt run` shows as much."""
    for command, (flag, (code, _)) in itertools.product(COMMANDS, FLAGS.items()):
        is_slow = (
            command != "run" and code == 0 and (command, flag) not in (("sweep", "--help"), ("sweep", "--cfg job"))
        )
        yield pytest.param(command, flag, marks=[pytest.mark.slow] if is_slow else [])


@pytest.mark.parametrize(("command", "flag"), list(_pairs()))
def test_every_flag_of_hydra_works_or_is_refused(
    command: str, flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, output, errors = said(capsys, [*COMMANDS[command], *flag.split(), STARTS_NOTHING])
    wanted, words = FLAGS[flag]
    assert code == wanted, errors
    assert all(line.startswith("error: ") for line in errors)
    assert words in output if code == 0 else any(words in line for line in errors)
    assert bool(errors) == bool(code)
    assert list(tmp_path.iterdir()) == []
    if flag == "--help":  # the command's own
        assert output.startswith(f"usage: gmt {command.partition(' ')[0]} ")


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_the_command_takes_the_flags_of_hydra(command: str) -> None:
    ours = {action.dest: action for action in sub_parsers(make_parser())[command]._actions}
    for action in get_args_parser()._actions:
        same = ours[action.dest]
        assert set(same.option_strings) == set(action.option_strings)
        assert same.choices == action.choices
        if action.dest != "version":  # Hydra's parser prints and exits, ours lets the command print
            assert (same.nargs, same.const, same.default or None) == (
                action.nargs,
                action.const,
                action.default or None,
            )


def test_every_flag_is_tried() -> None:
    known = {each for action in get_args_parser()._actions for each in action.option_strings if each.startswith("--")}
    tried = {word for flag in FLAGS for word in flag.split() if word.startswith("--")}
    assert known - {"--version"} == tried - {"--nothing"}


def test_a_shown_config_has_one_value_for_each_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, ["run", "-m", "seed=1,2", "--cfg", "job"]) == (
        2,
        "",
        ["error: --cfg, --info and --help show one config: every setting needs one value, got seed=1,2"],
    )


SPELLINGS = (["--config-dir", "cfg/lr=0.1"], ["--config-dir=cfg/lr=0.1"], ["-cd", "cfg/lr=0.1"])


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("flag", SPELLINGS, ids=" ".join)
def test_a_config_folder_with_any_letters_may_stand_anywhere(
    flag: list[str], place: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cfg" / "lr=0.1" / "method"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("defaults: [gmt]\nname: of_my_own\n")
    words = ["method=mine", "seed=3"]
    words[place:place] = flag
    code, output, errors = said(capsys, ["run", *words, "--cfg", "job", "--package", "method"])
    assert (code, errors) == (0, [])
    assert "name: of_my_own" in output


PATHS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=20)


@given(path=st.one_of(PATHS, st.text("a1 ,.'\"=[](){}~$#?%\\:/", min_size=1, max_size=8)))
@example(path="größe.jsonl")
@example(path="lr=0.1/x.jsonl")
@example(path=" both ends ")
@example(path="~/res")
@example(path="it's")
@example(path="1e3")
@example(path="a${b}")
@example(path="\\${a")
@example(path="a\\")
@example(path="a,b")
@example(path="???")
def test_a_path_is_read_exactly_or_the_error_shows_how_to_write_it(path: str) -> None:
    parser = OverridesParser.create()

    def arrived(override: str) -> object:
        """What a setting would get, or the listed values of a sweep."""
        parsed = parse_override(parser, override)
        return list(parsed.sweep_string_iterator()) if parsed.is_sweep_override() else parsed.value()

    if path == "???":  # OmegaConf's word for a value that is missing, however it is quoted
        with pytest.raises(UserError, match="x is missing; set it with x=VALUE"), user_errors():
            OmegaConf.to_container(OmegaConf.create({"x": arrived(f"x={as_text(path)}")}), throw_on_missing=True)
        return
    try:
        value = arrived(f"record.root={path}")
    except UserError as error:
        (spelling,) = shlex.split(str(error).rpartition("write the text as ")[2])
        value = arrived(spelling)
        assert OmegaConf.create({"x": value}).x == path
    if not isinstance(value, str) and value is not None:  # as numbers and lists are
        with pytest.raises(UserError, match="KEY='\"VALUE\"'"):
            checked_text("record.root", value)
    elif path[0] not in "'\"" and not {"\\", "$"} & set(path):  # Hydra's own quotes, escapes and interpolations
        assert value == path or (value is None and path.lower() == "null")
    assert OmegaConf.create({"x": arrived(f"x={as_text(path)}")}).x == path

"""The parser of `gmt`: each command has its help, any order of words, and one sentence for a mistake."""

import pytest

from gmt.cli import run_command
from gmt.commands.parsers import make_parser, parse, sub_parsers
from gmt.errors import UserError

COMMANDS = sub_parsers(make_parser())
OWN_HELP = ("run", "sweep")  # their help shows the config that is composed: tests/unit/commands/test_hydra_app.py


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    try:
        code: object = run_command(arguments)
    except SystemExit as end:  # argparse's own help
        code = end.code
    assert code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_the_overview_has_a_line_for_each_command(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, *words)
    assert all(f"  gmt {name} {command.takes}".rstrip() in text for name, command in COMMANDS.items())
    assert all(command.summary in text for command in COMMANDS.values())
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in OWN_HELP])
def test_each_command_names_what_it_takes(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    text = shown(capsys, name, "--help")
    assert text.startswith(f"usage: gmt {name} {COMMANDS[name].takes}".rstrip())
    for action in COMMANDS[name]._actions:
        assert action.help
        assert all(flag in text for flag in action.option_strings)
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
    "words",
    [
        "study=x --runs seed=1 --config-dir mine seed=2",
        "--runs study=x -cd mine seed=1 seed=2",
        "study=x seed=1 seed=2 --config-dir=mine --runs",
        "--config-dir mine --runs study=x seed=1 seed=2",
    ],
)
def test_options_and_overrides_come_in_any_order(words: str) -> None:
    options = parse(["plan", *words.split()])
    assert (options.overrides, options.config_dir, options.runs) == (["study=x", "seed=1", "seed=2"], "mine", True)


@pytest.mark.parametrize("words", ["a --answers 5 b seed=1", "--answers 5 a b seed=1", "a b seed=1 --answers 5"])
def test_runs_come_before_overrides_wherever_an_option_stands(words: str) -> None:
    options = parse(["compare", *words.split()])
    assert (options.run, options.other, options.overrides, options.answers) == ("a", "b", ["seed=1"], 5)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("plna", "gmt has no command 'plna'; did you mean 'plan'? (choices: "),
        ("--nothing", "gmt has no command '--nothing'; choices: "),
        ("plan --nothing", "unrecognized arguments: --nothing; `gmt plan --help` shows what the command takes"),
        ("plan --rnus", "unrecognized arguments: --rnus (did you mean --runs?); `gmt plan --help`"),
        ("run --mutlirun", "unrecognized arguments: --mutlirun (did you mean --multirun?); `gmt run --help`"),
        ("new method a b", "unrecognized arguments: b; `gmt new --help` shows what the command takes"),
        ("show", "the following arguments are required: RUN; `gmt show --help` shows what the command takes"),
        ("compare a b --answers x", "argument --answers: invalid int value: 'x'; `gmt compare --help`"),
    ],
)
def test_a_mistake_is_one_sentence(words: str, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        parse(words.split())
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)


def test_no_flag_is_shortened() -> None:
    for words in (["plan", "--run"], ["export", "1", "--forc"], ["ui", "--por", "1"]):
        with pytest.raises(UserError):
            parse(words)

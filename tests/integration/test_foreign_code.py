"""A user who allows untrusted code to run with their permissions is warned before it runs."""

import pytest

from gmt.composition import Composer, hydra_on
from gmt.runs.foreign_code import foreign_code
from tests.conftest import CONF, Gmt

REMOTE = "warning: model.trust_remote_code=true lets code that comes with the model run with your permissions"
BENCHMARK = "+benchmark@task.target.code=humaneval"


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["plan", "study=tiny"], id="plan"),
        pytest.param(["run", "task=tiny", "train.max_length=3"], id="run"),  # refused behind the line
        pytest.param(["sweep", "study=tiny", "train.max_length=3"], id="sweep", marks=pytest.mark.slow),
        pytest.param(["submit", "study=tiny", "cluster=slurm", "--dry-run"], id="submit", marks=pytest.mark.slow),
    ],
)
def test_plan_run_sweep_and_submit_say_that_code_of_others_has_no_walls(gmt: Gmt, command: list[str]) -> None:
    done = gmt(*command, "model.trust_remote_code=true", "--config-dir", str(CONF))
    assert REMOTE in done.stdout, done.stderr
    assert done.stdout.count(REMOTE) == 1, "once for all runs"


@pytest.mark.parametrize("code_setting", ["task.target.code", "task.source.code"])
def test_the_setting_is_named_where_it_stands(code_setting: str) -> None:
    with hydra_on(None):
        add = BENCHMARK.replace("task.target.code", code_setting)
        config = Composer().compose_plain(["task=chain_sum", add])
        walled = foreign_code([config])
        config = Composer().compose_plain(
            ["task=chain_sum", add, f"{code_setting}.run_untrusted_code_without_sandbox=true"]
        )
    assert walled == []
    (sentence,) = foreign_code([config, config])
    assert sentence.startswith(
        f"{code_setting}.run_untrusted_code_without_sandbox=true lets code that the model writes"
    )

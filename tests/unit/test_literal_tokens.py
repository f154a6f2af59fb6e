"""Commands refuse a literal token in overrides, settings and files, in one sentence that does not repeat it."""

from pathlib import Path

import pytest

from gmt.cli import run_command
from gmt.commands.clusters import cluster_of
from gmt.commands.submit import submit
from gmt.errors import UserError
from tests.unit.test_credentials import TOKENS


@pytest.mark.parametrize("command", ["run", "sweep", "plan", "submit", "report", "show"])
@pytest.mark.parametrize("form", ["model.token={}", "+task.api='{}'", "model.path=https://me:{}@host/x"])
def test_a_literal_token_in_an_override_is_one_sentence(
    command: str, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command([command, "study=tiny", form.format(TOKENS[0])]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: an override must hold no secret, got ")
    assert error.count("\n") == 1
    assert "HF_TOKEN" in error
    assert "docs/clusters.md" in error
    assert TOKENS[0] not in error


CLUSTERS = {
    "setup": ("slurm", "cluster.setup=['export HF_TOKEN={}']"),
    "setup, a token of no known kind": ("slurm", "cluster.setup=['export HF_TOKEN=abcdef']"),
    "sbatch_lines": ("slurm", "cluster.sbatch_lines=['--export=HF_TOKEN={}']"),
    "env_vars, by the value": ("ray", "+cluster.env_vars.HARMLESS={}"),
    "env_vars, by the name": ("ray", "+cluster.env_vars.OPENAI_KEY=abcdef"),
    "env_vars of Kubernetes": ("kuberay", "+cluster.env_vars.MYSQL_PWD=abcdef"),
    "pip": ("ray", "cluster.pip=['git+https://{}@github.com/x/y']"),
}


@pytest.mark.parametrize("case", CLUSTERS)
def test_a_literal_token_in_a_clusters_settings_is_one_sentence(case: str) -> None:
    name, text = CLUSTERS[case]
    needed = ["cluster.address=http://host:1"] if name == "ray" else []
    sentence = (
        r"^[\w .]*cluster\.\w+\S* must hold no secrets?\b.*; (docs/clusters|read it from|set it where|name it in)"
    )
    with pytest.raises(UserError, match=sentence) as refused:
        cluster_of([f"cluster={name}", *needed, text.format(TOKENS[0])], None)
    assert len(refused.value.sentences) == 1
    assert TOKENS[0] not in str(refused.value)
    assert "abcdef" not in str(refused.value)


def test_a_literal_token_in_a_config_folder_that_travels_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    file = tmp_path / "task/mine.yaml"
    file.write_text(f"name: mine\ntoken: {TOKENS[0]}\n")
    with pytest.raises(UserError, match=rf"^{file} must hold no secret, got .*; docs/clusters\.md says how") as refused:
        submit(["study=tiny", "cluster=slurm"], str(tmp_path), dry_run=True)
    assert TOKENS[0] not in str(refused.value)

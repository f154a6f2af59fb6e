"""The RayJob against KubeRay's published schema, and kubectl as `gmt` speaks to it."""

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.conftest import CONF, Gmt

CRD = os.environ.get("GMT_RAYJOB_CRD", "")
STUDY = ("study=tiny", "seed=1", "record.root=/results/gmt", "--config-dir", str(CONF))
ON = ("cluster=kuberay", "cluster.image=registry.example/gmt:1", "cluster.claim=results")
MORE = (
    "cluster.worker_gpus=4",
    "cluster.service_account=lab",
    "+cluster.env_vars.HF_HOME=/results/hub",
    "+cluster.secrets.HF_TOKEN={name: huggingface, key: token}",
    "cluster.auth_secret=ray-token",
)


def manifest(gmt: Gmt, *more: str) -> list[dict[str, Any]]:
    shown = gmt("submit", *STUDY, *ON, *more, "--dry-run")
    assert shown.returncode == 0, shown.stderr
    return list(yaml.safe_load_all(shown.stdout))


def schema_of(crd: dict[str, Any]) -> dict[str, Any]:
    (version,) = [each for each in crd["spec"]["versions"] if each["name"] == "v1"]
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    _close(found)
    return found


def _close(schema: Any) -> None:
    """Kubernetes drops what a schema doesn't name; here that is an error."""
    if isinstance(schema, dict):
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        for value in schema.values():
            _close(value)
    elif isinstance(schema, list):
        for value in schema:
            _close(value)


@pytest.mark.cluster
@pytest.mark.skipif(not CRD, reason="needs KubeRay's ray.io_rayjobs.yaml: name it in GMT_RAYJOB_CRD")
@pytest.mark.parametrize("more", [(), MORE], ids=["least", "most"])
def test_kuberays_own_schema_takes_the_manifest(gmt: Gmt, more: tuple[str, ...]) -> None:
    schema = schema_of(yaml.load(Path(CRD).read_text(), Loader=yaml.CSafeLoader))
    schema["properties"]["metadata"].pop("additionalProperties", None)
    check = jsonschema.Draft202012Validator(schema)
    _, made = manifest(gmt, *more)
    assert [error.message for error in check.iter_errors(made)] == []
    made["spec"]["rayClusterSpec"]["authOption"] = {}
    assert not check.is_valid(made)


KUBECTL = """\
#!/bin/sh
echo "$*" >> {folder}/arguments
case "$*" in
  *"get rayjobs"*) cat {folder}/rayjobs.json ;;
  *apply*) cat > {folder}/applied.yaml ;;
  *logs*) echo "study tiny: all 4 runs are done" ;;
esac
"""


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kubectl that records what it is told: no Kubernetes runs here."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "kubectl").write_text(KUBECTL.format(folder=folder))
    (folder / "kubectl").chmod(0o755)
    (folder / "rayjobs.json").write_text('{"items": []}')
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def becomes(kubectl: Path, name: str, state: str) -> None:
    item = {"metadata": {"name": name}, "status": {"jobDeploymentStatus": state}}
    (kubectl / "rayjobs.json").write_text(json.dumps({"items": [item]}))


def test_a_job_lives_from_its_submission_to_its_end(gmt: Gmt, kubectl: Path) -> None:
    first = gmt("submit", *STUDY, *ON)
    assert first.returncode == 0, first.stderr
    _, made = yaml.safe_load_all((kubectl / "applied.yaml").read_text())
    job = made["metadata"]["name"]
    assert f"submitted as {job}" in first.stdout

    becomes(kubectl, job, "Running")
    twice = gmt("submit", *STUDY, *ON)
    assert twice.returncode == 2
    assert f"the same sweep is under way as job {job} (Running)" in twice.stderr
    assert [job, "Running"] == [gmt("jobs", "cluster=kuberay").stdout.splitlines()[1].split()[i] for i in (0, 2)]
    for follow in ((), ("--follow",)):
        assert gmt("logs", job, "cluster=kuberay", *follow).stdout == "study tiny: all 4 runs are done\n"
    assert gmt("stop", job, "cluster=kuberay").returncode == 0
    assert f"delete rayjob.ray.io/{job} configmap/{job}-configs" in (kubectl / "arguments").read_text()

    becomes(kubectl, job, "Failed")
    assert f"submitted as {job.removesuffix('-1')}-2" in gmt("submit", *STUDY, *ON).stdout


def test_no_secret_is_in_what_kubectl_is_told(gmt: Gmt, kubectl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "s3cret-s3cret")
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text()
    assert gmt("submit", *STUDY, *ON, *MORE).returncode == 0
    told = (kubectl / "applied.yaml").read_text() + (kubectl / "arguments").read_text()
    assert "HF_TOKEN" in told
    assert "s3cret-s3cret" not in told
    assert token not in told


def test_a_cluster_that_kubectl_cant_reach_is_one_sentence(gmt: Gmt, kubectl: Path) -> None:
    (kubectl / "kubectl").write_text("#!/bin/sh\necho 'The connection to the server was refused' >&2\nexit 1\n")
    done = gmt("submit", *STUDY, *ON)
    assert done.returncode == 2
    assert done.stderr == ("error: kubectl failed with code 1: The connection to the server was refused\n")


@pytest.mark.parametrize(("name", "needs"), [("kuberay", "kubectl"), ("slurm", "squeue")])
def test_a_program_that_is_not_there_is_one_sentence(
    gmt: Gmt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, needs: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = gmt("jobs", f"cluster={name}")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {needs} isn't on this machine: submit from where ")
    assert len(done.stderr.splitlines()) == 1

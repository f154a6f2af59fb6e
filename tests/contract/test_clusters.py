"""Laws over every file of conf/cluster."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gmt.cluster import Cluster, SweepJob
from gmt.commands.clusters import cluster_of
from gmt.config_dir import config_dir
from gmt.errors import UserError
from tests.conftest import CONF

NAMES = sorted(path.stem for path in (config_dir() / "cluster").glob("*.yaml"))
NEEDED = {
    "ray": ["cluster.address=http://127.0.0.1:8265"],
    "slurm": ["cluster.cpus_per_node=2"],
    "kuberay": ["cluster.image=registry.example/gmt:1", "cluster.claim=results"],
}


def cluster(name: str, *more: str) -> Cluster:
    return cluster_of([f"cluster={name}", *NEEDED[name], *more], None)


def job(*overrides: str, config: bool = False, gpus_needed: float = 0, gpus_used: float = 1) -> SweepJob:
    return SweepJob(
        name="gmt-tiny-0123456789ab",
        overrides=("study=tiny", *overrides),
        config_dir=CONF if config else None,
        record_root="/results/gmt",
        gpus_needed=gpus_needed,
        gpus_used=gpus_used,
    )


@pytest.mark.parametrize("name", NAMES)
def test_it_shows_the_sweep_that_it_would_submit(name: str) -> None:
    shown = cluster(name).preview(job("seed=1,2", config=True))
    assert "-m gmt sweep study=tiny seed=1,2 --config-dir " in shown
    assert "hydra.launcher.address=" in shown


@pytest.mark.parametrize("name", [name for name in NAMES if name != "ray"])  # whose address is needed for both
def test_asking_needs_fewer_settings_than_submitting(name: str) -> None:
    asking = cluster_of([f"cluster={name}"], None)
    with pytest.raises(UserError, match=NEEDED[name][0].partition("=")[0]):
        asking.preview(job())


@pytest.mark.parametrize("name", NAMES)
def test_showing_imports_nothing_heavy(name: str) -> None:
    arguments = ["study=quickstart", "record.root=/results/gmt", f"cluster={name}", *NEEDED[name]]
    code = f"from gmt.commands.submit import submit; submit({arguments!r}, None, dry_run=True)"
    check = (
        f"{code}\nimport sys\nassert not (bad := {{'torch', 'transformers', 'ray', 'mlflow'}} & set(sys.modules)), bad"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "24 runs, 0 of them done by the records here; this would be submitted" in done.stdout


@pytest.mark.parametrize("nodes", [1, 3])
def test_the_sbatch_script_is_bash_and_asks_for_what_is_set(nodes: int, tmp_path: Path) -> None:
    options = [f"cluster.nodes={nodes}", "cluster.gpus_per_node=4", "cluster.account=lab", "cluster.memory=64G"]
    lines = [
        'cluster.setup=["module load cuda"]',
        'cluster.sbatch_lines=["--constraint=h100"]',
        "cluster.requeue=false",
    ]
    script = cluster("slurm", *options, *lines, f"cluster.folder={tmp_path}/a b").preview(job())
    path = tmp_path / "script.sh"
    path.write_text(script)
    assert subprocess.run(["bash", "-n", path], capture_output=True, text=True, check=True).stderr == ""
    asked = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]
    assert {f"--nodes={nodes}", "--gpus-per-node=4", "--account=lab", "--mem=64G", "--constraint=h100"} <= set(asked)
    assert "--no-requeue" in asked
    assert f"--output='{tmp_path}/a b/%x-%j.out'" in asked
    assert not [line for line in asked if line.startswith("--partition")]
    assert script.index("module load cuda") < script.index("start --head")
    assert ("start --block --address" in script) == (nodes > 1)
    assert "ray stop" not in script


def test_on_every_node_of_slurm_rays_files_lie_in_a_folder_that_others_cannot_enter(tmp_path: Path) -> None:
    script = cluster("slurm", "cluster.nodes=2").preview(job())
    assert '--temp-dir="$temporary/ray"' in script  # Ray opens its own folder to all users
    assert 'bash -c "$closed" "$temporary" "$python" -m ray.scripts.scripts start --block --address' in script
    start, end = script.index("closed='"), script.index('exec "$@"\'')
    code = script[start:end] + 'exec "$@"\'\nbash -c "$closed" "$1" echo started'

    def node(folder: Path) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["bash", "-c", code, "sh", str(folder)], capture_output=True, text=True, check=False)

    folder, link = tmp_path / "a b", tmp_path / "link"
    for _ in range(2):  # nodes on one machine share it
        assert node(folder).stdout == "started\n"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    link.symlink_to(folder)
    open_to_others = tmp_path / "open"
    open_to_others.mkdir(mode=0o755)
    for refused in (link, open_to_others):
        done = node(refused)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"error: {refused} on ")


def test_a_slurm_job_imports_from_the_current_folder_only_where_its_submitter_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in sys.path if path])
    assert "\nexport PYTHONSAFEPATH=1" in cluster("slurm").preview(job())
    for path in ("", str(tmp_path)):
        monkeypatch.setattr("sys.path", [path, *sys.path])
        assert "PYTHONSAFEPATH" not in cluster("slurm").preview(job())


def test_the_rayjob_carries_what_is_set() -> None:
    secret = "+cluster.secrets.HF_TOKEN={name: huggingface, key: token}"
    options = ["cluster.num_workers=2", "cluster.worker_gpus=4", secret, "cluster.auth_secret=ray-token"]
    configs, made = yaml.safe_load_all(cluster("kuberay", *options).preview(job(config=True)))
    spec = made["spec"]["rayClusterSpec"]
    (workers,) = spec["workerGroupSpecs"]
    assert spec["authOptions"] == {"mode": "token", "secretName": "ray-token"}
    assert workers["replicas"] == 2
    for pod in (spec["headGroupSpec"]["template"], workers["template"]):
        (container,) = pod["spec"]["containers"]
        reference = {"secretKeyRef": {"name": "huggingface", "key": "token"}}
        assert container["env"] == [{"name": "HF_TOKEN", "valueFrom": reference}]
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/results", "/etc/gmt/user_config"}
    assert workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "4"
    items = workers["template"]["spec"]["volumes"][1]["configMap"]["items"]
    assert {item["path"] for item in items} == {f"{path.parent.name}/{path.name}" for path in CONF.glob("*/*.yaml")}
    assert {item["key"] for item in items} == set(configs["data"])


REFUSED = [
    ("ray", "cluster.address=localhost:8265", "cluster.address must be the Ray dashboard's address"),
    ("ray", "cluster.address=http://me:w0rd@host:8265", "cluster.address must carry no user and no password"),
    ("ray", "cluster.code=sent", "cluster.code must be one of shipped, installed, got 'sent'"),
    ("ray", "+cluster.env_vars.HF_TOKEN=abc", "cluster.env_vars must hold no secrets"),
    ("slurm", "cluster.nodes=0", "cluster.nodes must be a whole number of at least 1, got 0"),
    ("slurm", "cluster.setup=['export X=http://me:w0rd@host']", "cluster.setup must hold no secret"),
    ("kuberay", "cluster.mount=results", "cluster.mount must be an absolute path, got 'results'"),
    ("kuberay", "+cluster.env_vars.API_KEY=abc", "name it in cluster.secrets"),
    ("kuberay", "+cluster.secrets.HF_TOKEN=abc", "cluster.secrets.HF_TOKEN must be {name: SECRET, key: KEY}"),
    ("slurm", "cluster.nods=1", "cluster has no setting 'nods'; did you mean 'nodes'?"),
    ("ray", "cluster=slum", "there is no cluster 'slum'; did you mean 'slurm'?"),
]


@pytest.mark.parametrize(("name", "wrong", "sentence"), REFUSED, ids=[wrong[:40] for _, wrong, _ in REFUSED])
def test_a_wrong_setting_is_one_sentence(name: str, wrong: str, sentence: str) -> None:
    key = wrong.partition("=")[0]
    others = [text for text in (f"cluster={name}", *NEEDED[name]) if text.partition("=")[0] != key]
    with pytest.raises(UserError) as caught:
        cluster_of([*others, wrong], None)
    assert sentence in str(caught.value)
    assert len(caught.value.sentences) == 1
    assert "w0rd" not in str(caught.value)


@pytest.mark.parametrize(("name", "setting"), [("slurm", "cluster.gpus_per_node"), ("kuberay", "cluster.worker_gpus")])
def test_gpus_that_no_run_takes_and_gpus_that_are_not_there_are_refused(name: str, setting: str) -> None:
    with pytest.raises(UserError, match=rf"^{setting} must be 0 for runs that compute on the CPU .*, got 4$"):
        cluster(name, f"{setting}=4").preview(job(gpus_used=0))
    with pytest.raises(UserError, match=rf"^{setting} must be at least 1 for runs with resources\.gpus=0\.5, got 0$"):
        cluster(name).preview(job(gpus_needed=0.5))
    cluster(name).preview(job(gpus_used=0))
    cluster(name, f"{setting}=4").preview(job(gpus_needed=1))


def test_records_that_the_cluster_would_lose_are_refused() -> None:
    lost = SweepJob(
        name="gmt-tiny-0", overrides=(), config_dir=None, record_root="gmt-results", gpus_needed=0, gpus_used=1
    )
    with pytest.raises(UserError, match=r"record\.root must be an absolute path on a file system that all nodes"):
        cluster("ray").preview(lost)
    with pytest.raises(UserError, match=r"record\.root must lie in cluster\.mount /results"):
        cluster("kuberay").preview(lost)

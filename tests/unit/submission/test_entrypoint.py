import shlex
from pathlib import Path

from gmt_launchers.submission.entrypoint import sweep_command

from gmt.cluster import SweepJob


def job(*overrides: str) -> SweepJob:
    return SweepJob(
        name="gmt-tiny-0", overrides=overrides, config_dir=None, record_root="/results", gpus_needed=0, gpus_used=1
    )


def test_an_override_reaches_the_sweep_as_it_was_typed() -> None:
    typed = ["study=tiny", "train.learning_rate=[1e-3, 1e-4]", "task.name='a b'", "x=$HOME;rm"]
    words = shlex.split(sweep_command(job(*typed), python="python3", config_dir=str(Path("/my configs"))))
    assert words[:4] == ["python3", "-m", "gmt", "sweep"]
    assert words[4:] == [*typed, "--config-dir", "/my configs", "hydra.launcher.address=auto"]


def test_a_launcher_that_the_user_chooses_gets_no_address() -> None:
    for chosen in ("hydra/launcher=basic", "hydra.launcher.address=10.0.0.1:6379"):
        assert sweep_command(job("study=tiny", chosen), python="python", config_dir=None).endswith(chosen)

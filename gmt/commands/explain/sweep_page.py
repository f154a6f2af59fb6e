"""Makes the help of `gmt sweep`: what a sweep does, how overrides change a study, and how sweeps stop and resume."""

from __future__ import annotations

from collections.abc import Sequence

from gmt import config_files
from gmt.commands.explain.layout import entry, group_settings, titled, word_list
from gmt.commands.explain.setting import LAUNCHER, launcher_meanings
from gmt.docstrings import first_sentence

_INTRODUCTION = """\
What a sweep does:
  A study is a yaml in conf/study, or in a folder of your own (docs/studies.md). It has arms, e.g. a
  method with its settings. The lists of an arm are crossed: each combination is a run. All runs are
  composed and checked before one starts. Runs that are done are not done again, also those of other
  studies. `gmt plan study=NAME` shows the runs and what they cost, and starts nothing.

  gmt sweep study=quickstart                              24 runs, a few minutes
  gmt sweep study=quickstart seed=1                       the same arms with one seed
  gmt sweep study=quickstart method.mask_ratio=0.2,0.4    other ratios in the arms that have ratios
  gmt sweep study=my_study --config-dir mine              a study of your own

Values:
  KEY=A,B                         takes the place of an arm's own values of KEY, or holds for all
                                  arms where none has KEY
  KEY=range(1,6)                  1, 2, 3, 4 and 5
  GROUP=A,B                       likewise for the files of a group
  study.KEY=VALUE                 changes a setting of the study, see below; +study.KEY=VALUE adds
                                  one that the study's yaml does not name

Stopping and resuming:
  Ctrl-C once: each run writes a checkpoint and ends. Twice: all end at once. After either, after a
  kill and after a lost machine the same command resumes: runs that are done stay, the others resume
  from their last checkpoint. Two sweeps of one study share the work. A run that fails does not stop
  the others; the exit code is then 1, and `gmt plan` shows the failure.

Where the runs are computed:
  hydra.launcher.num_cpus=4       leaves the other cores to you
  hydra.launcher.address=auto     joins a running Ray cluster; `gmt submit` hands a sweep to Slurm,
                                  Ray or Kubernetes
  hydra/launcher=basic            one run after the other in this process, for debugging
  resources.gpus=0.5              two runs share a GPU
"""


def sweep_page(overrides: Sequence[str], config_dir: str | None) -> str:
    """Return the page without the flags: the introduction, then the settings of a study and of a sweep.

    Args:
        overrides: the user's overrides; study=NAME shows that study's settings.
        config_dir: a config folder of the user's own, or None.
    """
    names = config_files.names("study", config_dir)
    studies = titled("Studies (`gmt help study` says what each is about):", [word_list(names)])
    chosen = [text.removeprefix("study=") for text in overrides if text.startswith("study=")]
    own = config_files.own_settings()
    study = config_files.values("study", chosen[-1], config_dir) if chosen else {}
    parts = [group_settings("study", study), _launcher_settings()]
    parts += [group_settings(group, own[group]) for group in ("resources", "sweep")]
    return "\n\n".join([_INTRODUCTION.rstrip(), studies, *parts]) + "\n"


def _launcher_settings() -> str:
    """Return an entry for each setting of the launcher."""
    entries = [entry(f"{LAUNCHER}.{name}", first_sentence(text)) for name, text in launcher_meanings().items()]
    return titled(f"{LAUNCHER}: Ray on this machine, or a cluster", entries)

"""The text of `gmt --help`: a line for each command."""

OVERVIEW = """\
gmt: a laboratory for sparse fine-tuning of language models

  gmt run [KEY=VALUE ...]             one training with its evaluation (a Hydra app: -m, --cfg job, --help work)
  gmt sweep study=NAME [KEY=VALUE]    every run of a study that is not done yet, side by side on this machine
  gmt plan study=NAME [KEY=VALUE]     the study's runs, what became of them and what is left; starts nothing
  gmt report study=NAME [KEY=VALUE]   figures and tables of the study as one HTML page and CSV files
  gmt diagnose study=NAME diagnostic=NAME   measures finished runs and their base: drift, overlap, sharpness, ...
  gmt ui [study=NAME] [KEY=VALUE]     the MLflow dashboard on the project's store, opened at the study
  gmt sync study=NAME [KEY=VALUE]     brings MLflow level with the run records, after an outage or a loss
  gmt show RUN [KEY=VALUE]            one run record: what was asked, what happened
  gmt show study=NAME [KEY=VALUE]     the means of a study's arms, and its answer
  gmt compare RUN RUN [KEY=VALUE]     what two runs differ in: settings, scores, answers that flipped
  gmt export RUN --merged FOLDER      a finished run for other programs; --delta: what changed; --peft: an adapter
  gmt new method NAME                 writes the few lines that a method (task, diagnostic, ...) of your own begins with
  gmt check method=NAME [KEY=VALUE]   tries the laws on a method, model or task, e.g. one of your own: seconds

  gmt submit study=NAME cluster=NAME [KEY=VALUE] [--dry-run]   hands the sweep to a cluster (ray, slurm, kuberay)
  gmt jobs cluster=NAME               what was submitted and what became of it
  gmt logs JOB cluster=NAME [--follow]   what a job writes
  gmt stop JOB cluster=NAME           ends a job; submitted again, it goes on where it was

Start with `gmt plan study=quickstart`. Every command takes Hydra overrides, and --help.
"""

"""`gmt run` and `gmt sweep` as a Hydra app: reads Hydra's flags, refuses wrong ones, and hands over to Hydra."""

import io
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from contextlib import redirect_stderr

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig

from gmt.commands.explain.run_page import run_page
from gmt.commands.explain.sweep_page import sweep_page
from gmt.commands.run import run_job
from gmt.composition import CONFIG_NAME, VERSION_BASE, parse_override, user_errors
from gmt.config_dir import config_dir
from gmt.config_files import names
from gmt.errors import MachineFault, RunFailed, UserError
from gmt.plug_ins import in_words
from gmt.terminal import say

_SHOW_FLAGS = ("cfg", "info")
_REFUSED_FLAGS = {
    "config_name": "every config begins with conf/config.yaml; --config-dir names a folder of your own beside conf/",
    "config_path": "--config-dir names a folder of your own beside conf/",
    "experimental_rerun": "the same overrides repeat a run, and `gmt show RUN` shows the settings of one",
    "shell_completion": "Hydra's completion knows programs of one word, and not gmt's commands",
}


def hydra_app(name: str, options: Namespace) -> None:
    """Carry out a command line of `gmt run` or `gmt sweep`.

    Args:
        name: `gmt run` or `gmt sweep`.
        options: the parsed flags and overrides.

    Raises:
        UserError: a flag or an override is wrong; nothing was started.
        RunFailed: a run failed.
        MachineFault: the machine failed.
        SystemExit: Hydra has shown its help, or refuses the config or a flag.
    """
    given = _checked_flags(name, options)
    if options.version:
        print(f"Hydra {hydra.__version__}")
        return
    if given.help:
        _show_help(name, options)
        return
    if given.multirun:
        say("planning the runs")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = [name, *_flags(given), *given.overrides]
    failures: list[Exception] = []
    app = hydra.main(version_base=VERSION_BASE, config_path=str(config_dir()), config_name=CONFIG_NAME)(_job(failures))
    with user_errors():
        _run_app(app, given.package)
    for failure in failures:
        raise failure


def _show_help(name: str, options: Namespace) -> None:
    if name == "gmt sweep":
        page = sweep_page(options.overrides, options.config_dir)
    else:
        page = run_page(options.overrides, options.config_dir, resolve=options.resolve)
    options.parser.epilog = page
    options.parser.print_help()


def _job(failures: list[Exception]) -> Callable[[DictConfig], float | None]:
    """Return Hydra's task function.

    It adds the error of a single run to `failures`, since Hydra would print a line of its own before our message.
    """

    def job(config: DictConfig) -> float | None:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            return run_job(config)
        try:
            return run_job(config)
        except (UserError, RunFailed, MachineFault, OSError) as error:
            failures.append(error)
            return None
        except SystemExit as error:  # a plug-in's, before the run has begun
            failures.append(RunFailed(f"a plug-in has called sys.exit: {in_words(error)}"))
            return None

    return job


def _run_app(app: Callable[[], None], package: str | None) -> None:
    """Run the Hydra app; raise UserError if the config has no part `package`."""
    if package is None:
        app()
        return
    errors = io.StringIO()
    try:
        with redirect_stderr(errors):
            app()
    except SystemExit as error:
        if error.code:
            raise UserError(f"--package must name a part of the config, got {package!r}") from error
        raise


def _checked_flags(name: str, options: Namespace) -> Namespace:
    """Return Hydra's flags and the overrides, without the options of our own parser; raise UserError for wrong ones."""
    given = Namespace(**{flag: getattr(options, flag) for flag in _names_of_flags()})
    for flag, why in _REFUSED_FLAGS.items():
        if getattr(given, flag):
            raise UserError(f"{name} takes no --{flag.replace('_', '-')}: {why}")
    if given.resolve and not (given.cfg or given.help):
        raise UserError("--resolve needs --cfg job, or --help: it resolves what they show")
    if given.package is not None and not given.cfg:
        raise UserError("--package needs --cfg job: it names the part of the config that is shown")
    if all(getattr(given, flag) for flag in _SHOW_FLAGS):
        raise UserError("--cfg and --info show different things: give one of them")
    if given.run and (given.multirun or name == "gmt sweep"):
        raise UserError("--run is for one run, and --multirun and `gmt sweep` are for several: give one of them")
    _check_overrides(name, given, is_help=given.help or given.hydra_help)
    return given


def _names_of_flags() -> list[str]:
    """Return the names of Hydra's flags and of its overrides, as argparse calls them."""
    return [action.dest for action in get_args_parser()._actions if action.dest != "version"]


def _check_overrides(name: str, given: Namespace, *, is_help: bool) -> None:
    parser = OverridesParser.create()
    parsed = [parse_override(parser, text) for text in given.overrides]
    is_shown = any(getattr(given, flag) for flag in _SHOW_FLAGS)
    several = [override.input_line for override in parsed if override.is_sweep_override()]
    if (is_shown or is_help) and several:
        raise UserError(f"--cfg, --info and --help show one config: every setting needs one value, got {several[0]}")
    if is_shown or is_help:
        given.multirun = False
    if name == "gmt sweep" and not (is_shown or is_help):
        given.multirun = True
        if not any(override.key_or_group == "study" for override in parsed):
            raise UserError(f"gmt sweep needs study=NAME; choices: {', '.join(names('study', given.config_dir))}")
    if given.hydra_help:  # Hydra shows it without conf/, and would not find the settings of conf/
        of_hydra = [text for text in given.overrides if text.startswith(("hydra.", "hydra/"))]
        given.overrides = ["hydra/job_logging=disabled", *of_hydra]  # otherwise Hydra writes a log file to this folder


def _flags(given: Namespace) -> list[str]:
    """Return Hydra's flags as words of its command line."""
    values = {key.replace("_", "-"): value for key, value in vars(given).items() if key != "overrides" and value}
    return [f"--{flag}" if value is True else f"--{flag}={value}" for flag, value in values.items()]

"""Declares the commands that read, measure and export finished runs."""

from __future__ import annotations

from argparse import Namespace

from gmt.commands.parsers.environment import remove_and_name_variables
from gmt.commands.parsers.parser import Parser, Section, take_config, take_dirty

_RECORDS = "record.root=FOLDER"  # an example of an override
_EXPORT_FLAGS = {
    "delta": (
        "FILE",
        "indices and values of the changed entries; a FILE without .safetensors is a folder for delta.safetensors",
    ),
    "peft": (
        "FOLDER",
        "an adapter for peft: the run's own, or Super-Tuning for a run that changed linear layers alone",
    ),
    "merged": ("FOLDER", "whole weights with tokenizer, for transformers"),
}
_COMPARE_EPILOG = """\
gmt compare 1a2b3c 4d5e6f                settings, scores and flipped answers of two finished runs
gmt compare 1a2b3c 4d5e6f --answers 20   with twenty flipped answers of each kind

`gmt plan study=NAME` lists the run ids; their first digits are enough. To see how large the effect
of the seed is, compare two seeds of one arm. To see the effect of an arm, compare it with the
baseline on the same seed. An answer flips if, on the same question, one run is right (score 1) and
the other is not: with many flips both ways, a small difference of means is noise.
"""
_DIAGNOSE_EPILOG = """\
`gmt help diagnostic=NAME` shows the settings of a diagnostic, and diagnostic.KEY=VALUE changes a
setting. Commas separate several diagnostics, or several values of a setting:
  gmt diagnose study=quickstart diagnostic=drift,mask_overlap
  gmt diagnose study=quickstart diagnostic=sharpness diagnostic.rho=0.001,0.002
The runs must have stored whole weights: by record.keep_weights=true, or by merged for a method that
adds parts to the model. Only the diagnostic operations needs no weights.
"""


def add_commands(section: Section) -> None:
    """Add the commands."""
    report = section.add(
        "report",
        _report,
        takes="study=NAME",
        summary="figures and tables, as one HTML page and CSV files",
        about="Makes the figures and tables of a study from its run records.",
    )
    take_config(report)
    take_dirty(report)
    about = "count the floating-point operations of a step first: a second or two for each choice"
    report.add_argument("--operations", action="store_true", help=about)
    _add_show(section)
    _add_compare(section)
    diagnose = section.add(
        "diagnose",
        _diagnose,
        takes="study=NAME diagnostic=NAME",
        summary="measures finished runs: drift, overlap, sharpness, ...",
        about="Measures the finished runs of a study, and their base. The run records store the results, which are "
        "not measured again; after Ctrl-C or a kill the same command resumes. `gmt report` shows the results.",
    )
    diagnose.make_epilog = _diagnose_epilog
    take_config(diagnose)
    _add_export(section)


def _add_show(section: Section) -> None:
    show = section.add(
        "show",
        _show,
        takes="RUN|study=NAME",
        summary="one run record; a study's means and its answer",
        about="With RUN, a run id or its first digits: prints the run's result, then its settings. With study=NAME: "
        "prints the means of the study's arms, the best target score first, and the answer to the study's question.",
    )
    _take_run(show)
    take_config(show)
    show.add_argument("--brief", action="store_true", help="leave the settings out")
    take_dirty(show)


def _add_compare(section: Section) -> None:
    compare = section.add(
        "compare",
        _compare,
        takes="RUN RUN",
        summary="the differences of two runs: settings, scores, answers",
        about="Prints how two finished runs differ: their settings, their scores, and the answers that flipped.",
        epilog=_COMPARE_EPILOG,
    )
    _take_run(compare)
    _take_run(compare, "other")
    take_config(compare, _RECORDS)
    about = "print N answers of each kind of flip; default: 3"
    compare.add_argument("--answers", type=int, default=3, metavar="N", help=about)


def _add_export(section: Section) -> None:
    export = section.add(
        "export",
        _export,
        takes="RUN --merged FOLDER",
        summary="a finished run for other programs",
        about="Writes a finished run for other programs, whole or not at all. RUN is a run id or its first digits. The "
        "run must have been done with record.keep_weights=true. docs/exporting.md says how to load each export.",
    )
    _take_run(export)
    take_config(export, _RECORDS)
    for kind, (metavar, about) in _EXPORT_FLAGS.items():
        export.add_argument(f"--{kind}", metavar=metavar, help=about)
    export.add_argument("--force", action="store_true", help="replace an export that exists")


def _take_run(parser: Parser, name: str = "run") -> None:
    parser.add_argument(name, metavar="RUN", help="a run id or its first digits")


def _report(options: Namespace) -> None:
    from gmt.commands.report import report

    report(options.overrides, options.config_dir, dirty=options.dirty, operations=options.operations)


def _show(options: Namespace) -> None:
    words = [options.run, *options.overrides]
    if any(word.startswith("study=") for word in words):
        from gmt.commands.means import show_study

        show_study(words, options.config_dir, dirty=options.dirty)
        return
    from gmt.commands.show import show

    show(options.run, options.overrides, options.config_dir, brief=options.brief)


def _compare(options: Namespace) -> None:
    from gmt.commands.compare import compare

    runs = [options.run, options.other]
    compare(runs, options.overrides, options.config_dir, num_answers=options.answers)


def _diagnose_epilog() -> str:
    from gmt.commands.explain.layout import entry
    from gmt.config_files import about, names

    diagnostics = [entry(name, about("diagnostic", name)) for name in names("diagnostic")]
    return "\n".join(["diagnostics:", *diagnostics, "", *_DIAGNOSE_EPILOG.splitlines()])


def _diagnose(options: Namespace) -> None:
    remove_and_name_variables()
    from gmt.commands.diagnose import diagnose_study

    diagnose_study(options.overrides, options.config_dir)


def _export(options: Namespace) -> None:
    remove_and_name_variables()
    from gmt.commands.export import export

    paths = {kind: getattr(options, kind) for kind in _EXPORT_FLAGS}
    export(options.run, options.overrides, options.config_dir, paths=paths, force=options.force)

"""`gmt compare RUN RUN`: prints how two runs differ in settings and scores, and the answers that flipped."""

from collections import Counter
from collections.abc import Sequence

from gmt.commands.show import flat, record_of
from gmt.composition import Composer, hydra_on
from gmt.errors import UserError
from gmt.records.answers import answers_of, flips_of
from gmt.records.record import RunRecord
from gmt.terminal import say, table

_NAMES = ("first", "second")


def compare(runs: Sequence[str], overrides: Sequence[str], config_dir: str | None, *, num_answers: int) -> None:
    """Print the differences of two runs.

    Args:
        runs: two run ids, or their first digits.
        overrides: the user's overrides, for `record.root`.
        config_dir: a config folder of the user's own, or None.
        num_answers: the number of printed answers of each kind of flip.

    Raises:
        UserError: no run id, or more than one, begins with one of `runs`; or a run is not done, or its record was
            changed.
    """
    with hydra_on(config_dir):
        config = Composer().compose_plain(overrides)
    records = [record_of(config, run) for run in runs]
    for record in records:
        if record.state() != "done":
            raise UserError(f"gmt compare needs two runs that are done; {record.id} is {record.state()}")
        record.check_unchanged()
    for name, record in zip(_NAMES, records, strict=True):
        say(f"{name}: run {record.id}, {record.folder}")
    say("")
    _say_settings(records)
    _say_scores(records)
    _say_flips(records, num_answers)


def _say_settings(records: Sequence[RunRecord]) -> None:
    first, second = (dict(flat(record.read("config.json")["science"])) for record in records)
    keys = [key for key in {**first, **second} if first.get(key) != second.get(key)]
    if not keys:
        say("no setting differs\n")
        return
    say(table(["setting", *_NAMES], [[key, first.get(key, "-"), second.get(key, "-")] for key in keys]) + "\n")


def _say_scores(records: Sequence[RunRecord]) -> None:
    first, second = (record.result() for record in records)
    rows = [
        [part, suite, _percent(before), _percent(score), _percent(other), f"{100 * (other - score):+.1f}"]
        for part in ("target", "source")
        for suite, score in first.after[part].items()
        for before in [first.before[part][suite]]
        if (other := second.after[part].get(suite)) is not None
    ]
    say(table(["part", "suite", "base", *_NAMES, "points"], rows) + "\n")


def _percent(score: float) -> str:
    return f"{score:.1%}"


def _say_flips(records: Sequence[RunRecord], num_answers: int) -> None:
    first, second = map(answers_of, records)
    common = [key for key in first if key in second]
    if not common:
        say("the runs have no question in common, or their records hold no answers")
        return
    flips = flips_of(first, second)
    questions = Counter(key[:2] for key in common)
    counts = [Counter(flip.key[:2] for flip in kind) for kind in flips]
    rows = [[*suite, str(number), *(str(count[suite]) for count in counts)] for suite, number in questions.items()]
    say(table(["part", "suite", "questions", "right in the first alone", "right in the second alone"], rows))
    for name, kind in zip(_NAMES, flips, strict=True):
        if shown := kind[:num_answers]:
            say(f"\nright in the {name} alone, {len(shown)} of {len(kind)}:")
            body = [[f"{f.key[0]} {f.key[1]}", repr(f.key[2]), *map(repr, f.answers)] for f in shown]
            say(table(["suite", "prompt", *_NAMES], body))

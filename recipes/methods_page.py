"""Writes docs/methods.md, a row for each arm of conf/method: `python -m recipes.methods_page`.

A cell is a sentence of the comment at the head of the yaml, or follows from the arm's settings; the page says how.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from gmt.config_dir import config_dir
from gmt.masking.signals import row_of
from gmt.masking.spec import PACKED
from gmt.methods.adapters import PeftAdapter
from gmt.methods.gradient_mask import GradientMask
from gmt.methods.protocol import Method, ReadsExamples, ReshapesModel, TrainsInPhases, UsesContext
from gmt.runs.build import plug_in

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"
_HEAD = re.compile(r"(?P<title>[^:]+?) \((?P<source>.+?)\): (?P<rest>.+)")
_LABEL = re.compile(r"\b(Begins|Chooses|Memory|Cost|Departures?): ")
_END = re.compile(r"(?<=[a-z0-9)%])\. (?=[A-Z])")  # of a sentence
_ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")
_OPENREVIEW = re.compile(r"OpenReview (\w+)")
_ADDRESS = re.compile(r"\bgithub\.com/[\w./-]+")
_FACTS, _DEPARTURES = ("Chooses", "Memory", "Cost"), "Departures"  # labels; each arm has the facts
BEGINS = "Begins"  # label of an arm whose model does not begin as the base
_COLUMNS = ("arm", "trains", "chooses", "memory", "cost of a step", "source", "our departures")

MASKS, PARTS, PHASES, WHOLE = "Masks", "Adapters and parts", "Phases", "Whole training"
SECTIONS = {
    MASKS: """Of the model's own entries some are updated, and all others masked. Forward and backward passes are sft's,
except that green, hft, hft_paper and s2ft do not compute the weight gradients of frozen parameters. A mask at every
step costs 1 to 2 % of a step of SmolLM2-135M ([measured](../benchmarks/results/mask_step_cpu.md)). Where a mask on the
update is chosen once or every M steps, `method.moments=packed` takes 8 bytes a kept entry (9 with `method.age=own`) and
a bit for each entry ([memory.md](memory.md)).""",
    PARTS: """The model is frozen, and a part of it or beside it is trained ([adapters.md](adapters.md)). Frozen weights
have no gradients and no optimizer state.""",
    PHASES: "The run trains several times, each time with an optimizer and a schedule of its own.",
    WHOLE: "Every parameter is trained.",
}
_TOP = """# Methods

Each arm is a file of conf/method: `gmt run method=NAME`, with settings as `method.mask_ratio=0.9`. The tables hold the
defaults. Memory is that of AdamW's two moments in float32: 8 bytes a trained entry where nothing is saved. The
memory that a run took: `gmt show RUN`.

This page is written from the yamls by `python -m recipes.methods_page`. The comment at the head of a yaml reads `NAME
(SOURCE): what it trains.` More sentences may follow; those after `Chooses:`, `Memory:`, `Cost:` and `Departures:` are
cells of the row, and the one after `Begins:` says how a model begins that is not the base before its first step. The
settings give the first three where the head is silent and the class is known. A source is an arXiv or OpenReview
number or an address, or begins with `ours`."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """The comment at the head of a yaml.

    Args:
        title: the method's name in words.
        source: the publication.
        trains: the first sentence, without its full stop.
        cells: by Begins, Chooses, Memory, Cost and Departures, those that the head has.
    """

    title: str
    source: str
    trains: str
    cells: Mapping[str, str]


def read_head(text: str) -> Head:
    """Return the head of a yaml.

    Raises:
        ValueError: it does not read `NAME (SOURCE): what it trains.`, or names no source.
    """
    lines = re.match(r"(#.*\n)*", text)
    head = " ".join(line.removeprefix("#").strip() for line in (lines.group() if lines else "").splitlines())
    if (found := _HEAD.fullmatch(head)) is None:
        raise ValueError(f"the head must read `# NAME (SOURCE): what it trains.`, got {head!r}")
    source = found["source"]
    if not source.startswith("ours") and source == _linked(source):
        raise ValueError(
            f"the source must name an arXiv or OpenReview number or an address, or begin with ours, got {source!r}"
        )
    prose, *labelled = _LABEL.split(found["rest"])
    labels = [_DEPARTURES if label.startswith("Departure") else label for label in labelled[::2]]
    cells = dict(zip(labels, map(str.strip, labelled[1::2]), strict=True))
    trains = _END.split(prose.strip())[0].removesuffix(".")
    return Head(title=found["title"], source=source, trains=trains, cells=cells)


def page(folder: Path) -> str:
    """Return the page on the yamls of a folder.

    Raises:
        ValueError: the head of a yaml lacks a fact; the sentence begins with the file's name.
    """
    rows: dict[str, list[str]] = {section: [] for section in SECTIONS}
    for path in sorted(folder.glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        method = plug_in("method", yaml.safe_load(text), Method)
        try:
            head = read_head(text)
            cells = _settings_cells(method) | head.cells
            if missing := [label for label in _FACTS if label not in cells]:
                labels = ", ".join(f"`{label}:`" for label in missing)
                raise ValueError(f"the head must say {labels}, which the settings of {type(method).__name__} do not")
        except ValueError as error:
            raise ValueError(f"conf/method/{path.name}: {error}") from error
        trains = f"{head.trains}. It begins {cells[BEGINS]}" if BEGINS in cells else head.trains
        row = [f"[{path.stem}](../conf/method/{path.name})", trains, *(cells[label] for label in _FACTS)]
        row += [_linked(head.source), cells.get(_DEPARTURES, "")]
        rows[section_of(method)].append(
            "| " + " | ".join(cell.removesuffix(".").replace("|", r"\|") for cell in row) + " |"
        )
    top = ["| " + " | ".join(_COLUMNS) + " |", "|" + " --- |" * len(_COLUMNS)]
    sections = [
        f"## {section}\n\n{words}\n\n" + "\n".join([*top, *rows[section]]) for section, words in SECTIONS.items()
    ]
    return "\n\n".join([_TOP, *sections]) + "\n"


def section_of(method: Method) -> str:
    """Return the section of the page that holds a method."""
    if isinstance(method, TrainsInPhases):
        return PHASES
    if isinstance(method, ReshapesModel):
        return PARTS
    return WHOLE if method.target_density == 1 else MASKS


def _settings_cells(method: Method) -> dict[str, str]:
    """Return the cells that follow from a method's class and settings."""
    if isinstance(method, GradientMask):
        return _mask_cells(method)
    if section_of(method) == PARTS:
        return _part_cells(method)
    if section_of(method) == WHOLE:
        return {"Chooses": "nothing", "Memory": "8 bytes an entry", "Cost": "as sft"}
    return {}


def _mask_cells(method: GradientMask) -> dict[str, str]:
    """Return the cells that follow from a mask's settings."""
    tensor, every = ("tensor", "") if method.parameters == "all" else ("linear layer", " of linear layers")
    where = {
        "tensor": f"each {tensor}",
        "layer": "each block",
        "global": f"all entries{every}",
        "entropy": f"all entries{every}, shared out by entropy,",
    }[method.scope]
    units = where if method.grain == "entry" else f"the {method.grain}s of {where}"
    signal = method.signal if isinstance(method.signal, str) else _in_words(type(method.signal).__name__)
    is_random = signal == "random"
    ranked = (
        "at random" if is_random else f"by {'the smallest ' * (method.keep == 'smallest')}{signal.replace('_', ' ')}"
    )
    when = {1: "at every step", "once": "once"}.get(method.refresh, f"every {method.refresh} steps")
    masked = {"gradient": "gradients", "update": "updates"}[method.mask_on]
    moments = "8 bytes a kept entry, 1 bit an entry" if method.moments == PACKED else "8 bytes an entry"
    if row_of(method.signal).add is not None and method.refresh != 1:
        moments = "12 bytes an entry"
    frozen = " of linear layers" if method.parameters == "linear_alone" else ""
    return {
        "Chooses": f"{100 * method.target_density:.3g} % of {units} {ranked}, {when}; masks {masked}",
        "Memory": moments + frozen,
        "Cost": f"sft's, and a {'draw' if is_random else 'ranking'} {when}",
    }


def _part_cells(method: Method) -> dict[str, str]:
    """Return the cells that follow from the class and settings of a method that trains parts."""
    cells = {
        "Chooses": "before training",
        "Memory": "8 bytes a trained parameter",
        "Cost": "no gradients of frozen weights",
    }
    if isinstance(method, ReadsExamples) and method.num_examples:
        cells["Chooses"] = f"before training, by {method.num_examples} training examples"
    if isinstance(method, PeftAdapter):
        cells["Cost"] += ", and the adapter's own pass"
    if isinstance(method, UsesContext):
        cells["Cost"] += f", and {method.num_tokens} more positions in each text"
    return cells


def _in_words(name: str) -> str:
    """Return the name of a class as words: `LowRankWeight` is `low rank weight`."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", name).lower()


def _linked(text: str) -> str:
    """Return a text whose publications are links."""
    text = _ARXIV.sub(r"[\g<0>](https://arxiv.org/abs/\1)", text)
    text = _OPENREVIEW.sub(r"[\g<0>](https://openreview.net/forum?id=\1)", text)
    return _ADDRESS.sub(r"[\g<0>](https://\g<0>)", text)


if __name__ == "__main__":
    PAGE.write_text(page(Path(config_dir()) / "method"), encoding="utf-8")

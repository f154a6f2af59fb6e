"""What is wrong with a plug-in is told its author in a sentence: the class, the cause, and where it lies."""

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gmt.commands.show import show
from gmt.composition import Composer, hydra_on
from gmt.errors import MachineFault, UserError
from gmt.runs.build import build, plug_in
from gmt.studies.frozen import freeze, job_of, new_sweep, thaw
from tests.finished import finish, plan_of

HEAD = """
from dataclasses import dataclass, field
from abc import ABC, abstractmethod
"""
WHOLE = """
@dataclass(frozen=True, kw_only=True)
class Whole:
    name: str
    rank: int = 4
    layers: list = field(default_factory=list)

    @property
    def target_density(self):
        return None

    def attach(self, model, optimizer, *, seed, facts_every):
        raise NotImplementedError
"""

Written = Callable[[str], str]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Written:
    """Writes a module of a user's own and returns its name, which is new each time."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(code: str) -> str:
        name = f"plug_in_{abs(hash((code, str(tmp_path))))}"
        (tmp_path / f"{name}.py").write_text(HEAD + textwrap.dedent(code))
        return name

    yield write  # type: ignore[misc]
    for name in [name for name in sys.modules if name.startswith("plug_in_")]:
        del sys.modules[name]


def refused(target: str, **values: Any) -> str:
    with hydra_on(None):
        config = Composer().compose_plain([])
    config["method"] = {"_target_": target, "name": "mine"} | values
    with pytest.raises(UserError) as caught:
        build(config)
    return str(caught.value)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import not_there", "ModuleNotFoundError: No module named 'not_there' ({file}, line 5)"),
        ("from gmt.errors import NotThere", "ImportError: cannot import name 'NotThere' from 'gmt.errors'"),
        ("1 / 0", "ZeroDivisionError: division by zero ({file}, line 5)"),
        ("def f(:", "SyntaxError: "),
        ("import sys; sys.exit(3)", "exits when it is imported"),
    ],
)
def test_a_module_that_raises_is_no_typo_in_the_name_of_its_class(written: Written, code: str, sentence: str) -> None:
    module = written(f"\n{code}\n")
    found = refused(f"{module}.Whole")
    file = sys.path[0] + f"/{module}.py"
    assert f"method._target_={module}.Whole: module {module}" in found
    assert sentence.format(file=file) in found


def test_an_unknown_name_is_reported_with_the_known_names(written: Written) -> None:
    module = written(WHOLE)
    assert "has no 'Whol'; did you mean 'Whole'?" in refused(f"{module}.Whol")
    assert f"Python finds no module '{module}x'" in refused(f"{module}x.Whole")
    assert "module gmt has no 'metods'" in refused("gmt.metods.sft.Sft")
    assert "Python finds no module 'Whole'" in refused("Whole.x")
    assert "_target_" in refused("")


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("def Whole(name): pass", "must name a class, got '{target}', which is a function"),
        ("Whole = 3", "must name a class, got '{target}', which is a int"),
        ("class Whole: pass", "must name a dataclass, whose fields are its settings, got class '{target}'"),
        (
            "@dataclass\nclass Whole(ABC):\n    name: str\n    @abstractmethod\n    def attach(self): ...",
            "must name a class that is not abstract, got '{target}', which lacks attach",
        ),
    ],
)
def test_what_is_no_dataclass_is_refused_with_the_class(written: Written, code: str, sentence: str) -> None:
    target = f"{written(code)}.Whole"
    assert sentence.format(target=target) in refused(target)


@pytest.mark.parametrize("target", ["subprocess.Popen", "builtins.int", "json.JSONEncoder", "os.system", "os.path"])
def test_what_python_ships_is_no_plug_in(target: str) -> None:
    assert "method._target_ must name a" in refused(target)


@pytest.mark.parametrize("target", [".{}.Whole", "{}..Whole", "{}.Whole ", "{}.Who-le", "{}/Whole", "{}.0"])
def test_what_is_no_path_of_a_class_is_refused_before_anything_is_imported(written: Written, target: str) -> None:
    module = written(WHOLE)
    sentence = "method._target_ must be a class's path such as package.module.Class"
    assert sentence in refused(target.format(module))
    assert module not in sys.modules


@pytest.mark.parametrize("reading", ["thaw", "show"])
def test_what_a_changed_file_names_is_not_imported(tmp_path: Path, written: Written, reading: str) -> None:
    plan = plan_of(tmp_path, {"sft": {"method": "sft"}}, [1])
    (planned,) = plan.runs
    finish(planned, 0.7)
    folder = new_sweep(plan)
    freeze([planned], folder)
    module, own = written(WHOLE), planned.run.config["method"]["_target_"]
    for file in (folder / "plan.jsonl", planned.record.folder / "config.json"):
        assert own in file.read_text()
        file.write_text(file.read_text().replace(own, f"{module}.Whole"))
    read = {
        "thaw": lambda: thaw(job_of(folder, planned).partition("=")[2].strip("'")),
        "show": lambda: show(planned.run.id, [f"record.root={tmp_path}"], None, brief=False),
    }[reading]
    with pytest.raises(UserError):
        read()
    assert module not in sys.modules


@pytest.mark.parametrize("raised", ["TypeError('no')", "KeyError('no')", "ValueError('no')", "AttributeError('no')"])
@pytest.mark.parametrize("place", ["__post_init__", "target_density"])
def test_an_error_in_the_class_names_it_with_the_line(written: Written, raised: str, place: str) -> None:
    code = WHOLE.replace("        return None", f"        raise {raised}") if place == "target_density" else WHOLE
    if place == "__post_init__":
        code += f"\n    def __post_init__(self):\n        raise {raised}\n"
    module = written(code)
    found = refused(f"{module}.Whole")
    assert f"method: class {module}.Whole " in found
    assert raised.partition("(")[0] + ": " in found
    assert f"/{module}.py, line " in found


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("def attach", "def attch", "lacks 'attach'"),
        ("@property", "", "must have 'target_density' as a property or a field, and it is a method"),
        ("def target_density", "def density", "lacks 'target_density'"),
        (", facts_every)", ")", "must have the method attach(self, model, optimizer, *, seed, facts_every)"),
        ("def attach(self, model, optimizer, *, seed", "def attach(self, *, seed", "too many positional"),
    ],
)
def test_a_member_of_the_protocol_that_is_missing_is_found_when_a_run_is_planned(
    written: Written, old: str, new: str, sentence: str
) -> None:
    found = refused(f"{written(WHOLE.replace(old, new))}.Whole")
    assert sentence in found
    assert "(see gmt.methods.protocol.Method)" in found


def test_a_whole_class_is_taken_and_a_setting_with_a_default_may_be_left_out(written: Written) -> None:
    made = plug_in("method", {"_target_": f"{written(WHOLE)}.Whole", "name": "mine"})
    assert (made.rank, made.layers) == (4, [])


def test_a_broken_disk_below_a_module_is_no_fault_of_its_author(written: Written) -> None:
    with pytest.raises(MachineFault):
        plug_in("method", {"_target_": f"{written('raise OSError(5, str())')}.Whole"})


@pytest.mark.heavy
def test_a_fact_that_is_missing_is_named_with_its_method(tmp_path: Path, written: Written) -> None:
    from gmt.runs.execute import execute

    module = written("""
        from gmt.methods.sft import Dense
        @dataclass(frozen=True, kw_only=True)
        class Whole:
            name: str
            target_density: float = 1.0
            def attach(self, model, optimizer, *, seed, facts_every):
                return Lacking()
        class Lacking(Dense):
            def facts(self):
                return {"density": 1.0}
        class Half:
            def facts(self): ...
        @dataclass(frozen=True, kw_only=True)
        class WithHalf(Whole):
            def attach(self, model, optimizer, *, seed, facts_every):
                return Half()
        @dataclass(frozen=True, kw_only=True)
        class WithTensor(Whole):
            def attach(self, model, optimizer, *, seed, facts_every):
                return Tensors()
        class Tensors(Dense):
            def facts(self):
                return {"density": next(iter(__import__("torch").ones(1)))}
        @dataclass(frozen=True, kw_only=True)
        class WithArray(Whole):
            def attach(self, model, optimizer, *, seed, facts_every):
                return Arrays()
        class Arrays(Dense):
            def state_dict(self):
                return {"a": [__import__("numpy").ones(1)]}
        """)
    with hydra_on(str(Path(__file__).parents[1] / "conf")):
        config = Composer().compose_plain(["task=tiny", f"record.root={tmp_path}"])
    config["method"] = {"_target_": f"{module}.Whole", "name": "mine"}
    with pytest.raises(UserError, match=r"method mine must give density and mask_seconds .* lacks mask_seconds"):
        execute(build(config))
    config["method"]["_target_"] = f"{module}.WithHalf"
    with pytest.raises(UserError, match=r"method mine: class \w+\.Half lacks 'begin_epoch'"):
        execute(build(config))
    config["method"]["_target_"] = f"{module}.WithTensor"
    with pytest.raises(UserError, match=r"method mine must give numbers as facts, got a Tensor as 'density'"):
        execute(build(config))
    config["method"]["_target_"] = f"{module}.WithArray"
    sentence = (
        r"method mine must give a checkpoint plain values and tensors, got a ndarray in state_dict\(\)\['a'\]\[0\]"
    )
    with pytest.raises(UserError, match=sentence):
        execute(build(config))


TASK = """
from gmt.tasks.protocol import Example, Suite
@dataclass(frozen=True, kw_only=True)
class Whole:
    name: str
    chat_template: None = None
    is_preference: bool = False
    def fingerprint(self):
        return "1"
    def train_examples(self):
        return [Example(prompt="a", completion="b")]
    def suites(self):
        suite = Suite(name="s", prompts=["a"], score=lambda i, text: 1.0, max_new_tokens=1)
        return {"target": {"s": suite}, "source": {"s": suite}}
"""


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            'return [Example(prompt="a", completion="b")]',
            "return {}['rows']",
            "can't make its training examples: KeyError",
        ),
        (
            'return [Example(prompt="a", completion="b")]',
            "return [('a', 'b')]",
            "must return Example, .* got \\('a', 'b'\\) at index 0",
        ),
        ('"source": {"s": suite}', "", "must return suites or benchmarks by name, under 'target' and under 'source'"),
        ('"source": {"s": suite}', '"source": {"s": 3}', "must return suites or benchmarks by name"),
        (
            "return {",
            "suite.x; return {",
            "can't make its suites: AttributeError: 'Suite' object has no attribute 'x' .*line",
        ),
    ],
)
def test_a_fault_in_what_a_task_returns_names_its_class(written: Written, old: str, new: str, sentence: str) -> None:
    from gmt.runs.prepare import prepare

    with hydra_on(None):
        config = Composer().compose_plain([])
    target = f"{written(TASK.replace(old, new))}.Whole"
    with pytest.raises(UserError, match=rf"task: class {target} {sentence}"):
        prepare(build(config | {"task": {"_target_": target, "name": "mine"}}))


def test_an_optional_part_in_another_shape_is_found_when_a_run_is_planned(written: Written) -> None:
    module = written(WHOLE + "\n    def reshape(self, model):\n        raise NotImplementedError\n")
    found = refused(f"{module}.Whole")
    assert "must have the method reshape(self, model, *, seed)" in found
    assert "(see gmt.methods.protocol.ReshapesModel)" in found


@pytest.mark.heavy
def test_an_error_while_a_model_is_reshaped_names_its_cause(written: Written, tmp_path: Path) -> None:
    from gmt.runs.execute import execute

    module = written(WHOLE + "\n    def reshape(self, model, *, seed):\n        model.not_there\n")
    with hydra_on(str(Path(__file__).parents[1] / "conf")):
        config = Composer().compose_plain(["task=tiny", f"record.root={tmp_path}"])
    config["method"] = {"_target_": f"{module}.Whole", "name": "mine"}
    with pytest.raises(
        UserError, match=r"class .*Whole can't reshape the model: AttributeError: .* 'not_there' .*line"
    ):
        execute(build(config))


@pytest.mark.parametrize("value", [80, -0.1, "'0.2'", "float('nan')"])
def test_a_target_density_that_is_no_fraction_is_refused(written: Written, value: object) -> None:
    module = written(WHOLE.replace("        return None", f"        return {value}"))
    assert "target_density must be None or a number in [0, 1], got " in refused(f"{module}.Whole")

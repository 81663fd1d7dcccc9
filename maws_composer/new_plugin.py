"""`maws-composer new callback NAME --out FOLDER`: a callback that works, and its test, to be changed into one's own."""

from __future__ import annotations

import keyword
import re
from importlib.util import find_spec
from pathlib import Path

from maws_composer.config.problems import ConfigError, Problem
from maws_composer.registry import lookup, names

_CALLBACK = '''"""{title}: what it does, in one sentence."""

from __future__ import annotations

from typing import Annotated

from composer.core import Callback, State
from composer.loggers import Logger
from pydantic import Field

from maws_composer.registry import register_callback


@register_callback("{name}")
class {title}(Callback):
    """Logs the mean loss of the last steps.

    The types of `__init__` are what a YAML is checked against, and this text is what `maws-composer registry` shows.
    In a run:

        code_paths: [{file}]
        callbacks: {{{name}: {{every: 10}}}}

    Args:
        every: how many steps.
    """

    def __init__(self, every: Annotated[int, Field(gt=0)] = 10) -> None:
        self.every = every
        self.total, self.steps = 0.0, 0

    # Composer has more moments than this: fit_start, batch_start, eval_end, batch_checkpoint, ...
    def batch_end(self, state: State, logger: Logger) -> None:
        self.total += float(state.total_loss_dict["loss/train/total"])
        self.steps += 1
        if self.steps == self.every:
            logger.log_metrics({{"{name}/loss": self.total / self.steps}})
            self.total, self.steps = 0.0, 0

    # What a resumed run has to know: without this pair it would begin anew at each interruption. Its shape is always
    # the same: no list that grows from step to step.
    def state_dict(self) -> dict[str, float]:
        return {{"total": self.total, "steps": self.steps}}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.total, self.steps = state["total"], int(state["steps"])
'''

_TEST = '''"""The callback `{name}` in a few steps of a tiny model, and over an interruption."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from maws_composer.config.build import build
from maws_composer.config.problems import ConfigError
from maws_composer.registry import load_plugins, lookup

FILE = Path(__file__).with_name("{name}.py")


class Log:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []

    def log_metrics(self, metrics: dict[str, float]) -> None:
        self.metrics.append(metrics)


def make(**arguments: object):
    assert load_plugins([FILE]) == []
    return build(lookup("callback", "{name}"), arguments, run=None)


def step(callback, loss: float, log: Log) -> None:
    callback.batch_end(SimpleNamespace(total_loss_dict={{"loss/train/total": loss}}), log)


def test_it_logs_the_mean_of_the_last_steps() -> None:
    callback, log = make(every=2), Log()
    for loss in (1.0, 3.0, 5.0):
        step(callback, loss, log)
    assert log.metrics == [{{"{name}/loss": 2.0}}]


def test_it_goes_on_after_an_interruption() -> None:
    before, after, log = make(every=2), make(every=2), Log()
    keys = before.state_dict().keys()
    step(before, 1.0, log)
    assert before.state_dict().keys() == keys
    after.load_state_dict(before.state_dict())
    step(after, 3.0, log)
    assert log.metrics == [{{"{name}/loss": 2.0}}]


def test_a_wrong_argument_is_named() -> None:
    with pytest.raises(ConfigError, match="evry: unknown key; nearest is every"):
        make(evry=2)
'''


_NEXT = """\
{file}
{test}

Its test passes as it is:

    python -m pytest {test}

In a run, as lines of its YAML:

    code_paths: [{out}]
    callbacks: {{{name}: {{every: 10}}}}

or at the command line:

    composer train.py CONFIG 'code_paths=[{out}]' callbacks.{name}.every=10

The line `{name}/loss` is then in the run's metrics.jsonl and report.html. `maws-composer registry callback {name}
--code-path {out}` prints its arguments. For other kinds than callbacks, docs/pages/plugins.md has one of each."""


def new_callback(name: str, out: Path) -> str:
    """Write OUT/<name>.py and OUT/test_<name>.py; returns their paths, and what to do with them.

    Raises:
        ConfigError: the name is none, or is taken; a file exists. Nothing is written then.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise ConfigError([Problem("NAME", f"{name!r} is no name in snake_case, such as input_wait")])
    if name in names("callback"):
        raise ConfigError([Problem("NAME", f"{name!r} is taken by {lookup('callback', name).origin}")])
    if find_spec(name) is not None:
        message = f"{name!r} is a package, which a test beside {name}.py could not import any more; choose another"
        raise ConfigError([Problem("NAME", message)])
    file, test = out / f"{name}.py", out / f"test_{name}.py"
    if existing := [path for path in (file, test) if path.exists()]:
        raise ConfigError([Problem("--out", f"{path} exists already; nothing was written") for path in existing])
    words = {
        "name": name,
        "file": file,
        "test": test,
        "out": out,
        "title": "".join(word.capitalize() for word in name.split("_")),
    }
    out.mkdir(parents=True, exist_ok=True)
    file.write_text(_CALLBACK.format(**words))
    test.write_text(_TEST.format(**words))
    return _NEXT.format(**words)

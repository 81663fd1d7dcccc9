"""Names -> builders. One door for ours, a user's own files and installed packages.

    @register_callback("input_wait")
    class InputWait(Callback):
        '''Logs the share of each step spent waiting for data.'''

        def __init__(self, every: Interval = "50ba") -> None: ...

A plugin's typed signature is its schema: what the YAML may say, and what it must. Two sorts of parameters are no part
of it: a keyword-only one named `run`, which receives the whole `Run`; and positional-only ones, which are handed over
where the plugin is used, such as the parameter groups of an optimizer. Objects are made by
`maws_composer.config.plugins`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from maws_composer.config.problems import ConfigError, Problem, not_there
from maws_composer.frames import traceback_of

Plugin = TypeVar("Plugin")

KINDS = (
    "stage", "callback", "logger", "algorithm", "optimizer", "schedule", "dataset", "transform", "evaluation", "size",
    "text_tower", "loss", "reader", "importer", "exporter",
)  # fmt: skip
_BASES = {  # what a class has to be derived from; by name, so that nothing is imported
    "stage": "composer.models.base.ComposerModel",
    "callback": "composer.core.callback.Callback",
    "logger": "composer.loggers.logger_destination.LoggerDestination",
    "algorithm": "composer.core.algorithm.Algorithm",
    "optimizer": "torch.optim.optimizer.Optimizer",
    "text_tower": "torch.nn.modules.module.Module",
}


@dataclass(frozen=True)
class Entry:
    """A plugin: a class or function, or for a size the numbers themselves; `origin` is file:line."""

    kind: str
    name: str
    builder: Any
    origin: str


_entries: dict[tuple[str, str], dict[str, Entry]] = {}  # by origin: more than one is a clash
_installed: dict[tuple[str, str], list[importlib.metadata.EntryPoint]] = {}
_loaded: dict[str, None] = {}  # code paths, in order
_refused: dict[tuple[str, str], str] = {}


def register(kind: str, name: str) -> Callable[[Plugin], Plugin]:
    """Make a class, a function or (for sizes) an object known as the `kind` called `name`."""

    def decorate(builder: Plugin) -> Plugin:
        frame = sys._getframe(1)
        _add(Entry(kind, name, builder, f"{frame.f_code.co_filename}:{frame.f_lineno}"))
        return builder

    return decorate


def register_stage(name: str) -> Callable[[Plugin], Plugin]:
    """A ComposerModel; its arguments are the section `model`."""
    return register("stage", name)


def register_callback(name: str) -> Callable[[Plugin], Plugin]:
    """A Composer callback; its arguments are `callbacks.<name>`.

    With a method `preflight() -> list[Problem]` it is made once before processes are joined, for what it foresees.
    """
    return register("callback", name)


def register_logger(name: str) -> Callable[[Plugin], Plugin]:
    """A Composer logger; its arguments are `loggers.<name>`."""
    return register("logger", name)


def register_algorithm(name: str) -> Callable[[Plugin], Plugin]:
    """A Composer algorithm; its arguments are `algorithms.<name>`.

    It runs on each rank, and may draw nothing at random but by `maws_composer.data.randomness`.
    """
    return register("algorithm", name)


def register_optimizer(name: str) -> Callable[[Plugin], Plugin]:
    """A torch optimizer; its arguments are the section `optimizer`, beside base_lr and weight_decay.

    Handed over: the parameter groups, each a dict with `params` (DTensors), `lr`, `weight_decay` and `name`.
    """
    return register("optimizer", name)


def register_schedule(name: str) -> Callable[[Plugin], Plugin]:
    """A class whose objects are functions (sample, total) -> share of the peak learning rate; its arguments are the
    section `schedule`. `sample` is the samples seen before a step, `total` those of the whole run."""
    return register("schedule", name)


def register_dataset(name: str) -> Callable[[Plugin], Plugin]:
    """A map-style dataset: `__len__`, and `__getitem__(number)` -> {column: value} as `data.own` says; its arguments
    are `data.train.dataset` or `data.eval.dataset`. What it returns from a method `fingerprint() -> str`, if it has
    one, must be the same when a run is resumed."""
    return register("dataset", name)


def register_transform(name: str) -> Callable[[Plugin], Plugin]:
    """A class whose objects are functions (image, generator) -> image: from a decoded PIL image to a square of the
    model's size, with a numpy generator that is the sample's own; its arguments are `data.train.transform`."""
    return register("transform", name)


def register_evaluation(name: str) -> Callable[[Plugin], Plugin]:
    """A class whose objects turn features of training and test images into a `Result`; its arguments are
    `evaluations.<name>`."""
    return register("evaluation", name)


def register_size(name: str) -> Callable[[Plugin], Plugin]:
    """The shape of a model: `register_size("vit_b16")(ViTSize(...))`."""
    return register("size", name)


def register_text_tower(name: str) -> Callable[[Plugin], Plugin]:
    """A torch module from token ids and their mask to an embedding of each text, which also tokenizes, as
    `data.own_text` says; `model.text.name` names it, and its arguments are `model.text.arguments`."""
    return register("text_tower", name)


def register_loss(name: str) -> Callable[[Plugin], Plugin]:
    """A loss over pairs of images and texts: `register_loss("softmax")(ContrastiveLoss(...))`."""
    return register("loss", name)


def refuse(kind: str, name: str, reason: str) -> None:
    """Say why a name that people know elsewhere is no plugin here; one may still be registered by that name."""
    _refused[kind, name] = reason


def refusals(kind: str) -> dict[str, str]:
    """Name -> why it is refused."""
    return {name: reason for (of, name), reason in _refused.items() if of == kind and name not in names(kind)}


def register_reader(name: str) -> Callable[[Plugin], Plugin]:
    """A function that finds the samples of a conversion and returns a `Source`, or one for each sub-folder of the
    destination; its arguments are given by `python -m streaming_conversion NAME DST --set key=value`."""
    return register("reader", name)


def register_importer(name: str) -> Callable[[Plugin], Plugin]:
    """A function that knows the names of somebody's weights; it is asked wherever weights are named.

    Handed over: name -> shape of all tensors. Returns the recipes of our tensors out of theirs; None: not theirs.
    """
    return register("importer", name)


def register_exporter(name: str) -> Callable[[Plugin], Plugin]:
    """A function that writes weights; its arguments are given by `maws-composer export --to NAME --set key=value`.

    Handed over: the address of the weights, for `weights.sources.open_model` and others; and the path to be written.
    """
    return register("exporter", name)


def lookup(kind: str, name: str) -> Entry:
    """The plugin of that name.

    Raises:
        ConfigError: if there is none, naming the nearest, or why it is refused; or if the package that offers it cannot
            be imported.
    """
    if (kind, name) not in _entries and (kind, name) in _installed:
        _load_installed(kind, name)
    if reason := refusals(kind).get(name):
        raise ConfigError([Problem(f"{kind} {name}", f"the {kind} {name!r} is refused: {reason}")])
    if (kind, name) not in _entries:
        raise ConfigError([Problem(kind, f"{unknown(kind, name)}; looked in {', '.join(searched())}")])
    return next(iter(_entries[kind, name].values()))


def misfit(kind: str, what: type) -> str | None:
    """Why a class cannot be a plugin of this kind, or cannot be what one has made."""
    base = _BASES.get(kind)
    if base is None or any(f"{each.__module__}.{each.__qualname__}" == base for each in what.__mro__):
        return None
    return f"{what.__name__} is not derived from {base}"


def names(kind: str) -> list[str]:
    """All names of a kind, sorted."""
    return sorted({name for of, name in (*_entries, *_installed) if of == kind})


def plural(kind: str) -> str:
    """As in the names of entry points: maws_composer.stages, maws_composer.losses."""
    return f"{kind}es" if kind.endswith("s") else f"{kind}s"


def searched() -> list[str]:
    """Where plugins were looked for."""
    theirs = [path for path in _loaded if not path.startswith("maws_composer.")]
    return ["maws_composer", *theirs, "installed packages"]


def unknown(kind: str, name: str) -> str:
    """One sentence about a name that is not registered."""
    close = get_close_matches(name, names(kind), n=1)
    if close:
        return f"unknown {kind} {name!r}; nearest is {close[0]}"
    known = ", ".join(names(kind))
    return f"unknown {kind} {name!r}; " + (f"known are {known}" if known else f"no {kind} is registered")


class OneOf:
    """Annotation of a text that must be a registered name: `size: Annotated[str, OneOf("size")]`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        return f"name of {'an' if self.kind[0] in 'aeio' else 'a'} {self.kind}"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, name: str) -> str:
        if name not in names(self.kind):
            raise ValueError(unknown(self.kind, name))
        return name


def load_plugins(code_paths: Iterable[str | Path]) -> list[Problem]:
    """Import the files, folders (each *.py that does not start with "_" or "test_") and dotted modules in `code_paths`.

    Installed packages offer plugins as entry points in the groups maws_composer.stages, maws_composer.callbacks...;
    they are found here, and imported when somebody asks for their name.

    Returns:
        What could not be imported, with its traceback, and names that two plugins claim.
    """
    _find_installed()
    problems: list[Problem] = []
    for path in code_paths:
        problems += _load_code_path(path)
    return [*problems, *_clashes()]


def _add(entry: Entry) -> None:
    if entry.kind not in KINDS:
        raise ValueError(f"{entry.kind!r} is no kind of plugin; there are {', '.join(KINDS)}")
    _entries.setdefault((entry.kind, entry.name), {})[entry.origin] = entry


def _load_code_path(code_path: str | Path) -> Iterator[Problem]:
    path, is_module = Path(code_path).expanduser(), all(part.isidentifier() for part in str(code_path).split("."))
    if is_module and (not path.exists() or (path / "__init__.py").exists()):
        yield from _guarded(str(code_path), partial(importlib.import_module, str(code_path)))
    elif path.exists():
        inside = [file for file in sorted(path.glob("*.py")) if not file.name.startswith(("_", "test_"))]
        for file in inside if path.is_dir() else [path]:
            yield from _guarded(str(file), partial(_import_file, file))
    else:
        yield Problem("code_paths", f"{code_path} {not_there(code_path)}")
    _loaded[str(code_path)] = None


def _import_file(file: Path) -> None:
    file = file.resolve()
    # The file's own name could hide an installed package: callbacks/wandb.py is not wandb.
    name = f"_code_path_{sha256(str(file).encode()).hexdigest()[:12]}_{file.stem}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python file")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _guarded(what: str, load: Callable[[], Any]) -> Iterator[Problem]:
    try:
        load()
    except ConfigError as error:
        yield from error.problems
    except (Exception, SystemExit) as error:
        yield Problem("code_paths", f"{what} cannot be imported:\n{traceback_of(error)}")


def _find_installed() -> None:
    _installed.clear()
    for kind in KINDS:
        for entry_point in importlib.metadata.entry_points(group=f"maws_composer.{plural(kind)}"):
            _installed.setdefault((kind, entry_point.name), []).append(entry_point)


def _load_installed(kind: str, name: str) -> None:
    entry_point = _installed[kind, name][0]
    try:
        builder = entry_point.load()
    except (Exception, SystemExit) as error:
        message = f"the package {_package(entry_point)} cannot be imported:\n{traceback_of(error)}"
        raise ConfigError([Problem(f"{kind} {name}", message)]) from error
    if (kind, name) not in _entries:
        _add(Entry(kind, name, builder, _origin_of(builder) or entry_point.value))


def _origin_of(builder: Any) -> str | None:
    try:
        return f"{inspect.getsourcefile(builder)}:{inspect.getsourcelines(builder)[1]}"
    except (TypeError, OSError):
        return None


def _clashes() -> Iterator[Problem]:
    for kind, name in sorted({*_entries, *_installed}):
        entries, offers = _entries.get((kind, name), {}), _installed.get((kind, name), [])
        modules = {getattr(entry.builder, "__module__", None) for entry in entries.values()}
        packages = [f"the package {_package(offer)}" for offer in offers if offer.module not in modules]
        places = [*entries, *packages]
        if len(places) > 1:
            yield Problem("code_paths", f"two {plural(kind)} are named {name!r}: {' and '.join(places)}")


def _package(entry_point: importlib.metadata.EntryPoint) -> str:
    return f"{entry_point.dist.name} ({entry_point.value})" if entry_point.dist else entry_point.value

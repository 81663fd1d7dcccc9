"""Checks plain data against a dataclass or a plugin's signature, and says everything that is wrong at once."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from types import UnionType
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, BeforeValidator, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

Checked = TypeVar("Checked")
Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Mistake:
    """One thing that is wrong at a path; `kind` tells unknown and missing keys from wrong values."""

    path: Path
    kind: Literal["unknown", "missing", "value"]
    message: str


@dataclasses.dataclass(frozen=True)
class Outcome(Generic[Checked]):
    """The object and its plain form with defaults filled in; or the mistakes, and then neither."""

    value: Checked | None
    plain: dict[str, Any]
    mistakes: list[Mistake]


def check(schema: type[Checked], data: Mapping[str, Any]) -> Outcome[Checked]:
    """Make a `schema` (a dataclass) from plain data: no conversions, no unknown keys at any depth.

    Args:
        schema: dataclass; ranges as `Annotated[int, Field(gt=0)]`.
        data: what a YAML can hold.
    """
    adapter = TypeAdapter(schema)
    try:
        # As JSON: strict mode then takes lists for tuples, whole numbers for floats and mappings for dataclasses.
        value = adapter.validate_json(json.dumps(data, default=_plain), strict=True, extra="forbid")
    except ValidationError as error:
        return Outcome(None, {}, _mistakes(error.errors(include_url=False), data))
    return Outcome(value, adapter.dump_python(value, mode="json"), [])


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else str(value)


@cache
def signature_of(builder: Callable[..., Any]) -> type:
    """The arguments that a YAML may give to a class or function, as a dataclass.

    Left out: `self`, `run`, positional-only ones, *args and **kwargs.

    Raises:
        TypeError: an argument has no type, one that no YAML can hold, or a default of another type.
    """
    function = inspect.unwrap(builder.__init__ if inspect.isclass(builder) else builder)
    parameters = [
        parameter
        for parameter in inspect.signature(builder).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and parameter.name != "run"
    ]
    types = _resolved_types(function, parameters)
    fields = [(parameter.name, types[parameter.name], _field(parameter)) for parameter in parameters]
    schema = dataclasses.make_dataclass(getattr(builder, "__name__", "plugin"), fields, kw_only=True, frozen=True)
    try:
        TypeAdapter(schema)
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation) as error:
        raise TypeError(f"its arguments have a type that a YAML cannot hold: {str(error).splitlines()[0]}") from error
    for parameter in parameters:
        _check_default(parameter, types[parameter.name])
    return schema


def _check_default(parameter: inspect.Parameter, annotation: Any) -> None:
    if parameter.default is parameter.empty:
        return
    try:
        TypeAdapter(annotation).validate_python(parameter.default, strict=True)
    except ValidationError as error:
        told = f"its argument {parameter.name} is {describe_type(annotation)}, but its default {parameter.default!r}"
        raise TypeError(f"{told} is not") from error


@cache
def extended(base: type, builder: Callable[..., Any]) -> type:
    """The dataclass `base`, and the arguments of a plugin beside its keys.

    Raises:
        TypeError: see `signature_of`.
    """
    schema = signature_of(builder)
    hints = get_type_hints(schema, include_extras=True)
    fields = [(field.name, hints[field.name], _copied(field)) for field in dataclasses.fields(schema)]
    return dataclasses.make_dataclass(base.__name__, fields, bases=(base,), kw_only=True, frozen=True)


def _copied(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is dataclasses.MISSING:
        return dataclasses.field()
    return dataclasses.field(default_factory=field.default_factory)


def _resolved_types(function: Any, parameters: Sequence[inspect.Parameter]) -> dict[str, Any]:
    untyped = [parameter.name for parameter in parameters if parameter.annotation is parameter.empty]
    if untyped:
        raise TypeError(f"its argument {untyped[0]} has no type")

    def only_these() -> None: ...

    # Not all of the function's: the type of `run` is often imported for type checkers only.
    only_these.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    try:
        return get_type_hints(only_these, globalns=getattr(function, "__globals__", {}), include_extras=True)
    except NameError as error:
        raise TypeError(f"a type of its arguments is not defined: {error}") from error


def _field(parameter: inspect.Parameter) -> Any:
    if parameter.default is parameter.empty:
        return dataclasses.field()
    return dataclasses.field(default_factory=lambda: parameter.default)


def arguments_of(checked: Any) -> dict[str, Any]:
    """The keyword arguments that a checked signature holds, nested dataclasses made."""
    return {field.name: getattr(checked, field.name) for field in dataclasses.fields(checked)}


def describe_type(annotation: Any) -> str:
    """A type in a few words: `float (gt=0, lt=1)`."""
    if hasattr(annotation, "__metadata__"):
        limits = [told for limit in annotation.__metadata__ if (told := _describe_limit(limit))]
        return describe_type(annotation.__origin__) + (f" ({', '.join(limits)})" if limits else "")
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(describe_type(part) for part in get_args(annotation))
    if get_origin(annotation) is Literal:
        return " | ".join(str(option) for option in get_args(annotation))
    if annotation is type(None):
        return "null"
    if get_args(annotation) and inspect.isclass(get_origin(annotation)):
        return f"{get_origin(annotation).__name__}[{', '.join(map(_describe_part, get_args(annotation)))}]"
    return annotation.__name__ if inspect.isclass(annotation) and not get_args(annotation) else str(annotation)


def _describe_part(annotation: Any) -> str:
    """Of a list or a mapping; of a nested section its keys."""
    if dataclasses.is_dataclass(annotation):
        return f"{{{', '.join(field.name for field in dataclasses.fields(annotation))}}}"
    return "..." if annotation is Ellipsis else describe_type(annotation)


def _describe_limit(limit: Any) -> str:
    """Nothing of what only code checks."""
    if isinstance(limit, BeforeValidator | AfterValidator):
        return ""
    if isinstance(limit, FieldInfo):
        return ", ".join(_describe_limit(part) for part in limit.metadata)
    words = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    said = [f"{word} {getattr(limit, name)}" for name, word in words.items() if hasattr(limit, name)]
    return said[0] if said else repr(limit)


def keys_of(schema: Any, data: Any, path: Path = ()) -> Iterator[Path]:
    """The path of every key that `schema` knows, section after section; in a free mapping, of what `data` has."""
    for part in _parts(schema):
        if dataclasses.is_dataclass(part):
            hints = get_type_hints(part, include_extras=True)
            here = [(field.name, hints[field.name]) for field in dataclasses.fields(part)]
        elif get_origin(part) is dict and get_args(part)[1] is not Any:
            here = [(str(key), get_args(part)[1]) for key in data] if isinstance(data, Mapping) else []
        else:
            continue
        for name, annotation in here:
            yield (*path, name)
            yield from keys_of(annotation, data.get(name) if isinstance(data, Mapping) else None, (*path, name))


def _parts(annotation: Any) -> list[Any]:
    """The alternatives of a type, without `Annotated`."""
    if get_origin(annotation) in (Union, UnionType):
        return [part for alternative in get_args(annotation) for part in _parts(alternative)]
    if hasattr(annotation, "__metadata__"):
        return _parts(annotation.__origin__)
    return [annotation]


_FEW = 8  # keys that are worth being listed


def say(wrong: Mistake, known: Sequence[Path]) -> str:
    """The mistake in words, an unknown key with the nearest of those that are known."""
    if wrong.kind != "unknown":
        return wrong.message
    if near := nearest_key(wrong.path, known):
        return f"{wrong.message}; nearest is {'.'.join(near)}"
    siblings = list(dict.fromkeys(key[-1] for key in known if key[:-1] == wrong.path[:-1]))
    if len(siblings) > _FEW:
        return wrong.message
    return wrong.message + (f"; known here are {', '.join(siblings)}" if siblings else "; nothing is expected here")


def nearest_key(path: Path, known: Sequence[Path]) -> Path | None:
    """The known key that an unknown one was most likely meant to be.

    First the same name in another section, then a similar name in this one, then a similar name anywhere.
    """
    *section, name = path
    for candidate in known:
        if candidate[-1] == name:
            return candidate
    siblings = [key for key in known if list(key[:-1]) == section]
    for keys, cutoff in ((siblings, 0.6), (known, 0.8)):
        close = get_close_matches(name, [key[-1] for key in keys], n=1, cutoff=cutoff)
        if close:
            return next(key for key in keys if key[-1] == close[0])
    return None


def _mistakes(errors: Iterable[ErrorDetails], data: Any) -> list[Mistake]:
    """Group by path: the alternatives of a union each bring an error, for one wrong value."""
    grouped: dict[Path, list[ErrorDetails]] = {}
    for error in errors:
        grouped.setdefault(_path_in(data, error), []).append(error)
    return [_mistake(path, group) for path, group in grouped.items()]


def _path_in(data: Any, error: ErrorDetails) -> Path:
    """The path of an error in the data: pydantic adds the names of a union's alternatives."""
    path: list[str] = []
    for part in error["loc"]:
        if isinstance(data, Mapping) and str(part) in data:
            data = data[str(part)]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        elif not (error["type"] in _MISSING and isinstance(part, str)):
            continue
        path.append(str(part))
    return tuple(path)


_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
_MISSING = ("missing", "missing_argument", "missing_keyword_only_argument")
_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "keys and values",
    "dataclass_type": "keys and values",
    "none_required": "null",
}
_RANGES = {
    "greater_than": "{value} is not above {gt}",
    "greater_than_equal": "{value} is below {ge}",
    "less_than": "{value} is not below {lt}",
    "less_than_equal": "{value} is above {le}",
    "multiple_of": "{value} is not a multiple of {multiple_of}",
    "finite_number": "{value} is not finite",
    "too_short": "needs {min_length} entries, has {actual_length}",
    "too_long": "takes {max_length} entries, has {actual_length}",
    "value_error": "{error}",
}


def _mistake(path: Path, errors: Sequence[ErrorDetails]) -> Mistake:
    first = errors[0]
    if first["type"] in _UNKNOWN:
        return Mistake(path, "unknown", "unknown key")
    if first["type"] in _MISSING and isinstance(first["loc"][-1], int):
        return Mistake(path, "value", f"{show(first['input'])} has too few entries")
    if first["type"] in _MISSING:
        return Mistake(path, "missing", "missing; required")
    for error in errors:
        if error["type"] in _RANGES:  # of several alternatives, the one whose type was right
            limits = {name: f"{limit:g}" if isinstance(limit, float) else limit for name, limit in error["ctx"].items()}
            return Mistake(path, "value", _RANGES[error["type"]].format(value=show(error["input"]), **limits))
    if first["loc"][-1] == "[key]":
        return Mistake(path, "value", f"unknown key; expected {_expected(errors)}{_nearest(errors)}")
    message = f"expected {_expected(errors)}, got {show(first['input'])}{_nearest(errors)}"
    return Mistake(path, "value", message)


def _expected(errors: Sequence[ErrorDetails]) -> str:
    options: list[str] = []
    for error in errors:
        other = [_EXPECTED.get(error["type"], error["msg"][:1].lower() + error["msg"][1:])]
        options += _options(error) if error["type"] in ("literal_error", "bool_type") else other
    *most, last = dict.fromkeys(options)
    return f"{', '.join(most)} or {last}" if most else last


def _options(error: ErrorDetails) -> list[str]:
    if error["type"] == "bool_type":
        return ["true", "false"]
    return error["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")


def _nearest(errors: Sequence[ErrorDetails]) -> str:
    options = [option for error in errors if error["type"] == "literal_error" for option in _options(error)]
    close = get_close_matches(str(errors[0]["input"]), options, n=1)
    return f"; nearest is {close[0]}" if close else ""


def show(value: Any) -> str:
    """A value as a user wrote it in YAML, text in quotes, and not more than a line of it."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."

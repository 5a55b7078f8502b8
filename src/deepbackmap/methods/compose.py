"""Frozen dataclasses from nested keys and values: an unknown key is an error."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from deepbackmap.errors import InputError

T = TypeVar("T")


def learned() -> dict[str, bool]:
    """Metadata of a field that a model learns from its data: no option, so no key of a file."""
    return {"learned": True}


def fields_of(cls: type) -> dict[str, Any]:
    """Type of every field that is an option, by name."""
    assert dataclasses.is_dataclass(cls)
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if not f.metadata.get("learned")}


def compose(cls: type[T], values: object, where: str, key: str = "", method: str = "") -> T:
    """An instance of a frozen dataclass; fields that are dataclasses are sections, or a number
    where the class has ``from_number``; tuples of them are lists of sections.

    Args:
        cls: of the instance.
        values: keys and values, sections as such again.
        where: they stand, for messages.
        key: of the section in ``where``; empty at the top.
        method: whose options these are, for messages.

    Raises:
        InputError: a key that is no field, a value of another type or out of its range.
    """
    from_number = getattr(cls, "from_number", None)
    if from_number and isinstance(values, (int, float)) and not isinstance(values, bool):
        return _made(from_number, {"value": float(values)}, where, key)
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: '{key}' expected a section of keys, found {values!r}")
    known = fields_of(cls)
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        full = f"{key}.{name}" if key else str(name)
        if name not in known:
            of = f" of the method {method}" if method else ""
            raise InputError(f"{where}: unknown key '{full}', expected one{of}: {', '.join(known)}")
        if dataclasses.is_dataclass(known[name]):
            arguments[name] = compose(known[name], value, where, full, method)
        elif get_origin(known[name]) is tuple:
            if not isinstance(value, (list, tuple)):
                raise InputError(f"{where}: '{full}' expected a list of sections, found {value!r}")
            inner = get_args(known[name])[0]
            arguments[name] = tuple(
                compose(inner, one, where, f"{full}[{k}]", method) for k, one in enumerate(value)
            )
        else:
            arguments[name] = _scalar(known[name], value, where, full)
    return _made(cls, arguments, where, key)


def _made(make: Callable[..., T], arguments: Mapping[str, Any], where: str, key: str) -> T:
    """What is made of arguments, with the key in messages about their ranges."""
    try:
        return make(**arguments)
    except ValueError as error:
        raise InputError(f"{where}: {key + '.' if key else ''}{error}") from error


def _scalar(wanted: type, value: object, where: str, key: str) -> object:
    if wanted is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            pass
    if wanted is float and isinstance(value, str):
        try:  # YAML reads 1e-4 (without a dot) as a string
            return float(value)
        except ValueError:
            pass
    if type(value) is wanted:
        return value
    raise InputError(f"{where}: '{key}' expected {wanted.__name__}, found {value!r}")

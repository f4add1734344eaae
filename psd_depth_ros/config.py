"""Strict frozen settings: the one home of every default, range and unit.

Rooms declare a frozen dataclass whose fields are made by `setting` and `section` (fields made
otherwise are left to their class). ROS parameters,
command-line help, YAML files and tables of docs/ are all made from, or tested against, `specs`.
Reading YAML files and declaring ROS parameters is left to the callers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from dataclasses import dataclass
import difflib
import math
import re
from typing import Any, get_args, get_origin, get_type_hints, TypeVar

from psd_depth_ros.errors import SettingsError
from psd_depth_ros.parsing import parse_yaml, ParseError, shorten

T = TypeVar('T')
_KEY = 'psd_depth_ros.setting'
_EXPONENT = re.compile(r'[+-]?\d+e[+-]?\d+', re.IGNORECASE)


@dataclass(frozen=True)
class SettingSpec:
    """A setting: dotted name, type, default, description, unit and accepted values."""

    name: str
    type: Any
    default: Any
    description: str
    unit: str = ''
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] | None = None
    read_only: bool = False

    @property
    def range_text(self) -> str:
        """The accepted values as text, empty where every value of the type is accepted."""
        if self.choices is not None:
            return ' | '.join(self.choices)
        if self.minimum is None and self.maximum is None:
            return ''
        low = '-inf' if self.minimum is None else f'{self.minimum:g}'
        high = 'inf' if self.maximum is None else f'{self.maximum:g}'
        return f'{low} .. {high}'


def setting(
    default: Any,
    description: str,
    unit: str = '',
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] | None = None,
    read_only: bool = False,
) -> Any:
    """Declare a dataclass field with its description, unit and accepted values."""
    metadata = {
        _KEY: {
            'description': description,
            'unit': unit,
            'minimum': minimum,
            'maximum': maximum,
            'choices': choices,
            'read_only': read_only,
        }
    }
    return dataclasses.field(default=default, metadata=metadata)


def section(cls: type[T]) -> T:
    """Declare a field of another settings class; its settings get dotted names."""
    return dataclasses.field(default_factory=cls)  # type: ignore[return-value]


def specs(cls: type[Any], prefix: str = '') -> list[SettingSpec]:
    """All settings of a settings class, those of sections with dotted names."""
    found: list[SettingSpec] = []
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        name = prefix + field.name
        if dataclasses.is_dataclass(hints[field.name]):
            found += specs(hints[field.name], name + '.')
        elif _KEY in field.metadata:
            found.append(
                SettingSpec(name, hints[field.name], field.default, **field.metadata[_KEY])
            )
    return found


def build(cls: type[T], mapping: Mapping[str, Any], source: str = '') -> T:
    """Make settings from a mapping with nested or dotted keys.

    Args:
        cls: the settings class.
        mapping: values by name; only int to float and list to tuple are converted.
        source: file or option that the values come from, for messages.

    Raises:
        SettingsError: an unknown or removed key, a value of the wrong type or out of range.
    """
    known = {spec.name: spec for spec in specs(cls)}
    values: dict[str, Any] = {}
    for name, value in _walk(mapping, known):
        if name not in known:
            raise SettingsError(_unknown(name, list(known), source, removed(cls)))
        values[name] = _check(known[name], value, source)
    try:
        return _assemble(cls, values, '')
    except SettingsError as error:  # of a class that checks its settings against each other
        raise SettingsError(f'{source_prefix(source)}{error}') from error


def validate(instance: Any, source: str = '') -> None:
    """Raise SettingsError where a value of `instance` breaks its type or range."""
    values = flatten(instance)
    for spec in specs(type(instance)):
        _check(spec, values[spec.name], source)


def flatten(instance: Any, prefix: str = '') -> dict[str, Any]:
    """The settings as a flat mapping of dotted names."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if dataclasses.is_dataclass(value):
            flat.update(flatten(value, f'{prefix}{field.name}.'))
        elif _KEY in field.metadata:
            flat[prefix + field.name] = value
    return flat


def dump(instance: Any) -> dict[str, Any]:
    """The settings as nested plain values (tuples as lists), for YAML or JSON."""
    nested: dict[str, Any] = {}
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if dataclasses.is_dataclass(value):
            nested[field.name] = dump(value)
        elif _KEY in field.metadata:
            nested[field.name] = list(value) if isinstance(value, tuple) else value
    return nested


def parse_changes(changes: Sequence[str], source: str) -> dict[str, Any]:
    """Values by dotted name from NAME=VALUE texts; values are YAML. Raises SettingsError."""
    values: dict[str, Any] = {}
    for text in changes:
        name, separator, value = text.partition('=')
        if not separator or not name:
            raise SettingsError(f'{source} {shorten(text)}: expected NAME=VALUE')
        try:
            parsed = parse_yaml(value)
        except ParseError as error:
            raise SettingsError(f'{source} {shorten(text)}: the value {error}') from error
        # To YAML 1e-4 is text, as it has no point.
        is_number = isinstance(parsed, str) and _EXPONENT.fullmatch(parsed)
        values[name.strip()] = float(parsed) if is_number else parsed
    return values


def _walk(
    mapping: Mapping[str, Any], known: Mapping[str, SettingSpec], prefix: str = ''
) -> Iterator[tuple[str, Any]]:
    for key, value in mapping.items():
        name = f'{prefix}{key}'
        if isinstance(value, Mapping) and name not in known:
            yield from _walk(value, known, name + '.')
        else:
            yield name, value


def _assemble(cls: type[T], values: Mapping[str, Any], prefix: str) -> T:
    arguments: dict[str, Any] = {}
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        name = prefix + field.name
        if dataclasses.is_dataclass(hints[field.name]):
            arguments[field.name] = _assemble(hints[field.name], values, name + '.')
        elif name in values:
            arguments[field.name] = values[name]
    return cls(**arguments)


def removed(cls: type[Any], prefix: str = '') -> dict[str, str]:
    """Explanations of removed settings by dotted name, from `removed_settings` of the class."""
    found = {prefix + name: text for name, text in getattr(cls, 'removed_settings', {}).items()}
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            found |= removed(hints[field.name], f'{prefix}{field.name}.')
    return found


def _unknown(name: str, known: list[str], source: str, gone: Mapping[str, str]) -> str:
    if name in gone:
        return f'{source_prefix(source)}{name} is no setting any more; {gone[name]}'
    near = difflib.get_close_matches(shorten(name), known, n=1)
    hint = f'did you mean {near[0]!r}?' if near else f'known settings: {", ".join(known)}'
    return f'{source_prefix(source)}unknown setting {shorten(name)!r}; {hint}'


def source_prefix(source: str) -> str:
    """The start of a message about settings that came from `source`, '' where that is unknown."""
    return f'{source}: ' if source else ''


def _check(spec: SettingSpec, value: Any, source: str) -> Any:
    value = _typed(spec, value, source)
    for item in value if isinstance(value, tuple) else (value,):
        _check_item(spec, item, source)
    return value


def _check_item(spec: SettingSpec, value: Any, source: str) -> None:
    if spec.choices is not None and value not in spec.choices:
        near = difflib.get_close_matches(shorten(value), spec.choices, n=1)
        hint = f'; did you mean {near[0]!r}?' if near else ''
        raise SettingsError(
            f'{source_prefix(source)}{spec.name} is {shorten(repr(value))}, expected one of '
            f'{", ".join(spec.choices)}{hint}'
        )
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    low = -math.inf if spec.minimum is None else spec.minimum
    high = math.inf if spec.maximum is None else spec.maximum
    if not low <= value <= high or not math.isfinite(value):
        unit = f' {spec.unit}' if spec.unit else ''
        expected = spec.range_text or 'a finite number'
        raise SettingsError(
            f'{source_prefix(source)}{spec.name} is {value!r}, expected {expected}{unit}'
        )


def _typed(spec: SettingSpec, value: Any, source: str) -> Any:
    """Check the type; whole numbers pass as float and sequences as tuple."""
    if get_origin(spec.type) is tuple and isinstance(value, (list, tuple)):
        item = dataclasses.replace(spec, type=get_args(spec.type)[0])
        return tuple(_typed(item, one, source) for one in value)
    if spec.type is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if spec.type in (bool, int, float, str) and type(value) is spec.type:
        return value
    name = getattr(spec.type, '__name__', str(spec.type))
    if get_origin(spec.type) is tuple:
        name = f'a list of {get_args(spec.type)[0].__name__}'
    raise SettingsError(
        f'{source_prefix(source)}{spec.name} is {shorten(repr(value))} ({type(value).__name__}), '
        f'expected {name}'
    )

"""ROS parameters made from a settings dataclass, and settings made from ROS parameters.

Defaults, ranges, units and descriptions come from `config.specs`. A change is checked as a whole,
then takes effect or is refused with the reason.
"""

from __future__ import annotations

import array
from collections.abc import Callable
import difflib
import math
from typing import Any, Generic, get_args, get_origin, TypeVar

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from psd_depth_ros.config import build, flatten, removed, SettingSpec, specs
from psd_depth_ros.errors import SettingsError

Settings = TypeVar('Settings')
Judge = Callable[[Any, Any, frozenset[str]], str]
Apply = Callable[[Any, Any, frozenset[str]], None]

_SCALARS = {
    bool: Parameter.Type.BOOL,
    int: Parameter.Type.INTEGER,
    float: Parameter.Type.DOUBLE,
    str: Parameter.Type.STRING,
}
_ARRAYS = {
    int: Parameter.Type.INTEGER_ARRAY,
    float: Parameter.Type.DOUBLE_ARRAY,
    str: Parameter.Type.STRING_ARRAY,
}
_OF_RCLPY = ('qos_overrides.', 'use_sim_time', 'start_type_description_service')
_INT64 = 2**63 - 1


class NodeParameters(Generic[Settings]):
    """Declares every setting as a parameter, and keeps `settings` up to date.

    Args:
        node: The node that gets the parameters.
        cls: Settings class.
        judge: (old, new, names of changed settings) -> why the change cannot be made now, or ''.
        apply: Called with the same arguments once the change is made.

    Raises:
        SettingsError: A value given at start breaks its type or range, or names no parameter.
    """

    def __init__(self, node: Node, cls: type[Settings], judge: Judge, apply: Apply) -> None:
        self._node = node
        self._cls = cls
        self._judge = judge
        self._apply = apply
        self._specs = {spec.name: spec for spec in specs(cls)}
        for spec in self._specs.values():
            _declare(node, spec)
        _refuse_unknown(node, list(self._specs), removed(cls))
        self.settings: Settings = build(cls, self._values(), 'parameters')
        node.add_pre_set_parameters_callback(self._convert_integers)
        node.add_on_set_parameters_callback(self._check)
        node.add_post_set_parameters_callback(self._take)

    def _values(self) -> dict[str, Any]:
        return {name: _as_list(self._node.get_parameter(name).value) for name in self._specs}

    def _convert_integers(self, parameters: list[Parameter]) -> list[Parameter]:
        """Let `ros2 param set ... 5` set a floating-point parameter."""
        return [
            Parameter(one.name, Parameter.Type.DOUBLE, float(one.value))
            if one.type_ == Parameter.Type.INTEGER and self._is_float(one.name)
            else one
            for one in parameters
        ]

    def _is_float(self, name: str) -> bool:
        return name in self._specs and self._specs[name].type is float

    def _merged(self, parameters: list[Parameter]) -> tuple[Settings, frozenset[str]]:
        ours = {one.name: _as_list(one.value) for one in parameters if one.name in self._specs}
        old = flatten(self.settings)
        new = build(self._cls, {**old, **ours})
        flat = flatten(new)
        return new, frozenset(name for name in ours if flat[name] != old[name])

    def _check(self, parameters: list[Parameter]) -> SetParametersResult:
        try:
            new, changed = self._merged(parameters)
        except SettingsError as error:
            return SetParametersResult(successful=False, reason=str(error))
        reason = self._judge(self.settings, new, changed) if changed else ''
        return SetParametersResult(successful=not reason, reason=reason)

    def _take(self, parameters: list[Parameter]) -> None:
        new, changed = self._merged(parameters)
        old, self.settings = self.settings, new
        if changed:
            self._apply(old, new, changed)


def describe(spec: SettingSpec) -> ParameterDescriptor:
    """Make the descriptor: description with unit and choices, range, read-only."""
    text = spec.description
    if spec.unit:
        text += f' [{spec.unit}]'
    if spec.choices is not None:
        text += f' ({spec.range_text})'
    descriptor = ParameterDescriptor(description=text, read_only=spec.read_only)
    if spec.minimum is None and spec.maximum is None:
        return descriptor
    if spec.type is int:
        low = -_INT64 if spec.minimum is None else int(spec.minimum)
        high = _INT64 if spec.maximum is None else int(spec.maximum)
        descriptor.integer_range = [IntegerRange(from_value=low, to_value=high)]
    elif spec.type is float:
        low_value = -math.inf if spec.minimum is None else float(spec.minimum)
        high_value = math.inf if spec.maximum is None else float(spec.maximum)
        descriptor.floating_point_range = [
            FloatingPointRange(from_value=low_value, to_value=high_value)
        ]
    return descriptor


def _declare(node: Node, spec: SettingSpec) -> None:
    try:
        if spec.default == ():
            _declare_empty_list(node, spec)
        else:
            node.declare_parameter(spec.name, _without_tuples(spec.default), describe(spec))
    except InvalidParameterTypeException as error:
        hint = ' (write 5.0, not 5)' if spec.type is float else ''
        raise SettingsError(
            f'parameter {spec.name} must be {_kind(spec).name.lower()}{hint}: {error}'
        ) from error
    except InvalidParameterValueException as error:
        unit = f' {spec.unit}' if spec.unit else ''
        raise SettingsError(
            f'parameter {spec.name}: {error}; expected {spec.range_text}{unit}'
        ) from error


def _declare_empty_list(node: Node, spec: SettingSpec) -> None:
    """Declare by type and then set: rclpy takes an empty default for a list of bytes."""
    kind = _kind(spec)
    if node.declare_parameter(spec.name, kind, ParameterDescriptor()).value is None:
        node.set_parameters([Parameter(spec.name, kind, [])])
    descriptor = describe(spec)
    descriptor.type = kind.value
    node.set_descriptor(spec.name, descriptor)


def _without_tuples(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _as_list(value: Any) -> Any:
    """Make a list of the array.array that rclpy gives for arrays of numbers."""
    return list(value) if isinstance(value, array.array) else value


def _kind(spec: SettingSpec) -> Parameter.Type:
    if get_origin(spec.type) is tuple:
        return _ARRAYS[get_args(spec.type)[0]]
    return _SCALARS[spec.type]


def _refuse_unknown(node: Node, known: list[str], gone: dict[str, str]) -> None:
    for name in getattr(node, '_parameter_overrides', {}):
        if name in known or name.startswith(_OF_RCLPY) or node.has_parameter(name):
            continue
        if name in gone:
            raise SettingsError(f'{name} is no parameter any more; {gone[name]}')
        near = difflib.get_close_matches(name, known, n=1)
        hint = f'; did you mean {near[0]!r}?' if near else ''
        raise SettingsError(
            f'{node.get_name()} has no parameter {name!r}{hint}; '
            f'`ros2 param list {node.get_fully_qualified_name()}` shows the ones there are'
        )

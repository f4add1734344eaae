"""YAML as plain values, with bounds: how deep, how much, how large a number.

The loader is the safe one in plain Python, whose depth can be counted.
"""

from __future__ import annotations

from typing import Any

import yaml

from psd_depth_ros.errors import ParseError

DEPTH = 50  # lists and mappings inside each other
NODES = 200_000  # values of a document, with those that aliases stand for
_INTEGERS = range(-(2**63), 2**64)
# What PyYAML's constructors raise for explicit tags that do not fit their values.
_YAML_ERRORS = (
    yaml.YAMLError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


def parse(text: str) -> Any:
    """The value of a YAML document of plain values: no dates (they stay text), no own types.

    Raises ParseError for what is no YAML, a key that is given twice, a value that holds itself,
    and for what is nested too deep, too large (aliases count as what they stand for) or a whole
    number of more than 64 bits.
    """
    try:
        loader = _Loader(text)
        try:
            node = _only_node(loader)
            if node is None:
                return None
            _check_node(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except _YAML_ERRORS as error:
        raise ParseError(f'is not YAML: {_words(error)}') from error


class _Loader(yaml.SafeLoader):
    """The safe loader, without dates."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node; count how deep it lies."""
        if self._depth > DEPTH:
            raise ParseError(f'is nested deeper than {DEPTH} levels')
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_yaml_int(self, node: Any) -> int:
        """A whole number of up to 64 bits."""
        if len(node.value) > 100:
            raise _too_large(len(node.value))
        value: int = super().construct_yaml_int(node)
        if value not in _INTEGERS:
            raise _too_large(len(str(value)))
        return value


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith(':timestamp')]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_constructor('tag:yaml.org,2002:int', _Loader.construct_yaml_int)


def _only_node(loader: _Loader) -> Any:
    """The one document; `ros2 topic echo` ends it with a line ---, after which nothing comes."""
    node = loader.get_node() if loader.check_node() else None
    while loader.check_node():
        other: Any = loader.get_node()
        if other.value != '':
            raise ParseError(
                f'holds a second document in line {other.start_mark.line + 1}, expected one'
            )
    return node


def _check_node(root: Any) -> None:
    """Refuse what would grow without end once aliases are followed, and doubled keys."""
    sizes: dict[int, int] = {}
    entered: set[int] = set()
    stack: list[tuple[Any, bool]] = [(root, False)]
    while stack:
        node, is_left = stack.pop()
        if is_left:
            sizes[id(node)] = 1 + sum(sizes[id(child)] for child in _children(node))
            entered.remove(id(node))
            if sizes[id(node)] > NODES:
                raise ParseError(f'holds more than {NODES} values')
        elif id(node) in entered:
            line = node.start_mark.line + 1
            raise ParseError(f'holds a value inside itself (the alias of line {line})')
        elif id(node) not in sizes:
            _check_keys(node)
            entered.add(id(node))
            stack.append((node, True))
            stack += [(child, False) for child in _children(node)]


def _children(node: Any) -> list[Any]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _check_keys(node: Any) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[Any] = set()
    for key, _ in node.value:
        name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)
        if name in seen:
            line = key.start_mark.line + 1
            raise ParseError(f'gives {key.value!r} twice, the second time in line {line}')
        seen.add(name)


def _too_large(digits: int) -> ParseError:
    return ParseError(
        f'has a whole number of {digits} digits, which is larger than any that is meant'
    )


def _words(error: BaseException) -> str:
    """What the library says, in one line."""
    mark = getattr(error, 'problem_mark', None)
    if mark is not None:
        problem = getattr(error, 'problem', None) or 'cannot be read'
        return f'{problem} in line {mark.line + 1}, column {mark.column + 1}'
    return ' '.join(str(error).split())[:200] or type(error).__name__

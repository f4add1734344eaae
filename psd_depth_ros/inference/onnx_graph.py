"""Parts of an ONNX graph of a depth network: its stem, its tail, what the image reaches.

All work on `onnx.GraphProto` and give names of nodes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch

from psd_depth_ros.networks import DepthModel

WEIGHTED = ('Conv', 'Gemm', 'MatMul')


def stem_weights(model: DepthModel) -> list[str]:
    """Beginnings of the names, in the ONNX file, of the weights of the stem.

    The gradient of its output tells which they are, whatever the encoder.
    """
    if not model.encoder.has_stem:
        return []
    named = list(model.encoder.named_parameters())
    needed = [one.requires_grad for _, one in named]
    for _, one in named:
        one.requires_grad_(True)
    try:
        with torch.enable_grad():
            total = model.encoder.stem(torch.zeros(1, 3, 64, 64)).sum()
            found = torch.autograd.grad(total, [one for _, one in named], allow_unused=True)
    finally:
        for (_, one), before in zip(named, needed, strict=True):
            one.requires_grad_(before)
    used = [name for (name, _), one in zip(named, found, strict=True) if one is not None]
    return [f'model.encoder.{name}' for name in used]


def find_stem(graph: Any, weights: Collection[str]) -> set[str]:
    """Nodes up to the last layer with one of these weights."""
    ends = [
        node
        for node in graph.node
        if any(name.startswith(one) for name in node.input for one in weights)
    ]
    return _ancestors(graph, ends)


def find_tail(graph: Any, inclusive: bool = False) -> set[str]:
    """Nodes from the last products or convolutions to the output; with these if `inclusive`."""
    makers = {name: node for node in graph.node for name in node.output}
    found: set[str] = set()
    names = [one.name for one in graph.output]
    while names:
        node = makers.get(names.pop())
        if node is None or node.name in found:
            continue
        is_weighted = node.op_type in WEIGHTED
        if inclusive or not is_weighted:
            found.add(node.name)
        if not is_weighted:
            names += node.input
    return found


def find_unseen(graph: Any, name: str = 'image') -> set[str]:
    """Nodes that do not depend on an input."""
    seen = {name}
    unseen = set()
    for node in graph.node:
        if seen & set(node.input):
            seen |= set(node.output)
        else:
            unseen.add(node.name)
    return unseen


def _ancestors(graph: Any, ends: Iterable[Any]) -> set[str]:
    makers = {name: node for node in graph.node for name in node.output}
    found: set[str] = set()
    left = list(ends)
    while left:
        node = left.pop()
        if node.name not in found:
            found.add(node.name)
            left += [makers[name] for name in node.input if name in makers]
    return found

"""Depth networks of torch converted to the formats of other libraries, in this process.

`conversion` does so in another process, and reads what was converted without torch.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
import sys
from typing import Any

import torch
from torch import nn, Tensor

from psd_depth_ros.checkpoint import load_checkpoint
from psd_depth_ros.errors import PsdDepthError
from psd_depth_ros.inference.conversion import (
    Convert,
    import_openvino,
    quiet,
    read_files,
    REFUSED,
    Shape,
    WEIGHTS_FILE,
    write_parts,
)
from psd_depth_ros.inference.network_store import keep
from psd_depth_ros.inference.openvino_graph import replace_readers, STEM_NAME
from psd_depth_ros.networks import DepthModel, load_model

_MOST_IMAGES = 64  # in a call, of networks for any number


class MapsModel(nn.Module):
    """A depth network whose three maps are one tensor, so that one copy transfers them all."""

    def __init__(self, model: DepthModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, intrinsics: Tensor) -> Tensor:
        """See `backends.Backend.run`."""
        return torch.cat(self.model(image, intrinsics), dim=1)


class StemModel(nn.Module):
    """The stem of an encoder, which runs in float32.

    Its map has channels last, as libraries hold it, so that nothing is turned around in between.
    """

    def __init__(self, model: DepthModel) -> None:
        super().__init__()
        self.encoder = model.encoder

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, h, w, C); see `Encoder.stem`."""
        return self.encoder.stem(image).permute(0, 2, 3, 1).contiguous()


class RestModel(nn.Module):
    """What follows the stem, with the three maps as one tensor."""

    def __init__(self, model: DepthModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, stem: Tensor, intrinsics: Tensor) -> Tensor:
        """Output of `StemModel` and fx fy cx cy (B, 4) to maps as in `backends.Backend.run`."""
        maps = self.model.encoder.maps(stem.permute(0, 3, 1, 2))
        return torch.cat(self.model.read(maps, intrinsics), dim=1)


def convert_in_process(model: DepthModel) -> Convert:
    """A converter that works in this process."""

    def convert(kind: str, shape: Shape) -> tuple[Any, ...]:
        image, intrinsics = example_inputs(shape)
        if kind == 'onnx':
            return (to_onnx(MapsModel(model).eval(), image, intrinsics),)
        if not model.encoder.has_stem:
            return (to_openvino(MapsModel(model).eval(), image, intrinsics),)
        stem, rest = StemModel(model).eval(), RestModel(model).eval()
        with torch.no_grad():
            between = stem(image)
        return to_openvino(stem, image), to_openvino(rest, between, intrinsics)

    return convert


def convert_files() -> None:
    """Program of `SubprocessConverter`: FOLDER PATH PLACE FORMAT BATCH 3 HEIGHT WIDTH.

    Reads the checkpoint in FOLDER, which errors call PATH, writes the converted parts beside it,
    and stores them as PLACE unless that is ''. Ends with code `REFUSED` where the checkpoint
    cannot be used.
    """
    folder, path, place, kind, *sides = sys.argv[1:]
    torch.set_num_threads(1)
    try:
        checkpoint = replace(load_checkpoint(Path(folder) / WEIGHTS_FILE), path=path)
        model = load_model(checkpoint).eval()
    except PsdDepthError as error:
        sys.stderr.write(str(error))
        sys.exit(REFUSED)
    shape = tuple(int(side) for side in sides)
    write_parts(kind, convert_in_process(model)(kind, shape), Path(folder))
    if place:
        files = read_files(Path(folder))
        del files[WEIGHTS_FILE]
        keep(Path(place), files)


def to_openvino(
    part: nn.Module, *example: Tensor, any_batch: bool = False, is_named: bool = False
) -> Any:
    """An openvino.Model of a module, for inputs of the shapes of the example.

    `any_batch` leaves the number of images open. The module is traced as a function, with its
    weights as constants, and not a second time to compare: OpenVINO would take four times as long.
    With `is_named` it takes that long, and the names of nodes hold those of the layers.
    """
    openvino = import_openvino()
    shapes = [(-1, *one.shape[1:]) if any_batch else tuple(one.shape) for one in example]
    constant = copy.deepcopy(part).requires_grad_(False)
    with quiet():
        traced = torch.jit.trace(
            constant if is_named else lambda *inputs: constant(*inputs), example, check_trace=False
        )
        return openvino.convert_model(traced, example_input=example, input=shapes)


def to_onnx(model: MapsModel, image: Tensor, intrinsics: Tensor, any_batch: bool = False) -> bytes:
    """An ONNX file with the inputs `image` and `intrinsics` and the output `maps`.

    `any_batch` leaves the number of images open. What the exporter notes about each node is left
    out: it holds the paths of source files on this machine.
    """
    dynamic = None
    if any_batch:
        # from 2: torch 2.9 takes a single image for a case of its own; the file has none
        batch = torch.export.Dim('batch', min=2, max=_MOST_IMAGES)
        image, intrinsics = (torch.cat([one[:1], one[:1]]) for one in (image, intrinsics))
        dynamic = ({0: batch}, {0: batch})
    with quiet():
        program = torch.onnx.export(
            model, (image, intrinsics), dynamo=True, input_names=['image', 'intrinsics'],
            output_names=['maps'], verbose=False, dynamic_shapes=dynamic,
        )  # fmt: skip
    assert program is not None
    proto = program.model_proto
    graph = proto.graph
    for one in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del one.metadata_props[:]
    content: bytes = proto.SerializeToString()
    return content


def example_inputs(shape: Shape) -> tuple[Tensor, Tensor]:
    """A black image (B, 3, H, W) and plausible intrinsics (B, 4)."""
    batch, _, height, width = shape
    intrinsics = torch.tensor([[width, width, 0.5 * width, 0.5 * height]]).repeat(batch, 1)
    return torch.zeros(shape), intrinsics


def keep_layers(model: DepthModel) -> DepthModel:
    """A copy whose every layer is one operation with its weights as they are, on a CPU too."""
    whole = copy.deepcopy(model)
    whole.decoder.convolves_apart = False
    return whole


def to_graph(
    model: DepthModel,
    image: Tensor,
    intrinsics: Tensor,
    any_batch: bool = False,
    is_named: bool = False,
) -> Any:
    """An openvino.Model of a depth network; the output of a stem is called `STEM_NAME`.

    The options are those of `to_openvino`.
    """
    convert = partial(to_openvino, any_batch=any_batch, is_named=is_named)
    if not model.encoder.has_stem:
        maps = MapsModel(model).eval()
        return convert(maps, image, intrinsics)
    stem, rest = StemModel(model).eval(), RestModel(model).eval()
    with torch.no_grad():
        between = stem(image)
    first = convert(stem, image)
    second = convert(rest, between, intrinsics)
    return _join(first, second)


def _join(stem: Any, rest: Any) -> Any:
    openvino = import_openvino()
    source = stem.outputs[0].get_node().input_value(0)
    source.get_tensor().set_names({STEM_NAME})
    for index, node in enumerate(stem.get_ordered_ops()):  # names are unique in a graph
        if node.get_type_name() not in ('Parameter', 'Result'):
            node.set_friendly_name(f'{STEM_NAME}/{index}')
    between, intrinsics = rest.get_parameters()
    replace_readers(between.output(0), source)
    image = stem.get_parameters()[0]
    return openvino.Model(rest.get_results(), [image, intrinsics], 'maps')

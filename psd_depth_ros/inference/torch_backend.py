"""PyTorch as a backend: the only one that runs on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
import threading
from typing import Any

import torch
from torch import Tensor

from psd_depth_ros.inference.backends import CompiledNetworks
from psd_depth_ros.inference.conversion import Convert, Shape
from psd_depth_ros.inference.torch_conversion import example_inputs, MapsModel
from psd_depth_ros.networks import DepthModel
from psd_depth_ros.runtime import has_bfloat16


class TorchBackend:
    """PyTorch: bfloat16 on CPUs that have it, float16 and CUDA graphs on a GPU; channels-last.

    `half` False keeps float32 everywhere.
    """

    name = 'torch'

    def __init__(self, model: DepthModel, device: torch.device | str, half: bool = True) -> None:
        self._device = device = torch.device(device)
        maps = MapsModel(model).to(device)
        self._model: MapsModel | None = maps.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._half = half and has_bfloat16(device.type)
        self._type = torch.float16 if device.type == 'cuda' else torch.bfloat16
        self._graphs: CompiledNetworks[_CudaGraph] = CompiledNetworks()

    def run(self, image: Any, intrinsics: Any) -> Any:
        """See `Backend.run`."""
        if self._device.type != 'cuda':
            given = (torch.from_numpy(image), torch.from_numpy(intrinsics))
            return self._forward(*given).numpy()
        return self._run_graph(image, intrinsics)

    @torch.inference_mode()
    def _run_graph(self, image: Tensor, intrinsics: Tensor) -> Tensor:
        graph = self._graphs.get(
            tuple(image.shape), lambda: _CudaGraph(self._forward, image, intrinsics)
        )
        return graph.replay(image, intrinsics)

    def is_ready(self, shape: Shape) -> bool:
        """See `Backend.is_ready`."""
        return self._device.type != 'cuda' or shape in self._graphs

    @torch.inference_mode()
    def prepare(self, shapes: Sequence[Shape], convert: Convert | None = None) -> None:
        """See `Backend.prepare`; there is nothing to convert."""
        if self._device.type != 'cuda':
            return
        self._graphs.keep(len(shapes))
        for shape in shapes:
            image, intrinsics = (one.to(self._device) for one in example_inputs(shape))
            self._graphs.get(
                shape, functools.partial(_CudaGraph, self._forward, image, intrinsics)
            )

    def close(self) -> None:
        """Drop the graphs and the weights."""
        self._graphs.close()
        self._model = None
        if self._device.type == 'cuda':
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _forward(self, image: Tensor, intrinsics: Tensor) -> Tensor:
        assert self._model is not None, 'the engine was closed'
        image = image.contiguous(memory_format=torch.channels_last)
        # Cached casts of the weights would be kept in the memory pool of a CUDA graph.
        with torch.autocast(
            self._device.type, self._type, enabled=self._half, cache_enabled=False
        ):
            maps: Tensor = self._model(image, intrinsics)
        return maps.float()


class _CudaGraph:
    """A recorded forward pass: no launch cost for a hundred small kernels.

    All graphs are recorded on torch's capture stream, one at a time: torch keeps scratch memory
    for every stream that a matrix was multiplied on, and would keep more with every network.
    """

    _recording = threading.Lock()

    def __init__(
        self, forward: Callable[[Tensor, Tensor], Tensor], image: Tensor, intrinsics: Tensor
    ) -> None:
        self._image, self._intrinsics = image.clone(), intrinsics.clone()
        self._graph = torch.cuda.CUDAGraph()
        # Another engine may run in another thread while this one is loaded.
        record = torch.cuda.graph(self._graph, capture_error_mode='thread_local')
        stream = record.capture_stream
        assert stream is not None
        with self._recording:
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    forward(self._image, self._intrinsics)
            torch.cuda.current_stream().wait_stream(stream)
            with record:
                self._output = forward(self._image, self._intrinsics)

    def replay(self, image: Tensor, intrinsics: Tensor) -> Tensor:
        """Run on new input; the next call overwrites the result."""
        self._image.copy_(image)
        self._intrinsics.copy_(intrinsics)
        self._graph.replay()
        return self._output

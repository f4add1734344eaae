"""Checkpoints: weights and everything needed to use them, in one safetensors file.

The description is JSON in the metadata of the file: architecture, input size and normalisation,
focal length, units, provenance. None of it is a parameter elsewhere. Nothing is unpickled or
executed. `networks.load_model` builds the network. torch is imported only where tensors are asked
for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
import hashlib
import json
import math
import os
from pathlib import Path
import re
from typing import Any, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from psd_depth_ros.config import build, dump, section, setting
from psd_depth_ros.errors import CheckpointError, SettingsError
from psd_depth_ros.files import find_installed, write_atomically
from psd_depth_ros.parsing import (
    ARRAY_BYTES,
    is_file,
    parse_json,
    ParseError,
    read_bytes,
    shorten,
    user_path,
)

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 1
METADATA_KEY = 'psd_depth_ros'
DEFAULT, DEFAULT_NAME = 'default', 'lite'  # one is another name of the other
SUFFIX = '.safetensors'
PICKLES = ('.pt', '.pth', '.ckpt', '.bin', '.pkl', '.pickle')  # formats that can hold programs
STRIDE = 32  # both sides of a network's input are multiples of it
MIN_PIXELS, MAX_PIXELS = STRIDE * STRIDE, 4_000_000  # of an input, as in recipes
_JSON_PARTS = ('architecture', 'encoder_options', 'training', 'data')

_NON_COMMERCIAL = re.compile(
    r'non-?\s?commercial|\bNC\b|\b(research|academic)( use| purposes)? only|only for research',
    re.IGNORECASE,
)
_MOST_LICENCE = 200

CHECKSUM = 'sha256'
_BLANK = '0' * 64
_CHANGED = 'is not a whole safetensors file (it differs from its checksum)'
_MOST_HEADER_BYTES = 50_000_000


@dataclass(frozen=True)
class InputInfo:
    """Input that the network expects."""

    height: int = setting(128, 'Height of the nominal input', 'px', minimum=32, maximum=4096)
    width: int = setting(416, 'Width of the nominal input', 'px', minimum=32, maximum=4096)
    mean: tuple[float, ...] = setting(
        (0.5, 0.5, 0.5), 'Subtracted from RGB in [0, 1]', minimum=-10.0, maximum=10.0
    )
    std: tuple[float, ...] = setting(
        (0.5, 0.5, 0.5), 'Then divided by', minimum=1e-3, maximum=100.0
    )
    smallest_pixels: int = setting(
        0, 'Smallest pixel budget that training covered; 0: not stated', 'px', minimum=0,
        maximum=MAX_PIXELS,
    )  # fmt: skip
    largest_pixels: int = setting(
        0, 'Largest pixel budget that training covered; 0: not stated', 'px', minimum=0,
        maximum=MAX_PIXELS,
    )  # fmt: skip

    @property
    def pixel_budget(self) -> int:
        """Pixels of the nominal input; inputs of other aspect ratios have about as many."""
        return self.height * self.width

    @property
    def trained_pixels(self) -> tuple[int, int]:
        """Smallest and largest budget that training covered; the nominal one always belongs."""
        nominal = self.pixel_budget
        return min(self.smallest_pixels or nominal, nominal), max(self.largest_pixels, nominal)

    def describe_untrained(self, pixel_budget: int) -> str:
        """What to know of an input of another size than training covered; '' for others."""
        smallest, largest = self.trained_pixels
        if smallest <= pixel_budget <= largest:
            return ''
        return (
            f'pixel_budget is {pixel_budget}, and the checkpoint {self.describe_range()}: depth '
            'may be worse and its metres off; compare with psd-depth evaluate, or train at it'
        )

    def describe_range(self) -> str:
        """The sizes that training covered, in words."""
        smallest, largest = self.trained_pixels
        if not self.largest_pixels:
            return f'states no size but {largest} px'
        return f'learned at {smallest} to {largest} px'

    def trained_from(self, start: InputInfo) -> InputInfo:
        """The same with the range of the checkpoint that training started from, widened to it."""
        if self.largest_pixels or not start.largest_pixels:
            return self
        return replace(
            self,
            smallest_pixels=min(start.smallest_pixels, self.pixel_budget),
            largest_pixels=max(start.largest_pixels, self.pixel_budget),
        )


@dataclass(frozen=True)
class OutputInfo:
    """How output becomes metres and confidence."""

    canonical_focal_px: float = setting(
        240.0, 'f_c: Z = (fx / f_c) Z\', fx in network-input pixels', 'px', minimum=1.0,
        maximum=100000.0,
    )  # fmt: skip
    metric: bool = setting(False, 'Whether Z is in metres without any further scale')
    scale_sigma: float = setting(
        0.15, 'Standard deviation of ln scale of a metric checkpoint', minimum=0.0, maximum=10.0
    )
    min_depth_m: float = setting(0.1, 'Nearest depth it was trained on', 'm', minimum=0.0)
    max_depth_m: float = setting(100.0, 'Farthest depth it was trained on', 'm', minimum=0.1)
    sigma_gain: float = setting(
        1.0, 'alpha of the confidence: factor on the bin spread', minimum=0.0, maximum=100.0
    )
    sigma_floor: float = setting(
        0.05, 'beta of the confidence: constant part of the error', minimum=0.0, maximum=10.0
    )


@dataclass(frozen=True)
class _Described:
    """The part of the description that consists of settings."""

    name: str = setting('', 'Short name')
    licence: str = setting('', 'Licence of the weights')
    format_version: int = setting(FORMAT_VERSION, 'Version of this layout')
    input: InputInfo = section(InputInfo)
    output: OutputInfo = section(OutputInfo)


@dataclass(frozen=True)
class CheckpointInfo:
    """Description of a checkpoint.

    `architecture` and `encoder_options` are for `networks.load_model`; `training` is the
    provenance of the weights (version, recipe, steps, seed, scores); `data` has an entry
    `{'name': ..., 'licence': ...}` for every data set and every set of weights they come from.
    `licence` is that of the weights themselves, '' where it is not stated.
    """

    name: str
    architecture: Mapping[str, Any]
    encoder_options: Mapping[str, Any] = field(default_factory=dict)
    input: InputInfo = field(default_factory=InputInfo)
    output: OutputInfo = field(default_factory=OutputInfo)
    training: Mapping[str, Any] = field(default_factory=dict)
    data: tuple[Mapping[str, Any], ...] = ()
    licence: str = ''

    @property
    def restriction(self) -> str:
        """Why the weights are for research only, in words; '' where no licence says so.

        A licence is non-commercial where its text says so, has NC as a word (CC BY-NC-SA), or
        allows research only.
        """
        sources = [('the weights', self.licence)]
        sources += [(str(one.get('name')), str(one.get('licence'))) for one in self.data]
        found = [f'{name} ({text})' for name, text in sources if _NON_COMMERCIAL.search(text)]
        return f'for research only: {", ".join(dict.fromkeys(found))}' if found else ''


@dataclass(frozen=True)
class Checkpoint:
    """A loaded file: path, description, tensors (float32 where they are floats) and content id.

    With `affine` it gives disparity of unknown scale and shift instead of depth, as some networks
    of other people do.
    """

    path: str
    info: CheckpointInfo
    tensors: Mapping[str, Tensor]
    id: str
    affine: bool = False


class StoredTensors(Mapping[str, 'Tensor']):
    """Arrays of a file as tensors, floats in float32; each is converted when it is asked for.

    Attributes:
        arrays: As they are stored.
    """

    def __init__(self, arrays: Mapping[str, NDArray]) -> None:
        self.arrays = arrays
        self._tensors: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of a name, the same one every time."""
        import torch

        if name not in self._tensors:
            array = self.arrays[name]
            kind = np.float32 if np.issubdtype(array.dtype, np.floating) else array.dtype
            self._tensors[name] = torch.from_numpy(array.astype(kind))
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self.arrays)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.arrays)


def save_checkpoint(
    path: str | os.PathLike[str],
    info: CheckpointInfo,
    tensors: Mapping[str, Tensor],
    *,
    half: bool = False,
) -> str:
    """Write a checkpoint atomically and return its id.

    `half` stores floating-point tensors in 16 bits; loading gives float32. Raises CheckpointError
    where the file cannot be written; an existing file is then unchanged.
    """
    kept = {name: _stored(tensor, half) for name, tensor in tensors.items()}
    return _write(Path(path), pack(kept, {METADATA_KEY: describe(info)}))


def write_checkpoint(path: str | os.PathLike[str], checkpoint: Checkpoint) -> str:
    """Write a loaded checkpoint, as it was stored, and return the id of the new file.

    Raises CheckpointError as `save_checkpoint`.
    """
    if not isinstance(checkpoint.tensors, StoredTensors):
        return save_checkpoint(path, checkpoint.info, checkpoint.tensors)
    described = {METADATA_KEY: describe(checkpoint.info)}
    return _write(Path(path), pack_arrays(checkpoint.tensors.arrays, described))


def _write(path: Path, content: bytes) -> str:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise CheckpointError(
            f'{shorten(path)}: cannot be written ({error.strerror}); free space or choose another '
            'folder'
        ) from error
    return _identify(content)


def load_checkpoint(path: str | os.PathLike[str] | None = None) -> Checkpoint:
    """Read a checkpoint: a file, or the name of one that comes with the package (None: `default`).

    Raises CheckpointError for a file that is missing, truncated, not safetensors, of another
    format version or with a wrong checksum, for an incomplete description or one out of range, and
    for weights that are not finite.
    """
    if path is not None:
        refuse_pickle(path)
    path = find_checkpoint(DEFAULT if path is None else path)
    try:
        content = read_bytes(path, ARRAY_BYTES)
        arrays, metadata = unpack_arrays(content)
    except ParseError as error:
        raise CheckpointError(f'{path}: {error}; copy or download it again') from error
    info = read_description(path, metadata)
    _check_finite(path, arrays)
    return Checkpoint(str(path), info, StoredTensors(arrays), _identify(content))


def refuse_pickle(path: str | os.PathLike[str]) -> None:
    """Raise CheckpointError for a file of pickled weights, which could run a program when read."""
    where = Path(os.fspath(path).partition('?')[0])
    if where.suffix.lower() not in PICKLES:
        return
    raise CheckpointError(
        f'{shorten(where)}: is a file of pickled weights ({where.suffix}), which can run a '
        f'program when it is read, and is refused; expected {SUFFIX}. Weights of psd_depth_ros '
        f'are {SUFFIX} always. Bring a network of others as ONNX, or as a folder that '
        f'save_pretrained of transformers wrote, with model{SUFFIX} and config.json'
    )


def check_pixel_budget(pixel_budget: int) -> None:
    """Raise SettingsError for a budget that is neither 0 (the checkpoint's) nor one of images."""
    if pixel_budget and not MIN_PIXELS <= pixel_budget <= MAX_PIXELS:
        raise SettingsError(
            f'pixel_budget is {pixel_budget}, expected {MIN_PIXELS} ({STRIDE}x{STRIDE}) to '
            f'{MAX_PIXELS} px, such as 53248 (416x128), or 0 for that of the checkpoint'
        )


def find_checkpoint(wanted: str | os.PathLike[str]) -> Path:
    """The file of a checkpoint by name (`lite`, `default`) or path; a name goes before a file.

    Raises CheckpointError where there is neither; it tells the names.
    """
    name = os.fspath(wanted)
    if name in (DEFAULT, DEFAULT_NAME):
        return default_checkpoint()
    installed = installed_checkpoints()
    if name in installed:
        return installed[name]
    path = user_path(wanted)
    if is_file(path):
        return path
    names = ', '.join([DEFAULT, *installed]) if installed else DEFAULT
    raise CheckpointError(
        f'{shorten(path)}: no such checkpoint file; give the path of a {SUFFIX} file made by '
        f'psd_depth_ros, or one of the names that come with the package: {names}'
    )


def installed_checkpoints() -> dict[str, Path]:
    """The checkpoints that come with the package by name: the files beside the default one."""
    default = find_installed(f'weights/{DEFAULT_NAME}{SUFFIX}')
    if default is None:
        return {}
    found = {path.stem: path for path in default.parent.glob(f'*{SUFFIX}')}
    return dict(sorted(found.items()))


def default_checkpoint() -> Path:
    """Path of the checkpoint that comes with the package (source tree, pip or colcon)."""
    path = find_installed(f'weights/{DEFAULT_NAME}{SUFFIX}')
    if path is not None:
        return path
    raise CheckpointError(
        f'the starter checkpoint weights/{DEFAULT_NAME}{SUFFIX} is not where the package was '
        'installed; install it again (pip install . or colcon build), or name a checkpoint'
    )


def _stored(tensor: Tensor, half: bool) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    return tensor.half() if half and tensor.is_floating_point() else tensor


def _check_finite(path: Path, arrays: Mapping[str, NDArray]) -> None:
    """Raise CheckpointError where a tensor holds NaN or Inf."""
    for name, array in arrays.items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise CheckpointError(
                f'{path}: the tensor {name} holds NaN or Inf; the run that made it diverged, '
                'take an earlier checkpoint'
            )


def _identify(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def describe(info: CheckpointInfo) -> str:
    """The description of weights as JSON, for the metadata of a file."""
    described = _Described(info.name, info.licence, FORMAT_VERSION, info.input, info.output)
    values = dump(described)
    for part in _JSON_PARTS:
        values[part] = getattr(info, part)
    return json.dumps(values, sort_keys=True, allow_nan=False)


def read_description(path: Path, metadata: Mapping[str, str]) -> CheckpointInfo:
    """The description in the metadata of a file; CheckpointError where it is none of ours."""
    if METADATA_KEY not in metadata:
        raise CheckpointError(
            f'{path}: is a safetensors file without a psd_depth_ros description, so its input '
            'size, focal length and units are unknown; expected a file made by psd_depth_ros'
        )
    try:
        values = parse_json(metadata[METADATA_KEY])
    except ParseError as error:
        raise CheckpointError(f'{path}: its description {error}') from error
    if not isinstance(values, dict) or values.get('format_version') != FORMAT_VERSION:
        found = values.get('format_version') if isinstance(values, dict) else type(values).__name__
        raise CheckpointError(
            f'{path}: has format version {shorten(found)}, this psd_depth_ros reads '
            f'{FORMAT_VERSION}; install the version that made it'
        )
    return _build_info(path, values)


def _build_info(path: Path, values: dict[str, Any]) -> CheckpointInfo:
    expected = {'architecture': dict, 'encoder_options': dict, 'training': dict, 'data': list}
    for part, kind in expected.items():
        if not isinstance(values.get(part), kind):
            raise CheckpointError(f'{path}: its description lacks a proper {part!r}')
    parts = {part: values.pop(part) for part in _JSON_PARTS}
    parts['data'] = tuple(parts['data'])
    try:
        _check_parts(**parts)
        described = build(_Described, values, str(path))
        _check_licence(described.licence)
        _check_sizes(described.input, described.output)
    except SettingsError as error:
        raise CheckpointError(f'{path}: its description is wrong: {error}') from error
    return CheckpointInfo(
        name=described.name,
        input=described.input,
        output=described.output,
        licence=described.licence,
        **parts,
    )


def _check_parts(
    architecture: Mapping[str, Any],
    encoder_options: Mapping[str, Any],
    training: Mapping[str, Any],
    data: tuple[Any, ...],
) -> None:
    """Raise SettingsError where a JSON part of the description is malformed."""
    if not isinstance(architecture.get('encoder'), str):
        raise SettingsError('architecture names no encoder, so nobody knows which network it is')
    scores = training.get('validation', {})
    if not isinstance(scores, Mapping) or not all(map(_is_number, scores.values())):
        raise SettingsError(
            f'training.validation is {shorten(repr(scores))}, expected finite numbers by name'
        )
    for source in data:
        if not isinstance(source, Mapping) or not all(
            isinstance(source.get(name), str) for name in ('name', 'licence')
        ):
            raise SettingsError(
                f'data has {shorten(repr(source))}, expected the name and licence of a source'
            )


def _check_licence(licence: str) -> None:
    """Raise SettingsError where a licence is not a line of text that a log can show."""
    if not licence.isprintable() or len(licence) > _MOST_LICENCE:
        raise SettingsError(
            f'licence is {shorten(repr(licence))}, expected a line of at most {_MOST_LICENCE} '
            'characters, such as Apache-2.0'
        )


def _check_sizes(given: InputInfo, output: OutputInfo) -> None:
    """Raise SettingsError where settings contradict each other."""
    if len(given.mean) != 3 or len(given.std) != 3:
        raise SettingsError('mean and std must be three numbers each')
    if given.height % STRIDE or given.width % STRIDE or given.pixel_budget > MAX_PIXELS:
        raise SettingsError(
            f'input is {given.width}x{given.height}, expected multiples of {STRIDE} with at most '
            f'{MAX_PIXELS} pixels'
        )
    smallest, largest = given.smallest_pixels, given.largest_pixels
    if (smallest or largest) and not MIN_PIXELS <= smallest <= largest:
        raise SettingsError(
            f'input.smallest_pixels is {smallest} and input.largest_pixels {largest}, expected '
            f'{MIN_PIXELS} <= smallest <= largest, or 0 for both'
        )
    if output.min_depth_m >= output.max_depth_m:
        raise SettingsError(
            f'output.min_depth_m is {output.min_depth_m:g}, expected less than '
            f'output.max_depth_m ({output.max_depth_m:g})'
        )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The content of a file of contiguous tensors on the CPU; the same for the same tensors."""
    from safetensors.torch import save as save_tensors

    return _seal(save_tensors(dict(tensors)), metadata)


def pack_arrays(arrays: Mapping[str, NDArray], metadata: Mapping[str, str]) -> bytes:
    """The content of a file of arrays; the same as that of `pack` for equal tensors."""
    return _seal(save(dict(arrays)), metadata)


def unpack(content: bytes, *, sealed: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file; the checksum is checked where there is one.

    With `sealed` there must be one. Raises ParseError for a file that is cut short, damaged, or no
    safetensors.
    """
    from safetensors.torch import load as load_tensors

    return _unseal(content, sealed, load_tensors)


def unpack_arrays(
    content: bytes, *, sealed: bool = False
) -> tuple[dict[str, NDArray], dict[str, str]]:
    """As `unpack`, arrays in place of tensors. bfloat16, which NumPy has not, becomes float32."""
    return _unseal(content, sealed, _load_arrays)


def _load_arrays(content: bytes) -> dict[str, NDArray]:
    """Arrays of a file; bfloat16 is read as integers, which are the upper halves of float32."""
    header = _header(content)
    described = json.loads(header)
    halves = [
        name
        for name, one in described.items()
        if name != '__metadata__' and isinstance(one, dict) and one.get('dtype') == 'BF16'
    ]
    if halves:
        for name in halves:
            described[name]['dtype'] = 'U16'
        text = json.dumps(described, separators=(',', ':')).encode()
        text += b' ' * (-len(text) % 8)
        content = len(text).to_bytes(8, 'little') + text + content[8 + len(header) :]
    arrays: dict[str, NDArray] = load(content)
    for name in halves:
        arrays[name] = (arrays[name].astype(np.uint32) << 16).view(np.float32)
    return arrays


def _seal(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """Add metadata and a checksum to a file."""
    content = _with_metadata(content, {**metadata, CHECKSUM: _BLANK})
    place = content.index(_entry(_BLANK)) + len(_entry('')) - 1
    digest = hashlib.sha256(content).hexdigest().encode()
    return content[:place] + digest + content[place + len(_BLANK) :]


def _unseal(
    content: bytes, sealed: bool, load: Callable[[bytes], dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, str]]:
    metadata = read_metadata(content)
    _check(content, metadata, sealed)
    try:
        return load(content), metadata
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ParseError(f'is not a whole safetensors file ({error})') from error


def read_metadata(content: bytes) -> dict[str, str]:
    """What a file says of itself. Raises ParseError."""
    try:
        header = parse_json(_header(content))
    except ParseError as error:
        raise ParseError(f'is not a whole safetensors file (its header {error})') from error
    metadata = header.get('__metadata__', {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        raise ParseError('is not a whole safetensors file (its header is not of that format)')
    return metadata


def _with_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """Put metadata into a header in the order they have here; the library draws one by chance."""
    header = _header(content)
    described = {'__metadata__': metadata, **json.loads(header)}
    text = json.dumps(described, ensure_ascii=False, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)  # tensors are aligned
    return len(text).to_bytes(8, 'little') + text + content[8 + len(header) :]


def _header(content: bytes) -> bytes:
    """The JSON behind 8 bytes of its length."""
    if len(content) < 8:
        raise ParseError(f'should have 8 bytes of its own length, and the file has {len(content)}')
    length = int.from_bytes(content[:8], 'little')
    if len(content) < 8 + length or length > _MOST_HEADER_BYTES:
        raise ParseError(f'should have {length} bytes, and the file has {len(content)}')
    return content[8 : 8 + length]


def _check(content: bytes, metadata: Mapping[str, str], sealed: bool) -> None:
    digest = metadata.get(CHECKSUM)
    if digest is None:
        if sealed:
            raise ParseError('has no checksum: another version of psd_depth_ros wrote it')
        return
    place = _header(content).find(_entry(digest))
    if place < 0 or len(digest) != len(_BLANK):
        raise ParseError(_CHANGED)
    place += 8 + len(_entry('')) - 1
    found = hashlib.sha256(content[:place])
    found.update(_BLANK.encode())
    found.update(memoryview(content)[place + len(_BLANK) :])
    if found.hexdigest() != digest:
        raise ParseError(_CHANGED)


def _entry(digest: str) -> bytes:
    return f'"{CHECKSUM}":"{digest}"'.encode()

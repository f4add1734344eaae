"""Where a network of other people, or a folder of its maps, lies, and how it is to be used.

A specification is a path or `hf:OWNER/NAME`, with options behind it: `net.tflite?output=depth`.
A file NAME.yaml or network.yaml beside NAME.onnx or NAME.tflite, and network.yaml, maps.yaml or
teacher.yaml in a folder, may hold the same options; those of the specification go before them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
import hashlib
import json
from pathlib import Path
from typing import Any

from psd_depth_ros.config import build, dump, parse_changes, setting
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.parsing import ParseError, read_yaml, user_path

HUB = 'hf:'
FILES = ('.onnx', '.tflite')
DEPTH, DISPARITY, LOG_DEPTH = 'depth', 'disparity', 'log_depth'
_OPTIONS_FILES = ('network.yaml', 'maps.yaml', 'teacher.yaml')
_VERSION = 2  # raise it when the same network would give other maps


@dataclass(frozen=True)
class NetworkOptions:
    """How images enter a network, and what its maps mean.

    With `focal_px` the image is resampled to the camera that the network was trained with, since
    such a network takes the size of things for their distance. What of the image that camera does
    not see stays unknown.
    """

    output: str = setting(
        '',
        'What the network gives: depth, disparity (nearer is larger) or log_depth; empty: by the '
        'name of the output',
        choices=('', DEPTH, DISPARITY, LOG_DEPTH),
    )
    output_name: str = setting('', 'Output that is taken of a network with several')
    sky_output: str = setting(
        '',
        'Output that holds the probability of sky, of a network that has one: above 1/2 depth '
        'is +Inf',
    )
    sky_logits: bool = setting(
        False, 'That output holds logits, of which the sigmoid is the probability'
    )
    mean: tuple[float, ...] = setting(
        (0.0, 0.0, 0.0), 'Subtracted from the image, of inputs of floats'
    )
    std: tuple[float, ...] = setting((1.0, 1.0, 1.0), 'Divides what is left', minimum=1e-6)
    input_max: float = setting(
        1.0, 'Value of white before `mean` is subtracted: 1 or 255', minimum=1e-6
    )
    channels: str = setting('rgb', 'Order of the colours', choices=('rgb', 'bgr'))
    flip: bool = setting(False, 'Take the mean with the map of the mirror image: twice as long')
    keep_aspect: bool = setting(
        False,
        'Fit the image into the input as it is, its border continued, instead of squeezing it',
    )
    metric: bool = setting(
        False, 'Its depth, or the inverse of its disparity, is metres, once `unit_m` is applied'
    )
    shift: bool = setting(
        True,
        'Disparity that is not metric lacks a shift, too, as that of MiDaS; false: only a factor',
    )
    unit_m: float = setting(1.0, 'Metres of a depth of 1', 'm', minimum=1e-9, maximum=1e9)
    canonical_focal_px: float = setting(
        0.0,
        'The depth is that of a camera with this focal length at the size of the input, and '
        'is multiplied by fx over it, as Depth Anything 3 asks for (300); 0: it holds as it is',
        'px',
        minimum=0.0,
        maximum=100000.0,
    )
    max_depth_m: float = setting(
        100.0, 'Farthest depth that it knows', 'm', minimum=0.1, maximum=1e6
    )
    height: int = setting(
        0, 'Height of the input, of networks that take any', 'px', minimum=0, maximum=4096
    )
    width: int = setting(
        0, 'Width of the input, of networks that take any', 'px', minimum=0, maximum=4096
    )
    pixel_budget: int = setting(
        0,
        'Most pixels of the input, of networks that take any size, in place of both',
        'px',
        minimum=0,
        maximum=16_000_000,
    )
    multiple: int = setting(
        0,
        'What the sides of such an input have to be multiples of; 0: 32, or what the network '
        'states',
        'px',
        minimum=0,
        maximum=1024,
    )
    focal_px: float = setting(
        0.0, 'Focal length of the camera to resample to; 0: the image as it is', 'px', minimum=0.0
    )
    focal_width: int = setting(
        0, 'Image width at which that focal length holds', 'px', minimum=0, maximum=100000
    )
    principal: tuple[float, ...] = setting(
        (0.5, 0.5),
        'Principal point of that camera, in fractions of width and height',
        minimum=0.0,
        maximum=1.0,
    )
    classes: int = setting(
        0, 'Number of classes of maps that hold class numbers', minimum=0, maximum=1024
    )
    features: bool = setting(
        False, 'The output of a semantic expert holds features, not scores of classes'
    )
    name: str = setting('', 'Name in the provenance of checkpoints; empty: that of the file')
    licence: str = setting('', 'Licence in the provenance of checkpoints')

    def __post_init__(self) -> None:
        """Check settings against each other."""
        for key, count in (('mean', 3), ('std', 3), ('principal', 2)):
            if len(getattr(self, key)) != count:
                raise SettingsError(f'{key} has {len(getattr(self, key))} numbers, not {count}')
        if self.sky_logits and not self.sky_output:
            raise SettingsError(
                'sky_logits tells what sky_output holds, which is empty; name the output of sky'
            )
        if bool(self.focal_px) != bool(self.focal_width):
            raise SettingsError('focal_px and focal_width belong together; give both or neither')
        if self.focal_px and self.keep_aspect:
            raise SettingsError('focal_px places the image already; leave out keep_aspect')
        if bool(self.height) != bool(self.width):
            raise SettingsError('height and width belong together; give both or neither')
        if self.height and self.pixel_budget:
            raise SettingsError('height and width say the size already; leave out pixel_budget')
        if self.focal_px and self.canonical_focal_px:
            raise SettingsError(
                'focal_px resamples images to the camera of the network, and canonical_focal_px '
                'corrects its depth for another one; give one of them'
            )

    @property
    def is_affine(self) -> bool:
        """Whether 1/Z is an unknown scale times the output plus an unknown shift."""
        return self.output == DISPARITY and self.shift and not self.metric

    def identify(self, content: str) -> str:
        """An id of a network, or of maps, used in this way; `content` is a hash of its own."""
        facts = dump(self)
        for key in ('name', 'licence'):
            facts.pop(key)
        # Ids of maps from before these options hold.
        if not self.sky_output:
            facts = {name: one for name, one in facts.items() if not name.startswith('sky_')}
        if self.shift:
            facts.pop('shift')
        text = json.dumps([_VERSION, content, facts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def parse_spec(spec: str, **defaults: Any) -> tuple[str, NetworkOptions]:
    """Path (or hub id) and options of a specification.

    `defaults` stand behind the options of the file beside it. Raises SettingsError.
    """
    where, _, query = spec.partition('?')
    if not where.startswith(HUB):
        where = str(user_path(where))
    values = dict(defaults)
    beside = _options_file(where)
    if beside is not None:
        values |= _read_options(beside)
    values |= parse_changes([one for one in query.split('&') if one], f'network {where}')
    return where, build(NetworkOptions, values, f'network {where}')


def _options_file(where: str) -> Path | None:
    if where.startswith(HUB):
        return None
    path = Path(where)
    beside = [path.with_suffix('.yaml')]
    if path.suffix in FILES:
        beside.append(path.parent / _OPTIONS_FILES[0])
    if path.is_dir():
        beside = [path / name for name in _OPTIONS_FILES]
    return next((one for one in beside if one.is_file()), None)


def _read_options(path: Path) -> dict[str, Any]:
    try:
        values = read_yaml(path)
    except ParseError as error:
        raise SettingsError(f'{path} {error}') from error
    if not isinstance(values, dict):
        raise SettingsError(f'{path}: expected options such as `output: depth`')
    build(NetworkOptions, values, str(path))  # so that a wrong key is told with its file
    return values


def guess_output(options: NetworkOptions, name: str, what: str) -> NetworkOptions:
    """Options with `output` as a name says it. Raises SettingsError where it says nothing."""
    if options.output:
        return options
    lower = name.lower()
    if 'disp' in lower or 'inverse' in lower or 'inv_depth' in lower:
        return replace(options, output=DISPARITY)
    if 'depth' in lower:
        return replace(options, output=DEPTH)
    raise SettingsError(
        f'{what}: its name does not tell whether it holds depth or disparity; say it, with '
        '?output=depth or ?output=disparity behind the path, or `output: depth` in the .yaml '
        'beside it'
    )


def hash_files(files: list[Path], root: Path) -> str:
    """A hash of the names, sizes and contents of files below a folder."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f'{file.relative_to(root)} {file.stat().st_size}\n'.encode())
        with open(file, 'rb') as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()

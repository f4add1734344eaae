"""Networks of Hugging Face `transformers` (extra `transformers`): depth, classes or features.

Weights are read from safetensors only, and no code that comes with them is run. A folder is read
as it is; `hf:OWNER/NAME` is taken from the local cache of the hub, else downloaded into it once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import math
from pathlib import Path
from typing import Any, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.checkpoint import PICKLES, refuse_pickle, SUFFIX
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.external.network import Image, Network, normalise, one_line
from psd_depth_ros.external.options import (
    DEPTH,
    DISPARITY,
    FILES,
    hash_files,
    HUB,
    NetworkOptions,
)
from psd_depth_ros.parsing import ParseError, read_json_object, user_path

if TYPE_CHECKING:
    import torch

MODEL_TYPE, WEIGHTS = 'psd_depth_ros', 'model.safetensors'  # of weights of this package
CONFIG, PREPROCESSOR = 'config.json', 'preprocessor_config.json'
_PATTERNS = (CONFIG, PREPROCESSOR, '*.safetensors', '*.safetensors.index.json')
_DEPTH_HEAD, _CLASS_HEAD = 'ForDepthEstimation', 'ForSemanticSegmentation'
_PATIENCE_S = 10.0  # for the first answer of the hub; huggingface_hub itself waits for ever
_DEFAULT_MULTIPLE = 32
_SHORTEST_SIDE_ASPECT = 4 / 3  # of the image that a size of the shortest edge is meant for


def is_hub_network(where: str) -> bool:
    """Whether a place is of a network of `transformers`."""
    return where.startswith(HUB) or (user_path(where) / CONFIG).is_file()


def find_folder(where: str) -> Path:
    """The folder of a network: a place that is one, or the local copy of `hf:OWNER/NAME`.

    `hf:OWNER/NAME@REVISION` names a branch, tag or commit. Raises SettingsError where it is
    neither in the cache nor can be downloaded, or has no weights in safetensors.
    """
    if not where.startswith(HUB):
        return user_path(where)
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise _missing(where) from error
    name, _, revision = where.removeprefix(HUB).partition('@')
    given = {'revision': revision or None, 'allow_patterns': list(_PATTERNS)}
    try:
        folder = Path(snapshot_download(name, **given, local_files_only=True))
        if (folder / CONFIG).is_file() and any(folder.glob('*.safetensors')):
            return folder
    except OSError:  # not in the cache
        pass
    except ValueError as error:
        raise SettingsError(
            f'network {where}: expected hf:OWNER/NAME or hf:OWNER/NAME@REVISION '
            f'({one_line(error)})'
        ) from error
    return _download(where, name, given)


def _download(where: str, name: str, given: Mapping[str, Any]) -> Path:
    """Copy a network of the hub into its cache. Raises SettingsError."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        info = HfApi().model_info(name, revision=given['revision'], timeout=_PATIENCE_S)
        files = [str(one.rfilename) for one in info.siblings or ()]
        if CONFIG in files and any(one.endswith(SUFFIX) for one in files):
            return Path(snapshot_download(name, **given))
    except Exception as error:  # of types of its HTTP library, which changed
        raise SettingsError(_explain(where, name, error)) from error
    if CONFIG not in files:
        raise SettingsError(
            f'network {where} has no {CONFIG}, so its kind is unknown; export it '
            'to ONNX where you have its code, and give that file'
        )
    raise _without_safetensors(where, files)


def _explain(where: str, name: str, error: Exception) -> str:
    """Why a network cannot be downloaded, and the way out."""
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    elsewhere = (
        f'or download it on a machine that may (`hf download {name} --local-dir FOLDER`), copy '
        'the folder here, and give its path in place of the name'
    )
    if isinstance(error, GatedRepoError):
        return (
            f'network {where} is gated: its owner asks for consent; accept its licence on '
            f'https://huggingface.co/{name} and log in here (`hf auth login`), {elsewhere}'
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f'network {where}: the hub knows no {name}, or it is private; check the name, log in '
            f'(`hf auth login`), {elsewhere}'
        )
    if isinstance(error, RevisionNotFoundError):
        return (
            f'network {where}: {name} has no such branch, tag or commit; leave out what stands '
            'behind @, or look it up on its page'
        )
    said = str(error).strip().partition('\n')[0] or type(error).__name__
    return (
        f'network {where} is not on this machine and cannot be downloaded ({said}); download it '
        f'where there is a network (`hf download {name} --local-dir FOLDER`), copy the folder '
        f'with its {CONFIG} here, and give its path in place of the name'
    )


def _without_safetensors(where: str, files: Iterable[str]) -> SettingsError:
    """The error of a network whose weights come in other formats only."""
    pickles = sorted(one for one in files if Path(one).suffix in PICKLES)
    found = f'only {", ".join(pickles[:3])}' if pickles else 'none that can be read'
    return SettingsError(
        f'network {where} has no weights in safetensors, {found}. Pickled weights are refused, as '
        'reading them can run a program. Convert them where you trust them: '
        "transformers' AutoModelForDepthEstimation.from_pretrained(OLD).save_pretrained(NEW) "
        'writes model.safetensors; then give the folder NEW'
    )


def find_own(folder: Path, where: str) -> Path | None:
    """The weights of this package in the folder of a network; None for other networks.

    Raises SettingsError where the folder lacks its weights.
    """
    values = _read_json(folder / CONFIG, where)
    if values.get('model_type') != MODEL_TYPE:
        return None
    path = folder / WEIGHTS
    if not path.is_file():
        raise SettingsError(f'network {where}: {folder} has no {WEIGHTS}; package it again')
    return path


def find_start(name: str) -> str | Path:
    """Weights to start a training from, as `checkpoint.load_checkpoint` takes them.

    Args:
        name: A file or name of weights, `hf:OWNER/NAME` of weights of this package, or the folder
            that `psd-depth package` made of them.

    Raises SettingsError for networks of other people, which can teach only, and CheckpointError
    for pickled weights.
    """
    where = name.partition('?')[0]
    refuse_pickle(where)
    own: str | Path | None = name
    if is_hub_network(where):
        own = find_own(find_folder(where), where)
    elif Path(where).suffix in FILES:
        own = None
    if own is None:
        raise SettingsError(
            f'checkpoint {name} is a network of others, which cannot be trained here; let it '
            f'teach: psd-depth distil {name} BAG --output RUN (of the node: recipe:=distil '
            f'teacher:={name})'
        )
    return own


def read_defaults(folder: Path, where: str) -> dict[str, Any]:
    """Options as the folder states them: `mean`, `std`, `input_max`. Raises SettingsError."""
    path = folder / PREPROCESSOR
    if not path.is_file():
        return {}
    values = _read_json(path, where)
    found: dict[str, Any] = {}
    if values.get('do_normalize', True):
        for key, name in (('mean', 'image_mean'), ('std', 'image_std')):
            if isinstance(values.get(name), list):
                found[key] = values[name]
    if not values.get('do_rescale', True):
        found['input_max'] = 255.0
    elif 'rescale_factor' in values:
        found['input_max'] = round(255.0 * float(values['rescale_factor']), 6)
    return found


def read_kind(folder: Path, where: str, given: NetworkOptions) -> dict[str, Any]:
    """Options that follow from the kind of a depth network, as `transformers` computes it.

    Args:
        folder: Of the network.
        where: What the user named, for messages.
        given: Options that the user gave.

    `predicted_depth` of Depth Pro (Bochkovskii et al. 2024, eq. 1) is the inverse depth C of a
    camera whose focal length is the width of the image: depth = fx / (width C). Depth Pro, and
    DPT without a backbone of its own, take square images only. Raises SettingsError.
    """
    config = _read_json(folder / CONFIG, where)
    kind = config.get('model_type')
    if kind == 'depth_anything':
        if config.get('depth_estimation_type', 'relative') != 'metric':
            return {'output': DISPARITY}
        return {'output': DEPTH, 'metric': True}
    if kind == 'zoedepth':
        return {'output': DEPTH, 'metric': True}
    if kind == 'glpn':
        return {'output': DEPTH}
    found: dict[str, Any] = {}
    side = 0
    if kind == 'depth_pro':
        ratios = config.get('scaled_images_ratios') or [1.0]
        side = round(int(config.get('patch_size', 384)) / min(ratios))
        found = {'output': DISPARITY, 'metric': True}
        if not given.focal_px:
            found['canonical_focal_px'] = float(given.width or side)
    elif kind == 'dpt' and (config.get('is_hybrid') or not config.get('backbone_config')):
        side = int(config.get('image_size') or 0)
    if side and not given.height:
        found |= {'height': side, 'width': side}
    return found


class HubNetwork(Network):
    """A network of a folder with config.json.

    `has_classes` tells whether a semantic network gives scores of classes; else it is a backbone
    and gives its last map of features.

    Args:
        folder: With config.json and safetensors.
        where: What the user named, for messages.
        options: How to use it.
        is_depth: Whether depth is asked for.
        device: That runs it: `auto` is a GPU where there is one.
    """

    def __init__(
        self,
        folder: Path,
        where: str,
        options: NetworkOptions,
        is_depth: bool,
        device: str = 'auto',
    ) -> None:
        """Load the network. Raises SettingsError."""
        import torch

        weights = sorted(folder.glob('*.safetensors'))
        if not weights:
            raise _without_safetensors(where, [one.name for one in folder.iterdir()])
        stated = [path for path in (folder / CONFIG, folder / PREPROCESSOR) if path.is_file()]
        self.content = hash_files([*stated, *weights], folder)
        self.library = 'transformers'
        self._where = where
        self._options = options
        self._config = _read_json(folder / CONFIG, where)
        self._preprocessor: Mapping[str, Any] = {}
        if (folder / PREPROCESSOR).is_file():
            self._preprocessor = _read_json(folder / PREPROCESSOR, where)
        plain = NetworkOptions()
        if not self._preprocessor and (options.mean, options.std) == (plain.mean, plain.std):
            raise SettingsError(
                f'network {where} comes without {PREPROCESSOR}; give what its images are '
                'normalised with, such as '
                f'{where}?mean=[0.485,0.456,0.406]&std=[0.229,0.224,0.225]'
            )
        heads = [str(one) for one in self._config.get('architectures') or ()]
        self.has_classes = any(one.endswith(_CLASS_HEAD) for one in heads)
        self._is_depth = is_depth
        if is_depth and not any(one.endswith(_DEPTH_HEAD) for one in heads):
            raise SettingsError(
                f'network {where} is {", ".join(heads) or "of no stated kind"}, expected a '
                f'network that ends with {_DEPTH_HEAD}'
            )
        on_gpu = device == 'auto' and torch.cuda.is_available()
        self.device = 'cuda' if on_gpu else 'cpu' if device == 'auto' else device
        self._model = self._load(folder).eval().to(self.device)

    @property
    def size(self) -> tuple[int, int]:
        """See `Network.size`."""
        return self._options.height, self._options.width

    def input_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """The image's shape with as many pixels as the network's own size, in whole patches.

        Options may give a size instead.
        """
        if self._options.height:
            return self.size
        height, width = image_size
        pixels = self._options.pixel_budget or self._own_pixels() or height * width
        multiple = self._multiple()
        scale = math.sqrt(pixels / (height * width))
        rows, columns = (max(1, round(side * scale / multiple)) for side in image_size)
        return rows * multiple, columns * multiple

    def run_with_sky(self, image: Image) -> tuple[NDArray, NDArray | None]:
        """See `Network.run_with_sky`."""
        import torch

        pixels = np.ascontiguousarray(normalise(image, self._options).transpose(2, 0, 1)[None])
        try:
            with torch.inference_mode():
                output = self._model(torch.from_numpy(pixels).to(self.device))
        except (RuntimeError, ValueError, IndexError) as error:
            height, width = image.shape[:2]
            raise SettingsError(
                f'network {self._where} refuses an input of {width}x{height}: {one_line(error)}; '
                'give a size that it takes as height and width, or pixel_budget and multiple'
            ) from error
        if self._is_depth:
            found = output.predicted_depth.reshape(output.predicted_depth.shape[-2:])
        elif self.has_classes:
            found = output.logits[0]
        else:
            found = output.feature_maps[-1][0]
        return found.float().cpu().numpy(), self._sky(output)

    def _sky(self, output: Mapping[str, Any]) -> NDArray | None:
        name = self._options.sky_output
        if not name:
            return None
        if not hasattr(output.get(name), 'cpu'):
            raise SettingsError(
                f'network {self._where} has the outputs {", ".join(output)}; give one of them as '
                'sky_output, or leave it out'
            )
        found: NDArray = output[name].float().cpu().numpy()
        return found

    def _load(self, folder: Path) -> torch.nn.Module:
        try:
            import transformers
        except ImportError as error:
            raise _missing(self._where) from error
        safe = {'local_files_only': True, 'use_safetensors': True, 'trust_remote_code': False}
        try:
            if self._is_depth:
                network = transformers.AutoModelForDepthEstimation.from_pretrained(folder, **safe)
            elif self.has_classes:
                network = transformers.AutoModelForSemanticSegmentation.from_pretrained(
                    folder, **safe
                )
            else:
                # AutoBackbone takes a folder for a name on the hub.
                config = transformers.AutoConfig.from_pretrained(
                    folder, local_files_only=True, trust_remote_code=False
                )
                if hasattr(config, 'reshape_hidden_states'):
                    config.reshape_hidden_states = True  # maps, not tokens
                kind = transformers.MODEL_FOR_BACKBONE_MAPPING[type(config)]
                network = kind.from_pretrained(
                    folder, config=config, local_files_only=True, use_safetensors=True
                )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise SettingsError(
                f'network {self._where} cannot be read by transformers '
                f'{transformers.__version__}: {one_line(error)}'
            ) from error
        loaded: torch.nn.Module = network
        return loaded

    def _own_pixels(self) -> int:
        """Pixels of the size that the network's preprocessing resizes to, 0 without one."""
        if not self._preprocessor.get('do_resize', True):
            return 0
        size = self._preprocessor.get('size')
        if isinstance(size, int):
            return size * size
        if isinstance(size, Mapping):
            if 'height' in size and 'width' in size:
                return int(size['height']) * int(size['width'])
            if 'shortest_edge' in size:
                return round(int(size['shortest_edge']) ** 2 * _SHORTEST_SIDE_ASPECT)
        return 0

    def _multiple(self) -> int:
        """What the sides of an input have to be whole multiples of."""
        if self._options.multiple:
            return self._options.multiple
        preprocessor, config = self._preprocessor, self._config
        backbone = config.get('backbone_config') or {}
        found = (
            preprocessor.get('ensure_multiple_of'),
            preprocessor.get('size_divisor'),
            config.get('patch_size'),
            backbone.get('patch_size') if isinstance(backbone, Mapping) else None,
        )
        multiples = [one for one in found if isinstance(one, int) and one > 1]
        return math.lcm(*multiples) if multiples else _DEFAULT_MULTIPLE


def _read_json(path: Path, where: str) -> dict[str, Any]:
    try:
        return read_json_object(path)
    except ParseError as error:
        raise SettingsError(f'network {where}: {path} {error}') from error


def _missing(where: str) -> SettingsError:
    return SettingsError(
        f'network {where} needs transformers: pip install "psd_depth_ros[transformers]", or '
        'compute its maps elsewhere and give their folder'
    )

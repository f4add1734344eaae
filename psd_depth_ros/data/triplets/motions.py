"""The motions between the frames of triplets of a recording without poses.

A pose network needs thousands of images before it follows a camera, and is never exact to the
tenth of a pixel by which distant points move; until then it would spoil a depth network that is
good already, and teach a new one nothing. So motions are estimated from the images first
(`odometry.visual_odometry`); the pose network learns corrections. Their length follows from the
depth of the network as it begins, so that a fine-tuned one keeps its scale; where it is untrained,
`odometry.lengths` makes lengths agree.

Two frames are tracked once, whichever is the target: the motion back is the inverse, and as long.
So every second frame of a drive needs no depth. What was tracked, and the motions by the depth of
one network, are kept in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from copy import deepcopy
import hashlib
import math
from pathlib import Path
from statistics import fmean

import cv2
import numpy as np
from numpy.typing import NDArray
import torch

from psd_depth_ros.checkpoint import pack_arrays, unpack_arrays
from psd_depth_ros.data.frames import Sequence
from psd_depth_ros.data.triplets.frame_store import FrameStore
from psd_depth_ros.data.triplets.workers import start_workers, Workers
from psd_depth_ros.errors import BagError
from psd_depth_ros.files import write_atomically
from psd_depth_ros.networks import DepthModel
from psd_depth_ros.networks.bin_head import expected_log_depth
from psd_depth_ros.odometry.lengths import average_scales, Motions
from psd_depth_ros.odometry.visual_odometry import (
    find_corners,
    measure_length,
    track_motion,
    TrackedMotion,
)
from psd_depth_ros.parsing import ARRAY_BYTES, ParseError, read_bytes
from psd_depth_ros.runtime import autocast

BATCH = 8

Pair = tuple[int, int]
Tracked = dict[Pair, TrackedMotion]  # by the earlier and the later frame
Arrays = dict[str, NDArray]
Report = Callable[[int, int], None]


def estimate_motions(
    sequence: Sequence,
    network: DepthModel,
    canonical_focal_px: float,
    *,
    knows_nothing: bool = False,
    report: Report = lambda done, total: None,
    store: FrameStore | None = None,
    workers: int = 0,
) -> dict[Pair, NDArray[np.float64]]:
    """T_source_target by (target, source) of all triplets; pairs that cannot be told are absent.

    Distances are in the units of `network`, whose canonical depth has `canonical_focal_px`.

    Args:
        sequence: frames and triplets.
        network: gives the lengths.
        canonical_focal_px: of the network.
        knows_nothing: an untrained network sees a wall everywhere, and all scenes would have one
            size: the ratios of lengths then come from the pictures.
        report: gets the frames done and how many there are; tracking counts as half of the work.
        store: keeps what was found, and may have it; None: nothing is kept.
        workers: threads, 0: as many as torch may use; the motions are the same.

    Raises:
        BagError: the motions cannot be kept, as on a full disk.
    """
    triplets = np.concatenate([sequence.triplets, sequence.held_out])
    sources = {int(target): (int(a), int(b)) for target, a, b in triplets}
    tracks = _entry(
        store, sequence, 'tracks', sources, hashlib.sha256(sequence.valid.tobytes()).hexdigest()
    )
    facts = (tracks and tracks.stem, _network_id(network), canonical_focal_px, knows_nothing)
    scaled = _entry(store, sequence, 'motions', sources, facts)
    if (kept := _read(store, scaled)) is not None:
        return _unpack_poses(kept)
    total = len(sources)
    half = total // 2
    report(0, total)
    with start_workers(workers) as pool:
        if (kept := _read(store, tracks)) is not None:
            tracked = _unpack_tracks(kept)
        else:
            tracked = _track(
                sequence, sources, pool, lambda done, of: report(half * done // of, total)
            )
            _write(store, tracks, _pack_tracks(tracked))
        found = _scale(
            sequence,
            sources,
            tracked,
            network,
            canonical_focal_px,
            pool,
            lambda done, of: report(half + (total - half) * done // of, total),
        )
    if knows_nothing and found:
        found = average_scales(found)
    poses = {pair: motion.pose for pair, motion in found.items()}
    _write(store, scaled, _pack_poses(poses))
    return poses


def _track(
    sequence: Sequence, sources: Mapping[int, tuple[int, int]], pool: Workers, report: Report
) -> Tracked:
    """What can be tracked of all pairs of frames."""
    later: dict[int, set[int]] = {}
    for target, pair in sources.items():
        for source in pair:
            later.setdefault(min(target, source), set()).add(max(target, source))
    frames = sorted(later)

    def follow(first: int) -> Tracked:
        grey = _grey(sequence, first)
        corners = find_corners(grey, sequence.valid)
        found = {}
        for second in sorted(later[first]):
            there = _grey(sequence, second)
            motion = track_motion(grey, there, corners, sequence.camera, sequence.valid)
            if motion is not None:
                found[first, second] = motion
        return found

    tracked: Tracked = {}
    for done, found in enumerate(pool.map(follow, frames), 1):
        tracked |= found
        report(done, len(frames))
    return tracked


def _grey(sequence: Sequence, index: int) -> NDArray[np.uint8]:
    return cv2.cvtColor(sequence.rgb[index], cv2.COLOR_RGB2GRAY)


def _scale(
    sequence: Sequence,
    sources: Mapping[int, tuple[int, int]],
    tracked: Tracked,
    network: DepthModel,
    canonical_focal_px: float,
    pool: Workers,
    report: Report,
) -> Motions:
    """The motions of all triplets with lengths by the depth of the network."""
    ends: dict[int, list[Pair]] = {}  # pairs of the frames that get a depth
    for pair in tracked:
        for frame in pair:
            ends.setdefault(frame, []).append(pair)
    frames = cover_pairs(tracked)
    serving = serve(network)

    def measure(chosen: list[int]) -> list[tuple[Pair, float]]:
        """The logarithms of lengths by the depth of some frames."""
        found = []
        depths = predict_depth(sequence, chosen, serving, canonical_focal_px)
        for frame, depth_m in zip(chosen, depths, strict=True):
            for pair in ends[frame]:
                motion = tracked[pair] if frame == pair[0] else tracked[pair].reversed()
                length = measure_length(motion, depth_m, sequence.camera)
                found.append((pair, math.log(length)))
        return found

    lengths: dict[Pair, list[float]] = {}
    chunks = [frames[start : start + BATCH] for start in range(0, len(frames), BATCH)]
    for done, part in enumerate(pool.map(measure, chunks), 1):
        report(done, len(chunks))
        for pair, length in part:
            lengths.setdefault(pair, []).append(length)
    found: Motions = {}
    for target in sorted(sources):
        for source in sources[target]:
            pair = min(target, source), max(target, source)
            if pair in tracked:
                motion = tracked[pair] if target < source else tracked[pair].reversed()
                found[target, source] = motion.scaled(math.exp(fmean(lengths[pair])))
    return found


def cover_pairs(pairs: Iterable[Pair]) -> list[int]:
    """Some of the frames of pairs, of every pair one at least: of a chain every second."""
    chosen: set[int] = set()
    for first, second in sorted(pairs):
        if first not in chosen and second not in chosen:
            chosen.add(second)
    return sorted(chosen)


def serve(network: DepthModel) -> DepthModel:
    """A copy of a network for inference, on its device: a sixth faster in this memory format."""
    copy = deepcopy(network).eval()
    return copy.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@torch.inference_mode()
def predict_depth(
    sequence: Sequence, frames: list[int], network: DepthModel, canonical_focal_px: float
) -> NDArray[np.float32]:
    """Depth (n, h, w) in metres of some frames, at half the size of the network's input."""
    device = next(network.parameters()).device
    factor = sequence.fine_factor
    height, width = (side // factor for side in sequence.camera.size)
    camera = sequence.camera.resize(width, height)
    small = [sequence.network_image(index) for index in frames]
    image = network.normalise(torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2))
    intrinsics = torch.tensor([[camera.fx, camera.fy, camera.cx, camera.cy]]).float()
    with autocast(device.type):
        given = image.to(device), intrinsics.expand(len(frames), 4).to(device)
        if network.has_bins:  # that of training takes half the time of `forward` for the same
            log_depth = expected_log_depth(network.predict_bins(*given)).log_depth
        else:
            log_depth = network(*given).log_depth
    depth = log_depth.float().exp() * (camera.fx / canonical_focal_px)
    return depth[:, 0].cpu().numpy()


def _network_id(network: DepthModel) -> str:
    """A digest of the weights of a network, and of where it computes."""
    digest = hashlib.sha256(next(network.parameters()).device.type.encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _entry(
    store: FrameStore | None,
    sequence: Sequence,
    what: str,
    sources: Mapping[int, tuple[int, int]],
    facts: object,
) -> Path | None:
    """The file of an entry; None where nothing is kept, or the frames are not from the cache."""
    if store is None or not sequence.frames_id:
        return None
    key = store.make_key([sequence.frames_id, what, sorted(sources.items()), facts])
    name = sequence.name.replace('/', '-')
    return store.folder / f'{name}-{what}-{key}.safetensors'


def _read(store: FrameStore | None, path: Path | None) -> Arrays | None:
    """The arrays of an entry; None where it is not there, or damaged."""
    if store is None or path is None:
        return None
    with suppress(ParseError, OSError):
        return unpack_arrays(read_bytes(store.use(path), ARRAY_BYTES), sealed=True)[0]
    return None


def _write(store: FrameStore | None, path: Path | None, arrays: Arrays) -> None:
    if store is None or path is None:
        return
    content = pack_arrays(arrays, {})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        store.make_room(len(content))
        write_atomically(path, content)
    except OSError as error:
        raise BagError(
            f'tracked motions cannot be kept in {path.parent}: {error.strerror or error}; make '
            'room, or choose another folder for decoded frames (data.cache)'
        ) from error


def _pack_tracks(tracked: Tracked) -> Arrays:
    counts = [len(motion.here) for motion in tracked.values()]
    return {
        'pairs': np.array(list(tracked), np.int64).reshape(-1, 2),
        'counts': np.array(counts, np.int64),
        'rotation': _stack([motion.rotation for motion in tracked.values()], (3, 3)),
        'direction': _stack([motion.direction for motion in tracked.values()], (3,)),
        'corners': np.concatenate([
            np.zeros((0, 6), np.float32),
            *(
                np.column_stack([one.here, one.there, one.distance_here, one.distance_there])
                for one in tracked.values()
            ),
        ]),
    }  # fmt: skip


def _unpack_tracks(arrays: Arrays) -> Tracked:
    ends = np.cumsum(arrays['counts'])[:-1]
    parts = np.split(arrays['corners'], ends) if len(arrays['counts']) else []
    rows = zip(
        arrays['pairs'].tolist(), arrays['rotation'], arrays['direction'], parts, strict=True
    )
    return {
        (first, second): TrackedMotion(
            rotation, direction, part[:, :2], part[:, 2:4], part[:, 4], part[:, 5]
        )
        for (first, second), rotation, direction, part in rows
    }


def _pack_poses(poses: Mapping[Pair, NDArray[np.float64]]) -> Arrays:
    return {
        'pairs': np.array(list(poses), np.int64).reshape(-1, 2),
        'poses': _stack(list(poses.values()), (4, 4)),
    }


def _unpack_poses(arrays: Arrays) -> dict[Pair, NDArray[np.float64]]:
    rows = zip(arrays['pairs'].tolist(), arrays['poses'], strict=True)
    return {(target, source): pose for (target, source), pose in rows}


def _stack(arrays: list[NDArray[np.float64]], shape: tuple[int, ...]) -> NDArray[np.float64]:
    return np.stack(arrays) if arrays else np.zeros((0, *shape))

"""Adding a layout takes one reader and its entry: training, evaluation and commands read it."""

import numpy as np
import pytest

from psd_depth_ros.cli.main import main
from psd_depth_ros.config import build
from psd_depth_ros.data import open as opening
from psd_depth_ros.data.frames import LoadedFrames, Reader, TimedFrame
from psd_depth_ros.data.settings import DataSettings
from psd_depth_ros.data.triplets.prepare import prepare_sequences
from psd_depth_ros.errors import BagError, EvaluationError
from psd_depth_ros.evaluation.evaluate import open_data
from psd_depth_ros.geometry import Camera

CAMERA = Camera(96, 64, 70.0, 70.0, 47.5, 31.5)


def open_arrays(path, options):
    """`images.npy` (N, 64, 96, 3) and, where it was asked for, `depth.npy` (N, 64, 96)."""
    images = np.load(path / 'images.npy')
    depth = np.load(path / 'depth.npy') if options.with_depth else [None] * len(images)

    def load(place, image):
        stamp_ns = place * 100_000_000
        return TimedFrame(place, stamp_ns, 'lens', image, CAMERA, depth_m=depth[place])

    return LoadedFrames(path, images, load, 'indoor')


READER = Reader(
    'arrays', lambda path: (path / 'images.npy').is_file(), open_arrays, has_depth=True
)


@pytest.fixture
def recording(tmp_path, drives, monkeypatch):
    monkeypatch.setattr(opening, 'READERS', (READER, *opening.READERS))
    folder = tmp_path / 'all' / 'one'
    folder.mkdir(parents=True)
    np.save(folder / 'images.npy', drives.make_pictures(24))
    np.save(folder / 'depth.npy', np.full((24, 64, 96), 2.5, np.float32))
    return folder


def test_its_recordings_are_found_and_learned_from(recording, tmp_path):
    settings = build(DataSettings, {'paths': [str(recording.parent)]})
    assert [one.path for one in opening.find_recordings(settings)] == [recording]
    prepared = prepare_sequences(settings, pixel_budget=96 * 64, cache=tmp_path / 'cache')
    assert len(prepared.sequences[0].rgb) == 24
    assert prepared.triplets >= 14


def test_it_is_measured_by_its_usual_protocol(recording):
    source, protocol = open_data(recording)
    assert protocol.name == 'indoor'
    assert [frame.depth_m[0, 0] for frame in source.frames()] == [2.5] * 24


def test_commands_know_it(recording, capsys):
    assert main(['inspect', str(recording), '--quiet']) == 0
    printed = capsys.readouterr().out
    assert f'{recording}: arrays' in printed
    assert 'fit for training: no: 1' in printed  # fewer triplets than it takes
    with pytest.raises(BagError, match='is a arrays and has no topics'):
        opening.open_frames(recording, image_topic='/image')


def test_a_rendered_world_is_measured_without_a_file():
    source, protocol = open_data('synth:street:3?frames=4&size=64x32')
    source.select(slice(1, 3))
    frames = list(source.frames())
    assert protocol.name == 'outdoor'
    assert [frame.index for frame in frames] == [1, 2]
    assert all(np.nanmin(frame.depth_m) > 0.1 for frame in frames)
    assert source.view_pose(frames[0]) is not None


def test_a_layout_without_depth_is_not_measured(tmp_path, drives):
    path = tmp_path / 'video.mp4'
    path.write_bytes(b'')
    with pytest.raises(EvaluationError, match='has no true depth that is known here'):
        open_data(path)

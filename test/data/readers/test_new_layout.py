"""Adding a layout takes one reader and its entry: training, evaluation and commands read it."""

import inspect
from pathlib import Path

import cv2
import numpy as np
import pytest

from psd_depth_ros.cli.main import main
from psd_depth_ros.config import build
from psd_depth_ros.data import open as opening
from psd_depth_ros.data.frames import FrameSource, Reader, SourceOptions
from psd_depth_ros.data.readers.files import (
    complete_lens,
    Entry,
    images_in,
    ListedFrames,
    stamps_in_names,
)
from psd_depth_ros.data.settings import DataSettings
from psd_depth_ros.data.triplets.prepare import prepare_sequences
from psd_depth_ros.errors import BagError, EvaluationError, SettingsError
from psd_depth_ros.evaluation.evaluate import open_data


def open_walk(path: Path, options: SourceOptions) -> FrameSource:
    """A folder with walk/<time>.png, depth/<time>.png in millimetres and camera.yaml."""
    files = images_in(path / 'walk')
    if not files:
        raise BagError(f'{path} has no images in {path / "walk"}; unpack them there')
    entries = [
        Entry(file, stamp_ns, depth=path / 'depth' / file.name)
        for file, stamp_ns in zip(files, stamps_in_names(files), strict=True)
    ]
    lens = complete_lens(options.lens, path, path / 'camera.yaml')
    source = ListedFrames(path, lens, entries, 1000.0 if options.with_depth else None)
    source.protocol = 'indoor'  # what psd-depth evaluate takes without --protocol
    return source


READER = Reader('walk', lambda path: (path / 'walk').is_dir(), open_walk, has_depth=True)


@pytest.fixture
def recording(tmp_path, drives, monkeypatch):
    monkeypatch.setattr(opening, 'READERS', (READER, *opening.READERS))
    folder = tmp_path / 'all' / 'one'
    for name in ('walk', 'depth'):
        (folder / name).mkdir(parents=True)
    (folder / 'camera.yaml').write_text(
        'fx: 70\nfy: 70\ncx: 47.5\ncy: 31.5\nwidth: 96\nheight: 64\n'
    )
    for index, picture in enumerate(drives.make_pictures(24)):
        name = f'{1_500_000_000 + 0.1 * index:.1f}.png'
        cv2.imwrite(str(folder / 'walk' / name), picture[..., ::-1])
        cv2.imwrite(str(folder / 'depth' / name), np.full((64, 96), 2500, np.uint16))
    return folder


def test_it_is_the_example_of_the_contributing_page():
    page = (Path(__file__).resolve().parents[3] / 'CONTRIBUTING.md').read_text()
    assert inspect.getsource(open_walk) in page
    (line,) = [one for one in Path(__file__).read_text().splitlines() if one[:6] == 'READER']
    assert line in page


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


def test_the_lens_of_the_caller_and_bad_images_are_its_business(recording):
    with opening.open_frames(recording, horizontal_fov_deg=90.0) as source:
        assert next(source.frames()).camera.fx == pytest.approx(48.0)
    sorted((recording / 'walk').iterdir())[3].write_bytes(b'')
    with opening.open_frames(recording) as source:
        assert source.rate_hz == pytest.approx(10.0)
        assert len(list(source.frames())) == 23
        assert source.skipped_by_reason == {'image': 1}


def test_commands_know_it(recording, capsys):
    assert main(['inspect', str(recording), '--quiet']) == 0
    printed = capsys.readouterr().out
    assert f'{recording}: walk' in printed
    assert 'fit for training: no: 1' in printed  # fewer triplets than it takes
    with pytest.raises(SettingsError, match='has no topics; leave out --image-topic'):
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

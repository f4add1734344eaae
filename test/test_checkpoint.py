from dataclasses import replace
import json
import os
from pathlib import Path
import struct

import pytest
from safetensors.torch import save_file
import torch

from psd_depth_ros import checkpoint as checkpoints
from psd_depth_ros.checkpoint import (
    check_pixel_budget,
    CheckpointInfo,
    find_checkpoint,
    InputInfo,
    load_checkpoint,
    METADATA_KEY,
    OutputInfo,
    save_checkpoint,
)
from psd_depth_ros.errors import CheckpointError, SettingsError

INFO = CheckpointInfo(
    'test',
    {'encoder': 'mobilenet_v2'},
    input=InputInfo(64, 96, (0.4, 0.5, 0.6), (0.2, 0.2, 0.3)),
    output=OutputInfo(canonical_focal_px=321.0, metric=True),
    training={'steps': 7},
    licence='CC-BY-4.0',
    data=({'name': 'worlds', 'licence': 'Apache-2.0'},),
)
TENSORS = {'a': torch.tensor([1.0, 2.5]), 'n': torch.tensor(3)}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / 'c.safetensors'
    save_checkpoint(path, INFO, TENSORS)
    return path


def describe(tmp_path, change):
    """A checkpoint whose description went through `change`."""
    path = tmp_path / 'd.safetensors'
    save_checkpoint(path, INFO, TENSORS)
    size = struct.unpack('<Q', path.read_bytes()[:8])[0]
    header = json.loads(path.read_bytes()[8 : 8 + size])
    values = json.loads(header['__metadata__'][METADATA_KEY])
    changed = change(values)
    text = changed if isinstance(changed, str) else json.dumps(changed)
    save_file(TENSORS, path, metadata={METADATA_KEY: text})
    return path


def test_everything_comes_back(path):
    loaded = load_checkpoint(path)
    assert loaded.info == INFO
    assert loaded.tensors['a'].tolist() == [1.0, 2.5]
    assert loaded.tensors['n'].item() == 3
    assert loaded.info.input.pixel_budget == 64 * 96


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A package that comes with two checkpoints, and a file of the user."""
    folder, own = tmp_path / 'weights', tmp_path / 'own'
    for path in (folder / 'lite', folder / 'lite-research', own):
        save_checkpoint(path.with_suffix('.safetensors'), replace(INFO, name=path.name), TENSORS)
    (folder / 'README.md').write_text('Weights')
    monkeypatch.setattr(checkpoints, 'find_installed', lambda name: tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.parametrize(
    ('wanted', 'found'),
    [
        (None, 'lite'),
        ('default', 'lite'),
        ('lite', 'lite'),
        ('lite-research', 'lite-research'),
        (Path('lite-research'), 'lite-research'),
        ('own.safetensors', 'own'),
        ('./weights/lite-research.safetensors', 'lite-research'),
    ],
)
def test_weights_of_the_package_are_found_by_name(weights, wanted, found):
    (weights.parent / 'lite').write_text('a file of this name changes nothing')
    assert load_checkpoint(wanted).info.name == found


@pytest.mark.parametrize('wanted', ['lite-reserch', 'README', 'weights/lite', 'own'])
def test_an_unknown_name_is_answered_with_those_there_are(weights, wanted):
    with pytest.raises(CheckpointError, match='no such checkpoint file; give the path') as caught:
        find_checkpoint(wanted)
    assert wanted in str(caught.value)
    assert str(caught.value).endswith(': default, lite, lite-research')


@pytest.mark.parametrize(
    ('licence', 'restricted'),
    [
        ('CC BY-NC-SA 4.0', True),
        ('CC-BY-NC-4.0', True),
        ('non-commercial research', True),
        ('Noncommercial', True),
        ('research use only', True),
        ('for academic purposes only', True),
        ('CC BY-SA 4.0', False),
        ('University of Illinois/NCSA', False),
        ('Apache-2.0, from research', False),
        ('of the recording', False),
        ('', False),
    ],
)
def test_licences_that_allow_research_only_are_told(licence, restricted):
    data = (*INFO.data, {'name': 'drives', 'licence': licence})
    expected = f'for research only: drives ({licence})' if restricted else ''
    assert replace(INFO, data=(*data, data[-1])).restriction == expected
    assert bool(replace(INFO, licence=licence).restriction) == restricted


def without_additions(values):
    """A description as it was written before there were ranges and a licence."""
    del values['input']['smallest_pixels'], values['input']['largest_pixels']
    del values['licence']
    return values


def test_the_range_of_input_sizes_comes_back_and_old_files_have_none(tmp_path):
    trained = replace(INFO.input, smallest_pixels=4096, largest_pixels=12288)
    save_checkpoint(tmp_path / 'c.safetensors', replace(INFO, input=trained), TENSORS)
    assert load_checkpoint(tmp_path / 'c.safetensors').info.input == trained
    old = load_checkpoint(describe(tmp_path, without_additions)).info
    assert (old.input.smallest_pixels, old.input.largest_pixels, old.licence) == (0, 0, '')


@pytest.mark.parametrize(
    ('smallest', 'largest', 'covered', 'others'),
    [
        (4096, 12288, (4096, 6144, 12288), (4095, 12289)),
        (0, 0, (6144,), (6143, 6145)),
        (8192, 12288, (6144, 12288), (6143, 12289)),  # the nominal size is 96x64
    ],
)
def test_what_is_said_of_sizes_that_training_did_not_cover(smallest, largest, covered, others):
    given = replace(INFO.input, smallest_pixels=smallest, largest_pixels=largest)
    assert not any(map(given.describe_untrained, covered))
    for pixels in others:
        assert f'pixel_budget is {pixels}' in given.describe_untrained(pixels)
    known = 'learned at 4096 to 12288 px' if smallest == 4096 else ''
    assert known in given.describe_untrained(others[0])


def test_fine_tuned_weights_keep_the_range_and_add_their_own_size():
    start = InputInfo(96, 128, smallest_pixels=8192, largest_pixels=24576)
    fine = InputInfo(64, 96).trained_from(start)
    assert (fine.smallest_pixels, fine.largest_pixels) == (6144, 24576)
    assert InputInfo(64, 96).trained_from(InputInfo(96, 128)) == InputInfo(64, 96)
    own = InputInfo(64, 96, smallest_pixels=4096, largest_pixels=8192)
    assert own.trained_from(start) == own


def test_budgets_that_no_image_can_have():
    for pixels in (0, 1024, 4_000_000):
        check_pixel_budget(pixels)
    for pixels in (-1, 1023, 4_000_001):
        with pytest.raises(SettingsError, match=rf'is {pixels}, expected 1024 \(32x32\) to'):
            check_pixel_budget(pixels)


def test_the_id_is_that_of_the_content(path, tmp_path):
    other = tmp_path / 'other.safetensors'
    first = save_checkpoint(other, INFO, TENSORS)
    assert first == load_checkpoint(path).id == load_checkpoint(other).id
    assert save_checkpoint(other, INFO, {'a': torch.zeros(1)}) != first


def test_half_precision_is_float32_again_once_loaded(tmp_path):
    path = tmp_path / 'half.safetensors'
    save_checkpoint(path, INFO, {'a': torch.tensor([1 / 3])}, half=True)
    loaded = load_checkpoint(path).tensors['a']
    assert loaded.dtype == torch.float32
    assert loaded.item() == pytest.approx(1 / 3, rel=1e-3)


def test_bfloat16_is_float32_once_loaded(tmp_path):
    values = torch.tensor([[1 / 3, -2.0, 1e30]]).bfloat16()
    path = tmp_path / 'bfloat16.safetensors'
    save_checkpoint(path, INFO, {'b': values, **TENSORS})
    loaded = load_checkpoint(path).tensors
    assert loaded['b'].dtype == torch.float32
    assert torch.equal(loaded['b'], values.float())
    assert torch.equal(loaded['a'], TENSORS['a'])


def test_a_write_that_fails_keeps_the_old_file(path, monkeypatch):
    before = path.read_bytes()

    def full(_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(CheckpointError, match='No space left on device'):
        save_checkpoint(path, INFO, {'a': torch.zeros(3)})
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match=r'nothing\.safetensors: no such checkpoint file'):
        load_checkpoint(tmp_path / 'nothing.safetensors')


@pytest.mark.parametrize('keep', [0, 4, 60, -1])
def test_truncated_at_any_place(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match='not a whole safetensors file') as caught:
        load_checkpoint(path)
    if keep in (0, 4):
        assert f'should have 8 bytes of its own length, and the file has {keep}' in str(
            caught.value
        )


@pytest.mark.parametrize(
    'content', [b'\x80\x04\x95hello', b'PK\x03\x04' + b'0' * 99, b'\xff' * 64, b'\0' * 64]
)
def test_pickles_zips_and_hostile_headers_are_not_opened(path, content):
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match='not a whole safetensors file'):
        load_checkpoint(path)


def test_safetensors_of_somebody_else(tmp_path):
    path = tmp_path / 'foreign.safetensors'
    save_file(TENSORS, path)
    with pytest.raises(CheckpointError, match='without a psd_depth_ros description'):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda v: {**v, 'format_version': 2}, 'has format version 2, this psd_depth_ros reads 1'),
        (lambda v: '{', 'is not JSON'),
        (lambda v: '[1]', 'has format version list'),
        (lambda v: '[' * 100_000, 'is not JSON'),
        (lambda v: {**v, 'licence': 'x\ny'}, 'expected a line of at most 200 characters'),
        (lambda v: {**v, 'licence': 3}, 'licence is 3'),
        (lambda v: {**v, 'wings': 2}, "unknown setting 'wings'"),
        (lambda v: {**v, 'architecture': 3}, "lacks a proper 'architecture'"),
        (lambda v: {**v, 'architecture': {}}, 'architecture names no encoder'),
        (lambda v: {**v, 'architecture': {'encoder': 7}}, 'architecture names no encoder'),
        (lambda v: {**v, 'data': [3]}, 'data has 3, expected the name and licence'),
        (lambda v: {**v, 'data': [{'name': 'x'}]}, 'expected the name and licence'),
        (lambda v: {**v, 'training': {'validation': [1]}}, 'training.validation is [1]'),
        (lambda v: {**v, 'training': {'validation': {'a': 'x'}}}, 'expected finite numbers'),
        (lambda v: {**v, 'input': {**v['input'], 'width': 100}}, 'input is 100x64, expected mul'),
        (lambda v: {**v, 'input': {**v['input'], 'width': 4096, 'height': 4096}}, '4000000 pix'),
        (lambda v: {**v, 'output': {'min_depth_m': 50.0, 'max_depth_m': 5.0}}, 'less than'),
        (lambda v: json.dumps(v)[:-1] + ', "name": "x"}', "'name' is given twice"),
        (lambda v: {**v, 'input': {**v['input'], 'height': 10**9}}, 'input.height is 1000000000'),
        (lambda v: {**v, 'input': {**v['input'], 'std': [0.0] * 3}}, 'input.std'),
        (lambda v: {**v, 'input': {**v['input'], 'mean': [0.5]}}, 'three numbers each'),
        (lambda v: {**v, 'input': {**v['input'], 'smallest_pixels': 2048}}, '0 for both'),
        (lambda v: {**v, 'input': {**v['input'], 'largest_pixels': 2048}}, 'smallest <= largest'),
        (lambda v: {**v, 'input': {**v['input'], 'largest_pixels': 'x'}}, 'input.largest_pixels'),
        (lambda v: {**v, 'input': {**v['input'], 'largest_pixels': 10**7}}, '0 .. 4e+06 px'),
        (lambda v: {**v, 'output': {'canonical_focal_px': 'x'}}, 'canonical_focal_px'),
    ],
)
def test_a_wrong_description_is_refused(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=r'd\.safetensors') as caught:
        load_checkpoint(describe(tmp_path, change))
    assert message in str(caught.value)


def test_a_weight_that_changed_since_it_was_written(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match='differs from its checksum'):
        load_checkpoint(path)


def test_a_file_without_a_checksum_is_read(tmp_path):
    assert load_checkpoint(describe(tmp_path, lambda values: values)).info == INFO


def test_a_name_of_five_thousand_characters(tmp_path):
    with pytest.raises(CheckpointError, match='no such checkpoint file') as caught:
        load_checkpoint(tmp_path / ('x' * 5000))
    assert len(str(caught.value)) < 600
    with pytest.raises(CheckpointError, match='File name too long'):
        save_checkpoint(tmp_path / ('x' * 5000), INFO, TENSORS)


def test_weights_that_are_not_finite(tmp_path):
    path = tmp_path / 'nan.safetensors'
    save_checkpoint(path, INFO, {'head.key': torch.tensor([float('nan')])})
    with pytest.raises(CheckpointError, match=r'head\.key holds NaN'):
        load_checkpoint(path)

"""Frozen networks: what an image becomes on its way in, and a map on its way out."""

import shutil

import cv2
import numpy as np
import pytest

from psd_depth_ros.checkpoint import default_checkpoint, load_checkpoint
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.inference.engine import DepthEngine
from psd_depth_ros.teachers import open_depth_teacher, open_semantic_expert

pytest.importorskip('onnxruntime')
onnx = pytest.importorskip('onnx')

from onnx import helper, TensorProto  # noqa: E402
from teacher_files import write_onnx, write_red, write_tflite  # noqa: E402

CAMERA = Camera(6, 4, 6.0, 6.0, 2.5, 1.5)


def make_image(height=4, width=6):
    """Red counts the columns from 10, green the rows from 100, blue is 200."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([10 + columns, 100 + rows, 0 * rows + 200], axis=-1).astype(np.uint8)


RED = make_image()[..., 0] / 255.0


def test_depth_is_inverted_and_disparity_is_not(tmp_path):
    depth = open_depth_teacher(str(write_red(tmp_path / 'a.onnx', 'depth_m')))
    np.testing.assert_allclose(depth(make_image(), CAMERA), 1 / RED, rtol=1e-6)
    disparity = open_depth_teacher(str(write_red(tmp_path / 'b.onnx', 'disp')))
    np.testing.assert_allclose(disparity(make_image(), CAMERA), RED, rtol=1e-6)
    said = open_depth_teacher(f'{tmp_path}/b.onnx?output=depth')
    np.testing.assert_allclose(said(make_image(), CAMERA), 1 / RED, rtol=1e-6)
    assert len({depth.id, disparity.id, said.id}) == 3


def test_depth_that_is_not_above_zero_is_unknown(tmp_path):
    teacher = open_depth_teacher(str(write_red(tmp_path / 'a.onnx')))
    image = make_image()
    image[1, 2, 0] = 0
    found = teacher(image, CAMERA)
    assert np.isnan(found[1, 2])
    assert np.isfinite(found).sum() == found.size - 1


def test_a_name_that_says_nothing_is_refused(tmp_path):
    path = write_red(tmp_path / 'net.onnx', 'out')
    with pytest.raises(SettingsError, match=r"'out'.*\?output=depth or \?output=disparity.*yaml"):
        open_depth_teacher(str(path))


def test_the_file_beside_says_how_and_the_specification_goes_first(tmp_path):
    path = write_red(tmp_path / 'net.onnx', 'out')
    (tmp_path / 'net.yaml').write_text(
        'output: disparity\nmean: [0.5, 0, 0]\nstd: [0.25, 1, 1]\nlicence: CC0\n'
    )
    teacher = open_depth_teacher(str(path))
    np.testing.assert_allclose(teacher(make_image(), CAMERA), (RED - 0.5) / 0.25, rtol=1e-5)
    assert teacher.provenance == ({'name': 'net', 'licence': 'CC0'},)
    blue = open_depth_teacher(f'{path}?channels=bgr&mean=[0,0,0]&std=[1,1,1]&input_max=255')
    np.testing.assert_allclose(blue(make_image(), CAMERA), 200.0)
    (tmp_path / 'net.yaml').write_text('outputs: disparity\n')
    with pytest.raises(SettingsError, match=r"net\.yaml: unknown setting 'outputs'.*'output'"):
        open_depth_teacher(str(path))


def test_channels_may_come_last(tmp_path):
    path = write_red(tmp_path / 'net.onnx', 'disparity', (1, 4, 6, 3), axis=3)
    teacher = open_depth_teacher(str(path))
    np.testing.assert_allclose(teacher(make_image(), CAMERA), RED, rtol=1e-6)


def test_a_network_that_takes_any_size_needs_one(tmp_path):
    path = write_red(tmp_path / 'net.onnx', 'disparity', (1, 3, 'h', 'w'))
    with pytest.raises(SettingsError, match='any size; give height and width'):
        open_depth_teacher(str(path))
    teacher = open_depth_teacher(f'{path}?height=2&width=3')
    halved = RED.reshape(2, 2, 3, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(teacher(make_image(), CAMERA), halved, atol=0.6 / 255)


def test_several_outputs_need_a_name(tmp_path):
    nodes = [
        helper.make_node('Identity', ['image'], ['both']),
        helper.make_node('Neg', ['image'], ['other']),
    ]
    outputs = [('both', TensorProto.FLOAT), ('other', TensorProto.FLOAT)]
    path = write_onnx(tmp_path / 'net.onnx', nodes, (1, 3, 4, 6), outputs)
    with pytest.raises(SettingsError, match=r'outputs both, other; .*output_name'):
        open_semantic_expert(str(path))
    expert = open_semantic_expert(f'{path}?output_name=other&features=true')
    np.testing.assert_allclose(expert(make_image(), CAMERA)[0], -RED, rtol=1e-6)
    with pytest.raises(SettingsError, match='3 maps, expected one of depth'):
        open_depth_teacher(f'{path}?output_name=both&output=depth')(make_image(), CAMERA)


def test_the_mirror_image_counts_half(tmp_path):
    """The network adds the column of its input: 0.1 for the first, 0.6 for the last."""
    ramp = np.arange(1, 7, dtype=np.float32) / 10
    nodes = [
        helper.make_node('Constant', [], ['ramp'], value_floats=ramp.tolist()),
        helper.make_node('Constant', [], ['zero'], value_ints=[0]),
        helper.make_node('Gather', ['image', 'zero'], ['red'], axis=1),
        helper.make_node('Add', ['red', 'ramp'], ['disp']),
    ]
    path = write_onnx(tmp_path / 'n.onnx', nodes, (1, 3, 4, 6), [('disp', TensorProto.FLOAT)])
    plain = open_depth_teacher(str(path))(make_image(), CAMERA)
    np.testing.assert_allclose(plain, RED + ramp, rtol=1e-5)
    both = open_depth_teacher(f'{path}?flip=true')(make_image(), CAMERA)
    np.testing.assert_allclose(both, RED + 0.35, rtol=1e-5)


def test_an_image_keeps_its_shape_where_asked(tmp_path):
    """An image twice as wide as high in the middle of a square input."""
    path = write_red(tmp_path / 'net.onnx', 'disparity', (1, 3, 12, 12))
    teacher = open_depth_teacher(f'{path}?keep_aspect=true')
    image = make_image(6, 12)
    found = teacher(image, CAMERA)
    np.testing.assert_allclose(found, image[..., 0] / 255.0, rtol=1e-5)


def test_an_image_is_resampled_to_the_focal_length_of_the_network(tmp_path):
    """The network's camera: 24 pixels wide with f = 12, so f = 6 at its input of 12 x 8.

    An image with f = 3 is enlarged twice; its principal point comes to the middle. What is
    outside of the input stays unknown.
    """
    path = write_red(tmp_path / 'net.onnx', 'disparity', (1, 3, 8, 12))
    teacher = open_depth_teacher(f'{path}?focal_px=12&focal_width=24')
    image = make_image(4, 12)
    found = teacher(image, Camera(12, 4, 3.0, 3.0, 5.5, 1.5))
    assert found.shape == (8, 24)
    seen = np.isfinite(found).all(axis=0)
    assert seen.tolist() == [6 <= column < 18 for column in range(24)]
    wanted = cv2.resize(image[..., 0], (24, 8), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(found[:, 6:18], wanted[:, 6:18] / 255.0, atol=1e-6)


def test_class_numbers_become_probabilities(tmp_path):
    nodes = [helper.make_node('ArgMax', ['image'], ['classes'], axis=1, keepdims=0)]
    path = write_onnx(tmp_path / 'n.onnx', nodes, (1, 3, 4, 6), [('classes', TensorProto.INT64)])
    with pytest.raises(SettingsError, match=r'how many classes.*classes=21'):
        open_semantic_expert(str(path))(make_image(), CAMERA)
    found = open_semantic_expert(f'{path}?classes=4')(make_image(), CAMERA)
    assert found.shape == (4, 4, 6)
    assert (found[2] == 1).all()  # blue is largest
    assert found.sum() == 24
    with pytest.raises(SettingsError, match='class 2, but classes is 2; expected at least 3'):
        open_semantic_expert(f'{path}?classes=2')(make_image(), CAMERA)


def test_scores_become_probabilities(tmp_path):
    nodes = [helper.make_node('Identity', ['image'], ['scores'])]
    path = write_onnx(tmp_path / 'n.onnx', nodes, (1, 3, 4, 6), [('scores', TensorProto.FLOAT)])
    found = open_semantic_expert(str(path))(make_image(), CAMERA)
    np.testing.assert_allclose(found.sum(axis=0), 1.0, rtol=1e-5)
    odds = np.exp((200 - make_image()[..., 0]) / 255.0)
    np.testing.assert_allclose(found[2] / found[0], odds, rtol=1e-4)


def test_eight_bits_of_tensorflow_lite_have_their_scale(tmp_path):
    pytest.importorskip('openvino')
    path = write_tflite(tmp_path / 'net.tflite')
    found = open_semantic_expert(f'{path}?features=true')(make_image(), CAMERA)
    np.testing.assert_allclose(found, make_image().transpose(2, 0, 1) / 255.0, atol=0.0051)
    stored = found / 0.01 + 10
    np.testing.assert_allclose(stored, np.round(stored), atol=1e-3)
    with pytest.raises(SettingsError, match=r'whole numbers .uint8.; leave out mean'):
        open_semantic_expert(f'{path}?features=true&mean=[0.5,0.5,0.5]')


@pytest.mark.parametrize('cut', [4, 40, 200])
def test_a_damaged_file_is_refused(tmp_path, cut):
    pytest.importorskip('openvino')
    path = write_tflite(tmp_path / 'net.tflite')
    path.write_bytes(path.read_bytes()[:-cut] if cut > 4 else b'GIF8' * 9)
    with pytest.raises(SettingsError, match=r'net\.tflite'):
        open_semantic_expert(f'{path}?features=true')
    (tmp_path / 'net.onnx').write_bytes(b'no network')
    with pytest.raises(SettingsError, match=r'net\.onnx is no ONNX network'):
        open_depth_teacher(f'{tmp_path}/net.onnx')
    with pytest.raises(SettingsError, match='there is no such folder'):
        open_depth_teacher(f'{tmp_path}/missing')


def test_real_teachers_know_near_from_far(real_recording):
    """Kitchen: the table at the bottom is nearer than the wall at the top."""
    weights = real_recording('../weights/depth_teachers')
    frame = real_recording('rgbd_kitchen') / 'color' / '000480.jpg'
    image = cv2.cvtColor(cv2.imread(str(frame)), cv2.COLOR_BGR2RGB)
    camera = Camera(640, 480, 585.0, 585.0, 319.5, 239.5)
    for spec in (
        'fastdepth/fast_depth_224.tflite?output=depth',
        'meter_nyu_xxs/meter_nyu_xxs.onnx',
    ):
        found = open_depth_teacher(f'{weights}/{spec}')(image, camera)
        assert np.nanmedian(found[-10:]) > 1.3 * np.nanmedian(found[:10])


def test_a_checkpoint_teaches_what_it_predicts(tmp_path):
    own = tmp_path / 'own.safetensors'
    shutil.copy(default_checkpoint(), own)
    image = cv2.resize(make_image(8, 13), (416, 128))
    camera = Camera(416, 128, 240.0, 240.0, 207.5, 63.5)
    teacher = open_depth_teacher(str(own))
    assert teacher.provenance[:-1] == tuple(load_checkpoint(own).info.data)
    assert all({'name', 'licence'} <= set(one) for one in teacher.provenance)
    engine = DepthEngine.from_checkpoint(own, backend='torch', device='cpu')
    wanted = engine.infer(image, camera).depth_m
    known = np.isfinite(wanted)
    assert known.any()
    found = cv2.resize(teacher(image, camera), (416, 128))
    ratio = found[known] * wanted[known]
    np.testing.assert_allclose(ratio, np.median(ratio), rtol=0.05)


def test_the_mean_of_teachers_is_geometric_and_their_scales_do_not_count(tmp_path):
    one = write_red(tmp_path / 'a.onnx', 'depth_m')
    two = write_red(tmp_path / 'b.onnx', 'disp')
    image = make_image()
    mean = open_depth_teacher(f'{one} + {one}?input_max=255&name=far')
    found = mean(image, CAMERA)
    middle = np.exp(np.median(np.log(1 / RED)))
    np.testing.assert_allclose(found, 1 / RED / middle, rtol=1e-5)
    assert mean.name == 'a + far'
    assert len(mean.provenance) == 2
    assert mean.gives_depth
    assert len({mean.id, open_depth_teacher(str(one)).id}) == 2
    flat = open_depth_teacher(f'{one} + {two}?output=depth&channels=bgr')
    np.testing.assert_allclose(flat(image, CAMERA), np.sqrt(1 / RED / middle), rtol=1e-5)
    with pytest.raises(SettingsError, match=r'teacher b gives no depth, of which a mean could'):
        open_depth_teacher(f'{one} + {two}')


def test_the_mean_of_teachers_is_unknown_where_one_is(tmp_path):
    one = write_red(tmp_path / 'a.onnx')
    image = make_image()
    image[1, 2, 0] = 0
    found = open_depth_teacher(f'{one} + {one}?flip=true')(image, CAMERA)
    assert np.isnan(found[1, 2])
    assert np.isnan(found).sum() == 1
    image[..., 0] = 0
    assert np.isnan(open_depth_teacher(f'{one} + {one}')(image, CAMERA)).all()

"""Networks of other people in the engine: metres with an answer known by hand."""

import numpy as np
import pytest

from psd_depth_ros.errors import DeviceError, SettingsError
from psd_depth_ros.external.open import check_external, is_external
from psd_depth_ros.geometry import Camera, Distortion
from psd_depth_ros.inference import DepthEngine, Scale
from psd_depth_ros.inference.cloud import CloudSettings
from psd_depth_ros.inference.postprocess import DepthSettings

pytest.importorskip('onnxruntime')
onnx = pytest.importorskip('onnx')

from onnx import helper, TensorProto  # noqa: E402
from teacher_files import write_onnx, write_red  # noqa: E402

CAMERA = Camera(60, 40, 60.0, 60.0, 29.5, 19.5)
WIDE = DepthSettings(min_depth_m=0.001, max_depth_m=1000.0)


def grey(value=51, size=(40, 60)):
    """51 is 0.2 of white."""
    return np.full((*size, 3), value, np.uint8)


def depth_of(engine, image=None, camera=CAMERA, **options):
    given = grey() if image is None else image
    return engine.infer_batch([(given, camera)], settings=WIDE, **options)[0]


@pytest.mark.parametrize(
    ('options', 'depth_m'),
    [
        ('output=depth&metric=true', 0.2),
        ('output=depth&metric=true&unit_m=10', 2.0),
        ('output=disparity&metric=true', 5.0),
        ('output=log_depth&metric=true', np.exp(0.2)),
        ('output=depth&metric=true&input_max=255', 51.0),
        ('output=depth&metric=true&mean=[0.1,0,0]&std=[0.5,1,1]', 0.2),
    ],
)
def test_metres_follow_from_what_the_output_means(tmp_path, options, depth_m):
    path = write_red(tmp_path / 'net.onnx', 'out')
    frame = depth_of(DepthEngine.from_checkpoint(f'{path}?{options}'))
    assert frame.depth_m.shape == (40, 60)
    np.testing.assert_allclose(frame.depth_m, depth_m, rtol=1e-5)


def test_a_canonical_focal_length_is_that_at_the_size_of_the_input(tmp_path):
    """The input is 6 wide, the camera 60 with fx 60: fx 6 there. 0.2 x 6 / 3."""
    path = write_red(tmp_path / 'net.onnx', 'depth')
    frame = depth_of(DepthEngine.from_checkpoint(f'{path}?metric=true&canonical_focal_px=3'))
    np.testing.assert_allclose(frame.depth_m, 0.4, rtol=1e-5)


def test_an_image_wider_than_the_network_s_camera_is_unknown_at_its_sides(tmp_path):
    """The network sees 6 pixels of fx 6 at its size; half of its width is all of an image of 3."""
    path = write_red(tmp_path / 'net.onnx', 'depth', (1, 3, 4, 6))
    spec = f'{path}?metric=true&focal_px=12&focal_width=6'  # enlarges twice: the middle is seen
    frame = depth_of(DepthEngine.from_checkpoint(spec))
    known = np.isfinite(frame.depth_m)
    assert known[15:25, 20:40].all()
    assert not known[:, :13].any()
    assert not known[:, 47:].any()
    np.testing.assert_allclose(frame.depth_m[known], 0.2, rtol=1e-5)


def test_pixels_of_a_distorted_camera_are_rectified_first(tmp_path):
    """Red grows to the right; its depth does so as in the rectified image."""
    path = write_red(tmp_path / 'net.onnx', 'depth', (1, 3, 40, 60))
    lens = Distortion('plumb_bob', (-0.2, 0.05, 0.0, 0.0, 0.0))
    camera = Camera(60, 40, 60.0, 60.0, 29.5, 19.5, lens)
    image = grey()
    image[..., 0] = 60 + 2 * np.arange(60)
    frame = depth_of(DepthEngine.from_checkpoint(f'{path}?metric=true'), image, camera)
    seen = np.isfinite(frame.depth_m)
    assert 0.8 < seen.mean() <= 1.0
    difference = (frame.depth_m - frame.rgb[..., 0] / 255.0)[5:35, 5:55]
    assert np.abs(difference).max() <= 1.5 / 255
    assert frame.camera == camera.rectified()


def test_no_confidence_is_claimed_and_no_depth_dropped_for_it(tmp_path):
    path = write_red(tmp_path / 'net.onnx', 'depth')
    engine = DepthEngine.from_checkpoint(f'{path}?metric=true&unit_m=10')
    frame = engine.infer(grey(), CAMERA)
    assert np.isnan(frame.confidence).all()
    np.testing.assert_allclose(frame.depth_m, 2.0, rtol=1e-5)
    assert frame.cloud(CloudSettings(min_confidence=0.9)).width == 40 * 60


def test_confidence_of_the_mirror_image_is_high_where_both_agree(tmp_path):
    """Depth is red plus the column of the input: its middle is nearly its own mirror image."""
    ramp = np.arange(1, 7, dtype=np.float32)
    nodes = [
        helper.make_node('Constant', [], ['ramp'], value_floats=ramp.tolist()),
        helper.make_node('Constant', [], ['zero'], value_ints=[0]),
        helper.make_node('Gather', ['image', 'zero'], ['red'], axis=1),
        helper.make_node('Add', ['red', 'ramp'], ['depth']),
    ]
    path = write_onnx(tmp_path / 'n.onnx', nodes, (1, 3, 4, 6), [('depth', TensorProto.FLOAT)])
    frame = depth_of(DepthEngine.from_checkpoint(f'{path}?metric=true&flip=true'))
    edge, middle = frame.confidence[20, 0], frame.confidence[20, 29]
    assert 0.0 <= edge < 0.2 < middle <= 1.0


def test_scale_is_applied_as_to_our_own_networks(tmp_path):
    path = write_red(tmp_path / 'net.onnx', 'depth')
    engine = DepthEngine.from_checkpoint(str(path))
    assert not engine.checkpoint.info.output.metric
    frame = depth_of(engine, scales=[Scale(3.0, 0.01)])
    np.testing.assert_allclose(frame.depth_m, 0.6, rtol=1e-5)
    np.testing.assert_allclose(frame.rescaled(Scale(5.0)).depth_m, 1.0, rtol=1e-5)


def test_several_cameras_in_one_batch(tmp_path):
    path = write_red(tmp_path / 'net.onnx', 'depth')
    engine = DepthEngine.from_checkpoint(f'{path}?metric=true')
    other = Camera(30, 20, 30.0, 30.0, 14.5, 9.5)
    requests = [(grey(51), CAMERA), (grey(102, (20, 30)), other)]
    frames = engine.infer_batch(requests, settings=WIDE)
    assert [one.depth_m.shape for one in frames] == [(40, 60), (20, 30)]
    ratio = frames[1].depth_m[10, 10] / frames[0].depth_m[10, 10]
    assert ratio == pytest.approx(2.0, rel=1e-5)


def test_a_network_of_any_size_takes_the_shape_of_the_image(tmp_path):
    path = write_red(tmp_path / 'net.onnx', 'depth', (1, 3, 'h', 'w'))
    spec = f'{path}?metric=true&multiple=4'
    engine = DepthEngine.from_checkpoint(spec, pixel_budget=1024)
    assert engine.infer_batch([(grey(), CAMERA)], settings=WIDE, full_size=False)[
        0
    ].depth_m.shape == (24, 36)
    with pytest.raises(SettingsError, match='any size; give height and width'):
        DepthEngine.from_checkpoint(spec)


def test_what_cannot_be_served_is_refused_with_the_reason(tmp_path):
    path = write_red(tmp_path / 'net.onnx', 'disparity')
    with pytest.raises(SettingsError, match=r'6x4 only; leave out\s+pixel_budget'):
        DepthEngine.from_checkpoint(f'{path}?metric=true', pixel_budget=2048)
    with pytest.raises(DeviceError, match='runs with onnxruntime; choose that backend'):
        DepthEngine.from_checkpoint(f'{path}?metric=true', backend='torch')
    with pytest.raises(SettingsError, match='only NaN, Inf or values'):
        DepthEngine.from_checkpoint(f'{path}?output=depth&metric=true&mean=[2,2,2]')
    (tmp_path / 'text.onnx').write_text('no network')
    with pytest.raises(SettingsError, match=r'text\.onnx is no ONNX network'):
        DepthEngine.from_checkpoint(str(tmp_path / 'text.onnx'))


def test_an_output_that_is_no_map_is_named_with_its_shape(tmp_path):
    nodes = [helper.make_node('ReduceMean', ['image'], ['depth'], axes=[2, 3], keepdims=0)]
    path = write_onnx(tmp_path / 'n.onnx', nodes, (1, 3, 4, 6), [('depth', TensorProto.FLOAT)])
    with pytest.raises(SettingsError, match=r"'depth' has shape \(1, 3\), expected a map"):
        DepthEngine.from_checkpoint(f'{path}?metric=true')


def test_a_specification_is_checked_without_loading(tmp_path):
    path = write_red(tmp_path / 'net.onnx', 'depth')
    check_external(f'{path}?metric=true')
    check_external('hf:OWNER/NAME?metric=true')
    with pytest.raises(SettingsError, match='no such file'):
        check_external(str(tmp_path / 'other.onnx'))
    with pytest.raises(SettingsError, match=r"unknown setting 'metrc'.*'metric'"):
        check_external(f'{path}?metrc=true')
    (tmp_path / 'network.yaml').write_text('metric: true\noutputs: depth\n')
    with pytest.raises(SettingsError, match=r"network\.yaml: unknown setting 'outputs'"):
        check_external(str(path))


def test_a_wrong_rank_is_told_with_the_outputs_there_are(tmp_path):
    """A rank of 5, as networks of several views have it."""
    nodes = [
        helper.make_node('Constant', [], ['axes'], value_ints=[0]),
        helper.make_node('Unsqueeze', ['image', 'axes'], ['depth']),
    ]
    path = write_onnx(tmp_path / 'n.onnx', nodes, (1, 3, 4, 6), [('depth', TensorProto.FLOAT)])
    with pytest.raises(SettingsError, match=r'\(1, 1, 3, 4, 6\), expected a map.*export'):
        DepthEngine.from_checkpoint(f'{path}?metric=true')
    one = [helper.make_node('Identity', ['image'], ['depth'])]
    path = write_onnx(tmp_path / 'c.onnx', one, (1, 3, 4, 6), [('depth', TensorProto.FLOAT)])
    with pytest.raises(SettingsError, match='gives 3 maps, expected one of depth'):
        DepthEngine.from_checkpoint(f'{path}?metric=true')


def test_a_file_of_another_kind_is_told(tmp_path):
    pytest.importorskip('openvino')
    (tmp_path / 'text.tflite').write_text('no network')
    with pytest.raises(SettingsError, match=r'text\.tflite is no TensorFlow Lite file.*TFL3'):
        DepthEngine.from_checkpoint(str(tmp_path / 'text.tflite'))


def test_a_missing_key_and_a_wrong_value_of_network_yaml_are_told(tmp_path):
    path = write_red(tmp_path / 'net.onnx', 'out')
    with pytest.raises(SettingsError, match=r"output 'out'.*\?output=depth.*in the \.yaml"):
        DepthEngine.from_checkpoint(str(path))
    (tmp_path / 'network.yaml').write_text('output: metres\n')
    with pytest.raises(SettingsError, match=r"network\.yaml: output.*'metres'.*depth"):
        DepthEngine.from_checkpoint(str(path))
    (tmp_path / 'network.yaml').write_text('- depth\n')
    with pytest.raises(SettingsError, match=r'expected options such as `output: depth`'):
        DepthEngine.from_checkpoint(str(path))


def test_a_size_that_the_network_refuses_is_told(tmp_path):
    """It says that it takes any size, and adds a constant that is 6 wide."""
    nodes = [
        helper.make_node('Constant', [], ['ramp'], value_floats=[1.0] * 6),
        helper.make_node('Constant', [], ['zero'], value_ints=[0]),
        helper.make_node('Gather', ['image', 'zero'], ['red'], axis=1),
        helper.make_node('Add', ['red', 'ramp'], ['depth']),
    ]
    kinds = [('depth', TensorProto.FLOAT)]
    path = write_onnx(tmp_path / 'n.onnx', nodes, (1, 3, 'h', 'w'), kinds)
    assert DepthEngine.from_checkpoint(f'{path}?metric=true&height=4&width=6')
    with pytest.raises(SettingsError, match=r'refuses an input of 8x4.*give a size that it takes'):
        DepthEngine.from_checkpoint(f'{path}?metric=true&height=4&width=8')


def write_log(path):
    """log(red - 0.5): NaN where red is dark, such as in the whole of a dark image."""
    nodes = [
        helper.make_node('Constant', [], ['zero'], value_ints=[0]),
        helper.make_node('Gather', ['image', 'zero'], ['red'], axis=1),
        helper.make_node('Constant', [], ['half'], value_float=0.5),
        helper.make_node('Sub', ['red', 'half'], ['rest']),
        helper.make_node('Log', ['rest'], ['depth']),
    ]
    return write_onnx(path, nodes, (1, 3, 4, 6), [('depth', TensorProto.FLOAT)])


def test_pixels_without_a_number_are_invalid_and_an_image_of_them_is_a_problem(tmp_path):
    path = write_log(tmp_path / 'net.onnx')
    engine = DepthEngine.from_checkpoint(f'{path}?output=log_depth&metric=true')
    image = grey(255)
    image[:, :30] = 0
    frame = depth_of(engine, image)
    assert np.isnan(frame.depth_m[:, :20]).all()
    np.testing.assert_allclose(frame.depth_m[:, 45:], 0.5, rtol=1e-5)
    assert frame.problem == ''
    dark = depth_of(engine, grey(0))
    assert np.isnan(dark.depth_m).all()
    assert dark.cloud().width == 0
    assert 'network net gave no depth for a whole image, only NaN' in dark.problem
    assert dark.rescaled(Scale(2.0)).problem == dark.problem


def write_sky(path, logits=False):
    """Depth is red, green is the probability of sky, or blue less 0.5 its logit; at half size."""
    nodes = [
        helper.make_node('Constant', [], ['one'], value_ints=[0]),
        helper.make_node('Constant', [], ['other'], value_ints=[2 if logits else 1]),
        helper.make_node('Gather', ['image', 'one'], ['depth'], axis=1),
        helper.make_node('Gather', ['image', 'other'], ['full'], axis=1),
        helper.make_node('AveragePool', ['full'], ['pooled'], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node('Constant', [], ['half'], value_float=0.5 if logits else 0.0),
        helper.make_node('Sub', ['pooled', 'half'], ['sky']),
    ]
    outputs = [('depth', TensorProto.FLOAT), ('sky', TensorProto.FLOAT)]
    return write_onnx(path, nodes, (1, 3, 4, 6), outputs)


@pytest.mark.parametrize('logits', [False, True])
@pytest.mark.parametrize('flip', [False, True])
def test_sky_of_another_output_is_infinitely_far(tmp_path, logits, flip):
    path = write_sky(tmp_path / 'net.onnx', logits)
    options = f'metric=true&sky_output=sky&sky_logits={logits}&flip={flip}'.lower()
    engine = DepthEngine.from_checkpoint(f'{path}?{options}')
    image = grey()
    image[:20, :, 1:] = 255  # its upper half is sky
    image[20:, :, 1:] = 0
    frame = depth_of(engine, image)
    assert (frame.depth_m[:15] == np.inf).all()
    np.testing.assert_allclose(frame.depth_m[25:], 0.2, rtol=1e-5)
    plain = DepthSettings(min_depth_m=0.001, max_depth_m=1000.0, sky=False)
    with_depth = engine.infer_batch([(image, CAMERA)], settings=plain)[0]
    np.testing.assert_allclose(with_depth.depth_m, 0.2, rtol=1e-5)


def test_outputs_of_sky_that_are_none_are_refused(tmp_path):
    path = write_sky(tmp_path / 'net.onnx', logits=True)
    with pytest.raises(SettingsError, match=r'no output \'ski\', only depth, sky'):
        DepthEngine.from_checkpoint(f'{path}?metric=true&sky_output=ski')
    with pytest.raises(SettingsError, match=r'reaches from -0\.\d+ to .*give sky_logits=true'):
        DepthEngine.from_checkpoint(f'{path}?metric=true&sky_output=sky')
    with pytest.raises(SettingsError, match='name the output of sky'):
        DepthEngine.from_checkpoint(f'{path}?metric=true&output_name=depth&sky_logits=true')


def test_the_device_told_is_that_of_the_network(tmp_path):
    """Its maps are on the CPU, wherever it runs."""
    opened = DepthEngine.from_checkpoint(f'{write_red(tmp_path / "n.onnx", "depth")}?metric=true')
    assert opened.device == 'cpu'
    engine = DepthEngine(
        opened.checkpoint, opened._backend, network_device='meta',
    )  # fmt: skip
    assert engine.device == 'meta'


@pytest.mark.parametrize(
    ('spec', 'expected'),
    [('a/net.onnx?metric=true', True), ('net.tflite', True), ('hf:a/b', True), ('lite', False),
     ('run/best.safetensors', False), ('', False)],
)  # fmt: skip
def test_names_and_checkpoints_are_not_external(spec, expected):
    assert is_external(spec) is expected

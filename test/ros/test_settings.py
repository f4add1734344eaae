import pytest

from psd_depth_ros.errors import SettingsError
from psd_depth_ros.ros.settings import DepthNodeSettings


def test_image_sizes_are_width_by_height():
    settings = DepthNodeSettings(image_sizes=('640x480', '1242x375'))
    assert settings.parse_image_sizes() == [(640, 480), (1242, 375)]


@pytest.mark.parametrize('text', ['640', '640x', '0x480', '-1x3', '640x480x3', 'wide'])
def test_another_form_of_size_is_refused_with_an_example(text):
    with pytest.raises(SettingsError, match=r'expected WIDTHxHEIGHT such as 640x480'):
        DepthNodeSettings(image_sizes=(text,)).parse_image_sizes()

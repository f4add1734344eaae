"""`psd-depth finetune`: from options to settings; what it does is tested in test/finetune."""

import pytest

from psd_depth_ros.cli.finetune import OPTIONS, read_settings
from psd_depth_ros.cli.main import main, make_parser
from psd_depth_ros.config import specs
from psd_depth_ros.finetune.settings import FinetuneSettings


def settings(*options):
    return read_settings(make_parser().parse_args(['finetune', *options]))


def test_nothing_given_is_every_default():
    assert settings('a', '--output', 'run') == FinetuneSettings(bags=('a',), output='run')


def test_options_are_settings():
    given = settings(
        'a.mcap', 'b/*.mcap', '--output', 'run', '--image-topic', '/front', '--steps', '7',
        '--minutes', '1.5', '--fov', '60', '--rectify-alpha', '0.5', '--strict', '--device', 'cpu',
        '--set', 'acceptance.minimum_gain=-1', '--set', 'objective.geometry=0.05',
        '--set', 'patience=3',
    )  # fmt: skip
    assert given.bags == ('a.mcap', 'b/*.mcap')
    assert (given.image_topic, given.steps, given.minutes) == ('/front', 7, 1.5)
    assert (given.horizontal_fov_deg, given.strict, given.device) == (60.0, True, 'cpu')
    assert given.rectify_alpha == 0.5
    assert (given.acceptance.minimum_gain, given.patience) == (-1.0, 3)
    assert given.changes == ('objective.geometry=0.05',)


def test_help_comes_from_the_settings(capsys):
    with pytest.raises(SystemExit):
        make_parser().parse_args(['finetune', '--help'])
    printed = ' '.join(capsys.readouterr().out.split())
    known = {spec.name: spec for spec in specs(FinetuneSettings)}
    for option, name, _ in OPTIONS:
        assert option in printed
        assert known[name].description in printed


@pytest.mark.parametrize(
    ('options', 'told'),
    [
        (['--set', 'acceptance.minimum_gian=1'], "unknown setting 'acceptance.minimum_gian'"),
        (['--set', 'batch=0'], 'batch is 0'),
        (['--camera', 'a.yaml', '--fov', '60'], 'give one of them'),
        (['--steps', '-3'], 'steps is -3'),
        ([], 'gone.mcap is not there'),
    ],
)
def test_it_refuses_in_one_line_and_leaves_nothing(tmp_path, capsys, options, told):
    output = tmp_path / 'run'
    given = ['--device', 'cpu', '--output', str(output)]
    assert main(['finetune', 'gone.mcap', *given, *options]) == 2
    error = capsys.readouterr().err.lstrip('\n')  # a closed bar of Rich 14 leaves a line
    assert error.startswith('psd-depth finetune: error: ')
    assert error.count('\n') == 1
    assert told in error
    assert not output.exists()

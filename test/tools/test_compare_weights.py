"""Checkpoints compared on several sets: from rendered images to tables, figures by hand."""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from psd_depth_ros.checkpoint import default_checkpoint
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.evaluation.evaluate import evaluate, open_data
from psd_depth_ros.evaluation.protocols import PROTOCOLS
from psd_depth_ros.inference import DepthEngine
from psd_depth_ros.visualisation import CAPTION, HEADER, MARGIN
from tools import compare_weights
from tools.compare_weights import (
    COLUMNS,
    comparison_rows,
    Measured,
    MeasuringSet,
    METRIC,
    parse_network,
    read_sets,
    render,
    SCALED,
)
from tools.weights_pictures import encode_small, MOST_BYTES

WORLD = 'synth:street:1000000-1000001?frames=1&size=96x64&focal_px=60'
NAN = math.nan


def measured(name, content='1', **sets):
    """A network with these scaled errors of its sets; metric ones are twice as large."""
    errors = {
        called: {
            **{figure: np.full(len(values), NAN) for figure in COLUMNS},
            SCALED: np.array(values),
            METRIC: 2.0 * np.array(values),
        }
        for called, values in sets.items()
    }
    frames = {called: [str(i) for i in range(len(values))] for called, values in sets.items()}
    contents, times = dict.fromkeys(sets, content), dict.fromkeys(sets, NAN)
    return Measured(name, 'id', 100, 'cpu', contents, frames, errors, times)


SETS = {
    'a': MeasuringSet('a', 'A', 'near'),
    'b': MeasuringSet('b', 'B', 'near'),
    'c': MeasuringSet('c', 'C', 'far'),
}


def test_checkpoints_are_measured_as_by_evaluate_and_compared(tmp_path, capsys):
    sets = tmp_path / 'sets.yaml'
    sets.write_text(f'sets: {{worlds: {{path: "{WORLD}", group: rendered, title: Worlds}}}}\n')
    weights = default_checkpoint()
    options = ['--sets', str(sets), '--device', 'cpu', '--backend', 'torch', '--quiet']
    kept = tmp_path / 'new' / 'old.json'
    assert compare_weights.main([f'old={weights}', *options, '--json', str(kept)]) == 0

    engine = DepthEngine.from_checkpoint(weights, 'cpu', 'torch')
    worlds = [WORLD.replace('-1000001', ''), WORLD.replace('1000000-', '')]
    found = [evaluate(engine, *open_data(one)).frames[0] for one in worlds]
    (network,) = json.loads(kept.read_text())['networks']
    assert network['sets']['worlds']['frames'] == ['street-1000000-0', 'street-1000001-0']
    assert network['sets']['worlds']['abs_rel'] == pytest.approx(
        [one.errors.median_scaled.abs_rel for one in found], abs=1e-5
    )
    assert network['sets']['worlds']['boundary_f1'] == pytest.approx(
        [one.edges.boundary_f1 for one in found], abs=1e-5
    )

    capsys.readouterr()
    table = tmp_path / 'table.md'
    again = [f'new={weights}', '--earlier', str(kept), '--markdown', str(table)]
    assert compare_weights.main([*again, *options]) == 0
    text = capsys.readouterr().out
    assert text.strip() == table.read_text().strip()
    assert text.count('| Worlds | old | 2 |') == text.count('| Worlds | new | 2 |') == 1
    ratio = '1.000 (1.000 to 1.000)'
    assert f'| **rendered**, geometric mean | {ratio} | {ratio} |' in text

    budgets = [f'new={weights}', '--pixel-budget', '0,2048', '--json', str(kept)]
    assert compare_weights.main([*budgets, '--truth', '2048,6144', *options]) == 0
    assert 'Errors of truth' not in capsys.readouterr().out
    own, small, coarse, finer = json.loads(kept.read_text())['networks']
    assert (own['name'], small['name'], small['pixel_budget']) == ('new@53248', 'new@2048', 2048)
    assert own['sets']['worlds']['abs_rel'] == network['sets']['worlds']['abs_rel']
    assert small['sets']['worlds']['abs_rel'] != network['sets']['worlds']['abs_rel']
    assert [coarse['name'], finer['name']] == ['truth@2048', 'truth@6144']
    f1 = [np.mean(one['sets']['worlds']['boundary_f1']) for one in (own, coarse, finer)]
    assert f1[0] < f1[1] < f1[2] < 1.0
    assert max(finer['sets']['worlds']['abs_rel']) < 0.1


def test_ratios_and_their_geometric_means_by_hand():
    old = measured('old', a=[0.4, 0.8], b=[0.1], c=[0.3])
    new = measured('new', a=[0.2, 0.4], b=[0.2], c=[2.4])
    assert comparison_rows(SETS, new, old) == [
        ['A', '0.500 (0.500 to 0.500)', '0.500 (0.500 to 0.500)'],
        ['B', '2.000', '2.000'],
        ['C', '8.000', '8.000'],
        ['**near**, geometric mean', *['1.000 (1.000 to 1.000)'] * 2],
        ['**far**, geometric mean', '8.000', '8.000'],
        ['**all**, geometric mean', *['2.000 (2.000 to 2.000)'] * 2],  # (0.5 * 2 * 8)^(1/3)
    ]


def test_sets_that_a_network_has_not_seen_are_left_out():
    old, new = measured('old', a=[0.4], b=[0.1]), measured('new', b=[0.2], c=[0.3])
    assert [row[0] for row in comparison_rows(SETS, new, old)] == ['B', '**near**, geometric mean']
    text = render(SETS, [old, new])
    assert '| A | old | 1 | 0.400 | 0.800 | - | - | - | 2.000 | - |' in text
    assert '| A | new |' not in text


def test_networks_that_saw_other_images_are_not_compared():
    with pytest.raises(SettingsError, match='saw different images or depth of a; measure both'):
        compare_weights.check_comparable([measured('old', a=[1.0]), measured('new', '2', a=[1.0])])
    with pytest.raises(SettingsError, match='called old, old; give each a name'):
        compare_weights.check_comparable([measured('old', a=[1.0]), measured('old', a=[1.0])])


def test_errors_of_frames_survive_a_file(tmp_path):
    path = tmp_path / 'figures.json'
    compare_weights.write_measured(path, 'command', [measured('old', a=[0.4, NAN], b=[0.1])])
    (found,) = compare_weights.read_measured(path, ['a'])
    assert list(found.errors) == ['a']
    assert found.errors['a'][SCALED].tolist() == pytest.approx([0.4, NAN], nan_ok=True)
    path.write_text('{"networks": [{}]}')
    with pytest.raises(SettingsError, match='is no --json of an earlier run'):
        compare_weights.read_measured(path)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('sets: {a: {path: x, group: y, colour: red}}', "unknown setting 'colour'"),
        ('sets: {a: {path: x}}', 'a: a set needs path and group'),
        ('sets: {a: {path: x, group: y, shown: true}}', 'needs its credit'),
        ('sets: [a]', 'has no measuring sets'),
        ('[', 'measuring sets: '),
    ],
)
def test_sets_that_cannot_be_measured_are_refused(tmp_path, text, message):
    path = tmp_path / 'sets.yaml'
    path.write_text(text)
    with pytest.raises(SettingsError, match=message):
        read_sets(path)


def test_the_shipped_sets_are_whole():
    sets = read_sets(compare_weights.SETS)
    assert list(read_sets(compare_weights.SETS, ['kitchen', 'office'])) == ['office', 'kitchen']
    assert {'kitchen', 'kitti_object'} <= sets.keys()
    assert {one.protocol for one in sets.values()} <= {'auto', *PROTOCOLS}
    with pytest.raises(SettingsError, match='no set garden; expected kitti_object'):
        read_sets(compare_weights.SETS, ['garden'])


def test_a_page_gets_tables_and_the_pictures_that_may_be_shown(tmp_path, capsys):
    world = WORLD.replace('-1000001', '')
    sets, page = tmp_path / 'sets.yaml', tmp_path / 'weights.md'
    sets.write_text(
        'sets:\n'
        f'  seen: {{path: "{world}", group: g, title: Seen, shown: true, credit: nobody}}\n'
        f'  unseen: {{path: "{world}", group: g, title: Unseen, picture: 5}}\n'
    )
    marks = '{0}\n<!-- {1} of weights -->\nold\n<!-- /{1} of weights -->\n'
    page.write_text(marks.format('above', 'figures') + marks.format('below', 'pictures'))
    weights, pictures = default_checkpoint(), tmp_path / 'own'
    options = [f'one={weights}', f'two={weights}', '--sets', str(sets), '--device', 'cpu',
               '--backend', 'torch', '--quiet', '--page', str(page)]  # fmt: skip
    assert compare_weights.main([*options, '--pictures', str(pictures)]) == 0
    text = page.read_text()
    assert '| Unseen | two | 1 |' in text
    assert text.startswith('above\n')
    assert '\nbelow\n' in text
    assert 'old\n' not in text
    assert '![Seen](weights/seen.jpg)\n\nSeen. Images: nobody.\n' in text
    assert 'unseen.jpg' not in text
    assert [one.name for one in (tmp_path / 'weights').iterdir()] == ['seen.jpg']
    assert sorted(one.name for one in pictures.iterdir()) == ['seen.jpg', 'unseen.jpg']
    picture = cv2.imread(str(pictures / 'seen.jpg'))
    rows = 3 * (round(560 * 64 / 96) + CAPTION) + 3 * MARGIN + HEADER  # image, depth of both
    assert picture.shape == (rows, 2 * 560 + 3 * MARGIN, 3)

    capsys.readouterr()
    page.write_text('no marks')
    assert compare_weights.main(options) == 2
    assert 'weights.md: cannot take the figures: the text has no' in capsys.readouterr().err


def test_pictures_are_small_whatever_they_show():
    noise = np.random.default_rng(0).integers(0, 255, (900, 1200, 3), dtype=np.uint8)
    data = encode_small(noise)
    assert len(data) <= MOST_BYTES
    small = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert small.shape[1] / small.shape[0] == pytest.approx(4 / 3, rel=0.02)


def test_networks_are_named(capsys):
    assert parse_network('old=weights/lite.safetensors') == (
        'old',
        Path('weights/lite.safetensors'),
    )
    assert parse_network('run/best.safetensors') == ('best', Path('run/best.safetensors'))
    with pytest.raises(SettingsError, match='expected NAME=FILE'):
        parse_network('=best.safetensors')
    with pytest.raises(SettingsError, match='--pixel-budget is 53k, expected whole numbers'):
        compare_weights.parse_budgets('53k')
    assert compare_weights.main([]) == 2
    assert 'there is no network to measure; give NAME=FILE' in capsys.readouterr().err

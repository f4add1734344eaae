"""docs/topics.md says what the running node says."""

from pathlib import Path

import pytest

TOPICS = Path(__file__).resolve().parents[2] / 'docs' / 'topics.md'


def documented_topics(heading: str) -> dict[str, str]:
    """Names and types of the topics table whose first column is headed so."""
    text = TOPICS.read_text(encoding='utf-8')
    table = text.split(f'| {heading} | type | |\n|---|---|---|\n')[1].split('\n\n')[0]
    rows = [line.split('|')[1:3] for line in table.splitlines()]
    return {name.strip(' `'): kind.strip() for name, kind in rows}


def test_documented_topics_are_those_of_the_node(running):
    node = running.bench.node
    find = node.get_publisher_names_and_types_by_node
    own = {'/rosout', '/parameter_events', '/depth_node/transition_event'}
    published = {
        name: kinds[0].replace('/msg/', '/')
        for name, kinds in find('depth_node', '/')
        if name not in own
    }
    written = {f'/{name.lstrip("/")}': kind for name, kind in documented_topics('out').items()}
    assert published == written
    inputs = {f'/{name}': kind for name, kind in documented_topics('in').items()}
    heard = node.get_subscriber_names_and_types_by_node('depth_node', '/')
    cameras = {name: kinds[0].replace('/msg/', '/') for name, kinds in heard if name in inputs}
    assert set(cameras) == {'/image', '/camera_info'}
    assert cameras.items() <= inputs.items()


@pytest.mark.parametrize(
    ('name', 'kind'),
    [
        ('reload', 'std_srvs/srv/Trigger'),
        ('reset_scale', 'std_srvs/srv/Trigger'),
        ('calibrate_scale', 'rcl_interfaces/srv/SetParameters'),
    ],
)
def test_the_documented_services_are_there(running, name, kind):
    services = dict(running.bench.node.get_service_names_and_types_by_node('depth_node', '/'))
    assert services[f'/depth_node/{name}'] == [kind]
    written = f'`~/{name}` ({kind.replace("/srv/", "/")})'
    assert written in TOPICS.read_text(encoding='utf-8')

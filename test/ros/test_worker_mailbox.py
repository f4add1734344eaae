import threading

from psd_depth_ros.ros.depth_node.worker import LatestFrames


def test_newest_frame_wins_and_the_replaced_one_is_told() -> None:
    box: LatestFrames[str, int] = LatestFrames()
    assert not box.put('front', 1)
    assert box.put('front', 2)
    assert not box.put('rear', 3)
    assert box.take() == {'front': 2, 'rear': 3}


def test_take_waits_for_cameras_that_fire_together() -> None:
    box: LatestFrames[str, int] = LatestFrames()
    box.put('front', 1)
    late = threading.Timer(0.05, box.put, ('rear', 2))
    late.start()
    assert box.take(expected=2, patience_s=10.0) == {'front': 1, 'rear': 2}
    late.join()


def test_take_gives_up_on_a_camera_that_does_not_fire() -> None:
    box: LatestFrames[str, int] = LatestFrames()
    box.put('front', 1)
    assert box.take(expected=2, patience_s=0.01) == {'front': 1}


def test_close_ends_a_waiting_take() -> None:
    box: LatestFrames[str, int] = LatestFrames()
    threading.Timer(0.05, box.close).start()
    assert box.take() is None
    box.put('front', 1)
    assert box.take() is None

#!/usr/bin/env bash
# Open3D: an image of depth in metres becomes a cloud of millimetres, and which points are kept depends on
# the type of the pixels and on the half of the library.
#
# open3d-cpu 0.20.0 (libusb-package 1.0.30.0 in place of the system's libusb). create_from_depth_image exists
# twice, in open3d.geometry and in open3d.t.geometry, with the same defaults for the scale, 1000, and much
# alike arguments otherwise. A good guess would have been that 32-bit floats are metres, as in ROS (REP 118) and
# as the result is in metres, and that the scale is for integers. Seen, for a wall at 8 m: float32 is divided
# by 1000 too by both halves, a cloud at 8 mm, without a warning; uint16 in millimetres gives 8 m in
# open3d.geometry and no point at all in open3d.t.geometry, which drops everything beyond 3 m unless told
# otherwise. With depth_scale=1 and depth_max given, float32 comes out as expected.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q open3d-cpu==0.20.0 libusb-package==1.0.30.0 numpy==2.4.6
mkdir "$folder/lib"
ln -s "$("$folder/venv/bin/python" -c 'import libusb_package as p; print(p.get_library_path())')" \
    "$folder/lib/libusb-1.0.so.0"
cat > "$folder/wall.py" <<'PYTHON'
import numpy as np
import open3d as o3d

camera = o3d.camera.PinholeCameraIntrinsic(6, 4, 5.0, 5.0, 2.5, 1.5)
metres = np.full((4, 6), 8.0, np.float32)
millimetres = np.full((4, 6), 8000, np.uint16)


def legacy(depth, **options):
    image = o3d.geometry.Image(depth)
    return np.asarray(o3d.geometry.PointCloud.create_from_depth_image(image, camera, **options).points)


def tensor(depth, **options):
    image = o3d.t.geometry.Image(o3d.core.Tensor(depth))
    matrix = o3d.core.Tensor(camera.intrinsic_matrix)
    cloud = o3d.t.geometry.PointCloud.create_from_depth_image(image, matrix, **options)
    return cloud.point.positions.numpy()


def told(points):
    return f'{len(points)} points' + (f' at z = {points[0, 2]:g}' if len(points) else '')


print('open3d', o3d.__version__)
found = {}
for half in (legacy, tensor):
    for name, depth in (('float32 metres', metres), ('uint16 millimetres', millimetres)):
        found[half, name] = half(depth)
        print(f'{half.__name__}, {name}: {told(found[half, name])}')
right = tensor(metres, depth_scale=1.0, depth_max=100.0)
print(f'tensor, float32 metres, scale 1, depth_max 100: {told(right)}')
for half in (legacy, tensor):
    assert np.allclose(found[half, 'float32 metres'][:, 2], 0.008)
assert np.allclose(found[legacy, 'uint16 millimetres'][:, 2], 8.0)
assert len(found[tensor, 'uint16 millimetres']) == 0
assert len(right) == 24 and np.allclose(right[:, 2], 8.0)
PYTHON
LD_LIBRARY_PATH="$folder/lib" "$folder/venv/bin/python" "$folder/wall.py"

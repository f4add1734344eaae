#!/usr/bin/env bash
# librealsense: with "modified Brown-Conrady" pixels are deprojected as though the lens had no distortion.
#
# pyrealsense2 2.59.1.11053 (libusb-package 1.0.30.0 in place of the system's libusb). Intrinsics say how a
# lens distorts by a model and five coefficients, and rs2_project_point_to_pixel and
# rs2_deproject_pixel_to_point go there and back. A good guess would have been that the one undoes the other
# for every model, or raises. Seen, for coefficients of an ordinary colour camera: there and back is exact to
# 0.0001 pixel with brown_conrady and inverse_brown_conrady. With modified_brown_conrady the way to the pixel
# distorts and the way back does not, without a word: 5.8 pixels off at the corners, 2 cm at 2 m. And
# inverse_brown_conrady, whose name sounds like the formula from distorted to ideal, projects exactly as
# modified_brown_conrady does, from ideal to distorted.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q pyrealsense2==2.59.1.11053 libusb-package==1.0.30.0 numpy==2.2.6
mkdir "$folder/lib"
ln -s "$("$folder/venv/bin/python" -c 'import libusb_package as p; print(p.get_library_path())')" \
    "$folder/lib/libusb-1.0.so.0"
cat > "$folder/there_and_back.py" <<'PYTHON'
import numpy as np
import pyrealsense2 as rs


def camera(model):
    made = rs.intrinsics()
    made.width, made.height, made.fx, made.fy = 640, 480, 600.0, 600.0
    made.ppx, made.ppy = 319.5, 239.5
    made.model, made.coeffs = model, [-0.055, 0.065, 0.0003, 0.0004, -0.021]
    return made


def project(one, u, v):
    x, y = (u - one.ppx) / one.fx, (v - one.ppy) / one.fy
    return np.array(rs.rs2_project_point_to_pixel(one, [x, y, 1.0]))


pixels = [(u, v) for u in (0.0, 160.0, 480.0, 639.0) for v in (0.0, 120.0, 360.0, 479.0)]
worst, projected, ignored = {}, {}, {}
for name in ('brown_conrady', 'inverse_brown_conrady', 'modified_brown_conrady'):
    one = camera(getattr(rs.distortion, name))
    points = [rs.rs2_deproject_pixel_to_point(one, list(pixel), 1.0) for pixel in pixels]
    back = np.array([rs.rs2_project_point_to_pixel(one, point) for point in points])
    worst[name] = np.hypot(*(back - np.array(pixels)).T).max()
    projected[name] = np.array([project(one, *pixel) for pixel in pixels])
    as_ideal = np.array([[(u - one.ppx) / one.fx, (v - one.ppy) / one.fy, 1.0] for u, v in pixels])
    ignored[name] = np.allclose(points, as_ideal, atol=1e-6)
    print(f'{name}: {worst[name]:.4f} pixels off there and back, distortion ignored on the way back: {ignored[name]}')
same = np.abs(projected['inverse_brown_conrady'] - projected['modified_brown_conrady']).max()
print(f'inverse and modified project {same:.4f} pixels apart')
assert worst['brown_conrady'] < 0.001 and worst['inverse_brown_conrady'] < 0.001
assert ignored['modified_brown_conrady'] and worst['modified_brown_conrady'] > 1.0
assert same < 0.001
PYTHON
LD_LIBRARY_PATH="$folder/lib" "$folder/venv/bin/python" "$folder/there_and_back.py"

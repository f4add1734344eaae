"""All drawing: colour maps, panels with captions and colour bars, and charts as SVG.

Pictures are RGB, uint8 (H, W, 3). What is drawn comes from the caller; nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
import math
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Map = NDArray[np.float32]
Colour = tuple[int, int, int]

INFERNO, MAGMA, VIRIDIS = cv2.COLORMAP_INFERNO, cv2.COLORMAP_MAGMA, cv2.COLORMAP_VIRIDIS
UNTRUSTED: Colour = (0, 0, 0)
BEYOND_RANGE: Colour = (24, 16, 40)  # and sky: dark, but not the black of untrusted depth
TOO_NEAR, RIGHT, TOO_FAR = (33, 102, 200), (244, 244, 244), (200, 40, 40)

# Panels of the large picture.
BACKGROUND: Colour = (20, 22, 26)
PANEL: Colour = (34, 38, 44)
TEXT: Colour = (235, 235, 235)
FAINT: Colour = (140, 145, 150)
GRID: Colour = (56, 62, 70)
SKY: Colour = (84, 100, 120)
MARGIN, CAPTION, HEADER, BAR = 18, 30, 64, 14
AXIS = 26  # of the cloud from above: pixels for its numbers
DOT_GROWS_M = 9.0  # of the cloud from above: dots get a pixel larger
LEAST_LINE = 40  # pixels of a line of equal depth
FONT = cv2.FONT_HERSHEY_SIMPLEX

# Charts.
CHART_WIDTH, CHART_HEIGHT = 460, 150
CHART_LEFT, CHART_RIGHT, CHART_TOP, CHART_BOTTOM = 44, 10, 12, 26
CHART_BINS = 24
MAX_BARS = 200


# Colour maps.


def colour_depth(
    depth_m: Map,
    min_depth_m: float,
    max_depth_m: float,
    *,
    untrusted: Colour = UNTRUSTED,
    beyond_range: Colour = BEYOND_RANGE,
) -> Picture:
    """Depth (H, W) with the invalid values of REP 117 as colours: near is red, far is blue.

    The turbo map (Mikhailov, 2019) over ln depth from `min_depth_m` to `max_depth_m`: equal ratios
    of depth are equal steps of colour. NaN, -Inf and depth of 0 or less are `untrusted`, +Inf is
    `beyond_range`.
    """
    low = math.log(min_depth_m)
    span = math.log(max_depth_m) - low
    finite = np.isfinite(depth_m) & (depth_m > 0)
    place = (cv2.log(np.where(finite, depth_m, min_depth_m).astype(np.float32)) - low) / span
    index = (255.0 * (1.0 - np.clip(place, 0.0, 1.0))).astype(np.uint8)
    picture = _look_up(index, cv2.COLORMAP_TURBO)
    picture[~finite] = untrusted
    picture[np.isposinf(depth_m)] = beyond_range
    return picture


def draw_heat(fraction: NDArray[np.floating], colour_map: int = INFERNO) -> Picture:
    """Values (H, W) from 0 to 1 (clipped; NaN is 0) as colours of an OpenCV colour map."""
    clean = np.nan_to_num(fraction, nan=0.0, posinf=1.0, neginf=0.0)
    return _look_up((255.0 * np.clip(clean, 0.0, 1.0)).astype(np.uint8), colour_map)


def colour_log_error(error: Map, limit: float) -> Picture:
    """ln(estimate / truth) (H, W) as colours: blue is too near, red too far, white is right.

    `limit` is the error of full colour; NaN is drawn as 0.
    """
    fraction = np.clip(np.nan_to_num(error) / limit, -1.0, 1.0)[..., None]
    side = np.where(fraction > 0, np.array(TOO_FAR), np.array(TOO_NEAR))
    colours = np.abs(fraction) * side + (1.0 - np.abs(fraction)) * np.array(RIGHT)
    return np.rint(colours).astype(np.uint8)


def draw_masked(image: Picture, mask: NDArray[np.bool_]) -> Picture:
    """An image at a quarter of its brightness where `mask` (H, W) is False."""
    return image // 4 + (image // 4 * 3) * mask.astype(np.uint8)[..., None]


def draw_regions(image: Picture, regions: Sequence[tuple[NDArray[np.bool_], Colour]]) -> Picture:
    """An image, tinted with a colour in each of some regions (H, W); the last one covers."""
    tinted = image.copy()
    for mask, colour in regions:
        tinted[mask] = image[mask] // 2 + np.array(colour, np.uint8) // 2
    return tinted


def _look_up(index: NDArray[np.uint8], colour_map: int) -> Picture:
    return cv2.cvtColor(cv2.applyColorMap(index, colour_map), cv2.COLOR_BGR2RGB)


# Pictures: sizes, frames, tiles, files.


def resize(array: NDArray, size: tuple[int, int]) -> NDArray:
    """Resize to `size` (width, height): pictures smoothly, maps (H, W) to the nearest pixel."""
    smooth = array.ndim == 3 and size[0] < array.shape[1]
    flag = cv2.INTER_AREA if smooth else cv2.INTER_LINEAR if array.ndim == 3 else cv2.INTER_NEAREST
    return cv2.resize(array, size, interpolation=flag)


def draw_box(
    image: Picture, corner: tuple[int, int], opposite: tuple[int, int], colour: Colour
) -> Picture:
    """A copy of the image with the outline of a box between two corners (x, y)."""
    return cv2.rectangle(np.ascontiguousarray(image).copy(), corner, opposite, colour, 1)


def draw_tiles(rows: Sequence[Sequence[Picture]], height: int, width: int) -> Picture:
    """Rows of equally many pictures, each enlarged or reduced into a tile of one size."""
    return np.concatenate(
        [np.concatenate([_tile(one, height, width) for one in row], 1) for row in rows]
    )


def draw_known(
    colours: Picture,
    known: NDArray[np.bool_],
    size: tuple[int, int],
    background: Colour,
    *,
    as_dots: bool,
) -> Picture:
    """Known pixels of a picture on a background, at `size` (width, height).

    `as_dots` draws each of them as 2x2 pixels, so that a few lidar points remain visible.
    """
    if not as_dots:
        masked = np.where(known[..., None], colours, np.array(background, np.uint8))
        return cv2.resize(masked, size, interpolation=cv2.INTER_NEAREST)
    width, height = size
    canvas = np.full((height, width, 3), background, np.uint8)
    rows, columns = np.nonzero(known)
    y, x = rows * height // known.shape[0], columns * width // known.shape[1]
    _put_dots(canvas, y, x, colours[rows, columns])
    return canvas


def encode_picture(picture: Picture, *, lossless: bool, quality: int = 88) -> tuple[bytes, str]:
    """A picture as the bytes of a file and its media type: PNG where `lossless`, else JPEG."""
    kind, options = ('.png', []) if lossless else ('.jpg', [cv2.IMWRITE_JPEG_QUALITY, quality])
    done, data = cv2.imencode(kind, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    assert done, 'OpenCV writes both kinds'
    return data.tobytes(), 'image/png' if lossless else 'image/jpeg'


def write_picture(path: Path, picture: Picture) -> None:
    """Write a picture as a PNG file. Raises OSError where it cannot be written."""
    path.write_bytes(encode_picture(picture, lossless=True)[0])


def _tile(picture: Picture, height: int, width: int) -> Picture:
    scale = min(height / picture.shape[0], width / picture.shape[1])
    h, w = round(picture.shape[0] * scale), round(picture.shape[1] * scale)
    tile = np.zeros((height, width, 3), np.uint8)
    y, x = (height - h) // 2, (width - w) // 2
    tile[y : y + h, x : x + w] = cv2.resize(picture, (w, h), interpolation=cv2.INTER_LINEAR)
    return tile


def _put_dots(canvas: Picture, y: NDArray, x: NDArray, colours: NDArray, size: int = 2) -> None:
    height, width = canvas.shape[:2]
    for down, right in reversed(list(np.ndindex(size, size))):
        canvas[np.clip(y + down, 0, height - 1), np.clip(x + right, 0, width - 1)] = colours


# Panels with captions.


def draw_panel(caption: str, picture: Picture, bar: Picture | None = None) -> Picture:
    """A picture under its caption, with a colour bar (`draw_bar`) beside the caption."""
    strip = np.full((CAPTION, picture.shape[1], 3), BACKGROUND, np.uint8)
    _write(strip, caption, (0, CAPTION - 10), 0.6, TEXT)
    if bar is not None:
        strip[:, -bar.shape[1] :] = bar
    return np.vstack([strip, picture])


def draw_bar(ramp: Picture, labels: Sequence[str], places: Sequence[float]) -> Picture:
    """A colour bar for the right half of a caption, with labels at `places` (0 .. 1) above it.

    `ramp` (1, W, 3) are its colours, W the width of the panel.
    """
    width = ramp.shape[1] // 2
    bar = np.full((CAPTION, width, 3), BACKGROUND, np.uint8)
    bar[-BAR + 4 : -4] = cv2.resize(ramp, (width, BAR - 8), interpolation=cv2.INTER_LINEAR)
    for label, place in zip(labels, places, strict=True):
        (wide, _), _ = cv2.getTextSize(label, FONT, 0.4, 1)
        left = int(np.clip(place * width - wide / 2, 0, width - wide))
        _write(bar, label, (left, CAPTION - BAR - 2), 0.4, FAINT)
    return bar


def draw_empty(text: str, size: tuple[int, int]) -> Picture:
    """A panel (width, height) without a picture, with the reason why."""
    canvas = np.full((size[1], size[0], 3), PANEL, np.uint8)
    _write(canvas, text, (16, size[1] // 2), 0.6, FAINT)
    return canvas


def draw_depth_lines(
    picture: Picture, depth_m: Map, levels_m: Sequence[float], colours: Picture
) -> Picture:
    """A darkened picture with lines of equal depth, each with its distance.

    Args:
        picture: (H, W, 3).
        depth_m: (H, W) metres; NaN is unknown, and has no lines around it.
        levels_m: The depths that get a line.
        colours: (1, N, 3) RGB of the N lines.
    """
    canvas: Picture = (0.55 * picture).astype(np.uint8)
    taken: list[tuple[int, int]] = []
    unknown = cv2.dilate(np.isnan(depth_m).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    for level, values in zip(levels_m, colours[0].tolist(), strict=True):
        beyond = cv2.medianBlur((depth_m > level).astype(np.uint8), 7)
        found, _ = cv2.findContours(beyond, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        lines = np.zeros(beyond.shape, np.uint8)
        cv2.drawContours(lines, [one for one in found if len(one) > LEAST_LINE], -1, 1, 2)
        lines[unknown] = 0
        lines[:3] = lines[-3:] = lines[:, :3] = lines[:, -3:] = 0  # the frame is no line
        canvas[lines > 0] = values
        rows, columns = np.nonzero(lines)
        if len(rows):
            lowest = rows == rows.max()  # on the ground, where there is some
            place = int(np.median(columns[lowest])), int(rows.max())
            if all(abs(x - place[0]) > 60 or abs(y - place[1]) > 16 for x, y in taken):
                taken.append(place)
                left = min(max(place[0] - 18, 4), canvas.shape[1] - 48)
                text = (left, max(place[1] - 5, 14))
                _write_over(canvas, f'{level:g} m', text, 0.5)
    return canvas


def draw_from_above(
    points: Map, colours: Picture, height: int, forward_m: float, side_m: float, grid_m: int
) -> Picture:
    """A point cloud seen from above, the camera at the bottom, high points over low ones.

    A grid with the metres ahead and to each side; two lines bound what the points show of the
    view of the camera.

    Args:
        points: (N, 3) metres in the optical frame (x right, y down, z forward).
        colours: (N, 3) RGB of the points.
        height: Of the picture, in pixels.
        forward_m, side_m: Range that is drawn ahead and to each side.
        grid_m: Distance of the lines of the grid.
    """
    scale = (height - AXIS) / forward_m
    width, ground = round(2 * side_m * scale), height - AXIS
    canvas = np.full((height, width, 3), PANEL, np.uint8)
    ahead = range(grid_m, math.ceil(forward_m), grid_m)
    across = range(grid_m * math.ceil((1 - side_m) / grid_m), math.ceil(side_m), grid_m)
    for metres in (0, *ahead):
        row = round(ground - metres * scale)
        cv2.line(canvas, (0, row), (width, row), GRID, 1)
    for metres in across:
        column = round((metres + side_m) * scale)
        cv2.line(canvas, (column, 0), (column, ground), GRID, 1)
    order = np.argsort(-points[:, 1], kind='stable')  # y points down: lowest first
    x, z = points[order, 0], points[order, 2]
    inside = (np.abs(x) < side_m) & (z > 0) & (z < forward_m)
    x, z, colours = x[inside], z[inside], colours[order][inside]
    if len(z):
        for slope in np.quantile(x / z, (0.002, 0.998)):
            end = round((side_m + slope * forward_m) * scale), 0
            cv2.line(canvas, (width // 2, ground), end, FAINT, 1, cv2.LINE_AA)
    rows, columns = (ground - z * scale).astype(int), ((x + side_m) * scale).astype(int)
    sizes = np.clip(2 + (z // DOT_GROWS_M).astype(int), 2, 4)  # distant points are far apart
    for size in (4, 3, 2):
        chosen = sizes == size
        _put_dots(canvas, rows[chosen], columns[chosen], colours[chosen], size)
    canvas[ground + 1 :] = PANEL
    for metres in ahead:
        row = round(ground - metres * scale)
        _write_over(canvas, f'{metres} m', (6, row - 5))
    for metres in across:
        text = f'{metres} m' if metres else 'camera'
        (wide, _), _ = cv2.getTextSize(text, FONT, 0.45, 1)
        column = round((metres + side_m) * scale) - wide // 2
        _write_over(canvas, text, (min(max(column, 2), width - wide - 2), height - 7))
    cv2.drawMarker(
        canvas, (width // 2, ground - 8), TEXT, cv2.MARKER_TRIANGLE_UP, 16, 2, cv2.LINE_AA
    )
    return canvas


def join_panels(columns: Sequence[Sequence[Picture]], title: str, subtitle: str) -> Picture:
    """Columns of panels side by side under a title; all columns must be of the same height."""
    stacked = [_separated(column, axis=0) for column in columns]
    side = np.full((stacked[0].shape[0], MARGIN, 3), BACKGROUND, np.uint8)
    row = np.hstack([side, _separated(stacked, axis=1), side])
    foot = np.full((MARGIN, row.shape[1], 3), BACKGROUND, np.uint8)
    header = np.full((HEADER, row.shape[1], 3), BACKGROUND, np.uint8)
    _write(header, title, (MARGIN, 30), 0.8, TEXT, 2)
    _write(header, subtitle, (MARGIN, 54), 0.5, FAINT)
    return np.vstack([header, row, foot])


def _separated(pictures: Sequence[Picture], axis: int) -> Picture:
    """Pictures one after the other along an axis, with a margin between them."""
    parts: list[Picture] = []
    for picture in pictures:
        shape = list(picture.shape)
        shape[axis] = MARGIN
        parts += [np.full(shape, BACKGROUND, np.uint8), picture]
    return np.concatenate(parts[1:], axis=axis)


def _write(
    canvas: Picture,
    text: str,
    place: tuple[int, int],
    size: float,
    colour: Colour,
    weight: int = 1,
) -> None:
    cv2.putText(canvas, text, place, FONT, size, colour, weight, cv2.LINE_AA)


def _write_over(canvas: Picture, text: str, place: tuple[int, int], size: float = 0.45) -> None:
    """Write on whatever lies there."""
    _write(canvas, text, place, size, BACKGROUND, 4)
    _write(canvas, text, place, size, TEXT)


# Charts, as HTML with SVG; the page's style sheet colours `.chart` and `.ramp`.


def draw_histogram(values: Sequence[float], title: str) -> str:
    """Histogram of at least one value, with a line at the median."""
    numbers = np.asarray(values, dtype=np.float64)
    low, high = float(numbers.min()), float(numbers.max())
    margin = max(0.02 * abs(high), 0.05 * (high - low), 1e-6)
    counts, edges = np.histogram(numbers, CHART_BINS, (low - margin, high + margin))
    bars = [
        (float(edges[i]), float(edges[i + 1]), float(counts[i]))
        for i in range(len(counts)) if counts[i]
    ]  # fmt: skip
    return _chart(title, bars, (float(edges[0]), float(edges[-1])), float(np.median(numbers)))


def draw_series(values: Sequence[float], title: str) -> str:
    """Values in their order as bars; of more than `MAX_BARS`, neighbours are averaged."""
    numbers = np.asarray(values, dtype=np.float64)
    groups = np.array_split(numbers, min(len(numbers), MAX_BARS))
    starts = np.cumsum([0, *(len(group) for group in groups)])
    bars = [
        (float(starts[i]), float(starts[i + 1]), float(group.mean()))
        for i, group in enumerate(groups)
    ]
    return _chart(title, bars, (0.0, float(len(numbers))), None)


def draw_ramp(colours: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """A legend: a ramp through the colours, with labels evenly spaced under it."""
    stops = ', '.join(f'rgb({red},{green},{blue})' for red, green, blue in colours)
    words = ''.join(f'<span>{escape(label)}</span>' for label in labels)
    return (
        f'<div class="ramp"><i style="background: linear-gradient(to right, {stops})"></i>'
        f'<div>{words}</div></div>'
    )


def _chart(
    title: str,
    bars: Sequence[tuple[float, float, float]],
    span: tuple[float, float],
    mark: float | None,
) -> str:
    """Bars (start, end, height) over a span of the horizontal axis; `mark` is a place on it."""
    top = max((height for _, _, height in bars), default=1.0) or 1.0
    wide = CHART_WIDTH - CHART_LEFT - CHART_RIGHT
    high = CHART_HEIGHT - CHART_TOP - CHART_BOTTOM

    def x(value: float) -> float:
        return CHART_LEFT + wide * (value - span[0]) / (span[1] - span[0])

    def y(value: float) -> float:
        return CHART_TOP + high * (1.0 - value / top)

    right, foot = CHART_WIDTH - CHART_RIGHT, CHART_HEIGHT - 8
    parts = [
        f'<rect x="{x(start):.1f}" y="{y(height):.1f}" '
        f'width="{max(0.8, x(end) - x(start) - 0.6):.1f}" height="{y(0) - y(height):.1f}"/>'
        for start, end, height in bars
    ]
    labels: list[tuple[float, float, str, str]] = [
        (CHART_LEFT, foot, 'start', f'{span[0]:.4g}'),
        (right, foot, 'end', f'{span[1]:.4g}'),
        (CHART_LEFT - 6, CHART_TOP + 8, 'end', f'{top:.3g}'),
        (CHART_LEFT - 6, y(0), 'end', '0'),
    ]
    if mark is not None:
        place = f'{x(mark):.1f}'
        parts.append(
            f'<line class="mark" x1="{place}" x2="{place}" y1="{CHART_TOP}" y2="{y(0)}"/>'
        )
        labels.append((x(mark), foot, 'middle', f'{mark:.4g}'))
    parts.append(f'<line x1="{CHART_LEFT}" x2="{right}" y1="{y(0)}" y2="{y(0)}"/>')
    parts += [
        f'<text x="{left:.1f}" y="{down:.1f}" text-anchor="{anchor}">{text}</text>'
        for left, down, anchor, text in labels
    ]
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" role="img">{"".join(parts)}</svg>'
        '</figure>'
    )

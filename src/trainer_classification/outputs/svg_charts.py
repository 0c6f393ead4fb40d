"""Draw the report's charts as SVG: text in the page's fonts and colors, and no drawing library to import.

Charts have no colors of their own. Classes name what a mark is ("train", "axis"), and the page's style sheet colors
it for light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from trainer_classification.metrics.calibration import ReliabilityBins
from trainer_classification.names import one_line

Point = tuple[float, float]

_WIDTH = 360  # units of a chart, about as many px on a phone
_HEIGHT = 220
_LEFT = 46
_RIGHT = 18
_TOP = 26
_BOTTOM = 36
_MAX_POINTS = 300  # of a line; more cannot be told apart
_LONGEST_NAME = 24  # characters of a class name beside a bar


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: shown in the legend; also the CSS class, so a single word.
        points: (x, y) of each; those that are not finite are left out.
    """

    name: str
    points: list[Point]


@dataclass(frozen=True)
class _Frame:
    """The area of a chart's marks, with its scales."""

    low_x: float
    high_x: float
    low_y: float
    high_y: float

    def x(self, value: float) -> float:
        return _LEFT + _share(value, self.low_x, self.high_x) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        height = _HEIGHT - _TOP - _BOTTOM
        return _HEIGHT - _BOTTOM - _share(value, self.low_y, self.high_y) * height


def draw_lines(title: str, lines: Sequence[Line], format_y: Callable[[float], str]) -> str:
    """Draw lines over the epochs.

    Args:
        title: of the chart.
        lines: to draw.
        format_y: writes a tick of the y axis.
    """
    shown = [Line(line.name, _thin_out(line.points)) for line in lines]
    points = [point for line in shown for point in line.points]
    if not points:
        return ""
    ticks = _nice_ticks(min(y for _, y in points), max(y for _, y in points))
    first = min(x for x, _ in points)
    last = max(x for x, _ in points)
    frame = _Frame(first, last, ticks[0], ticks[-1])
    marks = [*_y_axis(frame, ticks, format_y), *_x_axis(frame, _epoch_ticks(first, last), "epoch")]
    for line in shown:
        marks += _draw_line(frame, line)

    return _svg(title, [*marks, *_legend([line.name for line in shown])])


def draw_reliability(before: ReliabilityBins, after: ReliabilityBins | None) -> str:
    """Draw accuracy over confidence: on the diagonal a model is right as often as it says.

    Args:
        before: without the temperature.
        after: with it; None: there is none.
    """
    frame = _Frame(0, 1, 0, 1)
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    marks = [
        *_y_axis(frame, ticks, format_percent),
        *_x_axis(frame, ticks, "confidence", format_percent),
        f'<path class="ideal" d="M{_at(frame, 0, 0)}L{_at(frame, 1, 1)}"/>',
    ]
    curves = {"before": before} if after is None else {"before": before, "after": after}
    for name, bins in curves.items():
        largest = max(1, int(bins.counts.max()))
        full = bins.counts > 0
        xs = bins.confidences[full].tolist()
        ys = bins.accuracies[full].tolist()
        marks.append(_path(frame, name, list(zip(xs, ys, strict=True))))
        for x, y, count in zip(xs, ys, bins.counts[full].tolist(), strict=True):
            radius = 2 + 5 * math.sqrt(count / largest)
            marks.append(
                f'<circle class="{name}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="{radius:.1f}"><title>'
                f"{count:,} images, confidence {x:.1%}, right {y:.1%}</title></circle>"
            )

    names = ["as trained"] if after is None else ["as trained", "with temperature"]
    return _svg("accuracy", [*marks, *_legend([*curves], names)])


def draw_bars(names: Sequence[str], values: Sequence[int]) -> str:
    """Draw a horizontal bar for each class, with its name and its images."""
    row = 18
    left = 130
    largest = max(1, *values)
    room = _WIDTH - left - 50
    marks = []
    for number, (name, value) in enumerate(zip(names, values, strict=True)):
        y = number * row
        width = value / largest * room
        marks.append(
            f'<text x="{left - 6}" y="{y + 13}" class="end">{_text(name)}</text>'
            f'<rect class="train" x="{left}" y="{y + 3}" width="{width:.1f}" height="{row - 6}"/>'
            f'<text x="{left + width + 5:.1f}" y="{y + 13}">{value:,}</text>'
        )

    return _wrap("images of each class", marks, _WIDTH, row * len(names))


def draw_ranks(values: Sequence[int]) -> str:
    """Draw the images of each class, the largest class first, as an area."""
    ordered = sorted(values, reverse=True)
    points = _thin_out([(float(rank), float(value)) for rank, value in enumerate(ordered, 1)])
    ticks = _nice_ticks(0, max(1, ordered[0]))
    frame = _Frame(1, max(2, len(ordered)), 0, ticks[-1])
    area = "L".join(_at(frame, x, y) for x, y in points)
    x_ticks = [tick for tick in _nice_ticks(1, len(ordered)) if 1 <= tick <= len(ordered)]
    marks = [
        *_y_axis(frame, ticks, format_count),
        *_x_axis(frame, x_ticks, "classes, the largest first", format_count),
        f'<path class="area" d="M{_at(frame, 1, 0)}L{area}L{_at(frame, points[-1][0], 0)}Z"/>',
    ]

    return _svg("training images of each class", marks)


def draw_shares(parts: Iterable[tuple[str, float]]) -> str:
    """Draw one bar that is cut into named parts: (CSS class, seconds) of each."""
    given = [(name, max(0.0, value)) for name, value in parts]
    total = sum(value for _, value in given) or 1.0
    marks = []
    x = 0.0
    for name, value in given:
        width = value / total * 1000
        marks.append(f'<rect class="{name}" x="{x:.1f}" y="0" width="{width:.1f}" height="40"/>')
        x += width

    return (
        '<svg class="shares" viewBox="0 0 1000 40" preserveAspectRatio="none" role="img" '
        f'aria-label="where the time went">{"".join(marks)}</svg>'
    )


def draw_interval(share: float, low: float, high: float) -> str:
    """Draw a share of 0 to 1 with its interval."""
    return (
        '<svg class="interval" viewBox="-4 0 108 12" aria-hidden="true">'
        f'<path class="axis" d="M0 6H100"/><path class="ends" d="M{low * 100:.0f} 6H{high * 100:.0f}"/>'
        f'<circle cx="{share * 100:.0f}" cy="6" r="4"/></svg>'
    )


def format_percent(value: float) -> str:
    """Return a share as a percentage, without digits that say nothing."""
    return f"{value * 100:.4g}%"


def format_count(value: float) -> str:
    """Return a number of things: 1,500 or 2.5k."""
    return f"{value:,.0f}" if value < 10_000 else f"{value / 1000:,.3g}k"


def format_number(value: float) -> str:
    """Return a number in few characters."""
    return f"{value:.3g}"


def _svg(title: str, marks: list[str]) -> str:
    heading = f'<text class="title" x="{_LEFT}" y="12">{_text(title)}</text>'
    return _wrap(title, [heading, *marks], _WIDTH, _HEIGHT)


def _wrap(title: str, marks: list[str], width: int, height: int) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{_text(title)}">'
        f"{''.join(marks)}</svg>"
    )


def _text(text: str) -> str:
    return escape(one_line(text, _LONGEST_NAME + 10))


def _share(value: float, low: float, high: float) -> float:
    return 0.5 if high == low else (value - low) / (high - low)


def _at(frame: _Frame, x: float, y: float) -> str:
    return f"{frame.x(x):.1f} {frame.y(y):.1f}"


def _path(frame: _Frame, name: str, points: list[Point]) -> str:
    return f'<path class="line {name}" d="M{"L".join(_at(frame, x, y) for x, y in points)}"/>'


def _draw_line(frame: _Frame, line: Line) -> list[str]:
    marks = [_path(frame, line.name, line.points)] if len(line.points) > 1 else []
    if len(line.points) <= 30:
        marks += [
            f'<circle class="{line.name}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="2.5"/>'
            for x, y in line.points
        ]
    return marks


def _y_axis(
    frame: _Frame, ticks: Sequence[float], format_tick: Callable[[float], str]
) -> list[str]:
    right = _WIDTH - _RIGHT
    return [
        f'<path class="grid" d="M{_LEFT} {frame.y(tick):.1f}H{right}"/>'
        f'<text class="end" x="{_LEFT - 5}" y="{frame.y(tick) + 4:.1f}">{format_tick(tick)}</text>'
        for tick in ticks
    ]


def _x_axis(
    frame: _Frame,
    ticks: Sequence[float],
    name: str,
    format_tick: Callable[[float], str] = format_number,
) -> list[str]:
    bottom = _HEIGHT - _BOTTOM
    marks = [f'<path class="axis" d="M{_LEFT} {bottom}H{_WIDTH - _RIGHT}"/>']
    marks += [
        f'<text class="middle" x="{frame.x(tick):.1f}" y="{bottom + 15}">{format_tick(tick)}</text>'
        for tick in ticks
    ]
    center = (_LEFT + _WIDTH - _RIGHT) / 2
    return [*marks, f'<text class="middle" x="{center:.0f}" y="{_HEIGHT - 4}">{name}</text>']


def _legend(classes: Sequence[str], names: Sequence[str] | None = None) -> list[str]:
    """Name the lines at the upper right."""
    marks = []
    x = float(_WIDTH - _RIGHT)
    for kind, name in reversed(list(zip(classes, names or classes, strict=True))):
        x -= 6.2 * len(name)
        marks.append(
            f'<circle class="{kind}" cx="{x - 8:.1f}" cy="8" r="4"/><text x="{x:.1f}" y="12">{name}</text>'
        )
        x -= 22

    return marks


def _thin_out(points: Sequence[Point]) -> list[Point]:
    """Return the finite points, at most some hundred of them, the last one always."""
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    step = -(-len(finite) // _MAX_POINTS) if finite else 1
    kept = finite[::step]
    if finite and kept[-1] != finite[-1]:
        kept.append(finite[-1])
    return kept


def _nice_ticks(low: float, high: float) -> list[float]:
    """Return three to six round numbers at equal distances that enclose an interval."""
    if high - low < 1e-12:
        padding = abs(high) * 0.1 or 1.0
        low -= padding
        high += padding
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)

    return [number * step for number in range(first, last + 1)]


def _epoch_ticks(first: float, last: float) -> list[float]:
    """Return whole epochs to name on the axis."""
    step = max(1, math.ceil((last - first) / 6))
    return [float(epoch) for epoch in range(int(first), int(last) + 1, step)]

"""Curves as a picture (SVG): one against another, lines and single points."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

Curve = Sequence[tuple[float, float]]
_WIDE, _HIGH, _LEFT, _RIGHT, _TOP, _LOW = 800, 420, 60, 230, 40, 370
_COLOURS = ("#1b6ca8", "#c4451c", "#3f8f3f", "#7b4fa3", "#a8871b", "#555555")


def draw(path: Path, title: str, across: str, up: str, curves: dict[str, Curve], share: bool = True) -> None:
    """Each curve a line with its name; one of a single point is a point. `share`: what is across is one."""
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return
    low_x, high_x = _span([x for x, _ in points])
    low_y, high_y = _span([y for _, y in points])

    def at(x: float, y: float) -> tuple[float, float]:
        right = _WIDE - _RIGHT
        return (
            _LEFT + (right - _LEFT) * (x - low_x) / (high_x - low_x),
            _LOW - (_LOW - _TOP) * (y - low_y) / (high_y - low_y),
        )

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDE}" height="{_HIGH}" font-family="sans-serif" '
        f'font-size="12"><rect width="{_WIDE}" height="{_HIGH}" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-size="14" font-weight="bold">{escape(title)}</text>',
        f'<text x="{_WIDE - _RIGHT}" y="{_HIGH - 10}" text-anchor="end">{escape(across)}</text>',
        f'<text x="{_LEFT}" y="{_TOP - 6}">{escape(up)}</text>',
    ]
    for step in range(5):
        x, y = low_x + (high_x - low_x) * step / 4, low_y + (high_y - low_y) * step / 4
        over, level = at(x, low_y)[0], at(low_x, y)[1]
        said = f"{x:.0%}" if share else f"{x:,.0f}"
        parts.append(f'<line x1="{_LEFT}" y1="{level:.1f}" x2="{_WIDE - _RIGHT}" y2="{level:.1f}" stroke="#dddddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{level + 4:.1f}" text-anchor="end">{y:.1%}</text>')
        parts.append(f'<text x="{over:.1f}" y="{_LOW + 16}" text-anchor="middle">{said}</text>')
    for number, (name, curve) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        placed = [at(*point) for point in curve]
        if len(placed) == 1:
            parts.append(f'<circle cx="{placed[0][0]:.1f}" cy="{placed[0][1]:.1f}" r="4" fill="{colour}"/>')
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        over = _WIDE - _RIGHT + 10
        parts.append(f'<text x="{over}" y="{_TOP + 16 * number + 10}" fill="{colour}">{escape(name)}</text>')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*parts, "</svg>"]) + "\n")


def _span(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)

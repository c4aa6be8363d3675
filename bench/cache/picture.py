"""Curves as a picture (SVG): hits and error over the requests of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

Curve = Sequence[tuple[int, int, int]]  # requests, hits, wrong: so far
_WIDE, _HIGH, _EDGE = 760, 300, 54
_COLOURS = ("#1b6ca8", "#c4451c", "#3f8f3f", "#7b4fa3", "#a8871b", "#555555")


def draw(path: Path, title: str, curves: dict[str, Curve], bounds: Sequence[float]) -> None:
    """Two plots: the share of hits so far, and the share of them that is wrong, with the bounds."""
    most = max((point[0] for curve in curves.values() for point in curve), default=1)
    hits = {name: [(n, hit / n) for n, hit, _ in curve] for name, curve in curves.items()}
    wrong = {name: [(n, bad / hit) for n, hit, bad in curve if hit >= 50] for name, curve in curves.items()}
    highest = max([value for line in wrong.values() for _, value in line] + [2 * max(bounds), 0.01])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDE}" height="{2 * _HIGH + 40}" '
        f'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDE}" height="{2 * _HIGH + 40}" fill="white"/>',
        f'<text x="{_EDGE}" y="20" font-size="14" font-weight="bold">{escape(title)}</text>',
        *_plot("hits, of all requests", hits, most, 1.0, 30, ()),
        *_plot("wrong, of all hits by meaning so far", wrong, most, highest, 30 + _HIGH, bounds),
        "</svg>",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts) + "\n")


def _plot(
    name: str, lines: dict[str, list[tuple[int, float]]], most: int, highest: float, top: int, marks: Sequence[float]
) -> list[str]:
    left, right, low, high = _EDGE, _WIDE - 150, top + _HIGH - 40, top + 20

    def at(n: float, value: float) -> str:
        return f"{left + (right - left) * n / most:.1f},{low - (low - high) * min(value, highest) / highest:.1f}"

    parts = [f'<text x="{left}" y="{top + 10}">{escape(name)}</text>']
    for step in range(5):
        value = highest * step / 4
        _, y = at(0, value).split(",")
        parts.append(f'<line x1="{left}" y1="{y}" x2="{right}" y2="{y}" stroke="#dddddd"/>')
        parts.append(
            f'<text x="{left - 6}" y="{float(y) + 4:.1f}" text-anchor="end">{value:.0%}</text>'
            if highest > 0.2
            else f'<text x="{left - 6}" y="{float(y) + 4:.1f}" text-anchor="end">{value:.1%}</text>'
        )
    for mark in marks:
        _, y = at(0, mark).split(",")
        parts.append(f'<line x1="{left}" y1="{y}" x2="{right}" y2="{y}" stroke="#999999" stroke-dasharray="5 4"/>')
    for number, (label, line) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = " ".join(at(n, value) for n, value in line)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        parts.append(f'<text x="{right + 10}" y="{high + 16 * number + 10}" fill="{colour}">{escape(label)}</text>')
    parts.append(f'<text x="{right}" y="{low + 18}" text-anchor="end">{most:,} requests</text>')
    return parts

"""A report as one HTML page: no script, no link, nothing fetched; a chart as SVG; prints well.

Rules: everything that was sent by clients is escaped. Nothing in the page depends on when it is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from proxy.ledger.reporting.amounts import Currency, converted, exact, readable, shown
from proxy.ledger.reporting.section import Column, Row, Section, Value

_STYLE: Final = """
:root { color-scheme: light dark; --line: #d0d7de; --soft: #6e7781; --bar: #4f81bd; --head: #f3f6fa; }
@media (prefers-color-scheme: dark) { :root { --line: #3d444d; --soft: #9198a1; --bar: #6ea3e0; --head: #1f2630; } }
body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .3rem; }
p { color: var(--soft); margin: .2rem 0 .6rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { background: var(--head); position: sticky; top: 0; }
th.text, td.text { text-align: left; white-space: pre-wrap; overflow-wrap: break-word; min-width: 6rem; }
th.text, td.text { max-width: 24rem; }
tfoot td { font-weight: 600; border-top: 2px solid var(--line); }
td.negative { color: #cf222e; }
svg { width: 100%; height: auto; } svg rect { fill: var(--bar); } svg text { fill: var(--soft); font-size: 10px; }
svg line { stroke: var(--line); }
@media print { body { margin: 0; max-width: none; } section { break-inside: avoid; } th { position: static; } }
""".strip()
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 900, 220, 60, 24


def to_html(sections: Sequence[Section], currency: Currency | None = None) -> bytes:
    """The page's bytes."""
    title = escape(sections[0].title)
    body = "\n".join(_section(converted(section, currency), first=section is sections[0]) for section in sections)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>\n{_STYLE}\n</style>\n</head>\n'
        f"<body>\n{body}\n</body>\n</html>\n"
    ).encode()


def _section(section: Section, *, first: bool) -> str:
    heading = "h1" if first else "h2"
    note = f"<p>{escape(section.note)}</p>" if section.note else ""
    chart = _chart(section) if section.key == "days" else ""
    head = "".join(f'<th class="{column.kind}">{escape(column.title)}</th>' for column in section.columns)
    rows = "\n".join(_row(section.columns, row) for row in section.rows)
    foot = "" if section.total is None else f"\n<tfoot>{_row(section.columns, section.total)}</tfoot>"
    table = (
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>{foot}\n</table></div>'
    )
    return f"<section>\n<{heading}>{escape(section.title)}</{heading}>\n{note}{chart}\n{table}\n</section>"


def _row(columns: Sequence[Column], row: Row) -> str:
    return f"<tr>{''.join(_cell(column, value) for column, value in zip(columns, row, strict=True))}</tr>"


def _cell(column: Column, value: Value) -> str:
    kind = "text" if column.kind == "text" else ""
    if isinstance(value, int | float) and value < 0:
        kind = "negative"
    title = f' title="{exact(int(value))}"' if column.kind == "money" and value is not None else ""
    return f"<td{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}{title}>{escape(shown(value, column.kind))}</td>"


def _chart(section: Section) -> str:
    """The days' costs as columns."""
    index = [column.key for column in section.columns].index("cost")
    amounts = [max(0, int(row[index] or 0)) for row in section.rows]
    top = max(amounts, default=0)
    if not top:
        return ""
    step, inner = (_WIDTH - _LEFT) / len(amounts), _HEIGHT - _BOTTOM - 10
    parts = [
        f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{_y(share, inner):.1f}" y2="{_y(share, inner):.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{_y(share, inner) + 3:.1f}" text-anchor="end">{readable(round(top * share))}</text>'
        for share in (0.0, 0.5, 1.0)
    ]
    every = max(1, -(-len(amounts) // 16))
    for number, (amount, row) in enumerate(zip(amounts, section.rows, strict=True)):
        x, height = _LEFT + number * step, inner * amount / top
        label = f"<title>{escape(str(row[0]))}: {readable(amount)}</title>"
        y = _HEIGHT - _BOTTOM - height
        parts.append(
            f'<rect x="{x + step * 0.1:.1f}" y="{y:.1f}" width="{step * 0.8:.1f}" height="{height:.1f}">{label}</rect>'
        )
        if number % every == 0:
            middle = x + step / 2
            parts.append(
                f'<text x="{middle:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(str(row[0])[5:])}</text>'
            )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(section.title)}">{"".join(parts)}</svg>'
    )


def _y(share: float, inner: float) -> float:
    return _HEIGHT - _BOTTOM - inner * share

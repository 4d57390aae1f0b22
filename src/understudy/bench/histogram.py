"""Draws histograms of run times: a line of blocks in a terminal, an SVG for a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

BLOCKS: Final = " ▁▂▃▄▅▆▇█"
SPARKS: Final = 24
WIDTH, ROW, LEFT, RIGHT, TOP, BOTTOM = 860, 46, 250, 20, 44, 34
TICKS: Final = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000)


def spark(counts: Sequence[int], width: int = SPARKS) -> str:
    """Counts as a line of `width` blocks; a bin with anything in it shows."""
    groups = [
        sum(counts[len(counts) * n // width : len(counts) * (n + 1) // width]) for n in range(width)
    ]
    most, top = max(groups, default=0), len(BLOCKS) - 1
    return "".join(BLOCKS[-(-count * top // most)] if most else BLOCKS[0] for count in groups)


def svg(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    """One row of bars for each case, times on one logarithmic axis."""
    from math import log10

    least = min(row["histogram"]["edges_us"][0] for row in rows)
    most = max(row["histogram"]["edges_us"][-1] for row in rows)
    span = log10(most / least) or 1.0
    height = TOP + ROW * len(rows) + BOTTOM

    def x(time_us: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * log10(max(time_us, least) / least) / span

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="system-ui, sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="22" font-size="15" font-weight="600">{escape(title)}</text>',
    ]
    for tick in TICKS:
        if least <= tick <= most:
            parts.append(
                f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP}" y2="{height - BOTTOM}" '
                f'stroke="#dddddd"/><text x="{x(tick):.1f}" y="{height - 14}" '
                f'text-anchor="middle" fill="#555555">{tick:g} µs</text>'
            )
    for at, row in enumerate(rows):
        base = TOP + ROW * (at + 1) - 4
        edges, counts = row["histogram"]["edges_us"], row["histogram"]["counts"]
        name = f"{row['subject']} {row['what']}, {row['variant']}"
        parts.append(
            f'<text x="12" y="{base - 14}">{escape(name)}</text>'
            f'<text x="12" y="{base}" fill="#777777">p50 {row["p50_us"]:.0f}, '
            f"p95 {row['p95_us']:.0f}, p99 {row['p99_us']:.0f} µs</text>"
        )
        for count, low, high in zip(counts, edges, edges[1:], strict=False):
            tall = (ROW - 10) * count / max(counts)
            wide = max(1.0, x(high) - x(low))
            parts.append(
                f'<rect x="{x(low):.1f}" y="{base - tall:.1f}" width="{wide:.1f}" '
                f'height="{tall:.1f}" fill="#3b6fb6"/>'
            )
    return "\n".join([*parts, "</svg>"]) + "\n"

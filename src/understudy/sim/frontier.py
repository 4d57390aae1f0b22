"""Bill against understudy minutes over the dial, beside what other systems do: table, bars, SVG."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from xml.sax.saxutils import escape

from understudy.core.policy_view import Rules
from understudy.sim.baselines import POLICIES
from understudy.sim.record import Setup
from understudy.sim.report import figures
from understudy.sim.traffic import Visit
from understudy.sim.world import simulate

PATIENCES: Final = (0.5, 1.0, 2.0, 4.0, 7.0, 12.0, 20.0, 40.0)
BASELINES: Final = ("reactive", "buffer", "target")


def one(visits: Sequence[Visit], name: str, rules: Rules, setup: Setup) -> dict[str, Any]:
    """The figures of one policy on one trace."""
    return figures(simulate(visits, POLICIES[name](rules), setup), setup)


def frontier(
    visits: Sequence[Visit],
    rules: Rules,
    setup: Setup,
    progress: Callable[[str], None] | None = None,
    patiences: Sequence[float] = PATIENCES,
) -> list[dict[str, Any]]:
    """One row a value of the dial, then one a baseline."""
    say = progress or (lambda _: None)
    rows: list[dict[str, Any]] = []
    for patience in patiences:
        say(f"patience {patience:g}")
        tuned = replace(rules, patience=patience)
        rows.append(
            {"policy": "understudy", "patience": patience} | one(visits, "understudy", tuned, setup)
        )
    for name in BASELINES:
        say(name)
        rows.append({"policy": name, "patience": None} | one(visits, name, rules, setup))
    return rows


def covered(row: Mapping[str, Any]) -> float:
    """The share of minutes without the lead: on the understudy or, without one, in silence."""
    live_s: float = row["session_s"]
    return (row["understudy_s"] + row["silent_s"]) / live_s if live_s else 0.0


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """For a terminal, with the bill above the bound as a bar."""
    most = max((row["ratio"] or 1.0) - 1.0 for row in rows) or 1.0
    lines = [
        f"{'policy':<18}{'bill/bound':>11}{'understudy':>12}{'silent':>10}{'far':>9}"
        f"{'p99 wait':>10}{'moves/h':>9}  above the bound"
    ]
    for row in rows:
        name = row["policy"]
        if row["patience"] is not None:
            name = f"patience {row['patience']:g}"
        ratio = row["ratio"] or 1.0
        silent = row["silent_s"] / row["session_s"] if row["session_s"] else 0.0
        bar = "█" * round(24 * max(0.0, ratio - 1.0) / most)
        lines.append(
            f"{name:<18}{ratio:>11.4f}{row['understudy_share']:>12.4%}{silent:>10.4%}"
            f"{row['far_share']:>9.3%}{row['wait_s']['p99']:>8.1f} s"
            f"{row['moves_per_session_hour']:>9.2f}  {bar}"
        )
    return "\n".join(lines)


WIDTH: Final = 720
HEIGHT: Final = 440
LEFT, RIGHT, TOP, BOTTOM = 70, 24, 44, 56


def svg(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    """The plot: bill over bound (x) against the share of minutes without the lead (y)."""
    points = [(row["ratio"] or 1.0, 100.0 * covered(row), row) for row in rows]
    # Below 1 lie bills that the bound cannot: it makes nobody wait.
    left = min(1.0, *(x for x, _, _ in points))
    right = max(x for x, _, _ in points) * 1.02
    top = max(y for _, y, _ in points) * 1.08 or 1.0

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - left) / max(right - left, 1e-9) * (WIDTH - LEFT - RIGHT)
        return round(across, 1), round(HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM), 1)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#333">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="24" font-size="15">{escape(title)}</text>',
    ]
    for k in range(6):
        x, y = left + (right - left) * k / 5, top * k / 5
        px, py = at(x, 0.0)[0], at(left, y)[1]
        out += [
            f'<path d="M{px} {TOP}V{HEIGHT - BOTTOM}M{LEFT} {py}H{WIDTH - RIGHT}" '
            'stroke="#e4e4e4"/>',
            f'<text x="{px}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{x:.2f}</text>',
            f'<text x="{LEFT - 8}" y="{py + 4}" text-anchor="end">{y:.2f} %</text>',
        ]
    ours = sorted((at(x, y) for x, y, row in points if row["patience"] is not None))
    out.append(
        '<polyline fill="none" stroke="#0a7d8c" stroke-width="2" points="'
        + " ".join(f"{x},{y}" for x, y in ours)
        + '"/>'
    )
    for x, y, row in points:
        px, py = at(x, y)
        mine = row["patience"] is not None
        name = f"{row['patience']:g}" if mine else row["policy"]
        color = "#0a7d8c" if mine else "#c2410c"
        anchor = "end" if px > WIDTH - 120 else "start"
        shift = -8 if anchor == "end" else 8
        out += [
            f'<circle cx="{px}" cy="{py}" r="4" fill="{color}"/>',
            f'<text x="{px + shift}" y="{py - 6}" text-anchor="{anchor}" fill="{color}">'
            f"{escape(name)}</text>",
        ]
    out += [
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">'
        "bill / lower bound (the labels on the line: patience)</text>",
        f'<text transform="translate(16 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">'
        "minutes without the lead</text>",
        "</svg>",
    ]
    return "\n".join(out) + "\n"

"""The report of a training: one HTML page, with everything in it, audio too."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

import soundfile

from understudy.lab import audio
from understudy.lab.evaluation import Judged

WIDTH: Final = 460
HEIGHT: Final = 200
SHOWN_REJECTS: Final = 50
STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #667; --line: #ccd; --bg: #fff;
  --a: #0b6bcb; --b: #d9480f; --warn: #fff3cd; --cell: 11, 107, 203; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ee; --soft: #9aa; --line: #445;
  --bg: #14171d; --a: #5ab0ff; --b: #ff9a5c; --warn: #4a3c08; --cell: 90, 176, 255; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--bg);
  margin: 2rem auto; max-width: 66rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; } td, th { padding: .15rem .7rem .15rem 0; text-align: left; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; } .tile { border: 1px solid var(--line);
  border-radius: 8px; padding: .6rem 1rem; } .tile b { display: block; font-size: 1.4rem; }
.tile span, .soft { color: var(--soft); } .charts { display: flex; flex-wrap: wrap; gap: 1.5rem; }
.warn { background: var(--warn); border-radius: 8px; padding: .6rem 1rem; margin: .5rem 0; }
.columns { columns: 18rem; } .bar { display: flex; gap: .5rem; break-inside: avoid; }
.bar span { flex: 0 0 7.5rem; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.bar i { flex: 1; align-self: center; height: .6rem; background: rgba(var(--cell), .15); }
.bar i i { display: block; height: 100%; background: var(--a); } .bar em { width: 3.5rem; }
svg text { fill: var(--soft); font-size: 11px; } .scroll { overflow-x: auto; }
audio { height: 2rem; vertical-align: middle; }
"""


def render(
    title: str,
    figures: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    *,
    worst: Sequence[Judged] = (),
    warnings: Sequence[str] = (),
    rejects: Sequence[tuple[str, str]] = (),
    settings: Mapping[str, Any] | None = None,
    rate_hz: int = 16000,
) -> str:
    """The page. `figures` are those of `evaluation.evaluate`, of the best epoch's weights."""
    parts = [
        f"<h1>{escape(title)}</h1>",
        *(f'<p class="warn">⚠ {escape(words)}</p>' for words in warnings),
        _tiles(figures, history),
        "<h2>Curves</h2>",
        _curves(history),
    ]
    if figures["kind"] == "labels":
        parts += [
            "<h2>By label</h2>",
            _bars(figures["by_label"], "accuracy"),
            "<h2>By speaker</h2>",
            _bars(figures["by_speaker"], "accuracy")
            if figures["by_speaker"]
            else '<p class="soft">Nothing tells the speakers.</p>',
            "<h2>Confusion</h2><p class='soft'>Rows: what was said. Columns: what was heard.</p>",
            _confusion(figures["labels"], figures["confusion"]),
        ]
        parts += [_worst(worst, rate_hz)] if worst else []
    else:
        parts += ["<h2>By speaker (equal error rate)</h2>", _bars(figures["by_speaker"], "eer")]
    if figures.get("false_accepts"):
        parts.append(_accepts(figures))
    parts.append(_rejects(rejects))
    rows = "".join(_row(name, value) for name, value in (settings or {}).items())
    parts.append(f"<h2>Settings</h2><table>{rows}</table>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        + "\n".join(parts)
        + "</body></html>\n"
    )


def _tiles(figures: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> str:
    best = max(history, key=lambda epoch: epoch["validation"]["score"])
    spent = sum(epoch["seconds"] for epoch in history)
    told = {"clips validated": str(figures["clips"]), "their speakers": str(figures["speakers"])}
    if figures["kind"] == "labels":
        last = history[-1]["validation"]["accuracy"]
        head = {"accuracy": f"{figures['accuracy']:.1%}", "accuracy, last epoch": f"{last:.1%}"}
    else:
        head = {"equal error rate": f"{figures['eer']:.1%}"}
        if figures["voiceprint_eer"] is not None:
            name = f"of voiceprints ({figures['voiceprint_clips']} clips)"
            head[name] = f"{figures['voiceprint_eer']:.1%}"
    tail = {"best epoch": f"{best['epoch']} of {len(history)}", "training": f"{spent / 60:.1f} min"}
    tiles = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
        for name, value in {**head, **told, **tail}.items()
    )
    return f'<div class="tiles">{tiles}</div>'


def _curves(history: Sequence[Mapping[str, Any]]) -> str:
    losses = [[e["train_loss"] for e in history], [e["validation"]["loss"] for e in history]]
    shown = "accuracy" if "accuracy" in history[0]["validation"] else "eer"
    figures = [[e["validation"][shown] for e in history]]
    figures = [[e["train_accuracy"] for e in history], *figures]
    name = "accuracy" if shown == "accuracy" else "training accuracy, validation EER"
    return (
        f'<div class="charts">{_chart("loss", losses)}{_chart(name, figures, 1.0)}</div>'
        '<p class="soft"><span style="color:var(--a)">▬</span> training (on augmented clips, with '
        'smoothed labels, so it looks worse than it is) <span style="color:var(--b)">▬</span> '
        "validation</p>"
    )


def _chart(name: str, lines: Sequence[Sequence[float]], top: float | None = None) -> str:
    top = top or max(1e-9, max(max(line) for line in lines)) * 1.05
    epochs = len(lines[0])
    left, foot = 40, 22
    wide, high = WIDTH - left - 8, HEIGHT - foot - 18
    out = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" aria-label="{name}">']
    out.append(f'<text x="{left}" y="11">{escape(name)}</text>')
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = 18 + high * (1 - share)
        out.append(
            f'<line x1="{left}" x2="{left + wide}" y1="{y:.1f}" y2="{y:.1f}" '
            f'stroke="var(--line)"/><text x="{left - 5}" y="{y + 4:.1f}" text-anchor="end">'
            f"{share * top:.2f}</text>"
        )
    for line, colour in zip(lines, ("var(--a)", "var(--b)"), strict=True):
        points = " ".join(
            f"{left + wide * at / max(1, epochs - 1):.1f},{18 + high * (1 - min(v / top, 1)):.1f}"
            for at, v in enumerate(line)
        )
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
    out.append(f'<text x="{left}" y="{HEIGHT - 6}">1</text>')
    out.append(f'<text x="{left + wide}" y="{HEIGHT - 6}" text-anchor="end">{epochs} epochs</text>')
    return "".join([*out, "</svg>"])


def _bars(groups: Mapping[str, Mapping[str, Any]], figure: str) -> str:
    rows = []
    for name, group in sorted(groups.items(), key=lambda item: float(item[1][figure])):
        share = float(group[figure])
        rows.append(
            f'<div class="bar" title="{group["clips"]} clips"><span>{escape(name)}</span>'
            f'<i><i style="width:{share:.1%}"></i></i><em>{share:.1%}</em></div>'
        )
    return f'<div class="columns">{"".join(rows)}</div>'


def _confusion(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    cell = 14 if len(labels) > 20 else 24
    room = 8 + 7 * min(14, max(len(label) for label in labels))
    size = room + cell * len(labels)
    out = [f'<div class="scroll"><svg width="{size}" height="{size}" role="img">']
    for row, (label, line) in enumerate(zip(labels, counts, strict=True)):
        y, total = room + cell * row, max(1, sum(line))
        name = escape(label[:14])
        out.append(f'<text x="{room - 4}" y="{y + cell * 0.75}" text-anchor="end">{name}</text>')
        out.append(
            f'<text transform="translate({y + cell * 0.75},{room - 4}) rotate(-90)">{name}</text>'
        )
        for column, count in enumerate(line):
            words = escape(f"{label} heard as {labels[column]}: {count} of {sum(line)}")
            shade = max(0.03, count / total)
            out.append(
                f'<rect x="{room + cell * column}" y="{y}" width="{cell - 1}" height="{cell - 1}" '
                f'fill="rgba(var(--cell), {shade:.2f})"><title>{words}</title></rect>'
            )
    return "".join([*out, "</svg></div>"])


def _worst(worst: Sequence[Judged], rate_hz: int) -> str:
    rows = "".join(
        f"<tr><td>{escape(one.clip.name)}</td><td>{escape(one.clip.label)}</td>"
        f"<td>{escape(one.said)}</td><td class='n'>{one.chance:.0%}</td>"
        f"<td class='n'>{one.truth:.1%}</td><td>{_player(one, rate_hz)}</td></tr>"
        for one in worst
    )
    head = "<tr><th>clip</th><th>said</th><th>heard as</th><th>sure</th><th>of the right one</th>"
    return (
        f'<h2>Worst clips</h2><div class="scroll"><table>{head}<th></th></tr>{rows}</table></div>'
    )


def _player(one: Judged, rate_hz: int) -> str:
    try:
        samples = audio.read(one.clip.path, rate_hz)[: 10 * rate_hz]
    except audio.Unfit as unfit:
        return escape(str(unfit))
    room = io.BytesIO()
    soundfile.write(room, samples, rate_hz, format="WAV", subtype="PCM_16")
    data = base64.b64encode(room.getvalue()).decode()
    return f'<audio controls preload="none" src="data:audio/wav;base64,{data}"></audio>'


def _accepts(figures: Mapping[str, Any]) -> str:
    found: Mapping[str, Any] = figures["false_accepts"]
    levels = list(figures["false_rejects"])
    head = "".join(f"<th>{escape(name)} ({found[name]['minutes']} min)</th>" for name in found)
    rows = "".join(
        f"<tr><td class='n'>{level}</td><td class='n'>{figures['false_rejects'][level]:.1%}</td>"
        + "".join(f"<td class='n'>{found[name]['an_hour'][level]}</td>" for name in found)
        + "</tr>"
        for level in levels
    )
    return (
        "<h2>False accepts an hour</h2><p class='soft'>How often background alone would be taken "
        "for a label, and how many clips of validation would be missed at the same threshold."
        f"</p><table><tr><th>threshold</th><th>missed</th>{head}</tr>{rows}</table>"
    )


def _rejects(rejects: Sequence[tuple[str, str]]) -> str:
    if not rejects:
        return '<h2>Left out</h2><p class="soft">No recording was left out.</p>'
    rows = "".join(_row(name, reason) for name, reason in rejects[:SHOWN_REJECTS])
    more = len(rejects) - SHOWN_REJECTS
    tail = f"<p>… and {more} more</p>" if more > 0 else ""
    return f"<h2>Left out ({len(rejects)})</h2><table>{rows}</table>{tail}"


def _row(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        value = ", ".join(f"{key} {one}" for key, one in value.items())
    elif isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return f"<tr><td>{escape(str(name))}</td><td>{escape(str(value))}</td></tr>"

"""The benchmark's structure, with a handful of runs; no figure is judged here."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.lab.made import checkpoint
from understudy.bench import listen, listen_runs
from understudy.bench.histogram import spark, svg
from understudy.bench.listen_runs import Case
from understudy.cli import cli
from understudy.core.errors import ConfigError
from understudy.lab import checkpoint as checkpoints
from understudy.lab.export import export

TINY = listen.Effort(runs=6, rounds=2, starts=1, seconds=(0.5, 1.0), batches=(1, 2), many=False)


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return listen.run(None, effort=TINY)


def test_every_form_is_measured_beside_the_anchor(result: dict[str, Any]) -> None:
    rows = result["warm"]["1"]
    seen = {(one["subject"], one["what"], one["variant"]) for one in rows}
    for net in ("stream", "small"):
        assert {(net, "label", v) for v in ("fp32", "int8", "inside", "torch eager")} <= seen
    assert {("stream", "hop", v) for v in ("fp32", "int8", "inside")} <= seen
    assert {("mel", "1 s", "scipy"), ("mel", "hop", "scipy")} <= seen
    assert (("silero-vad", "chunk", "fp32") in seen) == (listen.find_silero() is not None)
    assert {(one["seconds"], one["batch"]) for one in rows if one["variant"] == "fp32"} >= {
        (0.5, 1),
        (1.0, 1),
        (1.0, 2),
        (0.01, 1),
        (0.01, 2),
    }


def test_rows_are_complete(result: dict[str, Any]) -> None:
    for rows in result["warm"].values():
        for one in rows:
            times = [one[f"{name}_us"] for name in ("min", "p50", "p95", "p99", "max")]
            assert times == sorted(times)
            assert one["runs"] >= TINY.rounds
            assert len(one["histogram"]["edges_us"]) == len(one["histogram"]["counts"]) + 1
    for cold in result["cold"].values():
        assert cold["import_ms"] > 0
        assert cold["after_imports_ms"] >= cold["least_after_imports_ms"] > 0
    json.dumps(result)


def test_targets_and_weights_are_told(result: dict[str, Any]) -> None:
    assert result["weights"] == "random (seeded)"
    targets = {one["name"]: one["target"] for one in result["figures"] if one["target"]}
    assert targets["stream: 1 s to labels, p50"] == "<= 600"
    assert targets["small: 1 s to labels, p95"] == "<= 1300"
    assert targets["stream: 10 ms hop to labels, p95"] == "<= 200"
    assert targets["stream: 10 ms hop to labels, front end inside, p50"] == "<= 130"
    assert targets["small: cold, after imports"] == "<= 25"
    assert sum("hop by hop" in name for name in targets) == 2


def test_the_table_begins_with_the_results(result: dict[str, Any]) -> None:
    lines = listen.table(result).splitlines()
    top = listen.pick(result["warm"]["1"], "stream", "label", "fp32", seconds=1.0)
    assert top is not None
    assert lines[0] == f"[RESULT] Average latency: {top['mean_us'] / 1e3:.3f} ms"
    assert lines[1] == f"[RESULT] P95 latency: {top['p95_us'] / 1e3:.3f} ms"
    assert any(line.startswith("silero-vad chunk") for line in lines) or not listen.find_silero()


def test_models_of_ones_own(tmp_path: Path) -> None:
    """A checkpoint against an exported streaming file."""
    made = checkpoint("stream")
    checkpoints.save(tmp_path / "mine", made)
    file = export(made, tmp_path / "live.onnx", streaming=True).path
    found = listen.prepare(tmp_path / "mine", file, _folder(tmp_path))
    assert [one["name"] for one in found] == ["mine", "live"]
    assert set(found[0]["clip"]) == {"fp32", "inside", "int8"}
    assert found[0]["net"]["name"] == "stream"
    assert set(found[1]["stream"]) == {"fp32", "int8"}
    assert not found[1]["clip"]
    assert [one["which"] for one in found] == ["stream", "stream"]
    twins = listen.prepare(file, file, _folder(tmp_path / "again"))
    assert [one["name"] for one in twins] == ["live", "live (2)"]


def _folder(path: Path) -> Path:
    folder = path / "work"
    folder.mkdir(parents=True)
    return folder


def test_a_file_that_only_streams_has_a_headline() -> None:
    row = {"subject": "live", "what": "hop", "variant": "fp32", "seconds": 0.01}
    found = listen._headline([{**row, "mean_us": 120.0, "p95_us": 150.0}], "live")
    assert (found["average_ms"], found["p95_ms"]) == (0.12, 0.15)


def test_figures_of_runs() -> None:
    walls = [1000 * n for n in (5, 1, 2, 3, 4)] * 20
    found = listen_runs.figures(Case("a", "label", "fp32", lambda: None), walls, 100 * 7000)
    assert (found["min_us"], found["p50_us"], found["max_us"]) == (1.0, 3.0, 5.0)
    assert (found["mean_us"], found["cpu_us"], found["runs"]) == (3.0, 7.0, 100)
    assert found["drift_percent"] == 0.0
    slower = [1000] * 50 + [3000] * 50
    drift = listen_runs.figures(Case("a", "label", "fp32", lambda: None), slower, 0)
    assert drift["drift_percent"] == 200.0


def test_cases_take_turns() -> None:
    order: list[str] = []
    cases = [Case(n, "x", "fp32", lambda n=n: order.append(n)) for n in ("a", "b")]  # type: ignore[misc]
    listen_runs.measure(cases, runs=4, rounds=2)
    counted = "".join(order[2 * listen_runs.WARM_UP :])
    assert counted == "aaabbb" * 2  # two runs each, after one that is not counted


def test_with_many_threads_fewer_cases_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[Any] = []
    monkeypatch.setattr(listen, "_child", lambda job, threads: jobs.append((job, threads)))
    listen._warm([], listen.FULL, 1)
    listen._warm([], listen.FULL, 6)
    (one, _), (six, threads) = jobs
    assert (one["runs"], six["runs"], six["threads"], threads) == (2000, 500, 6, 6)
    assert (six["seconds"], six["batches"]) == ([1.0, 10.0], [1, 32])


def test_a_child_that_fails_is_told() -> None:
    with pytest.raises(ConfigError, match="measuring process"):
        listen._child({"kind": "cold", "path": "/nowhere.onnx"}, 1)


def test_drawings(result: dict[str, Any]) -> None:
    assert spark([0, 0, 1, 8], 4) == "  ▁█"
    rows = listen.plotted(result)
    assert {one["what"] for one in rows} >= {"label", "hop"}
    picture = ET.fromstring(svg(rows, "a < b"))
    assert picture.tag.endswith("svg")


def test_only_listen_takes_a_model(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"")
    ran = CliRunner().invoke(cli, ["bench", "engine", str(tmp_path / "m.onnx")])
    assert "takes no MODEL" in str(ran.exception) + ran.output
    other = ["bench", "listen", "--against", str(tmp_path / "m.onnx")]
    ran = CliRunner().invoke(cli, other)
    assert "needs a MODEL" in str(ran.exception) + ran.output

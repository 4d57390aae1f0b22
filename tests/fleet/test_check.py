"""The check of a model in a process of its own: what is refused, what is warned of, and how."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from understudy.bundle import read_bundle
from understudy.core.errors import ModelFailed
from understudy.worker.check import Checked, check

EXAMPLES = Path(__file__).parents[2] / "examples" / "voices"
GOOD = """
import os, sys, time
from pathlib import Path
import numpy as np
from understudy.core.wire import Control

class Voice:
    def __init__(self, *, slots=4):
        self.slots = slots
        self.sample_rate, self.frame, self.burst = 16000, 160, 1
        self.latency_samples, self.context_s, self.alignment_samples = 0, 0.1, 160
        self.controls = {"gain": Control(0.0, 2.0, 1.0, "")}
        self.gain = np.ones(slots, np.float32)
        self.heard = 0.0
        # constructor
    def load(self, device):
        pass  # load
    def open(self, slot, params):
        self.gain[slot] = 1.0
        self.set_params(slot, params)
    def set_params(self, slot, params):
        for name, value in params.items():
            self.gain[slot] = value  # set_params
    def step(self, frames, active):
        out = frames * self.gain[:, None]
        # step
        return out
"""


def written(folder: Path, *changes: tuple[str, str]) -> Path:
    """A bundle's folder with the good model, some of it replaced."""
    text = GOOD
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "model.py").write_text(text)
    return folder


def spec(**other: Any) -> dict[str, Any]:
    return {"engine": "model:Voice", "slots": 3, "options": {}, "device": "cpu"} | other


async def reason(folder: Path, timeout_s: float = 60, **other: Any) -> str:
    with pytest.raises(ModelFailed) as caught:
        await check(spec(**other), folder, timeout_s)
    return str(caught.value)


async def test_a_good_model_passes_and_says_what_it_is(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    noise = "print('hello'); os.write(1, b'there'); os.system('echo you')"
    folder = written(tmp_path, ("pass  # load", noise))
    checked = await check(spec(params={"gain": 0.5}), folder)
    assert isinstance(checked, Checked)
    assert checked.warnings == ()
    assert (checked.card.slots, checked.card.frame) == (3, 160)
    assert checked.card.controls["gain"].max == 2.0
    assert 0 < checked.step_ms.p50 <= checked.step_ms.p95
    assert 0 < checked.realtime_factor < 1
    assert checked.load_s >= 0
    said = capfd.readouterr()
    assert said.out == ""
    assert "there" in said.err
    assert "you" in said.err
    assert sorted(path.name for path in folder.iterdir()) == ["model.py"]  # no __pycache__


@pytest.mark.parametrize("name", ["helium", "telephone"])
async def test_the_examples_pass_without_a_warning(name: str) -> None:
    bundle = read_bundle(EXAMPLES / name)
    checked = await check(bundle.spec(), bundle.path)
    assert checked.warnings == ()
    assert checked.card.slots == bundle.slots


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("import numpy", "import nowhere\nimport numpy", "No module named 'nowhere' (model.py:4)"),
        ("class Voice", "class Other", "'model:Voice' cannot be imported"),
        ("class Voice:", "class Voice", "SyntaxError"),
        ("# constructor", "1 / 0", "ZeroDivisionError: division by zero (model.py:15)"),
        ("*, slots=4", "", "refuses its options"),
        ("pass  # load", "Path('w.bin').read_bytes()", "No such file or directory: 'w.bin' (model"),
        ("pass  # load", "sys.exit('no')", "load('cpu') raised SystemExit: no (model.py:17)"),
        ("pass  # load", "os._exit(7)", "ended the process with status 7; a model must not exit"),
        ("pass  # load", "os.kill(os.getpid(), 9)", "killed by SIGKILL, out of memory or"),
        (
            "pass  # load",
            "__import__('ctypes').string_at(0)",
            "killed by SIGSEGV, in model.py:17, out",
        ),
        ("# step", "[][3]", "step raised IndexError: list index out of range (model.py:26)"),
        ("# step", "out = out[:, 1:]", "shape (3, 159) for frames of shape (3, 160)"),
        ("# step", "out = out[0]", "shape (160,) for frames of shape (3, 160)"),
        ("# step", "out = out * 1.0 + np.zeros(1)", "step returned float64; return float32"),
        ("# step", "out = out.tolist()", "step returned a list; return a NumPy array"),
        ("# step", "out = out / abs(out).max()", "step made NaN or infinity of silence"),
        ("set_params(self,", "tune(self,", "the model lacks set_params; seams.Model says"),
        ("self.sample_rate,", "self.rate,", "the model lacks sample_rate"),
        ("16000, 160, 1", "16000.0, 160, 1", "sample_rate must be an int, 8000 to 48000 Hz"),
        ("16000, 160, 1", "4000, 160, 1", "or 0 for any; it is 4000"),
        ("16000, 160, 1", "16000, 0, 1", "frame must be an int, 1 or more samples; it is 0"),
        ("16000, 160, 1", "16000, 160, 0", "burst must be an int"),
        ("0, 0.1, 160", "-1, 0.1, 160", "latency_samples must be an int, 0 or more"),
        ("0, 0.1, 160", "0, float('inf'), 160", "context_s must be 0 or more seconds"),
        ("0, 0.1, 160", "0, 0.1, np.int64(160)", "alignment_samples must be an int"),
        ("self.slots = slots", "self.slots = 1", "has 1 slots where voice.toml wants 3"),
        ('Control(0.0, 2.0, 1.0, "")', "(0, 2, 1)", "'gain' must be a Control"),
        ("Control(0.0, 2.0, 1.0", "Control(2.0, 0.0, 1.0", "min <= default <= max"),
        (
            "self.gain[slot] = value  # set_params",
            "assert value < 2",
            "set_params(0, {'gain': 2}) raised AssertionError (model.py:23)",
        ),
    ],
)
async def test_a_broken_model_is_refused_with_the_reason(
    tmp_path: Path, old: str, new: str, sentence: str
) -> None:
    said = await reason(written(tmp_path, (old, new)))
    assert sentence in said
    assert "\n" not in said


async def test_bad_numbers_of_a_voice(tmp_path: Path) -> None:
    folder = written(tmp_path)
    assert "its controls: gain" in await reason(folder, params={"pitch": 1})
    assert "gain = 3; the model takes 0 to 2" in await reason(folder, params={"gain": 3})
    assert "refuses its options" in await reason(folder, options={"layers": 3})
    assert "docs/models.md" in await reason(folder, kind="speak")


def alive(pid: int) -> bool:
    try:  # a zombie is dead: nobody may be there to reap it
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_a_model_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    hang = "Path(__file__).with_name('pid').write_text(str(os.fork()))\n        time.sleep(600)"
    said = await reason(written(tmp_path, ("pass  # load", hang)), timeout_s=3)
    assert "was not over after 3 s, in model.py:18" in said
    child = int((tmp_path / "pid").read_text())
    async with asyncio.timeout(10):  # it was killed, which takes the kernel a moment
        while alive(child):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            [("# step", "self.heard += 1; time.sleep(1.1 * (self.heard == 50))")],
            "slower than real time",
        ),
        (
            [("# step", "self.heard += 0.001; out = np.float32(out + self.heard)")],
            "of full scale off the same slot",
        ),
        (
            [("# step", "self.gain[active] *= np.float32(0.99)")],
            "a slot primed with context_s = 0.1 differs",
        ),
        (
            [
                ("# constructor", "self.old = np.zeros((slots, 1600), np.float32)"),
                ("self.gain[slot] = 1.0", "self.gain[slot] = 1.0; self.old[slot] = 0"),
                (
                    "# step",
                    "line = np.hstack([self.old, out]); out = line[:, :160]\n"
                    "        self.old[active] = line[active, 160:]",
                ),
            ],
            "+100 ms off what latency_samples = 0 promises (about 1600 would be true)",
        ),
        ([("pass  # load", "self.sample_rate = 24000")], "load() changes what the constructor"),
    ],
)
async def test_what_is_only_worse_is_a_warning(
    tmp_path: Path, changes: list[tuple[str, str]], sentence: str
) -> None:
    checked = await check(spec(), written(tmp_path, *changes))
    assert any(sentence in warning for warning in checked.warnings), checked.warnings


def test_by_hand_it_answers_in_one_line_of_json(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "understudy.worker.check", "--path", "."]
    for changes, status in (((), 0), ((("# step", "1 / 0"),), 1)):
        done = subprocess.run(
            command,
            cwd=written(tmp_path, *changes),
            input=json.dumps(spec()),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stderr
        result = json.loads(done.stdout)
        assert done.stdout.count("\n") == 1
        assert result["ok"] is (status == 0)
    assert result["reason"].startswith("step raised ZeroDivisionError")
    assert "Traceback" in done.stderr

"""Nodes by SkyPilot: its tasks, read by SkyPilot itself, and their life, with a stand-in for it.

No cloud is asked: what SkyPilot does with a task is its own.
"""

import asyncio
import inspect
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from understudy.clock import SystemClock
from understudy.config import parse
from understudy.core.errors import ConfigError, NoCapacity, ProviderFailed
from understudy.core.fleet import Node
from understudy.providers import new_provider, skypilot
from understudy.providers.skypilot import SkyPilotProvider

ROOT = Path(__file__).parents[2]
REAL = ROOT / ".venv-sky" / "bin" / "python"  # `make test` makes it


def sign(node: str) -> str:
    return f"the secret of {node}"


TOML = """
[fleet]
provider = "skypilot"
name = "prod"
[providers.skypilot]
python = "{python}"
cpus = 4
memory_gb = 16
idle_minutes = 7
[providers.skypilot.models.miku]
accelerators = "L4:1"
[providers.skypilot.regions.sf]
edge = "wss://sf.example.com"
places = ["aws/us-west-2", "gcp/us-west1"]
"""
NODE = Node("skypilot-1a", "miku", "r1", "sf", started_s=5.0)


class Clock(SystemClock):
    """Whose time goes on when it is told to."""

    at_s = 0.0

    def now(self) -> float:
        return self.at_s


def spec_json(model: str, revision: str) -> str:
    engine = "understudy.models.mirror:MirrorModel"
    spec = {"name": model, "revision": revision, "engine": engine, "slots": 1, "options": {}}
    return json.dumps({**spec, "title": "it's $5"})


def a_provider(python: str | Path, clock: Clock | None = None) -> SkyPilotProvider:
    spec = parse(TOML.format(python=python), "t").provider
    provider = new_provider(spec, spec_json, sign, clock or Clock())
    assert isinstance(provider, SkyPilotProvider)
    return provider


class Clouds:
    """What the stand-in has rented, in a file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.set()

    def set(self, **content: Any) -> None:
        self.file.write_text(json.dumps({"clusters": {}} | content))

    @property
    def clusters(self) -> dict[str, Any]:
        clusters: dict[str, Any] = json.loads(self.file.read_text())["clusters"]
        return clusters


@pytest.fixture
def clouds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clouds:
    monkeypatch.setenv("STAND_IN_CLOUD", str(tmp_path / "clouds.json"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "stand_ins"))
    return Clouds(tmp_path / "clouds.json")


@pytest.fixture
async def provider(clouds: Clouds) -> AsyncIterator[SkyPilotProvider]:
    provider = a_provider(sys.executable)
    yield provider
    await provider.close()
    assert clouds.clusters == {}


def clock_of(provider: SkyPilotProvider) -> Clock:
    clock = provider._clock
    assert isinstance(clock, Clock)
    return clock


async def looked(provider: SkyPilotProvider) -> list[Node]:
    """The nodes after a look of its own."""
    clock_of(provider).at_s += skypilot.LOOK_S
    await provider.nodes()
    assert provider._looking is not None
    await provider._looking
    return list(await provider.nodes())


async def test_skypilot_itself_takes_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    assert REAL.exists(), "`make test` makes .venv-sky, the environment that SkyPilot needs"
    monkeypatch.delenv("PYTHONPATH", raising=False)
    provider = a_provider(REAL)
    try:
        kinds = await provider.validate(NODE)
        assert len(kinds) == 4, kinds
        assert sum("[Spot]" in kind for kind in kinds) == 2, kinds
        assert all("'L4': 1" in kind or "L4:1" in kind for kind in kinds), kinds
        assert sum("AWS" in kind for kind in kinds) == 2, kinds
        broken = {**provider.task(NODE), "nonsense": 1}
        with pytest.raises(ConfigError, match="SkyPilot refuses the task"):
            await provider._driver.call("validate", broken, timeout_s=60)
    finally:
        await provider.leave()


def test_skypilot_itself_has_what_is_called() -> None:
    """The stand-in promises nothing that SkyPilot does not have."""
    code = """
import inspect, json, sky, sky.exceptions
calls = {n: sorted(inspect.signature(getattr(sky, n)).parameters)
         for n in ("launch", "status", "down", "get")}
raised = [n for n in dir(sky.exceptions) if n[0].isupper()]
states = [s.name for s in sky.ClusterStatus] + [s.name for s in sky.StatusRefreshMode]
print(json.dumps([calls, raised, states]))
"""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    said = subprocess.run(
        [REAL, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    calls, raised, states = json.loads(said.stdout.splitlines()[-1])
    own = runpy_stand_in()
    for name, parameters in calls.items():
        taken = set(inspect.signature(own[name]).parameters)
        assert name == "get" or taken <= set(parameters)
    assert {"ResourcesUnavailableError", "NoCloudAccessError", "ClusterDoesNotExist"} <= set(raised)
    assert {"AUTO", "INIT", "UP", "STOPPED"} <= set(states)


def runpy_stand_in() -> dict[str, Any]:
    sys.path.insert(0, str(ROOT / "tests" / "stand_ins"))
    try:
        import sky

        return dict(vars(sky))
    finally:
        sys.path.pop(0)
        for name in ("sky", "sky.exceptions"):
            sys.modules.pop(name, None)


async def test_a_node_is_a_cluster_that_ends_by_itself(
    provider: SkyPilotProvider, clouds: Clouds
) -> None:
    await provider.start(NODE)
    record = clouds.clusters["understudy-prod_skypilot-1a"]
    assert (record["idle_minutes"], record["down"]) == (7, True)
    task = record["task"]
    assert [one["use_spot"] for one in task["resources"]["any_of"]] == [True, False] * 2
    secret = sign("skypilot-1a")
    assert secret not in task["run"] + task["setup"] + json.dumps(task["envs"])
    assert task["secrets"] == {"UNDERSTUDY_WORKER_SECRET": secret}
    assert "understudy==" in task["setup"]
    assert "--url wss://sf.example.com/v1/link --node skypilot-1a --region sf" in task["run"]
    assert json.loads(task["envs"]["UNDERSTUDY_WORKER_SPEC"])["device"] == "cuda"
    assert list(await provider.nodes()) == [NODE]
    await provider.stop("skypilot-1a")
    await provider.stop("skypilot-1a")
    assert clouds.clusters == {}
    assert list(await provider.nodes()) == []


async def test_a_machine_that_its_cloud_takes_back(
    provider: SkyPilotProvider, clouds: Clouds
) -> None:
    await provider.start(NODE)
    assert [one.exited for one in await looked(provider)] == [None]
    clouds.set()
    (seen,) = await looked(provider)
    assert seen.exited == "was taken back by its cloud, or ended by itself"
    await provider.stop(NODE.id)
    assert list(await looked(provider)) == []


async def test_forgotten_nodes_are_found_and_others_left_alone(
    provider: SkyPilotProvider, clouds: Clouds
) -> None:
    up = {"status": "UP", "launched_at": 9}
    theirs = {"understudy-prod-2_x": up, "somebodys": up}
    clouds.set(clusters={"understudy-prod_old": up, **theirs})
    assert list(await provider.nodes()) == [Node("old", "", "", "", started_s=9.0)]
    await provider.close()
    assert clouds.clusters == theirs
    clouds.set()


@pytest.mark.parametrize(
    ("raised", "error", "sentence"),
    [
        ("ResourcesUnavailableError", NoCapacity, r"no cloud .* \(Quota L4 exceeded\).* quota"),
        ("NoCloudAccessError", ConfigError, "run `sky check`"),
        ("ClusterDoesNotExist", ProviderFailed, "Quota"),
    ],
)
async def test_what_is_refused_is_said(
    provider: SkyPilotProvider,
    clouds: Clouds,
    raised: str,
    error: type[Exception],
    sentence: str,
) -> None:
    clouds.set(refuse=raised)
    with pytest.raises(error, match=sentence):
        await provider.start(NODE)
    assert list(await provider.nodes()) == []


async def test_a_python_without_skypilot_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    for python, sentence in ((sys.executable, "has no SkyPilot"), ("/no/python", "cannot be run")):
        provider = a_provider(python)
        with pytest.raises(ConfigError, match=sentence):
            await provider.start(NODE)
        await provider.leave()


def test_the_launcher_keeps_the_secret_out_of_sight(tmp_path: Path) -> None:
    """The real launcher and the real worker, against an edge that says nothing."""

    async def run() -> None:
        heard = asyncio.Event()
        server = await asyncio.start_server(lambda r, w: heard.set(), "127.0.0.1", 0)
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/link"
        secret = sign("n1")
        launcher = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "understudy.worker.launch", "--url", url, "--node", "n1"),
            env={
                **os.environ,
                "UNDERSTUDY_WORKER_SECRET": secret,
                "UNDERSTUDY_WORKER_SPEC": spec_json("m", "r"),
            },
        )
        await asyncio.wait_for(heard.wait(), 30)
        (worker,) = psutil.Process(launcher.pid).children()
        assert "UNDERSTUDY_WORKER_SECRET" not in worker.environ()
        assert secret not in " ".join(worker.cmdline())
        launcher.send_signal(signal.SIGTERM)
        assert await launcher.wait() == 0  # it was told to leave, and did
        assert not worker.is_running()
        server.close()

    asyncio.run(run())
    missing = subprocess.run(
        [sys.executable, "-m", "understudy.worker.launch"], capture_output=True, text=True
    )
    assert missing.returncode == 2
    assert "UNDERSTUDY_WORKER_SECRET and UNDERSTUDY_WORKER_SPEC must be set" in missing.stderr

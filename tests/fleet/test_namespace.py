"""A machine that can dial out and that nobody can reach: in a network namespace of its own."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.box import Box, join_token
from tests.server import SMALL, Server
from understudy import Client
from understudy.bench.server import RATE_HZ, Speaker
from understudy.tokens import Keys

EXAMPLE = Path(__file__).parents[2] / "examples" / "voices" / "telephone"
NET = f"10.213.{os.getpid() % 250}"
HERE, THERE, ELSEWHERE = f"{NET}.1", f"{NET}.2", f"{NET}.77"
NAME = f"us{os.getpid()}"
CONFIG = SMALL.format(slots=4) + '[fleet]\nprovider = "join"\n'
NOISE = np.random.default_rng(5).integers(-9000, 9000, 2 * RATE_HZ).astype(np.int16)
SECRETS = {"UNDERSTUDY_SECRET": "s" * 40, "UNDERSTUDY_ADMIN_KEY": "a" * 40}
# Only what belongs to a connection that was dialled from inside comes in.
WALL = """
table inet wall {
  chain in { type filter hook input priority 0; policy drop; ct state established accept; }
}
"""
LISTENER = """
import socket, sys
server = socket.create_server(("0.0.0.0", 7777))
print("listening", flush=True)
server.accept()
"""


def sh(*words: str, said: str | None = None) -> str:
    done = subprocess.run(words, input=said, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout


def inside(*words: str, said: str | None = None) -> str:
    return sh("ip", "netns", "exec", NAME, *words, said=said)


def network_of(pid: int) -> str:
    return str(Path(f"/proc/{pid}/ns/net").readlink())


@pytest.fixture
def wall() -> Iterator[None]:
    """The namespace: it has a way out to us, and no way in."""
    missing = [tool for tool in ("ip", "nft", "ss") if shutil.which(tool) is None]
    why = f"{', '.join(missing)} missing" if missing else "only root can" if os.getuid() else ""
    if why:
        words = f"no network namespace can be made: {why} (apt-get install iproute2 nftables)"
        if os.environ.get("CI"):
            pytest.fail(words)
        pytest.skip(words)
    sh("ip", "netns", "add", NAME)
    try:
        sh("ip", "link", "add", NAME, "type", "veth", "peer", "name", "out", "netns", NAME)
        sh("ip", "addr", "add", f"{HERE}/24", "dev", NAME)
        sh("ip", "link", "set", NAME, "up")
        inside("ip", "addr", "add", f"{THERE}/24", "dev", "out")
        inside("ip", "link", "set", "out", "up")
        inside("nft", "-f", "-", said=WALL)
        yield
    finally:
        sh("ip", "netns", "del", NAME)


def check_closed(address: str) -> None:
    """Nothing listens inside; and if something did, nobody could reach it."""
    assert inside("ss", "-Hltn") == ""
    words = ["ip", "netns", "exec", NAME, sys.executable, "-c", LISTENER]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as listener:
        try:
            assert listener.stdout is not None
            assert listener.stdout.readline() == "listening\n"
            with pytest.raises(TimeoutError):
                socket.create_connection((address, 7777), timeout=1.0)
        finally:
            listener.kill()


async def test_a_machine_behind_a_wall_serves_and_survives_a_new_address(
    wall: None, tmp_path: Path
) -> None:
    with socket.create_server((HERE, 0)) as free:
        port = free.getsockname()[1]
    url, data = f"http://{HERE}:{port}", tmp_path / "data"
    keys = Keys.read(SECRETS)
    token = join_token(data, keys=keys)
    light = Box(url, token, "light", data=tmp_path / "light", cpus=1)
    # The server's own folder is not to be seen from there, or nothing would have to be fetched.
    hide = ["sh", "-c", f'mount -t tmpfs none "{data}" && exec "$@"', "sh"]
    data.mkdir()
    heavy = Box(
        url,
        token,
        "heavy",
        data=tmp_path / "heavy",
        gpus=1,
        within=["ip", "netns", "exec", NAME, *hide],
    )
    server = Server(data, port, CONFIG, ("--host", HERE, "--url", url), **SECRETS)
    try:
        deployed = sh(
            *(sys.executable, "-m", "understudy", "deploy", str(EXAMPLE), "--json"),
            *("--data", str(data)),
        )
        revision = json.loads(deployed)["revision"]
        user = keys.user_token("alice", 4e9)
        async with Client(url, user).stream("telephone", "alice") as stream:
            speaker = Speaker(stream, NOISE)
            await speaker.until_live("lead")
            (worker,) = heavy.workers()
            assert network_of(worker.pid) != network_of(os.getpid())
            check_closed(THERE)
            await asyncio.to_thread(heavy.wait_for, f"bundle {revision} comes from the edge")
            assert (heavy.data / "cache" / "understudy" / "bundles" / revision).is_dir()

            inside("ip", "addr", "del", f"{THERE}/24", "dev", "out")
            await speaker.until_live("understudy", len(speaker.lives("understudy")) + 1)
            inside("ip", "addr", "add", f"{ELSEWHERE}/24", "dev", "out")
            await speaker.until_live("lead", len(speaker.lives("lead")) + 1)
            assert heavy.workers() == [worker]  # which has kept its model
            link = url.replace("http", "ws")
            await asyncio.to_thread(heavy.wait_for, f"{link}.* is silent; dialling anew")
            await asyncio.to_thread(heavy.wait_for, "edge .* is silent; dialling anew")
            established = inside("ss", "-Htn", "state", "established")
            assert ELSEWHERE in established
            check_closed(ELSEWHERE)
            await speaker.stop()
    finally:
        for box in (heavy, light):
            box.end()
        assert server.stop() == 0
    assert "Traceback" not in server.log + heavy.log + light.log, server.log + heavy.log

"""The command line as a user types it: what it prints, and what it says when it cannot."""

import json
import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.fleet.test_stream import babble
from tests.server import Server
from tests.speech import speech


def understudy(*arguments: object, data: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "understudy", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "UNDERSTUDY_DATA": str(data), **env},
        check=False,
    )


@pytest.mark.parametrize(
    ("ending", "rate_hz"), [("wav", 24_000), ("flac", 44_100), ("ogg", 48_000)]
)
def test_convert(tmp_path: Path, ending: str, rate_hz: int) -> None:
    stereo = np.stack([babble(rate_hz, 0.5)] * 2, axis=1)
    source, target = tmp_path / f"in.{ending}", tmp_path / "out.wav"
    soundfile.write(source, stereo, rate_hz)
    done = understudy("convert", source, target, "--voice", "giant", data=tmp_path)
    assert done.returncode == 0, done.stderr
    heard, rate = soundfile.read(target, dtype="int16")
    assert rate == rate_hz
    assert heard.shape == (len(stereo),)
    assert np.abs(heard).max() > 1000
    again = understudy(
        "convert", source, target, "--voice", "giant", "--param", "pitch=12", data=tmp_path
    )
    assert again.returncode == 0
    assert not np.array_equal(soundfile.read(target, dtype="int16")[0], heard)


def test_stream_equals_convert(server: Server, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", babble(16_000, 1.0), 16_000)
    one = understudy(
        *("stream", tmp_path / "in.wav", tmp_path / "a.wav", "--voice", "robot"),
        *("--url", server.url, "--user", "cli-test"),
        data=tmp_path,
    )
    assert one.returncode == 0, one.stderr
    assert "latency" in one.stderr
    two = understudy(
        "convert", tmp_path / "in.wav", tmp_path / "b.wav", "--voice", "robot", data=tmp_path
    )
    assert two.returncode == 0, two.stderr
    a, b = (soundfile.read(tmp_path / name, dtype="int16")[0] for name in ("a.wav", "b.wav"))
    assert np.array_equal(a, b)


def test_voices(server: Server, tmp_path: Path) -> None:
    table = understudy("voices", "--url", server.url, data=tmp_path)
    assert "chipmunk" in table.stdout
    listed = json.loads(understudy("voices", "--url", server.url, "--json", data=tmp_path).stdout)
    ready = {voice["name"] for voice in listed["voices"] if voice["ready"]}
    always_on = {"chipmunk", "giant", "robot", "natural-up", "natural-down", "mirror", "listener"}
    assert ready == always_on
    # Without a server, those of the file.
    alone = understudy("voices", "--url", "http://127.0.0.1:9", "--json", data=tmp_path)
    assert {voice["ready"] for voice in json.loads(alone.stdout)["voices"]} == {False}


def test_status(server: Server, tmp_path: Path) -> None:
    shown = understudy("status", "--url", server.url, data=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "pitch" in shown.stdout
    state = json.loads(understudy("status", "--url", server.url, "--json", data=tmp_path).stdout)
    assert {worker["model"] for worker in state["workers"]} == {"pitch", "mirror", "listener"}
    away = understudy("status", "--url", "http://127.0.0.1:9", data=tmp_path)
    assert "start one" in away.stderr


def test_a_listener_prints_its_labels(server: Server, tmp_path: Path) -> None:
    said = np.concatenate([np.zeros(8000, np.int16), speech(16_000)[:48_000]])
    soundfile.write(tmp_path / "in.wav", said, 16_000)
    done = understudy(
        *("stream", tmp_path / "in.wav", "--voice", "listener"),
        *("--url", server.url, "--user", "listened"),
        data=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "silence (" in done.stderr
    assert "speech (" in done.stderr
    told = understudy(
        *("convert", tmp_path / "in.wav", tmp_path / "o.wav", "--voice", "listener"), data=tmp_path
    )
    assert told.returncode == 1
    assert "understudy stream FILE --voice listener" in " ".join(told.stderr.split())


def test_usage(server: Server, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", babble(24_000, 1.0), 24_000)
    done = understudy(
        *("stream", tmp_path / "in.wav", tmp_path / "out.wav", "--voice", "mirror"),
        *("--url", server.url, "--user", "accounted"),
        data=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    # The ledger is written within half a second; the API writes it before it answers.
    urllib.request.urlopen(server.url + "/v1/usage").read()
    asked = ("usage", "--user", "accounted")
    (row,) = json.loads(understudy(*asked, "--json", data=server.data).stdout)["usage"]
    assert (row["voice"], row["sessions"], row["lead_s"]) == ("mirror", 1, 1.0)
    lines = understudy(*asked, "--csv", data=server.data).stdout.splitlines()
    assert lines == ["user,voice,sessions,lead_s,understudy_s", "accounted,mirror,1,1.0,0.0"]
    assert "0.02 min" in understudy(*asked, data=server.data).stdout
    past = understudy(*asked, "--to", "2020-01-01", "--json", data=server.data)
    assert json.loads(past.stdout)["usage"] == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("convert", "no.wav", "out.wav", "--voice", "giant"), "there is no file"),
        (("convert", __file__, "out.wav", "--voice", "giant"), "no audio file"),
        (("convert", "{wav}", "out.wav", "--voice", "nobody"), "there are chipmunk"),
        (("convert", "{wav}", "/nowhere/out.wav", "--voice", "giant"), "cannot be written"),
        (("convert", "{wav}", "out.wav", "--voice", "giant", "--param", "pitch"), "NAME=NUMBER"),
        (("convert", "{wav}", "o.wav", "--voice", "giant", "--param", "pitch=99"), "-24 to 24"),
        (("stream", "{wav}", "o.wav", "--voice", "x", "--url", "http://127.0.0.1:9"), "start one"),
        (("stream", "{wav}", "o.wav", "--voice", "x", "--url", "nonsense"), "no address"),
        (("up", "--host", "0.0.0.0", "--port", "0"), "UNDERSTUDY_SECRET"),
        (("talk",), "needs --voice"),
        (("usage",), "no ledger"),
    ],
)
def test_each_mistake_gets_one_sentence(
    tmp_path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    wav = tmp_path / "in.wav"
    soundfile.write(wav, babble(24_000, 0.1), 24_000)
    done = understudy(*(a.replace("{wav}", str(wav)) for a in arguments), data=tmp_path)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("understudy: ")


def test_a_taken_port_says_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = understudy("up", "--port", port, data=tmp_path)
    assert done.returncode == 1
    assert f"--port {port + 1}" in done.stderr
    assert "Traceback" not in done.stderr


def test_one_server_a_data_folder(server: Server) -> None:
    done = understudy("up", "--port", 0, data=server.data)
    assert done.returncode == 1
    assert "another server uses" in done.stderr


def test_a_broken_understudy_toml_says_where(tmp_path: Path) -> None:
    (tmp_path / "understudy.toml").write_text('[voices.x]\nmodel = "nothing"\n')
    done = understudy("voices", "--url", "http://127.0.0.1:9", data=tmp_path)
    assert done.returncode == 1
    assert "[voices.x] needs model" in done.stderr


def test_talk_without_a_sound_card_says_so(tmp_path: Path) -> None:
    done = understudy("talk", "--voice", "giant", data=tmp_path)
    if done.returncode == 0:
        pytest.fail("this machine has a sound card, and nobody stopped talk")
    assert any(
        word in done.stderr for word in ("sound card", "understudy[local]", "libportaudio2")
    ), done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_with_a_secret_asks_for_tokens(tmp_path: Path) -> None:
    from tests.fleet.raw import Raw

    secret = "a-secret-of-more-than-32-characters"
    server = Server(tmp_path, UNDERSTUDY_SECRET=secret)
    try:
        with Raw(server.port) as peer:
            peer.start("alice")
            assert peer.event("error")["code"] == "bad_token"
            peer.close_code()
        token = understudy("token", "alice", data=tmp_path, UNDERSTUDY_SECRET=secret)
        with Raw(server.port) as peer:
            peer.start("alice", token=token.stdout.strip())
            peer.event("live")
            status = urllib.request.urlopen(server.url + "/v1/status").read()
            assert json.loads(status)["sessions"] == 1  # a number, no names
            shown = understudy("status", "--url", server.url, data=tmp_path)
            assert "1 sessions, 0 waiting" in shown.stdout
            seen = json.loads(urllib.request.urlopen(server.url + "/v1/fleet").read())
            assert (seen["sessions"], seen["moves"]) == ([], [])
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(server.url + "/v1/usage")
    finally:
        server.stop()

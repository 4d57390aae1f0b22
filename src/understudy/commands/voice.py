"""voices, convert, stream, talk: for who wants to hear something."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from understudy import eventloop
from understudy.commands.console import (
    DEFAULT_URL,
    Sentence,
    admin_key,
    data_option,
    new_table,
    param_option,
    params_of,
    progress,
    say,
    show,
    takeover_option,
    token_option,
    url_option,
    urls_option,
    user_option,
    voice_option,
    voices_of,
)
from understudy.config import data_dir

if TYPE_CHECKING:
    pass


@click.command()
@url_option
@data_option
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def voices(url: str, data: Path | None, as_json: bool) -> None:
    """List the voices: of the running server, else of understudy.toml."""
    from understudy.client import Client, Unreachable

    try:
        listed = asyncio.run(Client(url, admin_key=admin_key()).voices())
        source = url
    except Unreachable:
        from understudy.offline import describe_voices

        listed = describe_voices(voices_of(data))
        source = f"{data_dir(data)} (no server runs at {url})"
    if as_json:
        click.echo(json.dumps({"voices": listed}, indent=2))
        return
    columns = ("voice", "params", "latency", "understudy", "revision", "runs")
    table = new_table(f"Voices of {source}", *columns)
    for voice in listed:
        runs = ", ".join(f"{n} × {revision[:6]}" for revision, n in voice["runs"].items())
        table.add_row(
            voice["name"],
            " ".join(f"{name} {value:+g}" for name, value in voice["params"].items()),
            "?" if voice["latency_ms"] is None else f"{voice['latency_ms']:.0f} ms",
            voice["understudy"] or "–",
            voice["revision"][:6],
            runs or ("nowhere" if voice["always_on"] else "on demand"),
        )
    show(table)
    for voice in listed:
        for revision, reason in voice["failures"].items():
            click.secho(f"{voice['name']} {revision} does not load: {reason}", fg="red")


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@voice_option
@param_option
@data_option
def convert(
    source: Path, target: Path, voice: str, wishes: tuple[str, ...], data: Path | None
) -> None:
    """Change the voice in a file, without a server, faster than real time."""
    from understudy.files import read_audio, write_audio
    from understudy.offline import convert_pcm

    config = voices_of(data)
    pcm, rate_hz = read_audio(source)
    with progress(len(pcm), source.name) as update:
        out = convert_pcm(pcm, rate_hz, config, voice, params_of(wishes), update)
    write_audio(target, out, rate_hz)


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", required=False, type=click.Path(path_type=Path))
@voice_option
@param_option
@urls_option
@user_option
@token_option
@takeover_option
def stream(
    source: Path,
    target: Path | None,
    voice: str,
    wishes: tuple[str, ...],
    urls: tuple[str, ...],
    user: str,
    token: str | None,
    takeover: bool,
) -> None:
    """Send a file through a running server at the pace of speech.

    A listener's labels are printed, and need no TARGET.
    """
    from understudy.client import Client
    from understudy.files import read_audio, stream_pcm, write_audio

    pcm, rate_hz = read_audio(source)
    session = Client(urls or DEFAULT_URL, token).stream(
        voice, user, rate_hz, params=params_of(wishes), takeover=takeover
    )
    with progress(len(pcm), source.name) as update:
        out = eventloop.run(stream_pcm(session, pcm, rate_hz, update, say))
    if len(out):
        if target is None:
            raise Sentence(f"{voice} gives audio; say where to write it: stream {source} TARGET")
        write_audio(target, out, rate_hz)


@click.command()
@click.option("--voice", help="A name from `understudy voices`.")
@param_option
@data_option
@urls_option
@user_option
@token_option
@takeover_option
@click.option("--input", "source", help="Microphone: a number or a part of its name.")
@click.option("--output", "target", help="Speaker: a number or a part of its name.")
@click.option("--devices", is_flag=True, help="List microphones and speakers.")
def talk(
    voice: str | None,
    wishes: tuple[str, ...],
    data: Path | None,
    urls: tuple[str, ...],
    user: str,
    token: str | None,
    takeover: bool,
    source: str | None,
    target: str | None,
    devices: bool,
) -> None:
    """Microphone to speakers: in this process with no network, or (--url) through a server.

    Needs `understudy[local]`.
    """
    from understudy.talk import RATE_HZ, call, list_devices
    from understudy.talk import talk as run_talk

    if devices:
        click.echo(list_devices())
        return
    if voice is None:
        raise Sentence("talk needs --voice; `understudy voices` lists them")
    if urls:
        from understudy.client import Client

        client = Client(urls, token, discover=len(urls) == 1)
        params = params_of(wishes)
        session = client.stream(voice, user, RATE_HZ, params=params, takeover=takeover)
        call(session, source, target, say=click.echo)
        return
    config = voices_of(data)
    run_talk(config, voice, params_of(wishes), source, target, say=click.echo)

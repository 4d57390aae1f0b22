"""up, edge, controller, join: what runs until it is stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from understudy import eventloop, logs
from understudy.commands.console import (
    Sentence,
    data_option,
    where_of,
)
from understudy.config import DEFAULT_PORT, data_dir

if TYPE_CHECKING:
    from understudy.up import Ready, Serving


def _serving_options(command: Callable[..., None]) -> Callable[..., None]:
    """What every command that serves takes."""
    for option in (
        data_option,
        click.option("-v", "--verbose", is_flag=True, help="Log every step of every session."),
        click.option(
            "--log",
            "form",
            type=click.Choice(logs.FORMATS),
            default="text",
            show_default=True,
            envvar="UNDERSTUDY_LOG",
        ),
    ):
        command = option(command)
    return command


def _edge_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--via", "vias", multiple=True, metavar="REGION=URL", hidden=True),
        click.option("--url", default="", help="Where users and workers reach it: https://…"),
        click.option("--region", default="local", show_default=True),
        click.option(
            "--port", default=DEFAULT_PORT, show_default=True, type=click.IntRange(0, 65535)
        ),
        click.option("--host", default="127.0.0.1", show_default=True),
    ):
        command = option(command)
    return command


def _serve(serving: Serving, data: Path | None, announce: Callable[[Ready], None]) -> None:
    from understudy.tokens import Keys
    from understudy.up import up as serve

    folder = data_dir(data)
    keys = Keys.read(os.environ, folder)
    eventloop.run(serve(serving, folder, keys, announce, where=where_of(folder)))


def _pairs(texts: Iterable[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise Sentence(f"{text!r} is not of the form NAME=VALUE")
        found[name] = value
    return found


def _announce(ready: Ready) -> None:
    click.echo()
    click.secho(f"  Understudy is listening on {ready.url}", bold=True)
    click.echo("  Open it in a browser, press Start, and talk. Headphones are a good idea.")
    click.echo(f"  Voices: {ready.config} (edit and save; no restart)")
    if not ready.warm:
        click.secho("  Some models are still loading, or fail to: see the log above.", fg="red")
    click.echo("  Ctrl-C stops it.\n")
    sys.stdout.flush()


@click.command()
@_edge_options
@click.option(
    "--regions",
    metavar="A,B,C",
    help="A world of these regions on this machine, each with its own edge and workers.",
)
@click.option(
    "--rtt",
    "rtts",
    multiple=True,
    metavar="A:B=MS",
    help="The round trip between two of the regions; 100 ms where none is given.",
)
@click.option("--provider", default="", hidden=True)
@click.option("--shared", is_flag=True, hidden=True)
@_serving_options
def up(
    host: str,
    port: int,
    region: str,
    url: str,
    vias: tuple[str, ...],
    regions: str | None,
    rtts: tuple[str, ...],
    provider: str,
    shared: bool,
    data: Path | None,
    verbose: bool,
    form: str,
) -> None:
    """Start the whole product: page, API and audio on one port."""
    from understudy.up import Serving

    logs.start(form, verbose=verbose)
    if regions is not None:
        from understudy import world
        from understudy.clock import SystemClock

        folder = data_dir(data)
        plan = world.plan(regions, rtts, port)
        asyncio.run(world.run(plan, folder, where_of(folder), SystemClock(), _announce_world))
        return
    serving = Serving(host, port, region, url, _pairs(vias), provider=provider, shared=shared)
    _serve(serving, data, _announce)


def _announce_world(urls: Mapping[str, str]) -> None:
    click.echo()
    for region, url in urls.items():
        click.secho(f"  {region:12} {url}", bold=True)
    click.echo("  The page picks the nearest; `understudy chaos region NAME` switches one off.")
    click.echo("  Ctrl-C stops it.\n")
    sys.stdout.flush()


@click.command()
@_edge_options
@_serving_options
def edge(
    host: str,
    port: int,
    region: str,
    url: str,
    vias: tuple[str, ...],
    data: Path | None,
    verbose: bool,
    form: str,
) -> None:
    """Serve users, as one of several edges on one database; controllers run elsewhere."""
    from understudy.up import Serving

    logs.start(form, verbose=verbose)
    _serve(Serving(host, port, region, url, _pairs(vias), controller=False), data, _announce)


@click.command()
@_serving_options
def controller(data: Path | None, verbose: bool, form: str) -> None:
    """Rent and return nodes; of several controllers on one database, one is active."""
    from understudy.up import Serving

    logs.start(form, verbose=verbose)

    def announce(ready: Ready) -> None:
        click.echo(f"The controller runs. Models: {ready.config}. Ctrl-C stops it.")
        sys.stdout.flush()

    _serve(Serving(edge=False), data, announce)


@click.command()
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@click.option(
    "--token",
    envvar="UNDERSTUDY_JOIN_TOKEN",
    required=True,
    help="Made by `understudy token --join NAME`. Better in $UNDERSTUDY_JOIN_TOKEN.",
)
@click.option("--name", help="Of this machine; else its host name.")
@click.option("--region", default="", help="Where it is; else as the token or the edge says.")
@click.option("--gpus", default="all", show_default=True, help="How many to lend, or all.")
@click.option(
    "--cpus", default=1, show_default=True, type=click.IntRange(0), help="Light workers at most."
)
@click.option("--price", default=0.0, type=click.FloatRange(0.0), help="Of a GPU, an hour.")
@click.option(
    "--grace",
    "grace_s",
    default=60.0,
    show_default=True,
    type=click.FloatRange(0.0),
    help="Seconds for moving users away when it is told to end. Ctrl-C twice ends it at once.",
)
@click.option("-v", "--verbose", is_flag=True)
def join(
    urls: tuple[str, ...],
    token: str,
    name: str | None,
    region: str,
    gpus: str,
    cpus: int,
    price: float,
    grace_s: float,
    verbose: bool,
) -> None:
    """Lend this machine to a fleet: dials the edges at URL, runs what they ask for."""
    from socket import gethostname

    from understudy.agent import Agent, Lent, count_gpus
    from understudy.clock import SystemClock

    logs.start("text", verbose=verbose)
    lent = Lent(name or gethostname(), region, count_gpus(gpus), cpus, price)
    click.echo(f"{lent.name} lends {lent.gpus} GPUs and {cpus} places on its CPUs. Ctrl-C ends it.")

    async def lend() -> None:
        agent = Agent(urls, token, lent, SystemClock())
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, agent.leave)
        await agent.run(grace_s)

    eventloop.run(lend())

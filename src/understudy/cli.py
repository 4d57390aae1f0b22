"""The `understudy` command: the composition root, the only place that names concrete adapters."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from understudy import __version__, eventloop, logs
from understudy.config import DEFAULT_PORT, Config, ConfigFile, data_dir
from understudy.core.errors import UnderstudyError
from understudy.lab.commands import evaluate, train
from understudy.lab.export_commands import export, quantize
from understudy.sim.command import simulate

if TYPE_CHECKING:
    from rich.table import Table

    from understudy.seams import Store
    from understudy.up import Ready, Serving

T = TypeVar("T")
DEFAULT_URL = os.environ.get("UNDERSTUDY_URL", f"http://127.0.0.1:{DEFAULT_PORT}")
MIN_PYTHON = (3, 11)
STORE = "understudy.store"
BENCHES = (
    *("engine", "edge", "browser", "simulate", "connect", "move", "fleet", "crash", "freeze"),
    *("storm", "region", "soak", "overload", "far", "lab", "listen"),
)


class Sentence(click.ClickException):
    """An error shown as a sentence, not as a traceback."""

    def show(self, file: Any = None) -> None:
        click.secho(f"understudy: {self.message}", fg="red", err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="understudy")
def cli() -> None:
    """Real-time voices that never drop the line."""


_data_option = click.option(
    "--data", type=click.Path(path_type=Path), help="Folder of understudy.toml and the database."
)
_store_option = click.option(
    "--store",
    envvar="UNDERSTUDY_STORE",
    metavar="URL",
    expose_value=False,
    callback=lambda context, _, url: context.meta.update({STORE: url}),
    help="Another database than the folder's: postgresql://USER@HOST/NAME. Passwords belong into "
    "$UNDERSTUDY_STORE or $PGPASSWORD, not on a command line.",
)
url_option = click.option("--url", default=DEFAULT_URL, show_default=True, help="The server.")
urls_option = click.option(
    "--url",
    "urls",
    multiple=True,
    help="The server; or several, one a region: the nearest is used, and outlived.",
)
user_option = click.option("--user", default="cli", show_default=True)
token_option = click.option(
    "--token", envvar="UNDERSTUDY_TOKEN", help="Who you are, where the server asks."
)
takeover_option = click.option("--takeover", is_flag=True, help="End the user's other stream.")
voice_option = click.option("--voice", required=True, help="A name from `understudy voices`.")
param_option = click.option(
    "--param", "wishes", multiple=True, metavar="NAME=NUMBER", help="Override one of its numbers."
)


def data_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return _data_option(_store_option(command))


def where_of(folder: Path) -> str | Path:
    """The database: --store, or the folder's own."""
    url: str | None = click.get_current_context().meta.get(STORE)
    return url or folder / "understudy.db"


def exists(where: str | Path) -> bool:
    return isinstance(where, str) or where.exists()


def with_store(where: str | Path, work: Callable[[Store], Awaitable[T]]) -> T:
    """Opens a store for one piece of work, whether a server runs on it or not."""
    from understudy.store import open_store

    async def run() -> T:
        store = await open_store(where)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


def voices_of(data: Path | None) -> Config:
    """The voices of a data folder: those of understudy.toml, and what was deployed."""
    from understudy.catalog import Catalog

    folder = data_dir(data)
    file = ConfigFile.of_data(folder)
    where = where_of(folder)
    if not exists(where):
        return file.current()

    async def read(store: Store) -> Config:
        catalog = Catalog(file, store)
        await catalog.refresh()
        return catalog.current()

    return with_store(where, read)


@contextlib.contextmanager
def progress(length: int, label: str) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing in a log."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield bar.update


def new_table(title: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:  # a name that is cut off cannot be typed
        table.add_column(column, no_wrap=column in ("voice", "worker", "understudy", "revision"))
    return table


def show(table: Table) -> None:
    from rich.console import Console

    Console().print(table)


def admin_key() -> str | None:
    """$UNDERSTUDY_ADMIN_KEY: of several, the first."""
    return os.environ.get("UNDERSTUDY_ADMIN_KEY", "").partition(",")[0].strip() or None


def plain(name: str) -> str:
    """What users call themselves, as a terminal may show it: no markup, no control characters."""
    from rich.markup import escape

    return escape("".join(c if c.isprintable() else "\ufffd" for c in name))


def params_of(wishes: tuple[str, ...]) -> dict[str, float]:
    params = {}
    for wish in wishes:
        name, _, number = wish.partition("=")
        try:
            params[name] = float(number)
        except ValueError:
            raise Sentence(f"--param takes NAME=NUMBER, such as pitch=3.5, not {wish!r}") from None
    return params


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


@cli.command()
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


@cli.command()
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


@cli.command()
@_serving_options
def controller(data: Path | None, verbose: bool, form: str) -> None:
    """Rent and return nodes; of several controllers on one database, one is active."""
    from understudy.up import Serving

    logs.start(form, verbose=verbose)

    def announce(ready: Ready) -> None:
        click.echo(f"The controller runs. Models: {ready.config}. Ctrl-C stops it.")
        sys.stdout.flush()

    _serve(Serving(edge=False), data, announce)


@cli.command()
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


@cli.command()
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


@cli.command()
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


@cli.command()
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
        out = eventloop.run(stream_pcm(session, pcm, rate_hz, update, _say))
    if len(out):
        if target is None:
            raise Sentence(f"{voice} gives audio; say where to write it: stream {source} TARGET")
        write_audio(target, out, rate_hz)


def _say(words: str) -> None:
    click.echo(words, err=True)


@cli.command()
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


@cli.command()
@url_option
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def status(url: str, as_json: bool) -> None:
    """What runs where: workers with their slots, sessions, who waits."""
    from understudy.client import Client

    state = asyncio.run(Client(url, admin_key=admin_key()).status())
    if as_json:
        click.echo(json.dumps(state, indent=2))
        return
    table = new_table(
        f"Workers of {url}", "worker", "model", "revision", "region", "state", "seats", "boot"
    )
    for worker in state["workers"]:
        boot = "" if worker["boot_s"] is None else f"{worker['boot_s']:.1f} s"
        seats = f"{worker['taken']} of {worker['slots']}"
        which = (worker["model"], worker["revision"], worker["region"])
        table.add_row(worker["id"], *which, worker["state"], seats, boot)
    show(table)
    table = new_table(
        f"Sessions ({state['waiting']} waiting)",
        *("user", "voice", "state", "performs", "lead", "understudy", "silent"),
    )
    if isinstance(state["sessions"], int):  # where tokens are asked, users are not listed
        click.echo(f"{state['sessions']} sessions, {state['waiting']} waiting")
        click.echo("Set UNDERSTUDY_ADMIN_KEY to the server's to see them one by one.", err=True)
        return
    for session in state["sessions"]:
        performs = f"{session['role']} on {session['worker']}" if session["role"] else "nobody"
        heard = (f"{session['lead_s']:.1f} s", f"{session['understudy_s']:.1f} s")
        silent = f"{session['silent_s']:.2f} s"
        row = (plain(session["user"]), session["voice"], session["state"], performs)
        table.add_row(*row, *heard, silent)
    show(table)


def change_store(data: Path | None, work: Callable[[Store, Config, Path], Awaitable[T]]) -> T:
    """Runs something on a data folder's store, whether a server runs on it or not."""
    folder = data_dir(data)
    config = ConfigFile.of_data(folder).current()
    return with_store(where_of(folder), lambda store: work(store, config, folder))


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", help="Another name than the bundle's own: a twin beside it.")
@data_option
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def deploy(folder: Path, name: str | None, data: Path | None, as_json: bool) -> None:
    """Check the bundle in FOLDER and make it live: a new voice, or a voice's new revision."""
    from understudy import shipping
    from understudy.clock import SystemClock

    async def work(store: Store, config: Config, where: Path) -> shipping.Deployed:
        bundles = where / "bundles"
        return await shipping.deploy(
            folder, name, config, store, bundles, SystemClock(), lambda w: click.echo(w, err=True)
        )

    done = change_store(data, work)
    checked = done.checked
    if as_json:
        fields = {"voice": done.model, "revision": done.revision, "again": done.again}
        timing = {"load_s": checked.load_s, "realtime_factor": checked.realtime_factor}
        click.echo(json.dumps({**fields, **timing, "warnings": list(done.warnings)}, indent=2))
        return
    for warning in done.warnings:
        click.secho(f"warning: {warning}", fg="yellow", err=True)
    click.echo(
        f"loads in {checked.load_s:.1f} s; {checked.card.slots} slots take "
        f"{checked.realtime_factor * 100:.0f} % of a core"
    )
    if done.again:
        click.echo(f"{done.model} {done.revision} is deployed already; nothing has changed.")
    else:
        click.echo(
            f"{done.model} {done.revision} is deployed: new sessions go to it once it is warm. "
            f"`understudy rollback {done.model}` takes it back."
        )


@cli.command()
@click.argument("voice")
@click.option("--to", metavar="REVISION", help="This one; else the one before.")
@data_option
def rollback(voice: str, to: str | None, data: Path | None) -> None:
    """Deploy an older revision of VOICE again."""
    from understudy import shipping
    from understudy.clock import SystemClock

    revision = change_store(
        data, lambda store, _, __: shipping.rollback(voice, to, store, SystemClock())
    )
    click.echo(f"{voice} is {revision} again: new sessions go to it once it is warm.")


@cli.command()
@click.argument("worker")
@click.option("--undo", is_flag=True, help="Let it take sessions again.")
@data_option
def drain(worker: str, undo: bool, data: Path | None) -> None:
    """Empty WORKER without dropping anyone, then give its node back."""
    if not change_store(data, lambda store, _, __: store.drain(worker, not undo)):
        raise Sentence(f"no worker {worker} is up; `understudy status` lists them")
    click.echo(f"{worker} {'takes sessions again' if undo else 'takes nobody new and is emptied'}.")


@cli.command()
@click.option("--user", help="Only this user.")
@click.option("--from", "start", metavar="DATE", help="From this day or time on (UTC).")
@click.option("--to", "end", metavar="DATE", help="Before this day or time.")
@click.option("--csv", "as_csv", is_flag=True, help="For spreadsheets.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@click.option("--url", help="Ask this server, with $UNDERSTUDY_ADMIN_KEY; else the database.")
@data_option
def usage(
    user: str | None,
    start: str | None,
    end: str | None,
    as_csv: bool,
    as_json: bool,
    url: str | None,
    data: Path | None,
) -> None:
    """What each user heard, out of the ledger; the server may run or not."""
    from understudy import usage as ledger
    from understudy.client import Client
    from understudy.core.ledger import Use

    if url is not None:
        rows = asyncio.run(Client(url, admin_key=admin_key()).usage(user, start, end))
        uses = [Use(**row) for row in rows]
    else:
        where = where_of(data_dir(data))
        if not exists(where):
            raise Sentence(f"there is no ledger at {where} yet; start a server, or pass --data")
        uses = with_store(where, lambda store: ledger.usage(store, user, start, end))
    if as_json:
        click.echo(json.dumps({"usage": ledger.as_rows(uses)}, indent=2))
    elif as_csv:
        click.echo(ledger.as_csv(uses), nl=False)
    else:
        table = new_table("What users heard", "user", "voice", "sessions", "lead", "understudy")
        for use in uses:
            minutes = (f"{use.lead_s / 60:.2f} min", f"{use.understudy_s / 60:.2f} min")
            table.add_row(plain(use.user), use.voice, str(use.sessions), *minutes)
        show(table)


@cli.command()
@click.argument("user", required=False)
@click.option("--join", "machine", metavar="NAME", help="Rather for a machine that is to join.")
@click.option("--region", metavar="R", help="... and only in this region.")
@click.option(
    "--hours",
    type=click.FloatRange(0.01, 24 * 366),
    help="How long it is good: 1 hour, or 30 days for a machine.",
)
@_data_option
def token(
    user: str | None,
    machine: str | None,
    region: str | None,
    hours: float | None,
    data: Path | None,
) -> None:
    """Make a token for USER, signed with $UNDERSTUDY_SECRET; or, with --join, for a machine."""
    from understudy.clock import SystemClock
    from understudy.tokens import Keys

    if (user is None) == (machine is None):
        raise Sentence("whose token? `understudy token USER`, or `understudy token --join NAME`")
    if region is not None and machine is None:
        raise Sentence("--region goes with --join: users' tokens hold in every region")
    now = SystemClock().wall()
    if user is not None:
        made = Keys.read(os.environ).user_token(user, now + (hours or 1) * 3600)
    else:
        keys = Keys.read(os.environ, data_dir(data))
        made = keys.join_token(machine or "", region, now + (hours or 30 * 24) * 3600)
    click.echo(made)


@cli.command()
@click.argument("name", type=click.Choice(BENCHES))
@click.argument("model", required=False, type=click.Path(path_type=Path, exists=True))
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@click.option("--quick", is_flag=True, help="A shorter run; the figures are rougher.")
@click.option("--minutes", type=click.FloatRange(0.1, 24 * 60), help="Of `storm` and `soak`.")
@click.option(
    "--audio",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of recorded speech; else $UNDERSTUDY_AUDIO, ../shared/audio, or synthesis.",
)
@click.option(
    "--against",
    type=click.Path(path_type=Path, exists=True),
    help="listen: another model beside MODEL.",
)
@click.option(
    "--plot",
    "plot_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.svg",
    help="listen: draw how its times are spread.",
)
def bench(
    name: str,
    model: Path | None,
    as_json: bool,
    quick: bool,
    minutes: float | None,
    audio: Path | None,
    against: Path | None,
    plot_file: Path | None,
) -> None:
    """Print the figures that docs/benchmarks.md records.

    `listen` takes a MODEL, a checkpoint or an exported file; without one both nets are timed
    with random weights.
    """
    import importlib

    from understudy.bench.machine import find_audio, stamp

    if name != "listen" and any((model, against, plot_file)):
        raise Sentence(
            f"{name} takes no MODEL, --against or --plot; `understudy bench listen` does"
        )
    if against is not None and model is None:
        raise Sentence("--against needs a MODEL to set it against")
    if minutes is not None and name not in ("storm", "soak"):
        raise Sentence(f"the length of {name} is fixed; --minutes is for storm and soak")
    module = importlib.import_module(f"understudy.bench.{name}")
    chosen: dict[str, Any] = {"model": model, "against": against} if name == "listen" else {}
    if minutes is not None:
        chosen["minutes"] = minutes
    result = module.run(find_audio(audio), quick=quick, progress=_say, **chosen)
    result = {**stamp(name), **result}
    if plot_file is not None:
        from understudy.bench.histogram import svg

        title = f"Audio to labels, one thread, {result['cpu']}"
        plot_file.write_text(svg(module.plotted(result), title), encoding="utf-8")
    click.echo(json.dumps(result, indent=2) if as_json else module.table(result))


@cli.command()
@click.argument(
    "deed", type=click.Choice(("kill", "freeze", "link", "controller", "region", "store", "storm"))
)
@click.argument("name", required=False)
@url_option
@data_option
@click.option("--worker", metavar="W", help="This one, once; else any that performs.")
@click.option("--every", "every_s", type=click.FloatRange(0.1), help="10 s; of a storm, 5 s.")
@click.option("--minutes", default=1.0, show_default=True, type=click.FloatRange(0.0, 24 * 60))
@click.option(
    "--seconds",
    "store_s",
    default=10.0,
    show_default=True,
    type=click.FloatRange(0.1, 600.0),
    help="How long the store is away.",
)
@click.option("--seed", type=int, help="Of a storm: the same one makes the same choices.")
@click.option("--pid", "server_pid", type=int, help="Of the database's server, if it is not found.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def chaos(
    deed: str,
    name: str | None,
    url: str,
    data: Path | None,
    worker: str | None,
    every_s: float | None,
    minutes: float,
    store_s: float,
    seed: int | None,
    server_pid: int | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Break a fleet on this machine, and tell what users heard.

    kill or freeze workers, or cut their links; kill the leading controller, or the region NAME;
    take the store away for a while; or (storm) any of that, again and again.

    With --data or --store the ledger is read there, else the server is asked.
    """
    from understudy import chaos as deeds
    from understudy import usage as ledger
    from understudy.clock import SystemClock
    from understudy.store import open_store

    deeds.check_url(url)
    if (name is not None) != (deed == "region"):
        raise Sentence("`understudy chaos region NAME` takes a region's name; nothing else does")
    folder = data_dir(data)
    where = where_of(folder)

    async def uses() -> list[dict[str, Any]]:
        store = await open_store(where)
        try:
            return ledger.as_rows(await ledger.usage(store, None, None, None))
        finally:
            await store.close()

    if not yes:
        span = "" if name or worker or deed in ("controller", "store") else f", {minutes:g} min"
        words = f"{deed} {name or worker or ''}".strip()
        click.confirm(
            f"{words.capitalize()} at {url}{span}: under live users?", abort=True, err=True
        )
    own = data is not None or isinstance(where, str)
    if own and not exists(where):
        raise Sentence(f"there is no ledger at {where}")
    result = asyncio.run(
        deeds.run(
            deed,
            url,
            uses if own else None,
            SystemClock(),
            target=name or worker,
            every_s=every_s,
            minutes=minutes,
            seed=seed,
            data=folder,
            where=where,
            server_pid=server_pid,
            store_s=store_s,
            admin_key=admin_key(),
            say=_say,
        )
    )
    click.echo(json.dumps(result, indent=2) if as_json else deeds.table(result))


cli.add_command(simulate)
cli.add_command(train)
cli.add_command(evaluate)
cli.add_command(export)
cli.add_command(quantize)


def main() -> None:
    """The console script. Every refusal is one sentence on standard error, and status 1."""
    try:
        cli(standalone_mode=False)
    except UnderstudyError as error:
        Sentence(error.message).show()
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)

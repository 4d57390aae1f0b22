"""status, deploy, rollback, drain, usage, token, chaos: for who runs a fleet."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from understudy.commands.console import (
    Sentence,
    admin_key,
    data_option,
    exists,
    new_table,
    only_data_option,
    plain,
    say,
    show,
    url_option,
    where_of,
    with_store,
)
from understudy.config import Config, ConfigFile, data_dir

if TYPE_CHECKING:
    from understudy.seams import Store

T = TypeVar("T")


@click.command()
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


@click.command()
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


@click.command()
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


@click.command()
@click.argument("worker")
@click.option("--undo", is_flag=True, help="Let it take sessions again.")
@data_option
def drain(worker: str, undo: bool, data: Path | None) -> None:
    """Empty WORKER without dropping anyone, then give its node back."""
    if not change_store(data, lambda store, _, __: store.drain(worker, not undo)):
        raise Sentence(f"no worker {worker} is up; `understudy status` lists them")
    click.echo(f"{worker} {'takes sessions again' if undo else 'takes nobody new and is emptied'}.")


@click.command()
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


@click.command()
@click.argument("user", required=False)
@click.option("--join", "machine", metavar="NAME", help="Rather for a machine that is to join.")
@click.option("--region", metavar="R", help="... and only in this region.")
@click.option(
    "--hours",
    type=click.FloatRange(0.01, 24 * 366),
    help="How long it is good: 1 hour, or 30 days for a machine.",
)
@only_data_option
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


@click.command()
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
            say=say,
        )
    )
    click.echo(json.dumps(result, indent=2) if as_json else deeds.table(result))

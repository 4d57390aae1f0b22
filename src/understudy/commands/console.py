"""What the subcommands share: options, tables, sentences, a store."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from understudy.config import DEFAULT_PORT, Config, ConfigFile, data_dir

if TYPE_CHECKING:
    from rich.table import Table

    from understudy.seams import Store

T = TypeVar("T")
DEFAULT_URL = os.environ.get("UNDERSTUDY_URL", f"http://127.0.0.1:{DEFAULT_PORT}")
MIN_PYTHON = (3, 11)
STORE = "understudy.store"


class Sentence(click.ClickException):
    """An error shown as a sentence, not as a traceback."""

    def show(self, file: Any = None) -> None:
        click.secho(f"understudy: {self.message}", fg="red", err=True)


only_data_option = click.option(
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
    return only_data_option(_store_option(command))


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


def say(words: str) -> None:
    click.echo(words, err=True)

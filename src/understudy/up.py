"""What a process serves: an edge, a controller, or (`understudy up`) both, on one port."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import json
import logging
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from socket import gethostname, socket
from typing import IO, TYPE_CHECKING, Any, Final

from understudy.catalog import Catalog
from understudy.clock import SystemClock
from understudy.config import DEFAULT_PORT, ConfigFile, ModelSpec
from understudy.controller.loop import Controller
from understudy.core.errors import ConfigError, ModelFailed, StoreAway
from understudy.core.fleet import EdgeRow, link_url
from understudy.core.wire import Card
from understudy.edge.api import build_app
from understudy.edge.door import Door, is_loopback
from understudy.edge.edge import Edge
from understudy.edge.gate import Gate, listen
from understudy.edge.joining import Machines
from understudy.edge.overview import Overview
from understudy.providers import new_provider
from understudy.providers.join import JoinProvider
from understudy.providers.local import LocalProvider
from understudy.resample import SoxrResampler
from understudy.seams import Store
from understudy.store import open_store
from understudy.tokens import ADMIN_KEY, SECRET, Keys
from understudy.worker.check import check

if TYPE_CHECKING:
    from understudy.providers import AnyProvider

log = logging.getLogger(__name__)

SWITCH_S: Final = 0.0005
TRY_S: Final = 30.0  # before a model that did not load is tried again
CATALOG_S: Final = 0.5  # how often deployments are looked for
WORKER_TOKEN_S: Final = 90 * 86_400.0  # longer than a worker may be up
EVERYWHERE: Final = ("0.0.0.0", "::")  # no address to dial, but loopback is one of them
READY_S: Final = 30.0  # how long the first workers may take before the address is printed anyway


@dataclass(frozen=True, slots=True)
class Serving:
    """What a process is of a fleet: by default all of it. `url`: where users and workers reach
    its edge, if not as it listens; `via`: where workers of other regions do; `shared`: its data
    folder is other processes' too."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    region: str = "local"
    url: str = ""
    via: Mapping[str, str] = field(default_factory=dict)
    edge: bool = True
    controller: bool = True
    provider: str = ""  # as understudy.toml says
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Ready:
    """What is said once it serves. `url`: of the edge, if it has one."""

    url: str
    config: Path
    warm: bool  # every configured model has a worker


async def up(
    serving: Serving,
    data: Path,
    keys: Keys,
    announce: Callable[[Ready], None],
    *,
    where: str | Path | None = None,
) -> None:
    """Serves until SIGINT or SIGTERM, then ends every child. Raises ConfigError.

    `where`: the store if it is not the data folder's (see open_store).
    """
    config_file = ConfigFile.of_data(data)
    lock = None if serving.shared else lock_data(data)
    clock = SystemClock()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    edge_part: _Edge | None = None
    if serving.edge:  # binds its port before anything else may fail
        check_listen(serving.host, config_file.current().access.hosts, keys)
        sock = listen(serving.host, serving.port)
    store = await open_store(where or data / "understudy.db")
    catalog = Catalog(config_file, store)
    await catalog.refresh()
    parts: list[_Edge | _Control] = []
    if serving.edge:
        edge_part = _Edge(serving, sock, store, catalog, config_file, keys, clock)
        parts.append(edge_part)
        await edge_part.edge.open()
    if serving.controller:
        parts.append(_Control(serving, store, catalog, keys, clock, edge_part))
    roles = [
        loop.create_task(role, name=name) for part in parts for name, role in part.roles().items()
    ]
    stopping = loop.create_task(stop.wait())
    try:
        warm = edge_part is None or await edge_part.warm(stop)
        # What start-up made stays: a collection that walked it all would hold audio up.
        gc.collect()
        gc.freeze()
        # And the store's thread may not keep the interpreter from the audio's for long.
        sys.setswitchinterval(SWITCH_S)
        if not stop.is_set():
            announce(Ready(edge_part.shown if edge_part else "", config_file.path, warm))
        await asyncio.wait([stopping, *roles], return_when=asyncio.FIRST_COMPLETED)
        for role in roles:
            if role.done():
                role.result()  # a role ends only by a bug: let it be seen
    finally:
        stopping.cancel()
        for role in roles:  # the controller first: it would replace what is being stopped
            if role.get_name() == "controller":
                role.cancel()
        for part in parts:
            await part.close()
        if edge_part is not None:
            await edge_part.edge.settle()
        for role in roles:
            role.cancel()
        await asyncio.gather(*roles, return_exceptions=True)
        await store.close()
        if lock is not None:
            lock.close()


class _Edge:
    """An edge with its door, its gate and its API."""

    def __init__(
        self,
        serving: Serving,
        sock: socket,
        store: Store,
        catalog: Catalog,
        file: ConfigFile,
        keys: Keys,
        clock: SystemClock,
    ) -> None:
        host, access = serving.host, file.current().access
        shown = f"[{host}]" if ":" in host else host
        port = sock.getsockname()[1]
        near = "127.0.0.1" if host in EVERYWHERE else shown
        self.shown = f"http://{shown}:{port}"
        self.near = f"http://{near}:{port}"  # for this machine's own workers
        self._catalog = catalog
        self._clock = clock
        row = EdgeRow(
            f"{serving.region}-{gethostname()}-{port}",
            serving.region,
            serving.url or self.near,
            serving.via,
        )
        self.door = Door(
            host,
            clock,
            limits=lambda: file.current().limits,
            check_user=keys.check_user,
            is_admin=keys.is_admin,
            private=keys.private,
            hosts=access.hosts,
            origins=access.origins,
        )
        self.edge = Edge(
            store,
            catalog.current,
            lambda node, token: keys.check_worker(token, node),
            self.door.admit,
            SoxrResampler,
            clock,
            row=row,
        )
        self.door.hosts.edges = lambda: {row.url for row in self.edge.seating.fleet.edges}
        overview = Overview(self.edge, clock, lambda: catalog.deployments)
        machines = Machines(
            store,
            keys.check_join,
            lambda model, revision: json.dumps(catalog.spec(model, revision)),
            lambda node: keys.worker_token(node, clock.wall() + WORKER_TOKEN_S),
            self.edge.roster.link_urls,
            serving.region,
            clock,
        )
        app = build_app(self.edge, overview, self.door)
        self.gate = Gate(sock, self.edge, app, self.door, clock, machines)
        self._read_cards = self.edge.refresh
        self.edge.refresh = self._refresh
        self.deployed: Callable[[], None] = lambda: None  # the controller wants to know
        catalog.cards = self.edge.roster.cards

    def roles(self) -> dict[str, Coroutine[Any, Any, None]]:
        return {
            "gate": self.gate.run(),
            "edge": self.edge.run(),
            "seating": self.edge.seating.run(),
            "ledger": self.edge.run_ledger(),
            "beat": self.edge.run_beat(),
            "distances": self.edge.run_distances(),
            "catalog": self._follow(),
        }

    async def close(self) -> None:
        await self.edge.close()
        try:
            await self.edge.write_ledger()
        except StoreAway:
            behind = self.edge.unwritten
            log.error("the store is away: %d intervals of the ledger are lost", behind)

    async def _refresh(self) -> None:
        changed = await self._catalog.refresh()
        if changed:
            for deployment in self._catalog.deployments:
                if deployment.failed:
                    failed = (deployment.model, deployment.revision, deployment.failed)
                    self.edge.roster.learn_failure(*failed)
        await self._read_cards()
        if changed:
            self.deployed()

    async def _follow(self) -> None:
        """Keeps up with what is deployed, and learns the cards of what was never loaded."""
        edge, clock = self.edge, self._clock
        tried: dict[tuple[str, str], float] = {}
        trials: set[asyncio.Task[None]] = set()
        while True:
            try:
                await edge.refresh()
                for spec in list(self._catalog.current().models.values()):
                    key = (spec.name, spec.revision)
                    late = clock.now() - tried.get(key, -TRY_S) >= TRY_S
                    if (
                        spec.workers is None
                        and key not in edge.roster.cards
                        and late
                        and not trials
                    ):
                        tried[key] = clock.now()
                        trial = asyncio.get_running_loop().create_task(_try(spec, edge))
                        trials.add(trial)
                        trial.add_done_callback(trials.discard)
            except StoreAway as away:
                log.warning("%s", away.message)
            except Exception:
                log.exception("the deployments could not be read; trying again")
            await clock.sleep(CATALOG_S)

    async def warm(self, stop: asyncio.Event) -> bool:
        """Waits until each model that is always on has a ready worker, or for READY_S."""
        edge, until = self.edge, self._clock.now() + READY_S
        while self._clock.now() < until and not stop.is_set():
            models = self._catalog.current().models.values()
            wanted = [spec.name for spec in models if spec.workers]
            if all(edge.roster.ready(model) or edge.roster.failed(model) for model in wanted):
                return not any(edge.roster.failed(model) for model in wanted)
            await self._clock.sleep(0.02)
        return False


class _Control:
    """A controller with its provider."""

    def __init__(
        self,
        serving: Serving,
        store: Store,
        catalog: Catalog,
        keys: Keys,
        clock: SystemClock,
        edge: _Edge | None,
    ) -> None:
        def spec_json(model: str, revision: str) -> str:
            return json.dumps(catalog.spec(model, revision))

        def sign(node: str) -> str:
            return keys.worker_token(node, clock.wall() + WORKER_TOKEN_S)

        self._catalog = catalog
        self._store = store
        self._clock = clock
        self._alone = edge is None  # then nobody else reads what is deployed
        self._leaves = edge is None or serving.shared  # others may be about to take over
        self._cards: dict[tuple[str, str], Card] = {}
        spec = catalog.current().provider
        if serving.provider:
            spec = replace(spec, name=serving.provider)
        self.provider: AnyProvider | JoinProvider
        match spec.name:
            case "local" if edge is not None:
                self.provider = LocalProvider(spec_json, sign)
            case "local":
                raise ConfigError(
                    "a controller by itself has no machine to run workers on: choose [fleet] "
                    'provider = "join" (or "ray", "skypilot") in understudy.toml'
                )
            case "join":
                self.provider = JoinProvider(store, self._is_light, clock)
            case _:
                self.provider = new_provider(spec, spec_json, sign, clock)
        if edge is not None and not isinstance(self.provider, JoinProvider):
            self.provider.urls[edge.edge.region] = link_url(edge.near)
        self.controller = Controller(
            store, self.provider, catalog.wanted, lambda: catalog.current().rules, clock
        )
        if edge is not None:
            edge.deployed = self.controller.nudge
            edge.edge.seating.changed = self.controller.nudge
            self.controller.acted = edge.edge.seating.nudge
        else:
            catalog.cards = self._cards

    def _is_light(self, model: str) -> bool:
        spec = self._catalog.current().models.get(model)
        return spec is not None and spec.workers is not None

    def roles(self) -> dict[str, Coroutine[Any, Any, None]]:
        roles = {"controller": self.controller.run()}
        return {**roles, "catalog": self._follow()} if self._alone else roles

    async def _follow(self) -> None:
        while True:
            try:
                await self._catalog.refresh()
                self._cards.update(await self._store.cards())
            except StoreAway as away:
                log.warning("%s", away.message)
            await self._clock.sleep(CATALOG_S)

    async def close(self) -> None:
        if self._leaves:
            await self.provider.leave()
        else:
            await self.provider.close()


def lock_data(data: Path) -> IO[str]:
    """Holds a data folder for this process, until it ends. Raises ConfigError if it is taken.

    Two servers on one database would each end the other's sessions as left over from a crash.
    """
    data.mkdir(parents=True, exist_ok=True)
    lock = (data / "lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise ConfigError(
            f"another server uses {data}; stop it, or give this one a folder with --data"
        ) from None
    return lock


async def _try(spec: ModelSpec, edge: Edge) -> None:
    """Loads a model once, so that its latency is known before a GPU has to be rented for that."""
    same = [card for (_, revision), card in edge.roster.cards.items() if revision == spec.revision]
    try:
        card = (
            same[0]
            if same
            else (await check(asdict(spec), Path(spec.path) if spec.path else None)).card
        )
    except Exception as error:
        reason = error.message if isinstance(error, ModelFailed) else repr(error)
        log.error("model %s: %s", spec.name, reason)
        edge.roster.learn_failure(spec.name, spec.revision, reason)
    else:
        edge.roster.learn_card(spec.name, spec.revision, card)


def check_listen(host: str, hosts: Sequence[str], keys: Keys) -> None:
    """Raises ConfigError where a server would be reached from beyond this machine without keys:
    by where it listens, or through a proxy, as one of `hosts`."""
    missing = [name for name, key in ((SECRET, keys.secrets), (ADMIN_KEY, keys.admin)) if not key]
    if missing and (hosts or not is_loopback(host)):
        reached = f"{host} is" if not is_loopback(host) else f"{', '.join(hosts)}: this server is"
        made = " and ".join(f"{name}=$(openssl rand -hex 32)" for name in missing)
        raise ConfigError(
            f"{reached} reachable from other machines, so users and admins must show who they "
            f"are: set {made}, and keep them. Users' tokens are made by your app's backend, or by "
            "`understudy token USER`. Without keys, only --host 127.0.0.1 is served"
        )

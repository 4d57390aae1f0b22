"""`understudy up`: edge and controller in one process, workers as subprocesses, one port."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import json
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from socket import gethostname
from typing import IO, Final

from understudy.catalog import Catalog
from understudy.clock import SystemClock
from understudy.config import ConfigFile, ModelSpec
from understudy.controller.loop import Controller
from understudy.core.errors import ConfigError, ModelFailed, StoreAway
from understudy.core.fleet import EdgeRow
from understudy.edge.api import build_app
from understudy.edge.door import Door, is_loopback
from understudy.edge.edge import Edge, link_url
from understudy.edge.gate import Gate, listen
from understudy.edge.overview import Overview
from understudy.providers.local import LocalProvider
from understudy.resample import SoxrResampler
from understudy.store import open_store
from understudy.tokens import ADMIN_KEY, SECRET, Keys
from understudy.worker.check import check

log = logging.getLogger(__name__)

SWITCH_S: Final = 0.0005
TRY_S: Final = 30.0  # before a model that did not load is tried again
CATALOG_S: Final = 0.5  # how often deployments are looked for
WORKER_TOKEN_S: Final = 90 * 86_400.0  # longer than a worker may be up
READY_S: Final = 30.0  # how long the first workers may take before the address is printed anyway


@dataclass(frozen=True, slots=True)
class Ready:
    """What `up` says once it serves."""

    url: str
    config: Path
    warm: bool  # every configured model has a worker


async def up(
    host: str,
    port: int,
    data: Path,
    keys: Keys,
    announce: Callable[[Ready], None],
    *,
    where: str | Path | None = None,
    region: str = "local",
) -> None:
    """Serves until SIGINT or SIGTERM, then ends every child. Raises ConfigError.

    `where`: the store if it is not the data folder's (see open_store).
    """
    config_file = ConfigFile.of_data(data)
    access = config_file.current().access
    check_listen(host, access.hosts, keys)
    lock = lock_data(data)
    sock = listen(host, port)
    clock = SystemClock()
    store = await open_store(where or data / "understudy.db")

    def spec_json(model: str, revision: str) -> str:
        return json.dumps(catalog.spec(model, revision))

    catalog = Catalog(config_file, store)
    await catalog.refresh()

    def sign(node: str) -> str:
        return keys.worker_token(node, clock.wall() + WORKER_TOKEN_S)

    local = host if is_loopback(host) else "127.0.0.1"
    port = sock.getsockname()[1]
    own = f"http://{f'[{local}]' if ':' in local else local}:{port}"
    row = EdgeRow(f"{region}-{gethostname()}-{port}", region, own)
    provider = LocalProvider(spec_json, sign)
    door = Door(
        host,
        clock,
        limits=lambda: config_file.current().limits,
        check_user=keys.check_user,
        is_admin=keys.is_admin,
        private=keys.private,
        hosts=access.hosts,
        origins=access.origins,
    )
    edge = Edge(
        store,
        catalog.current,
        lambda node, token: keys.check_worker(token, node),
        door.admit,
        SoxrResampler,
        clock,
        row=row,
    )
    overview = Overview(edge, clock, lambda: catalog.deployments)
    gate = Gate(sock, edge, build_app(edge, overview, door), door, clock)
    shown = f"[{host}]" if ":" in host else host
    provider.urls[edge.region] = link_url(own)
    controller = Controller(store, provider, catalog.wanted, lambda: catalog.current().rules, clock)
    catalog.cards = edge.cards
    read_cards = edge.refresh

    async def refresh() -> None:
        if await catalog.refresh():
            for deployment in catalog.deployments:
                if deployment.failed:
                    edge.learn_failure(deployment.model, deployment.revision, deployment.failed)
            await read_cards()
            controller.nudge()

    edge.refresh = refresh
    edge.seating.changed = controller.nudge
    controller.acted = edge.seating.nudge
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await edge.open()
    roles = [
        loop.create_task(role, name=name)
        for name, role in (
            ("gate", gate.run()),
            ("edge", edge.run()),
            ("seating", edge.seating.run()),
            ("ledger", edge.run_ledger()),
            ("beat", edge.run_beat()),
            ("catalog", _follow(catalog, edge, clock)),
            ("controller", controller.run()),
        )
    ]
    stopping = loop.create_task(stop.wait())
    try:
        warm = await _warm(edge, catalog, stop, clock)
        # What start-up made stays: a collection that walked it all would hold audio up.
        gc.collect()
        gc.freeze()
        # And the store's thread may not keep the interpreter from the audio's for long.
        sys.setswitchinterval(SWITCH_S)
        if not stop.is_set():
            announce(Ready(f"http://{shown}:{gate.port}", config_file.path, warm))
        await asyncio.wait([stopping, *roles], return_when=asyncio.FIRST_COMPLETED)
        for role in roles:
            if role.done():
                role.result()  # a role ends only by a bug: let it be seen
    finally:
        stopping.cancel()
        roles[-1].cancel()  # the controller first: it would replace what is being stopped
        await asyncio.gather(roles[-1], return_exceptions=True)
        await edge.close()
        try:
            await edge.write_ledger()
        except StoreAway:
            log.error("the store is away: %d intervals of the ledger are lost", edge.unwritten)
        await provider.close()
        await edge.settle()
        for role in roles:
            role.cancel()
        await asyncio.gather(*roles, return_exceptions=True)
        await store.close()
        lock.close()


def lock_data(data: Path) -> IO[str]:
    """Holds a data folder for this process, until it ends. Raises ConfigError if it is taken.

    Two servers on one database would each end the other's sessions as left over from a crash.
    """
    lock = (data / "lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise ConfigError(
            f"another server uses {data}; stop it, or give this one a folder with --data"
        ) from None
    return lock


async def _follow(catalog: Catalog, edge: Edge, clock: SystemClock) -> None:
    """Keeps up with what is deployed, and learns the cards of what was never loaded."""
    tried: dict[tuple[str, str], float] = {}
    trials: set[asyncio.Task[None]] = set()
    while True:
        try:
            await edge.refresh()
            for spec in list(catalog.current().models.values()):
                key = (spec.name, spec.revision)
                late = clock.now() - tried.get(key, -TRY_S) >= TRY_S
                if spec.workers is None and key not in edge.cards and late and not trials:
                    tried[key] = clock.now()
                    trial = asyncio.get_running_loop().create_task(_try(spec, edge))
                    trials.add(trial)
                    trial.add_done_callback(trials.discard)
        except Exception:
            log.exception("the deployments could not be read; trying again")
        await clock.sleep(CATALOG_S)


async def _try(spec: ModelSpec, edge: Edge) -> None:
    """Loads a model once, so that its latency is known before a GPU has to be rented for that."""
    same = [card for (_, revision), card in edge.cards.items() if revision == spec.revision]
    try:
        card = (
            same[0]
            if same
            else (await check(asdict(spec), Path(spec.path) if spec.path else None)).card
        )
    except Exception as error:
        reason = error.message if isinstance(error, ModelFailed) else repr(error)
        log.error("model %s: %s", spec.name, reason)
        edge.learn_failure(spec.name, spec.revision, reason)
    else:
        edge.learn_card(spec.name, spec.revision, card)


async def _warm(edge: Edge, catalog: Catalog, stop: asyncio.Event, clock: SystemClock) -> bool:
    """Waits until each model that is always on has a ready worker, or for READY_S."""
    until = clock.now() + READY_S
    while clock.now() < until and not stop.is_set():
        wanted = [spec.name for spec in catalog.current().models.values() if spec.workers]
        if all(edge.ready(model) or edge.failed(model) for model in wanted):
            return not any(edge.failed(model) for model in wanted)
        await clock.sleep(0.02)
    return False


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

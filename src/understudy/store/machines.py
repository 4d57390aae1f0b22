"""What a store keeps of the machines that joined, and of what each is to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any, Final

from understudy.core.fleet import Machine, Node, Order
from understudy.store.transactions import Ask, Transaction

_MACHINE: Final = "name, region, gpus, cpus, price_per_h, beat"
_ORDER: Final = "id, model, revision, region, exited, started_s, machine, light, wanted"


def offer(machine: Machine) -> Transaction[None]:
    """The machine is there, as an edge has heard."""
    yield Ask(
        f"INSERT INTO machines ({_MACHINE}) VALUES (?, ?, ?, ?, ?, 1) ON CONFLICT (name) DO UPDATE"
        " SET region = excluded.region, gpus = excluded.gpus, cpus = excluded.cpus,"
        " price_per_h = excluded.price_per_h, beat = machines.beat + 1",
        astuple(machine)[:-1],
    )


def withdraw(machine: str) -> Transaction[None]:
    """The machine is there no more, and neither is what it ran."""
    yield Ask("DELETE FROM machines WHERE name = ?", (machine,))
    yield Ask(
        "UPDATE orders SET exited = ? WHERE machine = ? AND exited IS NULL",
        ("was on a machine that is no more", machine),
    )


def machines() -> Transaction[list[Machine]]:
    rows = yield Ask(f"SELECT {_MACHINE} FROM machines ORDER BY name")
    return [Machine(*row) for row in rows]


def orders(machine: str | None) -> Transaction[list[Order]]:
    """Of one machine, or of all."""
    which, values = ("", ()) if machine is None else (" WHERE machine = ?", (machine,))
    rows = yield Ask(f"SELECT {_ORDER} FROM orders{which} ORDER BY started_s, id", values)
    return [_order(row) for row in rows]


def order(node: Node, light: bool) -> Transaction[str | None]:
    """Asks a machine of the region to run a node: the emptiest one that has room; None: none has.
    Asked again: the machine that was. Its worker costs what the machine said that a GPU does."""
    known = yield Ask("SELECT machine FROM orders WHERE id = ?", (node.id,))
    if known:
        return str(known[0][0])
    room = "cpus" if light else "gpus"
    found = yield Ask(
        f"SELECT name, price_per_h, {room} - (SELECT count(*) FROM orders"
        " WHERE machine = machines.name AND light = ?) AS free FROM machines WHERE region = ?"
        " ORDER BY free DESC, name",
        (int(light), node.region),
    )
    if not found or found[0][2] < 1:
        return None
    machine, price_per_h, _ = found[0]
    values = (node.id, node.model, node.revision, node.region, None, node.started_s)
    yield Ask(
        f"INSERT INTO orders ({_ORDER}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 1)",
        (*values, machine, int(light)),
    )
    if price_per_h and not light:
        yield Ask("UPDATE workers SET price_per_h = ? WHERE id = ?", (price_per_h, node.id))
    return str(machine)


def cancel(node: str) -> Transaction[bool]:
    """The node is to be stopped; whether there still is something to stop."""
    yield Ask("DELETE FROM orders WHERE id = ? AND exited IS NOT NULL", (node,))
    found = yield Ask("UPDATE orders SET wanted = 0 WHERE id = ? RETURNING id", (node,))
    return bool(found)


def report(machine: str, exited: Mapping[str, str], stopped: Sequence[str]) -> Transaction[None]:
    """What a machine says of its nodes: which exited by themselves, and which it has stopped."""
    for node, why in exited.items():
        yield Ask(
            "UPDATE orders SET exited = ? WHERE id = ? AND machine = ? AND exited IS NULL",
            (why, node, machine),
        )
    for node in stopped:
        yield Ask("DELETE FROM orders WHERE id = ? AND machine = ? AND wanted = 0", (node, machine))


def _order(row: Sequence[Any]) -> Order:
    *node, machine, light, wanted = row
    return Order(Node(*node), machine, bool(light), bool(wanted))

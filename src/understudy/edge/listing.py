"""The voices and the state of things, as `GET /v1/voices` and `GET /v1/status` show them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from understudy.config import Config
from understudy.core import wire
from understudy.core.ledger import Role
from understudy.edge.edge import Edge

DEFAULT_RATE_HZ: Final = 24_000  # recommended for a model that takes any rate


UNSAID: Final = "the server's log says why"  # in place of reasons, which may tell of its insides


def voices(edge: Edge, *, reasons: bool = True) -> list[dict[str, Any]]:
    """`reasons`: with why a revision does not load."""
    return [
        describe(voice.name, edge.config(), edge.roster.card(voice.model))
        | {
            "ready": edge.roster.ready(voice.model),
            "runs": Counter(
                worker.revision
                for worker in edge.seating.fleet.workers
                if worker.model == voice.model
            ),
            "failures": {
                revision: reason if reasons else UNSAID
                for (model, revision), reason in edge.roster.failures.items()
                if model == voice.model
            },
        }
        for voice in edge.config().voices.values()
    ]


def status(edge: Edge, *, names: bool) -> dict[str, Any]:
    """The state of things; `names`: with its sessions and users one by one."""
    state = _status(edge)
    return state if names else state | {"sessions": len(edge.sessions)}


def _status(edge: Edge) -> dict[str, Any]:
    return {
        "edge": edge.name,
        "region": edge.region,
        "workers": [
            {
                "id": worker.id,
                "model": worker.model,
                "revision": worker.revision,
                "region": worker.region,
                "state": "draining" if worker.draining else worker.state,
                "slots": worker.slots,
                "taken": worker.taken,
                "boot_s": worker.ready_s and round(worker.ready_s - worker.started_s, 3),
            }
            for worker in edge.seating.fleet.workers
        ],
        "sessions": [
            {
                "session": session.id,
                "user": session.user,
                "voice": session.voice.name,
                "state": session.state,
                "role": session.performer.role if session.performer else None,
                "worker": session.performer.worker if session.performer else None,
                "lead_s": round(session.heard_s(Role.LEAD), 3),
                "understudy_s": round(session.heard_s(Role.UNDERSTUDY), 3),
                "silent_s": round(session.silent_s, 3),
            }
            for session in edge.sessions.values()
        ],
        "waiting": sum(session.wants_lead for session in edge.sessions.values()),
    }


def describe(name: str, config: Config, card: wire.Card | None) -> dict[str, Any]:
    """A voice as `GET /v1/voices` and `understudy voices` show it."""
    voice = config.voice(name)
    latency_ms = None
    sample_rate = None
    if card is not None:
        sample_rate = card.sample_rate or DEFAULT_RATE_HZ
        latency_ms = round((card.latency + card.frame - 1) / sample_rate * 1e3, 3)
    return {
        "name": voice.name,
        "title": voice.title,
        "model": voice.model,
        "revision": config.models[voice.model].revision,
        "always_on": config.models[voice.model].workers is not None,
        "sample_rate": sample_rate,
        "latency_ms": latency_ms,
        "params": dict(voice.params),
        "controls": {} if card is None else _controls(card.controls),
        "kind": config.models[voice.model].kind if card is None else card.kind,
        "labels": [] if card is None else list(card.labels),
        "understudy": cover.name if (cover := config.understudy_of(voice)) else None,
    }


def _controls(controls: Mapping[str, wire.Control]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "min": control.min,
            "max": control.max,
            "default": control.default,
            "unit": control.unit,
        }
        for name, control in controls.items()
    }

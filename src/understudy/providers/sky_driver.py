"""The process that calls SkyPilot for providers/skypilot.py, in the Python that has it."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from understudy.providers.driver_child import Refused, serve


def _sky() -> Any:
    try:
        import sky
        import sky.exceptions
    except ImportError as error:
        raise Refused(
            "bad_config",
            f"{sys.executable} has no SkyPilot ({error}); make an environment for it, `python -m "
            "venv skyenv && skyenv/bin/pip install 'skypilot[aws]'`, and say where it is: python = "
            '"…/skyenv/bin/python" in [providers.skypilot]',
        ) from error
    return sky


def _task(task: dict[str, Any]) -> Any:
    sky = _sky()
    try:
        return sky.Task.from_yaml_config(task)
    except ValueError as error:
        raise Refused("bad_config", f"SkyPilot refuses the task: {_words(error)}") from error


def validate(task: dict[str, Any]) -> list[str]:
    """The resources that SkyPilot reads in it, in words."""
    return sorted(str(resources) for resources in _task(task).resources)


def launch(cluster: str, task: dict[str, Any], idle_minutes: int) -> None:
    """Returns once the machine is there and its job is submitted."""
    sky, made = _sky(), _task(task)
    try:
        sky.get(
            sky.launch(made, cluster_name=cluster, idle_minutes_to_autostop=idle_minutes, down=True)
        )
    except sky.exceptions.ResourcesUnavailableError as error:
        raise Refused(
            "no_capacity",
            f"no cloud has such a machine for us now ({_words(error)}); it is tried again later. "
            "Is the quota used up? More places in [providers.skypilot.regions] help, too",
        ) from error
    except sky.exceptions.NoCloudAccessError as error:
        raise Refused(
            "bad_config", f"no cloud may be used ({_words(error)}); run `sky check`"
        ) from error


def status(prefix: str) -> list[dict[str, Any]]:
    """Our clusters, as of now: those with spot machines are asked after in their clouds."""
    sky = _sky()
    records = sky.get(sky.status(refresh=sky.StatusRefreshMode.AUTO))
    return [
        {
            "cluster": record["name"],
            "status": record["status"].name,
            "launched_s": record["launched_at"],
        }
        for record in records
        if record["name"].startswith(prefix)
    ]


def down(cluster: str) -> None:
    """Returns once it is gone."""
    sky = _sky()
    with contextlib.suppress(sky.exceptions.ClusterDoesNotExist):
        sky.get(sky.down(cluster))


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


if __name__ == "__main__":
    serve({"validate": validate, "launch": launch, "status": status, "down": down})

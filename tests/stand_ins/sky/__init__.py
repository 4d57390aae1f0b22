"""Stands in for SkyPilot: what of it sky_driver.py calls, with a file for the clouds.

The file ($STAND_IN_CLOUD) is JSON: {"clusters": {name: record}, "refuse": name of an exception}.
"""

import enum
import json
import os
from pathlib import Path

from sky import exceptions


class StatusRefreshMode(enum.Enum):
    NONE = "NONE"
    AUTO = "AUTO"


class ClusterStatus(enum.Enum):
    INIT = "INIT"
    UP = "UP"
    STOPPED = "STOPPED"


class Task:
    def __init__(self, config):
        self.config = config
        self.resources = [str(one) for one in config["resources"]["any_of"]]

    @classmethod
    def from_yaml_config(cls, config):
        if unknown := config.keys() - {"name", "resources", "setup", "run", "envs", "secrets"}:
            raise ValueError(f"unknown keys {unknown}")
        return cls(config)


def _file():
    return Path(os.environ["STAND_IN_CLOUD"])


def _cloud():
    return json.loads(_file().read_text())


def launch(task, cluster_name, idle_minutes_to_autostop, down):
    print("sky prints whatever it likes")
    cloud = _cloud()
    if refuse := cloud.get("refuse"):
        return lambda: (_ for _ in ()).throw(getattr(exceptions, refuse)("Quota L4\n exceeded"))
    cloud["clusters"][cluster_name] = {
        "status": "UP",
        "launched_at": 1700000000,
        "task": task.config,
        "idle_minutes": idle_minutes_to_autostop,
        "down": down,
    }
    _file().write_text(json.dumps(cloud))
    return lambda: (1, None)


def status(refresh):
    assert refresh is StatusRefreshMode.AUTO
    return lambda: [
        {**record, "name": name, "status": ClusterStatus[record["status"]]}
        for name, record in _cloud()["clusters"].items()
    ]


def down(cluster_name):
    def run():
        cloud = _cloud()
        if cloud["clusters"].pop(cluster_name, None) is None:
            raise exceptions.ClusterDoesNotExist(cluster_name)
        _file().write_text(json.dumps(cloud))

    return run


def get(request):
    return request()

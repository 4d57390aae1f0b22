"""What SkyPilot raises that we tell apart."""


class ResourcesUnavailableError(Exception):
    pass


class NoCloudAccessError(RuntimeError):
    pass


class ClusterDoesNotExist(ValueError):
    pass

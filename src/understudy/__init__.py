"""Understudy: real-time voices that never drop the line."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from understudy.client import Client, Stream

__all__ = ["Client", "Stream", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The SDK is imported when it is asked for: core must load without sockets."""
    if name in ("Client", "Stream"):
        from understudy import client

        return getattr(client, name)
    raise AttributeError(name)

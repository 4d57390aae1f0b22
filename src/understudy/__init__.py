"""Understudy: real-time voices that never drop the line."""

from understudy.client import Client, Stream

__all__ = ["Client", "Stream", "__version__"]
__version__ = "0.1.0"

"""What `pip install 'understudy[train]'` brings, and the sentence where it is not there."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from understudy.core.errors import ConfigError

NEEDED: Final = ("torch", "safetensors", "onnx", "onnxruntime")


def check_extra(*modules: str) -> None:
    """Raises ConfigError where one of `modules` (all that training needs) is not installed."""
    missing = [name for name in modules or NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"this needs {', '.join(missing)}, which come with the training extra: "
            "pip install 'understudy[train]'"
        )

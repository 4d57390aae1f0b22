"""From a model's spec to the model."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from understudy.core.errors import ConfigError
from understudy.seams import Model


def build_model(engine: str, slots: int, options: Mapping[str, Any]) -> Model:
    """Makes a model of "module:Class". Raises ConfigError, saying what is wrong."""
    module_name, _, class_name = engine.partition(":")
    try:
        model_class: Callable[..., Model] = getattr(
            importlib.import_module(module_name), class_name
        )
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"engine {engine!r} cannot be imported: {error}") from error
    try:
        return model_class(slots=slots, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"engine {engine!r} refuses its options: {error}") from error

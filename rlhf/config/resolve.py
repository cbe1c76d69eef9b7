"""Replaces the path schemes of a config (`run://`, `demo://`) by directories."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf.config.schema import Config


def resolve_paths(config: Config, roots: Mapping[str, Path]) -> Config:
    """The config with every string that starts with a scheme rewritten under that scheme's root."""
    return Config.model_validate(_resolved(config.model_dump(), roots))


def _resolved(value: Any, roots: Mapping[str, Path]) -> Any:
    if isinstance(value, dict):
        return {key: _resolved(item, roots) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_resolved(item, roots) for item in value]
    if isinstance(value, str):
        for scheme, root in roots.items():
            if value.startswith(scheme):
                return str(root / value.removeprefix(scheme))
    return value

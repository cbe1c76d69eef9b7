"""Where else the numbers of a run go: TensorBoard, W&B, MLflow, trackio, through accelerate."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

PROJECT = "baichuan-rlhf"

logger = logging.getLogger(__name__)


class _Tracker(Protocol):
    def start(self) -> None: ...
    def log(self, values: dict[str, float], step: int) -> None: ...
    def finish(self) -> None: ...


class Trackers:
    """Those that runtime.trackers names, each under the stage's directory as its run's name.

    One that fails, for want of a network say, is left out from then on with a warning: it never
    ends the run that it watches.
    """

    def __init__(self, names: Sequence[str], directory: Path) -> None:
        """Raises ValueError when one is not installed."""
        for name in names:
            if find_spec(name) is None:
                raise ValueError(f"runtime.trackers: {name} is not installed; pip install {name}")
        self._names = tuple(names)
        self._directory = directory
        self._trackers: dict[str, _Tracker] = {}

    def start(self, step: int) -> None:
        """step: the first one; what TensorBoard has from there on is of an earlier try."""
        PartialState()  # accelerate's trackers log, and its loggers want it
        for name in self._names:
            self._trackers[name] = _tracker(name, self._directory, step)
        self._each(lambda tracker: tracker.start())

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._each(lambda tracker: tracker.log(dict(values), step=step))

    def finish(self) -> None:
        self._each(lambda tracker: tracker.finish())
        self._trackers = {}

    def _each(self, act: Callable[[_Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                act(tracker)
            except Exception as error:  # each has its own, down to those of its network
                del self._trackers[name]
                reason = " ".join(str(error).split())
                logger.warning(
                    "%s is left out from here on (%s); metrics.jsonl goes on", name, reason
                )


def _tracker(name: str, directory: Path, step: int) -> _Tracker:
    where = directory.as_posix()
    arguments: dict[str, Callable[[], dict[str, Any]]] = {
        "tensorboard": lambda: {
            "run_name": "tensorboard",
            "logging_dir": where,
            "purge_step": step,
        },
        "wandb": lambda: {"run_name": PROJECT, "name": where, "dir": where, **_wandb_mode()},
        "mlflow": lambda: {"experiment_name": PROJECT, "run_name": where},
        "trackio": lambda: {"run_name": PROJECT, "name": where},
    }
    tracker: _Tracker = LOGGER_TYPE_TO_CLASS[name](**arguments[name]())
    return tracker


def _wandb_mode() -> dict[str, str]:
    """Without an account W&B would ask for one: its files are kept to be sent by `wandb sync`."""
    return {} if import_module("wandb").api.api_key else {"mode": "offline"}

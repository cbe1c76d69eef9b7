"""The plan of a run: every stage's memory and time before anything is started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhf.config.schema import Config
from rlhf.models.context import check_answers
from rlhf.models.spec import ModelSpec
from rlhf.planning.options import Option, smaller
from rlhf.planning.setting import Setting
from rlhf.planning.stages import StagePlan, stage_plans


@dataclass(frozen=True)
class Plan:
    """gpu_memory: GiB of each of `gpus`. options: for the stages that do not fit."""

    name: str
    gpus: int
    gpu_memory: float
    stages: tuple[StagePlan, ...]
    options: tuple[Option, ...] = ()

    @property
    def fits(self) -> bool:
        return all(stage.fits for stage in self.stages)

    @property
    def hours(self) -> float | None:
        """Of all stages; None where one is not known."""
        known = [stage.duration.hours for stage in self.stages]
        return None if None in known else sum(hours or 0.0 for hours in known)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: GiB and seconds."""
        return {
            "name": self.name,
            "gpus": self.gpus,
            "gpu_memory_gib": self.gpu_memory,
            "fits": self.fits,
            "hours": self.hours,
            "stages": [stage.as_dict() for stage in self.stages],
            "options": [vars(option) for option in self.options],
        }


def plan(
    config: Config,
    *,
    gpus: int = 1,
    gpu_memory: float = 80.0,
    specs: Mapping[str, ModelSpec] | None = None,
) -> Plan:
    """Memory of each phase on each GPU and time of each stage; no weights are needed.

    Args:
        config: as loaded. Checkpoints that lie on disk are asked for their sizes, others go by
            their `architecture`.
        gpus: processes, one a GPU. gpu_memory: GiB of each.
        specs: sizes of checkpoints by path, for those that are made by the run itself.

    Raises:
        ValueError: an unknown architecture, a batch size that the GPUs do not divide, answers that
            leave no room for a prompt, a DeepSpeed file that is not there.
    """
    setting = Setting(config, gpus, gpu_memory, specs or {})
    check_answers(config, setting.stages, setting.any_spec)
    stages = tuple(stage for name in setting.stages for stage in stage_plans(setting, name))
    failing = [stage for stage in stages if not stage.fits]
    found = [option for stage in failing for option in smaller(setting, stage.name)]
    return Plan(config.name, gpus, gpu_memory, stages, tuple(found))

"""Every stage's plan: its phases and how long it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.planning import phases, schedule
from rlhf.planning.engines import Engine
from rlhf.planning.judging import judging
from rlhf.planning.memory import KINDS, Phase
from rlhf.planning.ppo_phases import ppo_phases, ppo_slots, spreads
from rlhf.planning.schedule import Duration
from rlhf.planning.setting import GIB, Setting

EXTRA_SFT = "evaluate/sft_extra"


@dataclass(frozen=True)
class StagePlan:
    """name: as in the run's manifest, such as sft/main. fits: within the memory of a GPU."""

    name: str
    engine: str
    phases: tuple[Phase, ...]
    duration: Duration
    fits: bool

    @property
    def height(self) -> Phase:
        """The phase that needs most."""
        return max(self.phases, key=lambda phase: phase.peak)

    @property
    def peak_gib(self) -> float:
        """Of the height, as PyTorch's allocator would report it."""
        return self.height.peak / GIB

    def as_dict(self) -> dict[str, Any]:
        """For JSON: GiB and seconds."""
        return {
            "name": self.name,
            "engine": self.engine,
            "peak_gib": round(self.peak_gib, 2),
            "fits": self.fits,
            "phases": [
                {
                    "name": phase.name,
                    "peak_gib": round(phase.peak / GIB, 2),
                    "host_gib": round(phase.host / GIB, 2),
                    "gib": {kind: round(phase.of(kind) / GIB, 3) for kind in KINDS},
                    "roles": _roles(phase),
                }
                for phase in self.phases
            ],
            "seconds": round(self.duration.seconds, 3),
            "unit": self.duration.unit,
            "count": self.duration.count,
            "hours": self.duration.hours,
        }


def stage_plans(setting: Setting, stage: str) -> list[StagePlan]:
    """Of one stage; SFT has one for each model, evaluating one for the SFT that may come before it,
    a stage that computes nothing has none."""
    return _PLANNERS[stage](setting)


def _sft(setting: Setting) -> list[StagePlan]:
    models = setting.config.models.items()
    specs = {name: setting.spec(entry.path, entry.architecture) for name, entry in models}
    return [
        _stage(
            setting,
            f"sft/{name}",
            phases.sft_phases(setting, spec),
            schedule.sft_duration(setting, spec),
        )
        for name, spec in specs.items()
    ]


def _collect(setting: Setting) -> list[StagePlan]:
    rounds = range(1, setting.config.rounds + 1)
    return _sampling(setting, "collect", [phases.collecting(setting, each) for each in rounds])


def _dpo(setting: Setting) -> list[StagePlan]:
    return [_stage(setting, "dpo", phases.dpo_phases(setting), schedule.dpo_duration(setting))]


def _rm(setting: Setting) -> list[StagePlan]:
    duration = schedule.rm_duration(setting, phases.rm_sizes(setting))
    return [_stage(setting, "rm", phases.rm_phases(setting), duration)]


def _ppo(setting: Setting) -> list[StagePlan]:
    duration = schedule.ppo_duration(setting, ppo_slots(setting))
    engine = setting.engine if spreads(setting) else Engine(setting.gpus)
    return [_stage(setting, "ppo", ppo_phases(setting), duration, engine.name)]


def _evaluate(setting: Setting) -> list[StagePlan]:
    judged = _sampling(setting, "evaluate", [phases.answering(setting)], judging(setting))
    if not setting.config.evaluate.extra_sft:
        return judged
    trained = phases.sft_phases(setting, setting.main)
    return [_stage(setting, EXTRA_SFT, trained, schedule.extra_sft_duration(setting)), *judged]


def _sampling(
    setting: Setting,
    name: str,
    passes: list[list[phases.Answering]],
    then: Sequence[Phase] = (),
) -> list[StagePlan]:
    """passes: the models of each; the first has the most for a model to answer. then: what follows
    the sampling, in the same time."""
    if not passes[0]:
        return []
    models = [model for each in passes for model in each]
    seconds = sum(
        schedule.sampling_seconds(setting, model.spec, model.rollout, model.slots(setting))
        for model in models
    )
    first_of = {model.name: model for model in reversed(models)}
    one_each = [first_of[name].phase(setting) for name in dict.fromkeys(m.name for m in models)]
    duration = Duration("pass", seconds / len(passes), len(passes))
    return [_stage(setting, name, [*one_each, *then], duration, "a copy a GPU")]


def _stage(
    setting: Setting,
    name: str,
    found: list[Phase],
    duration: Duration,
    engine: str | None = None,
) -> StagePlan:
    peak = max(phase.peak for phase in found)
    fits = peak <= setting.usable
    return StagePlan(name, engine or setting.engine.name, tuple(found), duration, fits)


_PLANNERS: dict[str, Callable[[Setting], list[StagePlan]]] = {
    "sft": _sft,
    "collect": _collect,
    "dpo": _dpo,
    "rm": _rm,
    "ppo": _ppo,
    "evaluate": _evaluate,
}


def _roles(phase: Phase) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for part in phase.parts:
        kinds = found.setdefault(part.role, {})
        kinds[part.kind] = round(kinds.get(part.kind, 0.0) + part.size / GIB, 3)
    return found

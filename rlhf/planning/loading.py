"""Memory while models are loaded, before anything learns."""

from __future__ import annotations

from rlhf.config.schema import TuningSection
from rlhf.models.adapter import Task
from rlhf.models.spec import ModelSpec
from rlhf.planning.engines import Engine
from rlhf.planning.memory import Part, Phase
from rlhf.planning.models import weights
from rlhf.planning.setting import Setting

NAME = "loading"
AT_ONCE = "being read"
"""What is whole for a moment, and then spread, packed or copied."""


def loading(setting: Setting, spec: ModelSpec, task: Task, tuning: TuningSection) -> Phase:
    """A supervised stage's model, straight from the mapped file: the host's memory has none of it.

    ZeRO-3 keeps its part of each layer, ZeRO-2 copies what learns into one piece.
    """
    engine, width, packed = setting.engine, setting.dtype.itemsize, tuning.method == "qlora"
    counts = weights(spec, task, tuning)
    whole = weights(spec, task, None).frozen_bytes(width, packed)
    if engine.stage == 3:
        largest = max(counts.blocks // spec.layers, counts.embedding)
        return _phase({"model": -(-whole // engine.gpus)}, largest * width)
    flat = counts.learning * width if engine.stage == 2 else 0
    largest = spec.hidden_size * spec.intermediate_size if packed else 0
    return _phase({"model": whole}, max(flat, largest * width))


def loading_roles(setting: Setting, engine: Engine) -> Phase:
    """PPO's models one after another. engine: which spreads them, or leaves each of them whole."""
    section, spec, width = setting.config.ppo, setting.main, setting.dtype.itemsize
    packed = section.tuning.method == "qlora"
    if section.roles == "shared":
        trunk = weights(spec, "causal", None).frozen_bytes(width, packed)
        largest = spec.hidden_size * spec.intermediate_size if packed else 0
        return _phase({"trunk": trunk}, largest * width)
    roles: dict[str, Task] = {
        "reference": "causal",
        "reward model": "reward",
        "actor": "causal",
        "critic": "reward",
    }
    held: dict[str, int] = {}
    phases = []
    for role, task in roles.items():
        counts = weights(spec, task, None)
        spread = engine.stage == 3 or (engine.stage == 2 and role in ("actor", "critic"))
        size = counts.frozen_bytes(width, packed)
        outside = counts.embedding + counts.rest  # of the layers: together, at last
        largest = max(counts.blocks // spec.layers, outside) if spread else 0
        held[role] = -(-size // engine.gpus) if spread else size
        phases.append(_phase(held, largest * width))
    return max(phases, key=lambda phase: phase.peak)


def _phase(held: dict[str, int], moment: int) -> Phase:
    parts = [Part(role, "weights", size) for role, size in held.items()]
    return Phase(NAME, (*parts, *[Part(AT_ONCE, "weights", moment)] * bool(moment)))

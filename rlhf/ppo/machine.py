"""What PPO cannot do on a machine, said before anything is trained for it."""

from __future__ import annotations

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from rlhf.config.schema import Config
from rlhf.models.registry import config_of, named
from rlhf.runtime.devices import choose_device, choose_dtype


def check_machine(config: Config) -> None:
    """Whether PPO can compute in this type here, and compile this model.

    Raises:
        ValueError: float16, whose gradients are lost where the loss is not scaled; or `compile` of
            a model that was never tried.
    """
    device = choose_device(config.runtime)
    if choose_dtype(config.runtime, device) == torch.float16:
        raise ValueError(
            "runtime.precision: float16 (or auto, on a GPU without bfloat16) loses small gradients "
            "in ppo, which does not scale its loss; set it to bfloat16 or float32"
        )
    if not config.ppo.compile:
        return
    architecture = config.main.architecture
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config_of(named(architecture)))]
    if not hasattr(model, "slot_decoder"):
        raise ValueError(
            f"ppo.compile is for Baichuan, and {architecture} is none; set it to false"
        )

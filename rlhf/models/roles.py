"""Builds the four roles of PPO from an SFT model and a reward model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from rlhf.config.schema import TuningSection
from rlhf.models.checkpoint import check_checkpoint, check_kind
from rlhf.models.load import load_tokenizer
from rlhf.models.registry import read_config, spec_of
from rlhf.models.role_base import Roles
from rlhf.models.role_separate import SeparateRoles
from rlhf.models.role_shared import SharedRoles
from rlhf.models.spread import ZeroStage, check_bits

__all__ = ["Roles", "build_roles"]


def build_roles(
    kind: Literal["shared", "separate"],
    actor_path: str | Path,
    reward_path: str | Path,
    *,
    tuning: TuningSection,
    dtype: torch.dtype,
    device: str | torch.device,
    zero: ZeroStage | None = None,
) -> Roles:
    """The SFT model becomes the actor and the reference, the reward model itself and the critic.

    kind: `shared` puts all four on one frozen trunk, `separate` gives each its own weights.
    tuning: how the actor learns, without its dropout: PPO compares two passes of one policy.
    zero: spread separate weights over the processes (`rlhf.models.spread`). A shared trunk, which
        has no gradient, stays whole on every process.

    Raises ValueError for incomplete checkpoints and those of the other kind, for two that do not
    read the same tokens, for `shared` when the reward model is no adapter of this very trunk, and
    for 4-bit weights that would have to be spread.
    """
    actor, reward = Path(actor_path), Path(reward_path)
    for path in (actor, reward):
        check_checkpoint(path)
    _check_same_tokens(actor, reward)
    check_kind(actor, "language model")
    check_kind(reward, "reward model")
    if kind == "separate" and zero:
        check_bits(tuning)
    made = (spec_of(actor), load_tokenizer(actor), actor, reward)
    how = (tuning.model_copy(update={"dropout": 0.0}), dtype, torch.device(device))
    return SharedRoles(*made, *how) if kind == "shared" else SeparateRoles(*made, *how, zero)


def _check_same_tokens(actor: Path, reward: Path) -> None:
    sizes = [read_config(path).vocab_size for path in (actor, reward)]
    names = spec_of(actor).tokenizer_files
    if sizes[0] != sizes[1] or any(
        not (reward / name).is_file() or (actor / name).read_bytes() != (reward / name).read_bytes()
        for name in names
    ):
        raise ValueError(
            f"{reward}: its vocabulary is not that of {actor}; train the reward model from a model "
            f"with the same {' and '.join(names)}"
        )

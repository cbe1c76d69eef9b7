"""A small SFT model and reward models that were taught what a test needs, as real checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rlhf.config.schema import TuningSection
from rlhf.models.adapter import add_lora
from rlhf.models.export import save_checkpoint, save_reward_model
from rlhf.models.load import load_causal_lm, load_reward_model, load_tokenizer
from rlhf.models.roles import Roles, build_roles
from rlhf.ops.masking import last_index
from tests.checkpoints import write_checkpoint

CPU: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
EOS = 2
WORDS = tuple(range(300, 307))
PROMPTS = [[195, 310], [195, 311], [196, 310], [196, 311]]
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
LORA = TuningSection(method="lora", r=16, alpha=32)
Score = Callable[[Tensor, Tensor], Tensor]
"""input_ids, attention_mask [B, T] -> [B]."""


def sft_model(path: Path, pieces: Callable[[int], bytes], end: float) -> Path:
    """One layer that says any of the WORDS alike, and ends after any with probability `end`."""
    base = path.with_name(f"{path.name}-base")
    write_checkpoint(base, "baichuan2-7b", pieces, num_hidden_layers=1, **SIZES)
    model = load_causal_lm(base, **CPU)
    target = torch.zeros(model.config.vocab_size)
    target[list(WORDS)] = (1 - end) / len(WORDS)
    target[EOS] = end
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(80):
        ids, _ = _answers(32, 12, generator)
        logprobs = model(input_ids=ids).logits[:, 1:].log_softmax(-1)
        optimiser.zero_grad()
        (-(logprobs * target).sum(-1).mean()).backward()
        optimiser.step()
    save_checkpoint(model, load_tokenizer(base), path)
    return path


def reward_model(path: Path, sft: Path, score: Score, longest: int, steps: int = 200) -> Path:
    """An adapter on the SFT model that was taught this score, of answers of any length."""
    torch.manual_seed(0)
    model: Any = add_lora(load_reward_model(sft, **CPU), LORA, "reward")
    generator = torch.Generator().manual_seed(1)
    learning = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(learning, lr=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.02, steps)
    for _ in range(steps):
        ids, mask = _answers(64, longest, generator)
        rows = torch.arange(len(ids))
        found = model.get_base_model().token_scores(ids, mask)[rows, last_index(mask)]
        loss = functional.mse_loss(found, score(ids, mask))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    save_reward_model(model.eval(), load_tokenizer(sft), path, score_mean=0.0, score_std=1.0)
    return path


def roles_of(kind: str, sft: Path, reward: Path) -> Roles:
    """kind: "shared", by adapters on one trunk, or "separate", every weight of its own learning."""
    torch.manual_seed(0)  # adapters start at random
    return build_roles(
        "shared" if kind == "shared" else "separate",
        sft,
        reward,
        tuning=LORA if kind == "shared" else TuningSection(),
        **CPU,
    )


def _answers(rows: int, longest: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Prompts with random answers of 1 to `longest` tokens, padded on the right; half of them with
    EOS at their end. ids, mask [B, T]."""
    prompts = torch.tensor(PROMPTS)[torch.randint(0, 4, (rows,), generator=generator)]
    words = torch.randint(WORDS[0], WORDS[-1] + 1, (rows, longest), generator=generator)
    lengths = torch.randint(1, longest + 1, (rows, 1), generator=generator)
    ends = torch.rand(rows, 1, generator=generator) < 0.5
    columns = torch.arange(longest)
    words = torch.where((columns == lengths - 1) & ends, EOS, words)
    mask = torch.cat([torch.ones(rows, 2, dtype=torch.bool), columns < lengths], dim=1)
    return torch.cat([prompts, words], dim=1), mask

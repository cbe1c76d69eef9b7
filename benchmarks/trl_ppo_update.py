"""One PPO update against TRL's: the same loss and gradients from the same advantages and returns.

TRL 1.12.0 is the last with a PPO trainer. Its own `train()` samples, scores, computes advantages
and updates; at each of its backward passes this script reads the frame, and hands what it finds
there (token ids, old log-probabilities, old values, whitened advantages, returns) to
`rlhf.ppo.update.update`. Nothing of TRL's arithmetic is written down here again. It starts from
advantages because TRL puts the score one place past EOS; for the same reason its critic also learns
the value there, so our critic is compared under TRL's mask.

    pip install --no-deps --target /tmp/trl-1.12 trl==1.12.0
    PYTHONPATH=.:/tmp/trl-1.12 python benchmarks/trl_ppo_update.py [RESULT.json]
"""

from __future__ import annotations

import copy
import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from rlhf.config.schema import OptimiserSection, PPOSection
from rlhf.models.baichuan.configuration import BaichuanConfig
from rlhf.models.baichuan.modeling import BaichuanForCausalLM, BaichuanForSequenceClassification
from rlhf.models.role_base import Learner as Learning
from rlhf.models.role_base import Roles, Scorer, Speaker
from rlhf.ops.masking import positions
from rlhf.ppo.learner import Learner
from rlhf.ppo.types import Experience, Sequences
from rlhf.ppo.update import update
from rlhf.runtime.usage import versions

VERSION, BOUND = "1.12.0", 1e-4
PAD, EOS, VOCABULARY = 0, 2, 48
RESPONSES, LENGTH, EPOCHS, MINIBATCHES = 32, 24, 4, 2
RATE, CLIP, VALUE_CLIP = 3e-4, 0.1, 0.2


class Policy(BaichuanForCausalLM):
    """Never says the padding token, which would pass for padding; ends a response now and then."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        outputs = super().forward(*args, **kwargs)
        bias = torch.zeros(VOCABULARY)
        bias[PAD], bias[EOS] = -50.0, 1.5
        outputs.logits = outputs.logits + bias
        return outputs


@dataclass
class Pair(Roles):
    """An actor and a critic that learn, and nothing else."""

    actor: nn.Module
    critic: Any

    def language_model(self, role: Speaker) -> AbstractContextManager[Any]:
        return nullcontext(self.actor)

    def token_scores(
        self, role: Scorer, input_ids: Tensor, attention_mask: Tensor, states_to_keep: int = 0
    ) -> Tensor:
        places = positions(attention_mask)
        return self.critic.token_scores(input_ids, attention_mask, places, states_to_keep)

    def trainable(self, role: Learning) -> Mapping[str, nn.Parameter]:
        return dict((self.actor if role == "actor" else self.critic).named_parameters())

    def frozen(self) -> Iterable[tuple[str, Tensor]]:
        return ()

    def whole(self, role: Learning) -> Any:
        return self.actor if role == "actor" else self.critic

    def compile(self) -> None:
        """Not needed at this size."""

    def enable_gradient_checkpointing(self) -> None:
        """Not needed at this size."""


class Recorded(Learner):
    """Our learner; `gradient` is that of its last step."""

    def clip_gradient(self) -> float:
        norm = super().clip_gradient()
        self.gradient = [p.grad.clone() for p in self._parameters if p.grad is not None]
        return norm


class Resting:
    """In the place of a learner: forgets what the critic should learn."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self._parameters = parameters

    def collect_gradient(self) -> None:
        """Nothing is added up."""

    def clip_gradient(self) -> float:
        for parameter in self._parameters:
            parameter.grad = None
        return 0.0

    def step(self) -> None:
        """Rests."""


@dataclass
class Step:
    """One of TRL's backward passes. rows: of the rollout batch; gradients: by our parameters."""

    rows: Tensor
    losses: dict[str, float]
    actor: list[Tensor]
    critic: list[Tensor]


@dataclass
class Recording:
    """TRL's update. rollout: what its steps share, copied from its frame at the first of them."""

    rollout: dict[str, Tensor] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)


SHARED = (
    "logprobs",
    "values",
    "advantages",
    "returns",
    "query_responses",
    "padding_mask",
    "padding_mask_p1",
)


def main() -> None:
    if trl.__version__ != VERSION:
        raise SystemExit(f"this needs trl {VERSION}, not {trl.__version__}; see the script's head")
    torch.set_num_threads(1)
    result = Path(sys.argv[1] if len(sys.argv) > 1 else "benchmarks/results/trl_ppo_update.json")
    start = time.perf_counter()
    actor, critic, reward = models()
    ours = Pair(copy.deepcopy(actor), copy.deepcopy(critic))
    recording = trl_update(actor, critic, reward)
    found = our_update(ours, recording)
    weights = zip(
        [*ours.actor.parameters(), *ours.critic.parameters()],
        [*actor.parameters(), *critic.parameters()],
        strict=True,
    )
    ended = recording.rollout["padding_mask"].any(dim=1)
    content = {
        "workload": "trl_ppo_update",
        "hardware": f"{platform.machine()}, 1 thread",
        "versions": {**versions(), "trl": trl.__version__},
        "unit": f"largest absolute difference in float32 over {len(found['losses'])} optimiser "
        f"steps: {EPOCHS} epochs of {MINIBATCHES} minibatches, {RESPONSES} responses",
        **{f"max_{name}_difference": max(values) for name, values in found.items()},
        "max_weight_difference": max(float((a - b).detach().abs().max()) for a, b in weights),
        "largest_gradient": max(
            float(g.abs().max()) for step in recording.steps for g in (*step.actor, *step.critic)
        ),
        "responses_ended": int(ended.sum()),
        "clip_fraction_last": recording.steps[-1].losses["clipped"],
        "bound": BOUND,
        "seconds": round(time.perf_counter() - start, 1),
    }
    result.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(content, indent=2))
    if max(value for values in found.values() for value in values) > BOUND:
        raise SystemExit(f"further apart than {BOUND}")


def models() -> tuple[Policy, Any, Any]:
    torch.manual_seed(0)
    config = BaichuanConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        model_max_length=64,
        norm_head=True,
        position_embedding="rope",
        pad_token_id=PAD,
        eos_token_id=EOS,
        num_labels=1,
    )
    actor = Policy(config)
    critic, reward = (BaichuanForSequenceClassification(config) for _ in range(2))
    for model in (critic, reward):  # a fresh head scores nothing
        nn.init.normal_(model.score.weight, std=0.5)
    return actor, critic, reward


def trl_update(actor: Policy, critic: Any, reward: Any) -> Recording:
    """TRL's own train(), for one rollout batch; trains actor and critic in place."""
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    names = {"<pad>": PAD, "<s>": 1, "</s>": EOS} | {f"w{i}": i for i in range(3, VOCABULARY)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(names, unk_token="<s>")),
        pad_token="<pad>",
        eos_token="</s>",
        padding_side="left",
    )
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, 9, (RESPONSES,), generator=generator).tolist()
    prompts = [torch.randint(3, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]
    parameters = [*actor.parameters(), *critic.parameters()]
    optimiser = torch.optim.AdamW(parameters, RATE, (0.9, 0.95), weight_decay=0.0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = PPOTrainer(
            args=PPOConfig(
                output_dir=folder,
                per_device_train_batch_size=RESPONSES,
                gradient_accumulation_steps=1,
                num_mini_batches=MINIBATCHES,
                num_ppo_epochs=EPOCHS,
                total_episodes=RESPONSES,
                num_sample_generations=0,
                response_length=LENGTH,
                stop_token="eos",
                temperature=1.0,
                cliprange=CLIP,
                cliprange_value=VALUE_CLIP,
                vf_coef=1.0,  # two networks: the sum's gradients are theirs
                gradient_checkpointing=False,
                bf16=False,
                use_cpu=True,
                save_strategy="no",
                report_to="none",
            ),
            processing_class=tokenizer,
            model=actor,
            ref_model=copy.deepcopy(actor),
            reward_model=reward,
            value_model=critic,
            train_dataset=Dataset.from_list([{"input_ids": ids} for ids in prompts]),
            optimizers=(optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, lambda _: 1.0)),
        )
        recording = Recording()
        backward = trainer.accelerator.backward

        def recorded(loss: Tensor) -> None:
            frame = sys._getframe(1).f_locals
            if not recording.steps:
                recording.rollout = {name: frame[name].detach().clone() for name in SHARED}
            backward(loss)
            rows = torch.as_tensor(frame["micro_batch_inds"])
            losses = {"policy": frame["pg_loss"].item(), "value": frame["vf_loss"].item()}
            ratio = frame["ratio"].detach()
            outside = (ratio - 1).abs() > CLIP
            losses["clipped"] = float(outside[~frame["padding_mask"][rows]].float().mean())
            gradients = [
                [p.grad.clone() for p in model.parameters() if p.grad is not None]
                for model in (actor, critic)
            ]
            recording.steps.append(Step(rows, losses, *gradients))

        trainer.accelerator.backward = recorded
        trainer.train()
    return recording


def our_update(roles: Pair, recording: Recording) -> dict[str, list[float]]:
    """The same steps by our update, each from where our own last one led."""
    optimiser = OptimiserSection(
        learning_rate=RATE, schedule="constant", beta1=0.9, beta2=0.95, grad_clip=1e9
    )
    size = RESPONSES // MINIBATCHES
    section = PPOSection(
        rollout_batch=size,
        minibatch=size,
        microbatch=size // 4,
        clip=CLIP,
        value_clip=VALUE_CLIP,
    )
    actor = Recorded(roles.actor_parameters(), optimiser, 1)
    critic = Recorded(roles.critic_parameters(), optimiser, 1)
    found: dict[str, list[float]] = {"losses": [], "actor_gradient": [], "critic_gradient": []}
    for step in recording.steps:
        statistics = {}
        for mask, learning, valuing in (
            ("padding_mask", actor, Resting(roles.critic_parameters())),
            ("padding_mask_p1", None, critic),
        ):
            statistics[mask] = update(
                roles,
                experience(recording.rollout, step.rows, mask),
                section,
                actor=learning,
                critic=valuing,  # type: ignore[arg-type]
                random_order=torch.Generator(),
                dump=Path("refused.safetensors"),
            )
        policy = statistics["padding_mask"]["policy_loss"] - step.losses["policy"]
        value = statistics["padding_mask_p1"]["value_loss"] - step.losses["value"]
        found["losses"].append(max(abs(policy), abs(value)))
        found["actor_gradient"].append(distance(actor.gradient, step.actor))
        found["critic_gradient"].append(distance(critic.gradient, step.critic))
    return found


def experience(rollout: Mapping[str, Tensor], rows: Tensor, padding: str) -> Experience:
    """Rows of TRL's rollout in our terms. padding: the name of the mask of what is left out."""
    part = {name: tensor[rows] for name, tensor in rollout.items()}
    mask = ~part[padding]
    unused = torch.zeros_like(part["advantages"])
    return Experience(
        sequences=Sequences(
            input_ids=part["query_responses"],
            attention_mask=part["query_responses"] != PAD,
            response_mask=mask,
        ),
        old_logprobs=part["logprobs"],
        ref_logprobs=unused,
        entropy=unused,
        old_values=part["values"],
        scores=unused[:, 0],
        kl=unused,
        rewards=unused,
        advantages=part["advantages"],
        returns=part["returns"],
    )


def distance(ours: list[Tensor], theirs: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    main()

"""What `tests.ppo.test_processes` runs in two processes and in one, for the same numbers."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from pytest import MonkeyPatch
from safetensors.torch import load_file
from torch import Tensor

from rlhf.config.schema import PretrainingSection, TuningSection
from rlhf.data.jsonl import write_jsonl
from rlhf.data.records import TextRecord
from rlhf.models.roles import Roles, build_roles
from rlhf.models.spread import ZeroStage, own_part
from rlhf.ppo import NonFinite, pretraining, train
from rlhf.ppo.batching import generator
from rlhf.ppo.controllers import ScoreNormaliser
from rlhf.ppo.experience import make_experience
from rlhf.ppo.learner import Learner
from rlhf.ppo.pretraining import pretraining_mix, read_texts
from rlhf.ppo.rollout import sample
from rlhf.ppo.update import update
from rlhf.runtime.distributed import rank, world_size
from rlhf.runtime.metrics import MetricsLog
from tests.models.test_roles import World
from tests.ppo.conftest import ppo_section
from tests.ppo.fakes import FakeRoles, count_of
from tests.stages.test_ppo import run_stage

Weights = dict[str, dict[str, Tensor]]
PROMPTS = [[3, 4, 5], [6], [7, 8], [9, 10, 11, 12], [13, 14], [5, 5, 5], [3, 3], [4, 7, 4]]
SECTION: dict[str, Any] = {
    "iterations": 8,
    "rollout_batch": 8,
    "responses_per_prompt": 2,
    "minibatch": 8,
    "microbatch_tokens": 20,
    "epochs": 2,
    "critic_warmup": 1,
    "checkpoint_every": 3,
    "keep_checkpoints": 9,
    "ema_decay": 0.9,
    "pretraining": {"data": "texts.jsonl", "rows": 3},
    "kl": {"initial": 0.1, "schedule": "adaptive", "target": 0.5, "horizon": 100},
    "score": {"normalisation": "running"},
}


KINDS = {"shared": "lora", "separate": "full"}
SPREAD: dict[str, Any] = {
    "iterations": 3,
    "epochs": 1,
    "checkpoint_every": 1,
    "microbatch_tokens": None,
    "microbatch": 2,
    "pretraining": {"data": "texts.jsonl", "rows": 2},
}
FAR = {"normalisation": "running", "length_penalty": 1.0}
STAGE: dict[str, Any] = {"rollout_batch": 4, "minibatch": 2, "epochs": 2, "checkpoint_every": 2}


class Interrupt(Exception):
    """Stands for whatever ends a process."""


def run(
    directory: Path, stop_at: int | None = None, roles: Roles | None = None, **changes: Any
) -> Weights:
    """The loop, a judge beside it; the actor's and the critic's weights."""

    def stop(done: int, total: int, shown: dict[str, float]) -> None:
        if done == stop_at:
            raise Interrupt

    def judge(numbers: Sequence[int], completions: Sequence[Any]) -> list[float]:
        return [number - len(c.token_ids) for number, c in zip(numbers, completions, strict=True)]

    roles = roles or FakeRoles(count_of(5))
    with MetricsLog(directory) as metrics:
        train(
            roles,
            PROMPTS,
            ppo_section(**{**SECTION, **changes}),
            score_statistics=(None, None),
            output_dir=directory,
            seed=3,
            metrics=metrics,
            pretraining=PROMPTS,
            judge=judge,
            on_iteration=stop,
        )
    return {"actor": roles.actor_state(), "critic": roles.critic_state()}


def stopped(directory: Path, at: int, run: Callable[..., Any]) -> None:
    """The loop, ended after so many iterations."""
    try:
        run(directory, stop_at=at)
    except Interrupt:
        return
    raise AssertionError("it ran to its end")


def gradients() -> dict[str, Any]:
    """A rollout, its experience, and the gradients of the first step of both learners."""
    roles, section = FakeRoles(count_of(5)), ppo_section(**SECTION, gamma=0.9)
    rollout = sample(roles, [*PROMPTS], section, generator(3, "sampling", 0))
    normaliser = ScoreNormaliser(section.score, (None, None))
    experience = make_experience(roles, rollout, section, kl_coef=0.1, normaliser=normaliser)
    actor = Recorder(roles.actor_parameters(), section.actor_optimiser, 1)
    critic = Recorder(roles.critic_parameters(), section.critic_optimiser, 1)
    statistics = update(
        roles,
        experience,
        section.model_copy(update={"minibatch": section.episodes, "epochs": 1}),
        actor=actor,
        critic=critic,
        normaliser=normaliser,
        random_order=torch.Generator(),
        dump=Path("refused"),
        mix=pretraining_mix(PROMPTS, section, 0),
    )
    return {
        "tokens": [completion.token_ids for completion in rollout.completions],
        "experience": experience.tensors(),
        "statistics": statistics,
        "gradients": [*actor.gradients, *critic.gradients],
    }


class Recorder(Learner):
    """Keeps the gradients and makes no step."""

    gradients: list[Tensor]

    def step(self) -> None:
        self.gradients = [p.grad.clone() for p in self._parameters if p.grad is not None]


def ctrl_c_here(directory: Path) -> list[str]:
    """Ctrl-C that only the last process has seen, in the middle of the third iteration.

    The checkpoints that are there when this process leaves.
    """
    asked = []

    def score(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        asked.append(len(input_ids))
        if sum(asked) == 2 * 16 // world_size() + asked[-1] and rank() == world_size() - 1:
            signal.raise_signal(signal.SIGINT)
        return count_of(5)(input_ids, attention_mask)

    try:
        each = {"checkpoint_every": 100, "microbatch": 1, "microbatch_tokens": None}
        run(directory, roles=FakeRoles(score), **each)
    except KeyboardInterrupt:
        return [path.name for path in (directory / "checkpoints").iterdir()]
    raise AssertionError("it ran to its end")


def nan_here(directory: Path) -> str:
    """A score of the last process that is no number."""

    def score(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        scores = count_of(5)(input_ids, attention_mask)
        return scores / 0 if rank() == world_size() - 1 else scores

    try:
        run(directory, roles=FakeRoles(score))
    except NonFinite as error:
        return str(error)
    return "ended"


EVERYTHING: dict[str, Callable[[Path], Any]] = {
    "whole": run,
    "gradients": lambda folder: gradients(),
    "cut": lambda folder: stopped(folder, 4, run),
    "rollback": lambda folder: run(
        folder,
        iterations=4,
        monitors={"clip_fraction": {"action": "rollback"}, "step_factor": 0.2},
        actor_optimiser={"learning_rate": 3e-2, "schedule": "constant"},
    ),
    "ctrl_c": ctrl_c_here,
    "nan": nan_here,
    "zero2": lambda folder: spread(folder, 2),
    "zero3": lambda folder: spread(folder, 3),
    # Returns far from what the critic begins with: bfloat16's noise is a small part of them.
    "half zero3": lambda folder: spread(folder, 3, torch.bfloat16, score=FAR),
    "zero3 cut": lambda folder: stopped(folder, 2, partial(spread, zero=3)),
    "texts": lambda folder: texts(folder.parent),
    "early": lambda folder: early(folder.parent),
    "adapter": lambda folder: adapter(folder.parent),
    "shared": lambda folder: stage(folder.parent, "shared"),
    "separate": lambda folder: stage(folder.parent, "separate"),
}


def everything(folder: Path) -> dict[str, Any]:
    return {name: job(folder / name) for name, job in EVERYTHING.items()}


def real_roles(folder: Path, zero: ZeroStage, dtype: torch.dtype = torch.float32) -> Roles:
    """Of the SFT model and the reward model beside `folder`; one process has nobody to share."""
    return build_roles(
        "separate",
        folder.parent / "sft",
        folder.parent / "rm",
        tuning=TuningSection(method="full"),
        dtype=dtype,
        device="cpu",
        zero=zero if world_size() > 1 else None,
    )


def spread(
    directory: Path, zero: ZeroStage, dtype: torch.dtype = torch.float32, **options: Any
) -> Weights:
    """The loop on real roles, whose weights are spread over the processes."""
    return run(directory, roles=real_roles(directory.parent, zero, dtype), **options, **SPREAD)


def adapter(folder: Path) -> list[str]:
    """The tensors of the adapter that the main process saves beside an actor that is spread."""
    actor = folder / "adapted"
    roles = build_roles(
        "separate",
        folder.parent / "sft",
        folder.parent / "rm",
        tuning=TuningSection(method="lora", r=2),
        dtype=torch.float32,
        device="cpu",
        zero=3 if world_size() > 1 else None,
    )
    with roles.gathered("actor"):
        if rank() == 0:
            roles.save_actor(actor)
    saved = list(actor.glob("adapter/*.safetensors")) if rank() == 0 else []
    return sorted(name for file in saved for name in load_file(file))


class Letters:
    """A tokenizer that counts what it is given, and is not called for nothing."""

    eos_token_id = 2
    encoded = 0

    def __call__(self, texts: list[str], add_special_tokens: bool) -> dict[str, list[list[int]]]:
        assert texts and not add_special_tokens
        self.encoded += len(texts)
        return {"input_ids": [[ord(letter) for letter in text] for text in texts]}


def texts(folder: Path) -> tuple[list[list[int]], int]:
    """Five texts to mix in, as this process holds them, and how many it has encoded itself."""
    file, letters = folder / f"texts-{rank()}.jsonl", Letters()
    said = ["one", "two", "three", "fourth", "five"]
    write_jsonl(file, [TextRecord(id=text, text=text) for text in said])
    roles: Any = SimpleNamespace(tokenizer=letters, spec=SimpleNamespace(context=6))
    with MonkeyPatch.context() as patch:
        patch.setattr(pretraining, "ENCODED", 2)
        found = read_texts(roles, PretrainingSection(data=str(file), max_length=5))
    return [list(ids) for ids in found], letters.encoded


def early(folder: Path) -> dict[str, Any]:
    """The last process has no answers left to give, while the first still computes.

    The share of every role's weights that this process keeps, and what came of the wait.
    """
    roles = real_roles(folder, 3)
    tensors = [*roles.actor_parameters(), *roles.critic_parameters()]
    tensors += [tensor for _, tensor in roles.frozen()]
    kept = sum(own_part(tensor).numel() for tensor in tensors)
    passes = 3 if rank() == 0 else 0
    with roles.generating() as model:
        sums = [model(torch.tensor([PROMPTS[0]])).logits.sum().item() for _ in range(passes)]
    after = roles.actor_logits(torch.tensor([PROMPTS[0]]), torch.ones(1, 3), 2)
    return {
        "kept": kept / sum(tensor.numel() for tensor in tensors),
        "sums": sums,
        "after": after.detach(),
    }


def stage(folder: Path, kind: str) -> None:
    """The stage, on the SFT model and the reward model beside `folder`."""
    world = World(folder.parent / "sft", folder.parent / "rm")
    run_stage(world, folder / kind, roles=kind, tuning={"method": KINDS[kind]}, **STAGE)


def process(number: int, processes: int, folder: Path) -> None:
    """One of several; what it found goes to `folder`/found-NUMBER."""
    torch.set_num_threads(1)
    meeting = f"file://{folder / 'meeting'}"
    dist.init_process_group(
        "gloo",
        init_method=meeting,
        rank=number,
        world_size=processes,
        timeout=timedelta(minutes=5),
    )
    found = everything(folder)
    found["begun by one"] = run(folder / "begun_by_one")
    found["begun whole"] = spread(folder / "begun_whole", 3)
    torch.save(found, folder / f"found-{number}")
    dist.destroy_process_group()

"""What one pass of each kind holds at its height, beside weights, gradients and optimiser.

Each pass is the project's own code on a model of one and of two layers without storage: what a
further layer adds is the difference, so that a model of forty costs no more to look at.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from peft import PeftModel
from peft.helpers import disable_input_dtype_casting
from torch import Tensor

from rlhf.config.schema import TuningSection
from rlhf.models.adapter import Task
from rlhf.models.head_loss import logprobs_by_chunk
from rlhf.models.scoring import separate_scores, shared_prompt_scores
from rlhf.models.spec import ModelSpec
from rlhf.ops.logprobs import by_chunk, entropy, token_logprobs
from rlhf.ops.masking import positions
from rlhf.planning.allocations import Allocations, Kinds, as_on_gpu
from rlhf.planning.compiled import compile_without_compiling
from rlhf.planning.models import learner, plain_model

CHUNK = 1024
"""Of `rlhf.ppo.experience`: tokens whose distributions are read at once."""


@dataclass(frozen=True)
class Learning:
    """Who learns, and how. dtype: of the frozen weights.

    under: autocast, as transformers' Trainer has it, with what learns in float32; deepspeed or ppo,
    whose models compute with everything in `dtype`.
    accumulates: whether the gradients of an earlier microbatch are there. compiled: `blocks` whole
    or their `parts`, None: neither. activation_budget: as in `compile_training`.
    """

    spec: ModelSpec
    task: Task
    tuning: TuningSection
    dtype: torch.dtype
    checkpointing: bool
    under: Literal["autocast", "deepspeed", "ppo"]
    accumulates: bool
    compiled: Literal["blocks", "parts"] | None = None
    activation_budget: float = 1.0


@lru_cache(maxsize=256)
def sft_step(
    who: Learning, rows: int, length: int, packed: bool, chunk: int | None, max_z: float
) -> Kinds:
    """A microbatch of `rows` full rows; packed ones hold two conversations each."""
    ids = torch.ones(rows, length, dtype=torch.long)
    place = torch.arange(-(-length // 2)).repeat(2)[:length].expand(rows, length)
    alone = {"position_ids": torch.arange(length)[None]}  # nothing is padded: no mask
    padded = {"attention_mask": torch.ones_like(ids)} if rows > 1 else alone
    layout = {"position_ids": place} if packed else padded

    def loss(model: Any) -> Tensor:
        output = model(
            input_ids=ids,
            labels=ids,
            use_cache=False,
            loss_chunk=chunk,
            z_loss_weight=max_z,
            **layout,
        )
        if output.logits is not None:
            output.logits = output.logits.float()  # accelerate's, of whatever the model returns
        result: Tensor = output.loss
        return result

    return _step(who, loss)


@lru_cache(maxsize=256)
def rm_step(
    who: Learning, prompts: int, responses: int, sizes: tuple[int, int], shared: bool
) -> Kinds:
    """A microbatch of prompts with their responses. sizes: tokens of a prompt and of a response."""
    return _step(who, _ranked(prompts, responses, sizes, shared))


@lru_cache(maxsize=256)
def rm_scoring(
    who: Learning, prompts: int, responses: int, sizes: tuple[int, int], shared: bool
) -> Kinds:
    """As `rm_step`, without learning."""
    return _pass(who, _ranked(prompts, responses, sizes, shared))


@lru_cache(maxsize=256)
def actor_step(who: Learning, rows: int, sizes: tuple[int, int]) -> Kinds:
    """The policy's backward pass. sizes: tokens of a prompt and of a response."""
    ids, mask = _padded(rows, sum(sizes))

    def loss(model: Any) -> Tensor:
        logits = _response_logits(model, ids, mask, sizes[1])
        return token_logprobs(logits, ids[:, -sizes[1] :].to("meta")).sum()

    return _step(who, loss)


@lru_cache(maxsize=256)
def trunk_step(who: Learning, rows: int, length: int) -> Kinds:
    """A backward pass from the last hidden states: the critic's, and DPO's with a fused head."""
    ids, mask = _padded(rows, length)

    def loss(model: Any) -> Tensor:
        states: Tensor = _trunk(model)(
            input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False
        ).last_hidden_state
        return states.sum()

    return _step(who, loss)


@lru_cache(maxsize=256)
def adapted_head_step(who: Learning, rows: int, sizes: tuple[int, int]) -> Kinds:
    """DPO's where the head has an adapter, which is read a chunk of response tokens at a time.

    sizes: tokens of a prompt and of a response.
    """
    ids, mask = _padded(rows, sum(sizes))

    def loss(model: Any) -> Tensor:
        states = _trunk(model)(
            input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False
        ).last_hidden_state
        kept = states[:, -1 - sizes[1] : -1].flatten(0, 1)
        targets = ids[:, -sizes[1] :].flatten().to("meta")
        head = model.get_base_model().lm_head
        return logprobs_by_chunk(head, kept, targets).sum()

    return _step(who, loss)


@lru_cache(maxsize=256)
def reading(who: Learning, rows: int, sizes: tuple[int, int]) -> Kinds:
    """PPO's reading of a microbatch: logits of actor and reference, then their logprobs."""
    ids, mask = _padded(rows, sum(sizes))

    def read(model: Any) -> Tensor:
        both = [_response_logits(model, ids, mask, sizes[1]) for _ in range(2)]
        chosen = ids[:, -sizes[1] :].to("meta")
        by_chunk(entropy, CHUNK, both[0])
        return by_chunk(token_logprobs, CHUNK, both[1], chosen)

    return _pass(who, read)


def _padded(rows: int, length: int) -> tuple[Tensor, Tensor]:
    """ids and mask [rows, length], all of it real: rows of other lengths are moved to the left, and
    no mask is made for them either."""
    ids = torch.ones(rows, length, dtype=torch.long)
    return ids, torch.ones_like(ids, dtype=torch.bool)


def _ranked(
    prompts: int, responses: int, sizes: tuple[int, int], shared: bool
) -> Callable[[Any], Tensor]:
    prompt, response = sizes
    ids = torch.ones(prompts, responses, prompt + response, dtype=torch.long)
    mask = torch.ones_like(ids, dtype=torch.bool)
    lengths = torch.full((prompts,), prompt)

    def scores(model: Any) -> Tensor:
        if shared:
            return shared_prompt_scores(model, ids, mask, lengths).sum()
        return separate_scores(model, ids, mask).sum()

    return scores


def _response_logits(model: Any, ids: Tensor, mask: Tensor, keep: int) -> Tensor:
    """As `rlhf.models.role_base` asks for them."""
    logits: Tensor = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions(mask),
        use_cache=False,
        logits_to_keep=slice(-1 - keep, -1),
    ).logits
    return logits


def _trunk(model: Any) -> Any:
    return (model.get_base_model() if isinstance(model, PeftModel) else model).base_model


def _step(who: Learning, loss: Callable[[Any], Tensor]) -> Kinds:
    """Forward and backward."""
    return _extrapolated(who, loss, learns=True)


def _pass(who: Learning, work: Callable[[Any], Tensor]) -> Kinds:
    """Forward alone, in evaluation mode."""
    return _extrapolated(who, work, learns=False)


def _extrapolated(who: Learning, work: Callable[[Any], Tensor], *, learns: bool) -> Kinds:
    # The height of few layers may be at the head, that of many in a layer: then one more is taken.
    fewer, high = 1, _peak(who, work, 1, learns)
    for fewer in range(1, 4):
        low, high = high, _peak(who, work, fewer + 1, learns)
        if ("logits" in low) == ("logits" in high):
            break
    more = who.spec.layers - fewer
    return {
        kind: low.get(kind, 0) + more * (high.get(kind, 0) - low.get(kind, 0))
        for kind in {*low, *high}
    }


def _peak(who: Learning, work: Callable[[Any], Tensor], layers: int, learns: bool) -> Kinds:
    half = who.dtype != torch.float32
    autocast = who.dtype if who.under == "autocast" and half else None
    model = _model(who, layers, learns)
    # RM's trainer switches PEFT's casts off, SFT's those of compiled blocks, and PEFT itself those
    # over 4 bits, where autocast casts.
    uncast = autocast and (who.task == "reward" or who.compiled or who.tuning.method == "qlora")
    casts = disable_input_dtype_casting(model) if uncast else nullcontext()
    counted = Allocations(who.spec.vocab_size, model)
    with casts, torch.set_grad_enabled(learns):
        with as_on_gpu(counted, autocast):
            result = work(model)
        if learns:
            with as_on_gpu(counted, autocast):
                torch.autograd.backward(result)
    return counted.peak


def _model(who: Learning, layers: int, learns: bool) -> Any:
    """As it is when the pass begins: in a later microbatch the gradients are there already."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PEFT and transformers, about what is no concern here
        model = learner(plain_model(who.spec, who.task, who.dtype, layers), who.tuning, who.task)
        if who.checkpointing and learns:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        elif who.compiled and learns:
            added = who.spec.intermediate_size, who.tuning.r
            compile_without_compiling(model, who.compiled, added, who.activation_budget)
    for parameter in model.parameters():
        if parameter.requires_grad:
            kept = torch.float32 if who.under == "autocast" else who.dtype
            parameter.data = parameter.data.to(kept)
        if parameter.requires_grad and who.accumulates and learns:
            parameter.grad = torch.zeros_like(parameter)
    return model.train(learns)

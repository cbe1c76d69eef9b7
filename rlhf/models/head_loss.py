"""Cross-entropy and Max-z from hidden states, with gradients made along with the loss.

Kept logits of a batch would be the largest tensors of a training by far; computed a second time in
the backward pass they cost a third of the head's work again. Here a chunk's logits become its loss
and its gradients at once, and are gone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rlhf.ops.fused import fused
from rlhf.ops.logprobs import token_logprobs

IGNORED = -100
CHUNK = 512
"""Tokens whose logits exist at a time under a head with an adapter."""


def head_loss(
    states: Tensor,
    weight: Tensor,
    scales: Tensor | None,
    targets: Tensor,
    z_shares: Tensor,
    *,
    z_loss_weight: float,
    chunk: int,
    compiled: bool,
) -> Tensor:
    """The loss summed over tokens: cross-entropy plus `z_loss_weight` times the squared largest
    logit.

    Args:
        states: [N, H].
        weight: [V, H]; logits are `states` times this, each column times its scale.
        scales: [V], one over the length of each row of `weight`, without a gradient of their own:
            that of the rows' direction is given to `weight`. None: no scales.
        targets: [N], -100 where only Max-z counts.
        z_shares: [N], what each token's Max-z counts for.
        chunk: tokens whose logits exist at a time.
        compiled: fuse what lies between the matrix products (torch.compile).

    Returns:
        A scalar, float32.
    """
    dtype = computing_type(weight)
    arguments = (targets, z_shares, z_loss_weight, chunk, compiled)
    apply: Any = _HeadLoss.apply
    loss: Tensor = apply(states.to(dtype), weight.to(dtype), scales, *arguments)
    return loss


def logprobs_by_chunk(head: nn.Module, states: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities through a head as it is, an adapter on it included, whose logits are
    computed again in the backward pass.

    Args:
        head: [N, H] -> [N, V].
        states: [N, H].
        targets: [N].

    Returns:
        [N] float32.
    """
    parts = zip(torch.split(states, CHUNK), torch.split(targets, CHUNK), strict=True)
    return torch.cat([checkpoint(_logprobs, head, *part, use_reentrant=False) for part in parts])


def _logprobs(head: nn.Module, states: Tensor, targets: Tensor) -> Tensor:
    return token_logprobs(head(states)[None], targets[None])[0]


def computing_type(weight: Tensor) -> torch.dtype:
    """Autocast's where it is on, else the weight's."""
    kind = weight.device.type  # "meta", where memory is planned, has no autocast
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if on else weight.dtype


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        scales: Tensor | None,
        targets: Tensor,
        z_shares: Tensor,
        z_loss_weight: float,
        chunk: int,
        compiled: bool,
    ) -> Tensor:
        losses = fused(token_losses, compiled)
        by_states = torch.empty_like(states)
        by_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        total = states.new_zeros((), dtype=torch.float32)
        for start in range(0, len(states), chunk):
            part = slice(start, start + chunk)
            raw = states[part] @ weight.T
            loss, gradient = losses(raw, scales, targets[part], z_shares[part], z_loss_weight)
            total = total + loss.sum()
            torch.mm(gradient, weight, out=by_states[part])
            if by_weight is not None:
                by_weight.addmm_(gradient.T, states[part])
            del raw, gradient  # before the next chunk's are made
        if by_weight is not None and scales is not None:
            by_weight = fused(across, compiled)(by_weight, weight, scales)
        ctx.save_for_backward(by_states, by_weight)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        by_states, by_weight = ctx.saved_tensors
        (of_loss,) = gradients
        to_weight = None if by_weight is None else by_weight * of_loss.to(by_weight.dtype)
        return (by_states * of_loss.to(by_states.dtype), to_weight, *[None] * 6)


def token_losses(
    raw: Tensor, scales: Tensor | None, targets: Tensor, z_shares: Tensor, z_loss_weight: float
) -> tuple[Tensor, Tensor]:
    """Each token's loss [N] float32, and its gradient by the unscaled logits [N, V], in their type.

    raw: [N, V] logits before the scales [V]; targets, z_shares: [N].
    """
    logits = raw.float() if scales is None else raw.float() * scales
    learnt = (targets != IGNORED)[:, None]
    places = torch.arange(raw.shape[1], device=raw.device)
    hit = places == targets[:, None]
    largest = logits.amax(-1, keepdim=True)
    exponentials = (logits - largest).exp()
    total = exponentials.sum(-1, keepdim=True)
    of_target = torch.where(hit, logits, 0.0).sum(-1, keepdim=True)
    loss = torch.where(learnt, total.log() + largest - of_target, 0.0)
    gradient = torch.where(learnt, exponentials / total - hit.float(), 0.0)
    if z_loss_weight:
        weights = z_loss_weight * z_shares[:, None]
        loss = loss + weights * largest.square()
        highest = logits == largest
        ties = highest.float().sum(-1, keepdim=True)
        gradient = gradient + torch.where(highest, 2 * weights * largest / ties, 0.0)
    if scales is not None:
        gradient = gradient * scales
    return loss.squeeze(1), gradient.to(raw.dtype)


def across(gradient: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """The part of each row's gradient that is across the row: its length changes no logit.

    gradient, weight: [V, H]; scales: [V], one over the length of each row.
    """
    row = weight.float() * scales[:, None]
    along = (gradient.float() * row).sum(-1, keepdim=True)
    return (gradient.float() - along * row).to(gradient.dtype)

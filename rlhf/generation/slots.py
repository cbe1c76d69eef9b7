"""The slot engine: continuous batching, in which a finished sequence's place is taken at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf.config.schema import SamplingSection
from rlhf.generation.graphs import captured, look
from rlhf.generation.room import Decoder
from rlhf.generation.sampler import choose
from rlhf.generation.stops import LOOK_EVERY, Stops
from rlhf.ops.logprobs import token_logprobs
from rlhf.ops.padding import pad_right

# Steps between two looks at what has ended: the host waits for the device only there.
STEPS = LOOK_EVERY
# Prompts are read into free slots once these are one in so many, or nothing else is left to do.
REFILL = 16
# Tokens of prompts, padding included, that are read in one forward pass.
FILL_TOKENS = 16_384

Pick = Callable[[Tensor, SamplingSection, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class _Work:
    """What is asked for, and what has come of it; N requests, R the most tokens of one.

    The last row of each belongs to no request: idle slots write there.

    uniforms, tokens, logprobs: [N + 1, R]; history: [N + 1, P + R], a row's prompt and what
    follows, filled up with its own tokens.
    """

    sampling: SamplingSection
    ends: Tensor
    uniforms: Tensor
    tokens: Tensor
    logprobs: Tensor
    history: Tensor
    prompt_lengths: Tensor


@dataclass(frozen=True)
class _Slots:
    """One entry a slot, [S] int64, changed in place: the addresses are those of a captured graph.

    token: the last one chosen; length: those before it, in the cache; request: whose it is, N for
    nobody's; count: tokens chosen so far.
    """

    token: Tensor
    length: Tensor
    request: Tensor
    count: Tensor


def complete(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingSection,
    *,
    ends: Tensor,
    pad_id: int,
    uniforms: Tensor,
    stops: Stops | None = None,
) -> tuple[Tensor, Tensor]:
    """Decode every prompt, as many at a time as the decoder has slots.

    Args:
        decoder: a model with a cache whose slots are as long as the longest prompt and response.
        prompts: N lists of token ids; they are taken in this order.
        sampling: length R, temperature and filters.
        ends: [E] the tokens that end a response; on the device that decodes.
        pad_id: fills up prompts that are read together.
        uniforms: [N, R] numbers in [0, 1), one for every draw.
        stops: strings that end a response; it may run on for a few tokens after one.

    Returns:
        tokens [N, R] and their logprobs [N, R] under the unfiltered policy. What follows a row's
        ending token is of no meaning.
    """
    work = _work(prompts, sampling, ends, uniforms)
    slots = decoder.slots
    state = _Slots(*(torch.zeros(slots, dtype=torch.long, device=ends.device) for _ in range(4)))
    state.request.fill_(len(prompts))
    advance = _step_of(decoder, work, state)
    waiting, owners = list(range(len(prompts))), [len(prompts)] * slots
    while True:
        free = [slot for slot, owner in enumerate(owners) if owner == len(prompts)]
        if len(free) == slots and not waiting:
            return work.tokens[:-1], work.logprobs[:-1]
        if waiting and (len(free) * REFILL >= slots or len(free) == slots):
            taken, waiting = waiting[: len(free)], waiting[len(free) :]
            rows = max(1, FILL_TOKENS // max(len(prompts[request]) for request in taken))
            for at in range(0, len(taken), rows):
                some = taken[at : at + rows]
                _fill(decoder, work, state, prompts, free[at : at + len(some)], some, pad_id)
        for _ in range(STEPS - 1):
            advance()
        seen = look(state.request)
        advance()  # what the device does while the host looks
        if stops is None:
            owners = seen()
        else:
            _free(work, state, stops)
            owners = state.request.tolist()


def _work(
    prompts: Sequence[Sequence[int]], sampling: SamplingSection, ends: Tensor, uniforms: Tensor
) -> _Work:
    device, (requests, limit) = ends.device, uniforms.shape
    lengths = torch.tensor([*map(len, prompts), 1], device=device)
    # A row's own last token stands for what is still to come: it may be penalised in any case.
    longest = int(lengths.max()) + limit
    history = [[*prompt, *[prompt[-1]] * (longest - len(prompt))] for prompt in prompts]
    return _Work(
        sampling,
        ends,
        torch.cat([uniforms, uniforms.new_zeros(1, limit)]),
        torch.zeros(requests + 1, limit, dtype=torch.long, device=device),
        torch.zeros(requests + 1, limit, device=device),
        torch.tensor([*history, [0] * longest], device=device),
        lengths,
    )


def _fill(
    decoder: Decoder,
    work: _Work,
    state: _Slots,
    prompts: Sequence[Sequence[int]],
    slots: list[int],
    requests: list[int],
    pad_id: int,
) -> None:
    """Read prompts into free slots, and choose the first token of each."""
    device = state.token.device
    ids, _ = pad_right([prompts[request] for request in requests], pad_id, device=device)
    at = torch.tensor(slots, device=device)
    owners = torch.tensor(requests, device=device)
    lengths = work.prompt_lengths[owners]
    logits = decoder.fill(at, ids, lengths)
    filled = _Slots(torch.zeros_like(at), lengths - 1, owners, torch.zeros_like(at))
    after = _take(work, filled, logits, _pick)
    for name, values in vars(after).items():
        getattr(state, name)[at] = values


def _free(work: _Work, state: _Slots, stops: Stops) -> None:
    """Make nobody's the slots whose response says a stop string."""
    said = stops.reached(work.tokens[state.request], state.count.tolist())
    state.request.masked_fill_(said, len(work.tokens) - 1)
    for values in (state.length, state.count):
        values.masked_fill_(said, 0)


def _step_of(decoder: Decoder, work: _Work, state: _Slots) -> Callable[[], None]:
    """One token further in every slot, as a CUDA graph where there is CUDA."""
    device = state.token.device
    pick = torch.compile(_pick, dynamic=False) if device.type == "cuda" else _pick

    def step() -> None:
        after = _take(work, state, decoder.step(state.token, state.length), pick)
        for name, values in vars(after).items():
            getattr(state, name).copy_(values)

    def try_out() -> None:
        """All of it that compiles or that needs room of its own; the step writes the same again."""
        row = state.request
        logits = decoder.step(state.token, state.length)
        pick(logits, work.sampling, work.uniforms[row, state.count], work.history[row])

    return captured(try_out, step, device) if device.type == "cuda" else step


def _take(work: _Work, state: _Slots, logits: Tensor, pick: Pick) -> _Slots:
    """Choose every slot's next token from its logits [S, V], note it, and move on.

    A slot whose response has ended becomes nobody's, at length 0.
    """
    row, column = state.request, state.count
    chosen, logprobs = pick(logits, work.sampling, work.uniforms[row, column], work.history[row])
    work.tokens[row, column] = chosen
    work.logprobs[row, column] = logprobs
    work.history[row, work.prompt_lengths[row] + column] = chosen
    nobody = len(work.tokens) - 1
    last = torch.isin(chosen, work.ends) | (column + 1 == work.tokens.shape[1])
    goes_on = ~last & (row != nobody)
    return _Slots(
        token=chosen,
        length=(state.length + 1) * goes_on,
        request=torch.where(goes_on, row, nobody),
        count=(column + 1) * goes_on,
    )


def _pick(
    logits: Tensor, sampling: SamplingSection, uniforms: Tensor, history: Tensor
) -> tuple[Tensor, Tensor]:
    """The next tokens [S] and their logprobs [S]; arguments as in `sampler.choose`."""
    logits = logits.float()
    chosen = choose(logits, sampling, uniforms, history)
    return chosen, token_logprobs(logits, chosen)

from __future__ import annotations

import pytest
import torch

from rlhf.ops.fused import fused
from rlhf.ops.logprobs import token_logprobs
from rlhf.runtime.compilers import cxx_compiler


def test_made_once_for_each_function() -> None:
    assert fused(token_logprobs, True) is fused(token_logprobs, True)
    assert fused(token_logprobs, False) is token_logprobs


@pytest.mark.slow
@pytest.mark.skipif(cxx_compiler() is None, reason="no C++ compiler")
def test_logprobs_and_their_gradients_as_without() -> None:
    generator = torch.Generator().manual_seed(0)
    for rows, length in ((3, 5), (2, 9)):  # the second is no compilation more
        logits = (9 * torch.randn(rows, length, 301, generator=generator)).requires_grad_()
        ids = torch.randint(301, (rows, length), generator=generator)
        weights = torch.randn(rows, length, generator=generator)

        found = fused(token_logprobs, True)(logits, ids)
        plain = token_logprobs(logits, ids)
        torch.testing.assert_close(found, plain)
        gradients = (torch.autograd.grad((weights * each).sum(), logits) for each in (found, plain))
        torch.testing.assert_close(next(gradients), next(gradients))

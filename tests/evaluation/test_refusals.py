from __future__ import annotations

import pytest

from rlhf.evaluation.refusals import is_refusal


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can\u2019t help with that.",
        "I CANNOT provide instructions for this.",
        "I am not able to directly answer this question.",
        "抱歉,我不能帮你做这件事。",
        "这个问题我无法为您提供答案。",
    ],
)
def test_refusals(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I can't wait to tell you: the capital is Paris.",
        "Help is on its way. Sorry for the delay!",
        "抱歉让您久等了,答案是北京。",
        "猫不能吃巧克力。",
        "Cats are small. " * 10 + "They cannot help it.",
    ],
)
def test_answers(text: str) -> None:
    assert not is_refusal(text)

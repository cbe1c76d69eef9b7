from __future__ import annotations

from dataclasses import replace

import pytest

from rlhf.config.load import load_config
from rlhf.config.schema import Config
from rlhf.models.context import check_answers
from rlhf.models.registry import named

STAGES = ("sft", "collect", "rm", "ppo", "evaluate")
MAIN = named("baichuan2-7b")  # reads 4096 tokens


def config(*overrides: str) -> Config:
    return load_config("baichuan2_7b", ["annotation.source=page", *overrides])


@pytest.mark.parametrize("stage", ["collect", "ppo", "evaluate"])
def test_answers_leave_room_for_a_prompt(stage: str) -> None:
    key = f"{stage}.sampling.max_new_tokens"
    check_answers(config(f"{key}=4095"), STAGES, lambda path: MAIN)
    full = config(f"{key}=4096")
    with pytest.raises(ValueError, match=f"^{key} 4096 leaves no room .* reads 4096") as error:
        check_answers(full, STAGES, lambda path: MAIN)
    assert "\n" not in str(error.value)
    check_answers(full, set(STAGES) - {stage}, lambda path: MAIN)  # it does not come
    check_answers(full, STAGES, lambda path: None)  # nothing is known yet


def test_each_model_answers_within_its_own_context() -> None:
    sources = "collect.models=[{path: long, size: 7b, stage: base}]"
    some = config(sources, "collect.sampling.max_new_tokens=5000", "ppo.actor=run://dpo")
    specs = {"long": replace(MAIN, context=8192), some.main.path: MAIN}
    check_answers(some, STAGES, specs.get)
    specs["long"] = replace(MAIN, context=512)
    with pytest.raises(ValueError, match=r"collect\.sampling.* reads 512"):
        check_answers(some, STAGES, specs.get)
    given = some.annotation.model_copy(update={"source": "file"})
    check_answers(some.model_copy(update={"annotation": given}), STAGES, specs.get)
    # What the run is yet to make is made of the main model.
    longer = config("ppo.actor=run://dpo", "ppo.sampling.max_new_tokens=4096")
    with pytest.raises(ValueError, match=r"ppo\.sampling.* reads 4096"):
        check_answers(longer, STAGES, {longer.main.path: MAIN}.get)
    # What is judged reads as much as what it learnt from.
    other = config("ppo.actor=long", "evaluate.sampling.max_new_tokens=600")
    with pytest.raises(ValueError, match=r"evaluate\.sampling.* reads 512"):
        check_answers(other, {"evaluate"}, specs.get)

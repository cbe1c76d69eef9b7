"""Config of an ablation: variants of one run, which differ from one stage on."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rlhf.config.base import Name, Section

_TRAINED = ("sft", "rm", "run", "data")
FIGURES = {"rm": _TRAINED, "ppo": (*_TRAINED, "dpo", "ppo", "capabilities")}
"""Parts of report.json with numbers, by the stage that is varied."""


class AblationSection(Section):
    """What to vary. Whatever comes before `stage` is shared by the variants that agree on it.

    stage: the one that is run for every variant and every seed (ppo: the policy is judged as well).
    variants: by name, what differs from the config, keys as after --set. baseline: the variant that
    the others are compared with; its held-out rankings test every reward model. reuse: runs under
    output_dir whose finished stages are taken where a variant would make the same ones.
    metrics: what to compare, by title: where it stands in report.json, such as rm.accuracy.
    """

    stage: Literal["rm", "ppo"]
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    baseline: Name
    variants: Annotated[dict[Name, dict[str, Any]], Field(min_length=2)]
    reuse: tuple[Name, ...] = ()
    metrics: Annotated[dict[str, str], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> AblationSection:
        if self.baseline not in self.variants:
            raise ValueError(
                f"baseline = {self.baseline} is no variant; name one of {', '.join(self.variants)}"
            )
        for title, path in self.metrics.items():
            if path.partition(".")[0] not in FIGURES[self.stage]:
                raise ValueError(
                    f"metrics: {title}: {path} is no place of a number in report.json after "
                    f"{self.stage}; begin with one of {', '.join(FIGURES[self.stage])}"
                )
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: one is given twice; remove it")
        return self

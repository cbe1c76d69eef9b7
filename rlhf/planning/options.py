"""What would make a stage fit: one change at a time, then all that do no harm, then more GPUs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from rlhf.config.schema import Config, SFTSection
from rlhf.planning.setting import Setting
from rlhf.planning.stages import EXTRA_SFT, stage_plans

Change = dict[str, Any]
"""Dotted keys below a stage's section -> values."""
MORE_GPUS = (2, 4, 8)
CHUNK = 512


@dataclass(frozen=True)
class Option:
    """A change that makes a stage smaller. keys: as --set takes them. peak_gib: of each GPU."""

    stage: str
    keys: tuple[str, ...]
    gpus: int
    peak_gib: float
    fits: bool


def smaller(setting: Setting, name: str) -> list[Option]:
    """Options for a stage that does not fit: each harmless change and all of them together, then
    other methods and then more GPUs, up to the first of each that fits."""
    stage = _section_of(name)
    section: Any = getattr(setting.config, stage)
    changes = list(_harmless(setting.config, stage))
    harmless = {key: value for change in changes for key, value in change.items()}
    if len(changes) > 1:
        changes.append(harmless)
    found = [option for change in changes for option in _tried(setting, name, change)]
    methods = [harmless | change for change in _other_methods(setting.config, stage)]
    found += _until_one_fits(_tried(setting, name, change) for change in methods)
    if getattr(section, "roles", "separate") == "separate" and hasattr(section, "tuning"):
        spread = {**harmless, **_spreadable(section)} if stage == "sft" else harmless
        more = [replace(setting, gpus=gpus) for gpus in MORE_GPUS if gpus >= setting.gpus]
        zero = {"runtime.deepspeed": "zero3"}
        found += _until_one_fits(_tried(one, name, spread, zero) for one in more)
    return found


def _spreadable(section: SFTSection) -> Change:
    """What SFT has to leave out for ZeRO-3, of what it has."""
    left_out: Change = {"loss_chunk": None}
    if section.split_weights:
        left_out["split_weights"] = False
    if section.compile:
        left_out |= {"compile": False, "activation_budget": 1.0}
    return left_out


def _section_of(name: str) -> str:
    """The config's section that this stage's plan follows."""
    return "sft" if name == EXTRA_SFT else name.partition("/")[0]


def _harmless(config: Config, stage: str) -> Iterator[Change]:
    """Same numbers, more time."""
    section: Any = getattr(config, stage)
    if not getattr(section, "gradient_checkpointing", True):
        yield {"gradient_checkpointing": True}
    if getattr(section, "loss_chunk", CHUNK) is None:
        yield {"loss_chunk": CHUNK}
    for key in ("microbatch_size", "microbatch"):
        if getattr(section, key, 1) > 1:
            yield {key: 1}
    for key in ("batch_size", "rollout_microbatch"):
        if stage in ("collect", "evaluate", "ppo") and getattr(section, key, 1) > 16:
            yield {key: 16}


def _other_methods(config: Config, stage: str) -> Iterator[Change]:
    """Other numbers: fewer weights learn, or they are kept in fewer bits."""
    section: Any = getattr(config, stage)
    tuning = getattr(section, "tuning", None)
    if tuning is None:
        return
    whole = {"split_weights": False} if getattr(section, "split_weights", False) else {}
    if tuning.method == "full":
        eight = {"optimiser.kind": "adamw-8bit"} if stage != "ppo" else {}
        if eight:
            yield eight
        yield {"tuning.method": "lora", **whole}
    if tuning.method != "qlora":
        yield {"tuning.method": "qlora", **whole}


def _until_one_fits(tried: Iterable[Iterable[Option]]) -> Iterator[Option]:
    for options in tried:
        for option in options:
            yield option
            if option.fits:
                return


def _tried(
    setting: Setting, name: str, change: Change, top: Change | None = None
) -> Iterator[Option]:
    """The option, unless the config refuses the change."""
    keys = {f"{_section_of(name)}.{key}": value for key, value in change.items()} | (top or {})
    try:
        changed = replace(setting, config=_changed(setting.config, keys))
        found = {one.name: one for one in stage_plans(changed, name.partition("/")[0])}[name]
    except (ValidationError, ValueError):
        return
    told = tuple(f"{key}={_as_yaml(value)}" for key, value in keys.items())
    yield Option(name, told, setting.gpus, round(found.peak_gib, 2), found.fits)


def _changed(config: Config, keys: Change) -> Config:
    values = config.model_dump(mode="json")
    for key, value in keys.items():
        *path, last = key.split(".")
        section = values
        for part in path:
            section = section[part]
        section[last] = value
    return Config.model_validate(values)


def _as_yaml(value: Any) -> str:
    return "null" if value is None else str(value).lower()

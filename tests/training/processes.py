"""Trainings in one process or several: `python -m tests.training.processes FOLDER CASE-ENGINE...`.

Every process does all of them one after the other; the main one writes what was logged.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from rlhf.config.base import OptimiserSection
from rlhf.config.schema import RuntimeSection, TuningSection
from rlhf.runtime.distributed import connect, disconnect, gather, is_main_process
from rlhf.runtime.ending import end
from rlhf.runtime.quiet import quiet
from rlhf.training.dpo import train_dpo
from rlhf.training.engine import Engine, read_engine
from rlhf.training.reward import train_reward_model
from rlhf.training.sft import train_sft
from tests.training import worlds
from tests.training.loaded import heights, loaded
from tests.training.test_dpo import dpo_section, pairs

ROWS = 37
"""Neither microbatches nor batches nor processes divide it: at the end one of two has none."""
UNEVEN = 39
"""At the end one of two has a microbatch of two, the other one of one."""
SETTINGS: dict[str, Any] = {
    "max_steps": 20,
    "eval_every": 10,
    "checkpoint_every": 16,
    "batch_size": 8,
    "microbatch_size": 2,
    "optimiser": OptimiserSection(learning_rate=1e-3, grad_clip=0.3, weight_decay=0.1),
}


def sft(dtype: torch.dtype = torch.float32, changes: Any = None, **common: Any) -> Any:
    data = worlds.conversations(ROWS), worlds.conversations(11, seed=1)
    section = worlds.sft_section(**SETTINGS | (changes or {}))
    model = loaded(worlds.language_model(z_loss_weight=1e-3), section, dtype=dtype, **common)
    return train_sft(model, worlds.tokenizer(), *data, section, **common)


def packed(**common: Any) -> Any:
    return sft(changes={"packing": True}, **common)


def half(**common: Any) -> Any:
    return sft(torch.bfloat16, **common)


def split(**common: Any) -> Any:
    optimiser = SETTINGS["optimiser"].model_copy(update={"kind": "adamw-8bit"})
    return sft(torch.bfloat16, {"split_weights": True, "optimiser": optimiser}, **common)


def lora(**common: Any) -> Any:
    return sft(changes={"tuning": TuningSection(method="lora", r=4, dropout=0.0)}, **common)


def mixed(**common: Any) -> Any:
    changes = {"tuning": TuningSection(method="lora", r=4, dropout=0.0)}
    return sft(torch.bfloat16, changes, **common)


def rm(**common: Any) -> Any:
    data = worlds.rankings(ROWS), worlds.rankings(11, seed=1)
    section = worlds.rm_section(**SETTINGS)
    model = loaded(worlds.reward_model(), section, **common)
    return train_reward_model(model, worlds.tokenizer(), *data, section, **common)


def dpo(rows: int = ROWS, **common: Any) -> Any:
    section, data = dpo_section(**SETTINGS), (pairs(rows), pairs(11, seed=1))
    model = loaded(worlds.language_model(), section, **common)
    return train_dpo(model, worlds.tokenizer(), *data, section, **common)


CASES: dict[str, Callable[..., Any]] = {
    "sft": sft,
    "packed": packed,
    "half": half,
    "split": split,
    "rm": rm,
    "dpo": dpo,
    "uneven": partial(dpo, UNEVEN),
    "lora": lora,
    "mixed": mixed,
    "big": heights,
}


def run(name: str, folder: Path) -> None:
    """Train into `folder`/name, and write found.json there.

    name: CASE-ENGINE, the engine being ddp, a packaged configuration or one in `folder`.
    """
    case, engine = name.split("-")
    own = folder / f"{engine}.json"
    rows, output = worlds.Rows(), folder / name
    with quiet():
        summary = CASES[case](
            output_dir=output,
            seed=0,
            metrics=rows,
            engine=None if engine == "ddp" else zero(str(own) if own.is_file() else engine),
        )
    left = gather(still_there())
    if is_main_process():
        found = {"rows": rows.rows, "summary": asdict(summary), "left": left}
        (output / "found.json").write_text(json.dumps(found))


def still_there() -> list[str]:
    """The models in this process's memory that nothing needs any more."""
    gc.collect()
    return [type(each).__name__ for each in gc.get_objects() if isinstance(each, PreTrainedModel)]


def zero(name: str) -> Engine | None:
    return read_engine(RuntimeSection(device="cpu", deepspeed=name))


def main() -> None:
    torch.set_num_threads(1)
    connect(RuntimeSection(device="cpu", timeout=300))
    gc.freeze()  # as `rlhf` does; no model is there yet
    for name in sys.argv[2:]:
        run(name, Path(sys.argv[1]))
    disconnect()
    end(0)


if __name__ == "__main__":
    main()

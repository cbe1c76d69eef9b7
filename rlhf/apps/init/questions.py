"""The five questions, with defaults that follow from this machine and from the answers before."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.models.checkpoint import check_kind
from rlhf.models.registry import spec_of

Answers = Mapping[str, Any]
"""Question -> what its `parse` has made of the answer."""
TUNINGS = ("lora", "qlora", "full")
LANGUAGES = ("en", "zh")
USUAL_MODEL, USUAL_DATA = Path("weights/Baichuan2-7B-Base"), Path("data")
PLAIN_SHARE = 0.5
"""Of a GPU's memory that frozen weights may take in bfloat16, so that activations find room."""


@dataclass(frozen=True)
class Question:
    """parse: raises ValueError, one line, for an answer that is none."""

    name: str
    text: str
    default: Callable[[Answers], str]
    parse: Callable[[str], Any]


def model_directory(answer: str) -> Path:
    """A directory with a known architecture's config.json; no reward model's, no adapter's."""
    path = Path(answer).expanduser()
    if not path.is_dir():
        raise ValueError(f"{path}: no such directory; download the checkpoint first")
    check_kind(path, "language model")
    return path


def data_place(answer: str) -> Path:
    """A folder, which need not be there yet, or a file of demonstrations."""
    path = Path(answer).expanduser()
    if path.suffix and not path.is_file() and not path.is_dir():
        raise ValueError(f"{path}: no such file; name one, or the folder to put sft.jsonl into")
    return path


def gpus(answer: str) -> int:
    if not answer.isdecimal():
        raise ValueError(f"{answer}: a whole number is wanted, 0 for a CPU alone")
    return int(answer)


def one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    def parse(answer: str) -> str:
        if answer.lower() not in choices:
            raise ValueError(f"{answer}: choose {', '.join(choices)}")
        return answer.lower()

    return parse


def usual_model(_: Answers) -> str:
    """The first known checkpoint under weights/."""
    if USUAL_MODEL.is_dir():
        return str(USUAL_MODEL)
    found = [file.parent for file in sorted(USUAL_MODEL.parent.glob("*/config.json"))]
    return str(next(iter(found), USUAL_MODEL))


def usual_tuning(answers: Answers) -> str:
    """LoRA, over 4 bits where the plain weights would fill the GPU."""
    memory = gpu_memory()
    if not memory or not answers["gpus"]:
        return "lora"
    weights = 2 * spec_of(answers["model"]).parameters
    return "lora" if weights < PLAIN_SHARE * min(memory) else "qlora"


def gpu_memory() -> list[int]:
    """Bytes of each GPU, as NVIDIA's driver tells; none without one."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    answer = subprocess.run(command, capture_output=True, text=True)
    return [int(line) * 2**20 for line in answer.stdout.split() if line.isdecimal()]


QUESTIONS = (
    Question("model", "Model directory", usual_model, model_directory),
    Question(
        "data",
        "Folder with sft.jsonl and prompts.jsonl (and rankings.jsonl), or a file of demonstrations",
        lambda _: str(USUAL_DATA),
        data_place,
    ),
    Question("gpus", "GPUs of this machine to use", lambda _: str(len(gpu_memory())), gpus),
    Question("tuning", "Weights to tune: lora, qlora or full", usual_tuning, one_of(TUNINGS)),
    Question(
        "language",
        "Language of the comments: en or zh",
        lambda _: "zh" if os.environ.get("LANG", "").startswith("zh") else "en",
        one_of(LANGUAGES),
    ),
)

"""The commands that the documents show, and the folder that they can be run in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from rlhf.data.curation import Verdict
from rlhf.data.jsonl import write_jsonl
from rlhf.data.records import Message, SFTRecord

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "README.zh.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
_PROGRAMS = r"rlhf|make|pip|python|torchrun|srun|accelerate|deepspeed|vllm|curl|ssh|git|docker"
_COMMAND = rf"(?:[A-Z_]+=\S+ )*(?:{_PROGRAMS}|(?:\./|scripts/|\.ci/|\.venv/)[\w./-]+)(?: .*)?"


@dataclass(frozen=True)
class Shown:
    """A command as a document shows it; `whole`: on a line of its own, to be typed as it is."""

    text: str
    whole: bool


def shown(text: str) -> list[Shown]:
    """Every command of a document: lines of code blocks, and code within sentences."""
    text = re.sub(r"\\\n\s*", "", text)
    spans = [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]
    fenced = re.findall(r"^ *```(?:sh|bash|console)?\n(.*?)^ *```", text, re.M | re.S)
    indented = re.findall(r"^ {4,}(\S.*)$", text, re.M)
    lines = [line.strip() for line in [*indented, *"\n".join(fenced).split("\n")]]
    found = [Shown(_bare(line), True) for line in lines] + [Shown(span, False) for span in spans]
    return [command for command in found if re.fullmatch(_COMMAND, command.text)]


def all_shown() -> list[Shown]:
    """Of all documents, each once: whole, where it is shown both ways."""
    found = {command for path in DOCUMENTS for command in shown(path.read_text("utf-8"))}
    short = {
        command for command in found if not command.whole and Shown(command.text, True) in found
    }
    return sorted(found - short, key=lambda command: command.text)


def _bare(line: str) -> str:
    """Without the comment at its end."""
    return re.sub(r"\s+#\s.*$", "", line).strip()


def furnish(folder: Path, run: Path) -> None:
    """Puts the files that the documents name into `folder`; `run` is a finished run's directory."""
    (folder / "runs").mkdir()
    for name in ("tiny", "a", "b", "x", "y", "other", "baichuan2_7b"):
        (folder / "runs" / name).symlink_to(run)
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "weights").mkdir()
    for name in ("Baichuan2-7B-Base", "Baichuan2-7B-Chat", "Baichuan2-13B-Chat"):
        (folder / "weights" / name).symlink_to(run / "sft/main")
    (folder / "data/belle").mkdir(parents=True)
    write_jsonl(folder / "data/belle/records.jsonl", _demonstrations("belle", 3))
    write_jsonl(folder / "sft.jsonl", _demonstrations("first", 30))
    write_jsonl(folder / "more.jsonl", _demonstrations("second", 3))
    write_jsonl(folder / "sft_eval.jsonl", _demonstrations("held out", 3))
    verdicts = (Verdict(id=record.id, acceptable=True) for record in _demonstrations("first", 30))
    write_jsonl(folder / "audits.jsonl", verdicts)
    (folder / "belle.json").write_text('[{"instruction": "1 + 1?", "input": "", "output": "2"}]')
    for name, source in (("prompts", "data/prompts_eval"), ("rankings", "collect/rankings")):
        (folder / f"{name}.jsonl").write_bytes((run / f"{source}.jsonl").read_bytes())
    (folder / "questions.txt").write_text("你好\n", encoding="utf-8")


def _demonstrations(name: str, count: int) -> list[SFTRecord]:
    return [
        SFTRecord(
            id=f"{name} {n}",
            messages=(
                Message(role="user", content=f"What is the {n}th thing to know of the {name}?"),
                Message(role="assistant", content=f"It is {n * 37} of {name}, as you may know."),
            ),
            source="crowd",
            annotator="group-a",
            batch="2026-10-01",
            label="helpful",
        )
        for n in range(count)
    ]

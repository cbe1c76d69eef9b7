"""lm-evaluation-harness on models of ours, and what is made of its results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.config.schema import CapabilitySection, Config
from rlhf.evaluation.capabilities import QuestionRow
from rlhf.evaluation.harness import _language_model, ask, harness_version, task_manager
from rlhf.evaluation.harness_rows import question_rows
from rlhf.models.load import load_causal_lm, load_tokenizer
from rlhf.runtime.distributed import Runtime, make_runtime
from rlhf.runtime.run_dir import RunDir
from tests.llamas import import_with_bos

OWN_TASK = """
task: capitals
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/capitals.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
target_delimiter: " "
metric_list: [{{metric: acc}}]
"""
QUESTIONS = (
    ("The capital of France is", ["Paris", "Rome", "Oslo"], 0),
    ("The capital of Italy is", ["Paris", "Rome", "Oslo"], 1),
    ("挪威的首都是", ["巴黎", "罗马", "奥斯陆"], 2),
)


class Declared:
    """A task as the harness has it, of metrics with their aggregation and whether higher is better;
    without one: means, as the harness takes all that are not declared."""

    def __init__(self, **metrics: tuple[Any, bool]) -> None:
        self.metrics = metrics

    def aggregation(self) -> dict[str, Any]:
        return {name: aggregation for name, (aggregation, _) in self.metrics.items()}

    def higher_is_better(self) -> dict[str, bool]:
        return {name: higher for name, (_, higher) in self.metrics.items()}


def rows_of(found: dict[str, Any], *names: str, **tasks: Declared) -> list[QuestionRow]:
    pytest.importorskip("lm_eval")
    means = {name: Declared() for name in found["results"]}
    return list(question_rows(found, {"tasks": means | tasks}, names))


def sample(number: int, value: float, kept: str = "none", metric: str = "acc") -> dict[str, Any]:
    return {"doc_id": number, "filter": kept, metric: value}


def test_a_group_has_the_questions_of_all_its_tasks() -> None:
    found = {
        "results": {
            "exams": {"alias": "exams", "acc,none": 2 / 3},
            "law": {"alias": " - law", "acc,none": 0.5, "acc_stderr,none": 0.5},
            "art": {"alias": " - art", "acc,none": 1.0, "acc_norm,none": 0.0},
        },
        "group_subtasks": {"exams": ["law", "art"]},
        "samples": {"law": [sample(0, 1.0), sample(1, 0.0)], "art": [sample(0, 1.0)]},
        "n-shot": {"law": 5, "art": 5, "exams": 5},
    }
    rows = rows_of(found, "exams")
    assert [(row.task, row.id, row.value) for row in rows] == [
        ("exams", "law:0", 1.0),
        ("exams", "law:1", 0.0),
        ("exams", "art:0", 1.0),
    ]
    assert {(row.metric, row.shots) for row in rows} == {("acc", 5)}


def test_the_first_filter_counts_and_tasks_keep_the_config_s_order() -> None:
    key = "exact_match"
    found = {
        "results": {
            "a": {"alias": "a", "acc,none": 0.0},
            "gsm8k": {f"{key},strict-match": 0.0, f"{key},flexible-extract": 1.0},
        },
        "samples": {
            "a": [sample(0, False)],
            "gsm8k": [
                sample(0, 0.0, "strict-match", key),
                sample(0, 1.0, "flexible-extract", key),
            ],
        },
        "n-shot": {"a": 0, "gsm8k": None},
    }
    rows = rows_of(found, "gsm8k", "a")
    assert [(row.task, row.metric, row.value) for row in rows] == [
        ("gsm8k", "exact_match (strict-match)", 0.0),
        ("a", "acc", 0.0),
    ]


def test_a_group_s_metric_is_one_that_all_its_tasks_have() -> None:
    """Which a question that lacks it does not count for, as in the harness's own mean."""
    samples = [{"doc_id": 0, "filter": "none", "acc_norm": 1.0, "acc": 0.0}]
    found = {
        "results": {
            "exams": {"alias": "exams"},
            "law": {"acc_norm,none": 1.0, "acc,none": 0.0},
            "art": {"acc,none": 1.0},
        },
        "group_subtasks": {"exams": ["law", "art"]},
        "samples": {"law": samples, "art": [sample(0, 1.0), sample(1, 0.0, metric="f1")]},
        "n-shot": {"law": 5, "art": 5},
    }
    rows = rows_of(found, "exams")
    assert [(row.id, row.metric, row.value) for row in rows] == [
        ("law:0", "acc", 0.0),
        ("art:0", "acc", 1.0),
    ]


def test_a_group_measured_differently_has_no_score() -> None:
    """Also by another filter: exact match of what was found strictly, and loosely."""
    found = {
        "results": {"a": {"exact_match,strict": 1.0}, "b": {"exact_match,none": 1.0}},
        "group_subtasks": {"both": ["a", "b"]},
    }
    said = (
        r"both has no score, for a is measured by exact_match \(strict\) and b by exact_match; "
        "name its parts instead: a, b$"
    )
    with pytest.raises(ValueError, match=said):
        rows_of(found, "both")


def test_a_metric_that_is_no_number_is_refused() -> None:
    found = {
        "results": {"lm": {"score,none": 20.0}},
        "samples": {"lm": [sample(0, (-3.0, 4), metric="score")]},
        "n-shot": {"lm": 0},
    }
    with pytest.raises(ValueError, match="lm is measured by score, which is no mean"):
        rows_of(found, "lm")


def test_only_means_that_are_better_where_they_are_higher_are_taken() -> None:
    """As of LAMBADA, whose first metric is a perplexity: the mean of log-likelihoods is none."""
    metrics = pytest.importorskip("lm_eval.api.metrics")
    answers = {"perplexity": -3.0, "likelihood_diff": 4.0, "acc": 1.0}
    found = {
        "results": {"lm": {f"{name},none": 20.0 for name in answers}},
        "samples": {"lm": [{"doc_id": 0, "filter": "none", **answers}]},
        "n-shot": {"lm": 0},
    }
    bad = {"perplexity": (metrics.perplexity, False), "likelihood_diff": (metrics.mean, False)}
    good = Declared(**bad, acc=(metrics.mean, True))
    rows = rows_of(found, "lm", lm=good)
    assert [(row.metric, row.value) for row in rows] == [("acc", 1.0)]
    del found["results"]["lm"]["acc,none"]
    said = "lm is measured by perplexity, likelihood_diff, of which none is a mean over questions"
    with pytest.raises(ValueError, match=said):
        rows_of(found, "lm", lm=Declared(**bad))


@pytest.fixture
def harness() -> None:
    pytest.importorskip("lm_eval")


@pytest.fixture
def own(tmp_path: Path, harness: None) -> CapabilitySection:
    """A task file of the user's, beside its questions."""
    import json

    lines = [
        json.dumps({"question": q, "choices": c, "answer": a}, ensure_ascii=False)
        for q, c, a in QUESTIONS
    ]
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "capitals.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "capitals.yaml").write_text(OWN_TASK.format(folder=folder), encoding="utf-8")
    return CapabilitySection(tasks=("capitals",), include=(str(folder),), shots=0, batch_size=2)


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    models = {"main": {"path": "x", "architecture": "baichuan2-7b", "size": "7b"}}
    values = {"name": "x", "models": models, "runtime": {"device": "cpu", "threads": 1}}
    return make_runtime(Config.model_validate(values), RunDir(tmp_path / "run"))


@pytest.mark.parametrize("architecture", ["baichuan2-7b", "baichuan-13b"])
def test_a_task_of_one_s_own(
    architecture: str, own: CapabilitySection, runtime: Runtime, checkpoint: Any
) -> None:
    """Against the same choice made without the harness: the likeliest answer, RoPE and ALiBi."""
    path = checkpoint(architecture)
    rows = ask(path, own, runtime)
    assert [(row.task, row.id, row.metric) for row in rows] == [
        ("capitals", f"capitals:{i}", "acc") for i in range(len(QUESTIONS))
    ]
    chosen = [likeliest(path, question, choices) for question, choices, _ in QUESTIONS]
    right = [float(a == b) for a, (_, _, b) in zip(chosen, QUESTIONS, strict=True)]
    assert [row.value for row in rows] == right


def test_questions_to_an_imported_model_begin_with_its_bos(
    own: CapabilitySection, runtime: Runtime, tmp_path: Path
) -> None:
    asked = _language_model(import_with_bos(tmp_path), own, runtime)
    bos = asked.tokenizer.bos_token_id
    ids = asked.tok_encode("Hello")
    assert ids[0] == bos and ids.count(bos) == 1
    assert asked.tok_encode("<|endoftext|>Hello") == ids
    assert asked.tok_batch_encode(["Hello"])[0].tolist() == [ids]


def group(folder: Path, name: str, *parts: str) -> None:
    listed = ", ".join(parts)
    (folder / f"{name}.yaml").write_text(f"group: {name}\ntask: [{listed}]\n", encoding="utf-8")


def test_every_name_of_the_config_has_its_questions(
    own: CapabilitySection, runtime: Runtime, tmp_path: Path, checkpoint: Any
) -> None:
    """A group beside a part of it, which it has through a tag, and the tag itself."""
    folder = tmp_path / "tasks"
    task = (folder / "capitals.yaml").read_text("utf-8")
    for name in ("rivers", "lakes"):
        other = task.replace("task: capitals", f"task: {name}\ntag: waters")
        (folder / f"{name}.yaml").write_text(other, encoding="utf-8")
    group(folder, "wet", "waters")
    group(folder, "geography", "capitals", "wet")
    names = ("wet", "geography", "waters", "capitals")
    rows = ask(checkpoint("baichuan2-7b"), own.model_copy(update={"tasks": names}), runtime)
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row.task, []).append(row.id.split(":")[0])
    assert list(found) == ["wet", "geography", "lakes", "rivers", "capitals"]
    assert found["geography"] == ["capitals"] * 3 + ["lakes"] * 3 + ["rivers"] * 3
    assert found["wet"] == ["lakes"] * 3 + ["rivers"] * 3
    assert found["lakes"] == ["lakes"] * 3 and found["capitals"] == ["capitals"] * 3


def test_a_group_of_different_metrics_is_refused_before_a_model_is_loaded(
    own: CapabilitySection, runtime: Runtime, tmp_path: Path
) -> None:
    folder = tmp_path / "tasks"
    task = (folder / "capitals.yaml").read_text("utf-8")
    other = task.replace("task: capitals", "task: rivers").replace("acc}", "acc_norm}")
    (folder / "rivers.yaml").write_text(other, encoding="utf-8")
    group(folder, "geography", "capitals", "rivers")
    said = (
        "geography has no score, for capitals is measured by acc and rivers by acc_norm; "
        "name its parts instead: capitals, rivers"
    )
    with pytest.raises(ValueError, match=said):
        ask(tmp_path / "no model", own.model_copy(update={"tasks": ("geography",)}), runtime)


def test_a_task_without_a_mean_is_refused_before_a_model_is_loaded(
    own: CapabilitySection, runtime: Runtime, tmp_path: Path
) -> None:
    path = tmp_path / "tasks" / "capitals.yaml"
    declared = "{metric: acc, aggregation: mean, higher_is_better: false}"
    path.write_text(path.read_text("utf-8").replace("{metric: acc}", declared), encoding="utf-8")
    with pytest.raises(ValueError, match="capitals is measured by acc, of which none is a mean"):
        ask(tmp_path / "no model", own, runtime)


def likeliest(path: Path, question: str, choices: list[str]) -> int:
    model = load_causal_lm(path, dtype=torch.float32, device="cpu")
    tokenizer = load_tokenizer(path)
    sums = []
    for choice in choices:
        before = tokenizer.encode(question)
        whole = tokenizer.encode(f"{question} {choice}")
        logprobs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        places = range(len(before) - 1, len(whole) - 1)
        sums.append(sum(float(logprobs[place, whole[place + 1]].detach()) for place in places))
    return max(range(len(choices)), key=lambda index: sums[index])


def test_the_demo_s_questions(harness: None, runtime: Runtime, checkpoint: Any) -> None:
    section = CapabilitySection(tasks=("demo_world",), limit=6, shots=0)
    rows = ask(checkpoint("baichuan2-7b"), section, runtime)
    assert len(rows) == 6 and all(isinstance(row, QuestionRow) for row in rows)
    assert {row.value for row in rows} <= {0.0, 1.0}


def test_the_demo_s_questions_have_one_answer_each() -> None:
    from rlhf.demo.questions.world_questions import questions

    found = list(questions())
    assert len(found) > 100 and {question["answer"] for question in found} == {0, 1, 2, 3}
    assert all(len(set(question["choices"])) == 4 for question in found)


@pytest.mark.slow  # reads the harness's index
def test_an_unknown_task_is_answered_with_the_nearest(harness: None) -> None:
    """And the only one that is unknown: the tasks of the default are all there."""
    assert harness_version().startswith("lm-eval 0.")
    with pytest.raises(ValueError, match=r"no task gsm8kk; did you mean .*gsm8k"):
        task_manager(CapabilitySection(tasks=(*CapabilitySection().tasks, "gsm8kk")))


def test_without_the_harness_the_mend_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ValueError, match=r"pip install 'baichuan-rlhf\[capabilities\]'"):
        harness_version()


def test_questions_that_cannot_be_read_are_told_before_a_model_is_loaded(
    own: CapabilitySection, runtime: Runtime, tmp_path: Path
) -> None:
    (tmp_path / "tasks" / "capitals.jsonl").unlink()
    with pytest.raises(ValueError, match=r"capitals cannot be read .*HF_HOME"):
        ask(tmp_path / "no model", own, runtime)

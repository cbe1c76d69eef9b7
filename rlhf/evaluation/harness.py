"""Benchmarks by lm-evaluation-harness (the extra `capabilities`), on models of this family."""

from __future__ import annotations

import difflib
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from importlib.metadata import version
from io import StringIO
from itertools import chain
from pathlib import Path
from typing import Any

from rlhf.config.capabilities import CapabilitySection
from rlhf.config.paths import resource
from rlhf.evaluation.capabilities import QuestionRow
from rlhf.models.load import load_causal_lm, load_tokenizer
from rlhf.runtime.distributed import Runtime, gather, is_main_process, once, own_part

OWN_TASKS = "demo/questions"
"""The folder of the demo's task, in the package."""
SEED = 1234
"""Of the examples; the harness's own choice."""
NOISY = ("lm_eval", "evaluate", "absl", "huggingface_hub")
OPTIONS: dict[str, Any] = {"log_samples": True, "bootstrap_iters": 0}
"""Of the harness: each question's result, from which the intervals are made here."""


def ask(model: Path, section: CapabilitySection, runtime: Runtime) -> list[QuestionRow]:
    """What a language model scores on every question of the section's tasks.

    The questions are dealt out to the processes of the run; all of them get all rows.

    Raises:
        ValueError: the harness is not installed, has no such task, or cannot read its questions.
    """
    manager = task_manager(section)
    read: list[Any] = []
    once(lambda: read.append(read_tasks(manager, section)))  # fetched once, read by every process
    tasks = read[0] if read else read_tasks(manager, section)
    with _quietly():
        from lm_eval.evaluator import evaluate

        wrapped = _language_model(model, section, runtime)
        found = evaluate(wrapped, task_dict=tasks, limit=section.limit, **OPTIONS)
    return list(question_rows(found, section.tasks))


def count_questions(section: CapabilitySection) -> int:
    """How many there are in the section's tasks, all of which are read for it.

    Raises ValueError as `ask`.
    """
    tasks = read_tasks(task_manager(section), section)["tasks"]
    return sum(len(task.eval_docs) for task in tasks.values())


def harness_version() -> str:
    """Raises ValueError, with the mend, where the harness is not installed."""
    try:
        import lm_eval  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"capabilities: needs lm-evaluation-harness ({error}); install it with "
            "pip install 'baichuan-rlhf[capabilities]', or set capabilities: null"
        ) from None
    return f"lm-eval {version('lm-eval')}"


def task_manager(section: CapabilitySection) -> Any:
    """The harness's index of tasks, with its own where the section's folders do not have all.

    Raises ValueError for a task that is nowhere, with the nearest names.
    """
    harness_version()
    from lm_eval.tasks import TaskManager

    folders = [str(resource(OWN_TASKS)), *section.include]
    with _quietly():
        for defaults in (False, True):  # its thousands of files take seconds to read
            manager = TaskManager(include_path=folders, include_defaults=defaults)
            unknown = [name for name in section.tasks if name not in manager.task_index]
            if not unknown:
                return manager
    near = difflib.get_close_matches(unknown[0], manager.all_tasks, n=3)
    mend = f"did you mean {', '.join(near)}?" if near else "name its folder in capabilities.include"
    raise ValueError(f"capabilities.tasks: no task {unknown[0]}; {mend}")


def read_tasks(manager: Any, section: CapabilitySection) -> Any:
    """The tasks with their questions, and with so many solved examples as the section says.

    Raises ValueError where a task's questions cannot be had, such as without a network.
    """
    try:
        with _quietly():
            loaded = manager.load(list(section.tasks))
    except Exception as error:  # every source of data has errors of its own
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(
            f"capabilities.tasks: {', '.join(section.tasks)} cannot be read ({reason}); without a "
            "network, bring the Hugging Face cache of a machine that has read them (HF_HOME), or "
            "name task files of your own in capabilities.include"
        ) from None
    for task in loaded["tasks"].values():
        own = task.get_config("num_fewshot")
        # A task that says 0 has no examples to give, or is made to be asked without.
        shots = own or 0 if section.shots is None or own == 0 else section.shots
        task.set_config(key="num_fewshot", value=shots)
        task.set_fewshot_seed(seed=SEED)
    return loaded


def question_rows(found: Mapping[str, Any], tasks: Sequence[str]) -> Iterator[QuestionRow]:
    """A row for each question, from what the harness returns with its samples.

    A group's questions are those of all its tasks; a tag's tasks stand by themselves. The metric is
    the first that the task names. Raises ValueError for one that is not the mean over questions.
    """
    children: Mapping[str, Sequence[str]] = found.get("group_subtasks", {})
    inner = {child for group in children.values() for child in group}
    top = [name for name in found["results"] if name not in inner]
    for name in sorted(top, key=lambda name: tasks.index(name) if name in tasks else len(tasks)):
        leaves = list(_leaves(name, children))
        metric, kept = _first_metric(found["results"][leaves[0]])
        for leaf in leaves:
            for sample in found["samples"][leaf]:
                if sample["filter"] == kept:
                    yield QuestionRow(
                        task=name,
                        metric=metric if kept == "none" else f"{metric} ({kept})",
                        id=f"{leaf}:{sample['doc_id']}",
                        shots=found["n-shot"].get(leaf) or 0,
                        value=_number(sample[metric], leaf, metric),
                    )


def _leaves(name: str, children: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """The tasks with questions of their own that a name stands for."""
    if not children.get(name):
        yield name
    for child in children.get(name, ()):
        yield from _leaves(child, children)


def _first_metric(results: Mapping[str, Any]) -> tuple[str, str]:
    """Name and filter of the first metric, which the harness writes as one key: "acc,none"."""
    keys = (key.split(",") for key in results if "," in key and "_stderr" not in key)
    metric, kept = next(keys)
    return metric, kept


def _number(value: Any, task: str, metric: str) -> float:
    if isinstance(value, bool | int | float):
        return float(value)
    raise ValueError(
        f"capabilities.tasks: {task} is measured by {metric}, which is no mean over questions; "
        "choose a task of accuracy or exact match"
    )


def _language_model(path: Path, section: CapabilitySection, runtime: Runtime) -> Any:
    """The harness's wrapper around a model of ours. Every process asks for everything, so that the
    examples are those of one process, and reads its part of it."""
    from lm_eval.models.huggingface import HFLM

    class Shared(HFLM):  # type: ignore[misc, unused-ignore]
        def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
            return _in_parts(requests, super().loglikelihood)

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
            return _in_parts(requests, super().loglikelihood_rolling)

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
            return _in_parts(requests, super().generate_until)

    model = load_causal_lm(path, dtype=runtime.dtype, device=runtime.device)
    return Shared(
        pretrained=model,
        tokenizer=load_tokenizer(path),
        batch_size=section.batch_size,
        max_length=int(model.config.model_max_length),
        truncation=True,
    )


def _in_parts(requests: list[Any], answer: Callable[[list[Any]], list[Any]]) -> list[Any]:
    own = requests[own_part(len(requests))]
    return list(chain.from_iterable(gather(answer(own) if own else [])))


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the harness's notices, such as that it was given a model that is loaded already; its
    bars are for terminals."""
    loggers = [logging.getLogger(name) for name in _names(*NOISY)]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    shown = sys.stderr.isatty() and is_main_process()
    bars = nullcontext() if shown else redirect_stderr(StringIO())
    try:
        with bars:
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _names(*roots: str) -> Iterable[str]:
    """The loggers of these packages: some of the harness's have levels of their own."""
    known = list(logging.root.manager.loggerDict)
    return [*roots, *(name for name in known if name.startswith(tuple(f"{r}." for r in roots)))]

"""Benchmarks by lm-evaluation-harness (the extra `capabilities`), on models of this family."""

from __future__ import annotations

import difflib
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from importlib.metadata import version
from io import StringIO
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from rlhf.config.capabilities import CapabilitySection
from rlhf.config.paths import resource
from rlhf.evaluation.capabilities import QuestionRow
from rlhf.evaluation.harness_rows import check_groups, question_rows
from rlhf.models.chat_template import write_start
from rlhf.models.load import load_causal_lm, load_tokenizer
from rlhf.models.registry import spec_of
from rlhf.runtime.distributed import Runtime, gather, is_main_process, once, own_part

OWN_TASKS = "demo/questions"
"""The folder of the demo's task, in the package."""
SEED = 1234
"""Of the examples; the harness's own choice."""
NOISY = ("lm_eval", "evaluate", "absl", "huggingface_hub")
OPTIONS: dict[str, Any] = {"log_samples": True, "bootstrap_iters": 0}
"""Of the harness: each question's result, from which the intervals are made here."""


class Tasks(NamedTuple):
    """loaded: as the harness takes them. names: what has a score, as the section names it; a tag's
    tasks stand by themselves."""

    loaded: dict[str, Any]
    names: tuple[str, ...]


def ask(model: Path, section: CapabilitySection, runtime: Runtime) -> list[QuestionRow]:
    """What a language model scores on every question of the section's tasks.

    The questions are dealt out to the processes of the run; all of them get all rows.

    Raises:
        ValueError: the harness is not installed, has no such task, or cannot read its questions; a
            task or group has no score.
    """
    manager = task_manager(section)
    read: list[Tasks] = []
    once(lambda: read.append(read_tasks(manager, section)))  # fetched once, read by every process
    tasks = read[0] if read else read_tasks(manager, section)
    with _quietly():
        from lm_eval.evaluator import evaluate

        wrapped = _language_model(model, section, runtime)
        found = evaluate(wrapped, task_dict=tasks.loaded, limit=section.limit, **OPTIONS)
    return list(question_rows(found, tasks.loaded, tasks.names))


def count_questions(section: CapabilitySection) -> int:
    """How many there are in the section's tasks, all of which are read for it.

    Raises ValueError as `ask`.
    """
    loaded = read_tasks(task_manager(section), section).loaded
    return sum(len(task.eval_docs) for task in loaded["tasks"].values())


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


def read_tasks(manager: Any, section: CapabilitySection) -> Tasks:
    """The tasks with their questions, and with so many solved examples as the section says.

    Raises ValueError where a task's questions cannot be had, such as without a network, or where a
    task has no metric that can be taken, or a group's tasks none in common.
    """
    loaded: dict[str, Any] = {"tasks": {}, "groups": {}, "group_map": {}}
    names: dict[str, None] = {}
    try:
        with _quietly():
            # One by one: the harness refuses a task beside a group that has it.
            for name in section.tasks:
                read = manager.load([name])
                for kind, values in loaded.items():
                    values.update(read[kind])
                whole = name in read["tasks"] or name in read["groups"]
                names.update(dict.fromkeys([name] if whole else read["tasks"]))
    except Exception as error:  # every source of data has errors of its own
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(
            f"capabilities.tasks: {', '.join(section.tasks)} cannot be read ({reason}); without a "
            "network, bring the Hugging Face cache of a machine that has read them (HF_HOME), or "
            "name task files of your own in capabilities.include"
        ) from None
    check_groups(loaded, names)  # before a model is asked
    for task in loaded["tasks"].values():
        own = task.get_config("num_fewshot")
        # A task that says 0 has no examples to give, or is made to be asked without.
        shots = own or 0 if section.shots is None or own == 0 else section.shots
        task.set_config(key="num_fewshot", value=shots)
        task.set_fewshot_seed(seed=SEED)
    return Tasks(loaded, tuple(names))


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
    tokenizer = load_tokenizer(path)
    write_start(tokenizer, spec_of(model.config).turns)
    return Shared(
        pretrained=model,
        tokenizer=tokenizer,
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

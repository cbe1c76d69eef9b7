"""`rlhf evaluate best-of-n`: many answers to each held-out prompt, scored and judged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rlhf.config.load import load_config
from rlhf.config.schema import Config
from rlhf.data.jsonl import read_jsonl, write_jsonl
from rlhf.data.records import PromptRecord
from rlhf.evaluation import best_of_n, report, rm_report, run_files
from rlhf.evaluation.answers import Answerer, Scorer
from rlhf.evaluation.best_of_n import AnswerRow
from rlhf.evaluation.cells import Table
from rlhf.models.checkpoint import check_checkpoint, check_kind
from rlhf.runtime.distributed import Runtime, make_runtime
from rlhf.runtime.metrics import progress
from rlhf.runtime.quiet import quiet
from rlhf.runtime.run_dir import RunDir
from stages import evaluate


@quiet()
def sample(run: Path, policy: Path | None, samples: int, count: int) -> tuple[Path, Table]:
    """Sample a policy's answers as `collect.sampling` says, score them with the run's reward model,
    have its judge judge them, and draw the reward model's report again.

    Args:
        policy: a checkpoint directory; None: the run's SFT model.
        samples: answers a prompt. count: prompts, the first ones held out.

    Returns:
        The report's folder, and the curve.

    Raises:
        ValueError: no such run, or one without a reward model; one line.
    """
    run_files.load(run)  # says in one line what is not a run
    rm_report.pairs_file(run)
    config, run_dir = load_config(run / "config.yaml"), RunDir(run)
    runtime = make_runtime(config, run_dir)
    prompts = list(read_jsonl(run_dir.data / "prompts_eval.jsonl", PromptRecord))[:count]
    path = policy or run_dir.stage("sft/main")
    check_checkpoint(path)
    check_kind(path, "language model")
    answerer = Answerer.load(path, runtime)
    rows = _rows(prompts, samples, answerer, config, runtime)
    write_jsonl(run / best_of_n.FILE, rows)
    folder, rm = rm_report.write(run)
    if (run / "report").is_dir():
        report.write(run)
    return folder, rm["best_of_n"]


def _rows(
    prompts: Sequence[PromptRecord],
    samples: int,
    answerer: Answerer,
    config: Config,
    runtime: Runtime,
) -> Iterator[AnswerRow]:
    judge = evaluate.judge(config, runtime)
    scorer = Scorer.load(runtime.stage_dir("rm"), runtime)
    size = config.evaluate.batch_size
    with progress("best of n", runtime) as bar:
        for number, prompt in enumerate(prompts, start=1):
            same, generator = [prompt] * samples, runtime.generator(f"best-of-n:{prompt.id}")
            completions = answerer.complete(same, config.collect.sampling, generator, size)
            answers = [answerer.answer(completion) for completion in completions]
            scores = scorer.scores(same, answers, size)
            qualities = judge.qualities(same, answers)
            for turn, found in enumerate(zip(answers, scores, qualities, strict=True)):
                answer, score, quality = found
                yield AnswerRow(
                    id=f"{prompt.id}/{turn}",
                    prompt_id=prompt.id,
                    text=answer.text,
                    score=score,
                    quality=quality,
                    judge=judge.name,
                    simulated=judge.simulated,
                )
            bar.update(number, len(prompts))

"""`rlhf init`: a config of one's own."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer()


@app.command("init")
def init(
    model: Annotated[
        str | None, typer.Option("--model", metavar="DIR", help="The checkpoint.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="DIR|FILE", help="With sft.jsonl, prompts.jsonl, rankings.jsonl."
        ),
    ] = None,
    gpus: Annotated[str | None, typer.Option("--gpus", metavar="N", help="0: CPU.")] = None,
    tuning: Annotated[
        str | None, typer.Option("--tuning", help="lora, qlora or full (all weights).")
    ] = None,
    language: Annotated[
        str | None, typer.Option("--language", help="Of the comments: en or zh.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The config; NAME.yaml without it.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Take the default of what is not given; ask nothing.")
    ] = False,
) -> None:
    """Ask five questions and write a commented config. What an option answers is not asked.

    Examples:

        rlhf init

        rlhf init --model weights/Baichuan2-7B-Base --data data --gpus 1 --tuning lora --yes
    """
    from rlhf.apps.init.questions import QUESTIONS
    from rlhf.apps.init.write import name_of, render
    from rlhf.runtime.files import write_text

    given = {"model": model, "data": data, "gpus": gpus, "tuning": tuning, "language": language}
    answers: dict[str, Any] = {}
    for question in QUESTIONS:
        answer, default = given[question.name], question.default(answers)
        if answer is None and not yes:
            parse = _asked_again(question.parse)
            answers[question.name] = typer.prompt(question.text, default, value_proc=parse)
        else:
            answers[question.name] = question.parse(default if answer is None else answer)
    out = out or Path(f"{name_of(answers)}.yaml")
    if out.exists() and (yes or not typer.confirm(f"{out} is there already; overwrite it?")):
        raise ValueError(f"{out}: already there, and left as it is; name another with --out")
    write_text(out, render(answers, out))
    name = shlex.quote(str(out))
    typer.echo(f"written: {out}; next: rlhf run {name} --rehearse, then rlhf doctor {name}")


def _asked_again(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """A prompt's question is put again, after what was wrong with the answer."""

    def value(answer: str) -> Any:
        try:
            return parse(str(answer))
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return value

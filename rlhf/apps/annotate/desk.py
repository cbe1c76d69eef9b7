"""What the page may ask for, and the views that it draws: plain data, whatever shows it."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from rlhf.apps.annotate.accounts import is_auditor
from rlhf.apps.annotate.audit import Audit
from rlhf.apps.annotate.database import Moved, Unsaved
from rlhf.apps.annotate.job import Job
from rlhf.apps.annotate.ranking import Answer, Note, as_shown
from rlhf.apps.annotate.store import Refused, Store, Work
from rlhf.data.jsonl import Part, in_one_line
from rlhf.data.taxonomy import Taxonomy

LOG = logging.getLogger(__name__)
View = dict[str, Any]
Number = Annotated[int, Field(ge=0, lt=2**63)]  # as SQLite takes it


class Call(Part):
    """One request of the page. key: of a piece of work. batch: (annotator, number)."""

    action: Literal[
        "open", "keep", "answer", "skip", "flag", "step", "take_up",
        "batch", "check", "judge", "put_back",
    ]  # fmt: skip
    key: Number = 0
    answer: Answer | None = None
    note: Note = ""
    step: Literal[-1, 1] = 1
    batch: tuple[str, Number] = ("", 0)
    good: bool = False


AUDITORS = frozenset({"batch", "check", "judge", "put_back"})


class Desk:
    """Serves annotators and auditors of one job; keeps the export true to the job."""

    def __init__(self, job: Job, store: Store, audit: Audit, taxonomy: Taxonomy) -> None:
        self.job, self.store, self.audit, self.taxonomy = job, store, audit, taxonomy
        self.update_export()

    def handle(self, user: str, data: str) -> View:
        """The view that a request (a Call as JSON) leads to, or {"error": one line or one word}."""
        try:
            call = Call.model_validate_json(data)
            audits = is_auditor(self.job.database, user)
            if call.action != "open" and audits != (call.action in AUDITORS):
                raise Refused("forbidden")
            view: View = getattr(self, f"_{call.action}")(user, call)
            return view
        except ValidationError as error:
            return {"error": in_one_line(error)}
        except Moved:
            return {"error": "moved"}
        except Unsaved as error:
            LOG.warning("%s", error)  # to whoever can mend it
            return {"error": error.word}
        except (Refused, ValueError) as error:
            return {"error": str(error)}

    def update_export(self) -> dict[Path, int]:
        """Export once the job is done; withdraw that when it no longer is."""
        return self.job.keep_up(self._is_done)

    def _is_done(self) -> bool:
        """Every task is settled and, where somebody audits, every batch has its verdict."""
        progress = self.store.progress()
        return progress.settled == progress.tasks and not self.audit.waits()

    # --- annotators -------------------------------------------------------------------------------

    def _open(self, user: str, call: Call) -> View:
        if is_auditor(self.job.database, user):
            return self._overview(user)
        return self._task(user, self.store.claim(user))

    def _keep(self, user: str, call: Call) -> View:
        self.store.keep(user, call.key)
        return {}

    def _answer(self, user: str, call: Call) -> View:
        if call.answer is None:
            raise ValueError("answer: missing")
        self.store.answer(user, call.key, call.answer)
        self.update_export()
        return self._open(user, call)

    def _skip(self, user: str, call: Call) -> View:
        self.store.skip(user, call.key)
        return self._open(user, call)

    def _flag(self, user: str, call: Call) -> View:
        self.store.flag(user, call.key, call.note)
        self.update_export()
        return self._open(user, call)

    def _step(self, user: str, call: Call) -> View:
        work = self.store.neighbour(user, call.key, call.step)
        if work is None and call.step < 0:
            raise Refused("first")
        return self._task(user, work) if work else self._open(user, call)

    def _take_up(self, user: str, call: Call) -> View:
        self.store.take_up_skipped(user)
        return self._open(user, call)

    def _task(self, user: str, work: Work | None) -> View:
        view: View = {"screen": "task", "user": user, "progress": asdict(self.store.progress(user))}
        view["sent_back"] = [asdict(batch) for batch in self.audit.sent_back(user)]
        view["task"] = self._shown(work) if work else None
        return view

    # --- auditors ---------------------------------------------------------------------------------

    def _overview(self, user: str) -> View:
        return {
            "screen": "audit",
            "user": user,
            "progress": asdict(self.store.progress(user)),
            "batches": [asdict(batch) for batch in self.audit.batches()],
            "flagged": [self._shown(work) for work in self.audit.flagged()],
            "open": None,
        }

    def _batch(self, user: str, call: Call) -> View:
        sample = self.audit.to_check(*call.batch)
        if not sample:
            raise Refused("gone")
        rows = [{**self._shown(work), "acceptable": verdict} for work, verdict in sample]
        return {**self._overview(user), "open": {"batch": call.batch, "sample": rows}}

    def _check(self, user: str, call: Call) -> View:
        self.audit.check(user, call.key, call.good)
        return self._batch(user, call)

    def _judge(self, user: str, call: Call) -> View:
        self.audit.judge(user, *call.batch, accept=call.good, note=call.note)
        self.update_export()
        return self._overview(user)

    def _put_back(self, user: str, call: Call) -> View:
        self.audit.put_back(call.key)
        self.update_export()
        return self._overview(user)

    # ----------------------------------------------------------------------------------------------

    def _shown(self, work: Work) -> View:
        """A task as its annotator sees it: responses in shown order, without their sources."""
        prompt, answer = work.task.prompt, work.answer
        return {
            "key": work.key,
            "annotator": work.annotator,
            "category": self._names(prompt.category),
            "messages": [message.model_dump() for message in prompt.messages],
            "responses": [work.task.responses[index].text for index in work.shown],
            "label": answer.label if answer else prompt.label,
            "ranks": as_shown(answer.ranks, work.shown) if answer else None,
            "grades": answer.grades if answer else (),
            "note": answer.note if answer else work.note,
            "answered": work.state == "answered",
        }

    def _names(self, path: tuple[str, ...]) -> list[dict[str, str]]:
        """Both names of each level; an id that the taxonomy does not have stands for itself."""
        names = []
        for depth in range(len(path)):
            try:
                category = self.taxonomy.find(path[: depth + 1])
                names.append({"en": category.en, "zh": category.zh})
            except ValueError:
                plain = path[depth].replace("_", " ")
                names.append({"en": plain, "zh": plain})
        return names

"""Pages as a reader sees them: without the script, and its catalogue of Chinese texts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

from rlhf.config.paths import resource
from rlhf.data.taxonomy import Taxonomy

NAMES = {"SFT", "DPO", "PPO", "UTC"}
"""Words that are the same in both languages."""


def read_page(path: Path) -> str:
    return re.sub(r"<script>.*?</script>", "", path.read_text("utf-8"), flags=re.DOTALL)


@cache
def catalogue() -> dict[str, str]:
    text = files("rlhf.evaluation").joinpath("templates/chinese.js").read_text("utf-8")
    pairs = json.loads(text[text.index("{") : text.rindex("}") + 1], object_pairs_hook=list)
    assert len(dict(pairs)) == len(pairs), "a text is in the catalogue twice"
    return dict(pairs)


@cache
def taxonomy() -> Taxonomy:
    """Its names are in both languages, too."""
    return Taxonomy.load(resource("data_schemas/taxonomy.yaml"))


class Texts(HTMLParser):
    """The texts that language.js would translate: not what is code, nor what somebody wrote."""

    VOID = {"meta", "br", "hr", "img", "input", "link", "path", "use"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[bool] = []
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            kept = tag in ("code", "style", "title", "button") or ("translate", "no") in attrs
            self.open.append(kept)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            self.open.pop()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Nothing is inside."""

    def handle_data(self, data: str) -> None:
        text = re.sub("[ \n]+", " ", data).strip(" ")
        if not any(self.open) and re.search("[A-Za-z]{2}", text):
            self.found.append(text)


def untranslated(page: str, *data: Any) -> list[str]:
    """Texts of a page that the catalogue lacks, but for those made of words of `data`."""
    known = {word for value in data for text in _strings(value) for word in text.split()} | NAMES
    known |= {
        word for level in taxonomy().levels for one in level.values() for word in one.en.split()
    }
    patterns = [
        re.compile("([^ ]+)".join(re.escape(part) for part in text.split("{}")))
        for text in catalogue()
    ]
    parser = Texts()
    parser.feed(page)
    missing = [
        text for text in parser.found if not any(pattern.fullmatch(text) for pattern in patterns)
    ]
    return [text for text in missing if set(re.findall(r"[^\s/]*[A-Za-z]{2}[^\s/]*", text)) - known]


def _strings(value: Any) -> Iterator[str]:
    """Every text in a report, names of its keys left out, and the parts of paths."""
    if isinstance(value, str):
        yield value.replace("/", " ")
    elif isinstance(value, dict):
        yield from (text for inner in value.values() for text in _strings(inner))
    elif isinstance(value, (list, tuple)):
        yield from (text for inner in value for text in _strings(inner))

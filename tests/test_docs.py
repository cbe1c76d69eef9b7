"""The documents name only what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from rlhf.cli import app
from rlhf.config.schema import Config, Section
from rlhf.data.formats import READERS
from tests.doc_commands import DOCUMENTS, ROOT

FIGURES = re.compile(r"[+-]?\d+(?:[.,]\d+)+|\d+(?= ?%)|\d+(?= GiB)")
SECTIONS = {name for name in Config.model_fields if name != "name"}


@pytest.fixture(params=DOCUMENTS, ids=lambda path: path.name)
def document(request) -> tuple[Path, str]:
    return request.param, request.param.read_text(encoding="utf-8")


def test_links_lead_somewhere(document):
    path, text = document
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text)]
    here = [link for link in links if link and not link.startswith("https://")]
    assert [link for link in here if not (path.parent / link).exists()] == []
    if ROOT / "docs" in path.parents:  # the site has nothing from outside docs/
        outside = [
            link
            for link in here
            if not (path.parent / link).resolve().is_relative_to(ROOT / "docs")
        ]
        assert outside == []


def test_config_keys_exist(document):
    sections = "|".join(SECTIONS)
    keys = re.findall(rf"[`\s]((?:{sections})(?:\.[a-z_0-9]+)+)[`=:]", document[1])
    files = (".jsonl", ".json", ".csv", ".md")
    assert [key for key in keys if not key.endswith(files) and not exists(key)] == []


def test_every_section_is_in_the_reference():
    def below(section: type[Section]) -> set[str]:
        inner = {name for each in section.__subclasses__() for name in below(each)}
        ours = section is not Section and section.__module__.startswith("rlhf.config.")
        return inner | ({f"{section.__module__}.{section.__name__}"} if ours else set())

    text = (ROOT / "docs/reference/config.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^::: (\S+)$", text, flags=re.MULTILINE)) == below(Section)


def exists(key: str) -> bool:
    section: type[Section] = Config
    for part in key.split("."):
        if part not in section.model_fields:
            return False
        inner = section.model_fields[part].annotation
        found = [inner, *getattr(inner, "__args__", ())]
        sections = [one for one in found if isinstance(one, type) and issubclass(one, Section)]
        section = sections[0] if sections else Section
    return True


def test_commands_exist(document):
    commands = get_command(app).commands
    used = re.findall(r"(?:^ *|`)rlhf ([a-z][a-z-]*)", document[1], flags=re.MULTILINE)
    assert set(used) <= set(commands)


def test_the_map_of_the_house_is_true():
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## The house")[2]
    named = re.findall(r"^    (\S+) ", text, flags=re.MULTILINE)
    assert len(named) > 10 and [name for name in named if not (ROOT / name).exists()] == []
    packages = {f"rlhf/{path.parent.name}" for path in (ROOT / "rlhf").glob("*/__init__.py")}
    assert packages <= set(named)


def test_every_format_is_in_the_table():
    text = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z][a-z0-9-]+)` \|", text, flags=re.MULTILINE)) == set(READERS)


def test_the_chinese_readme_says_the_same():
    def named(text: str) -> tuple[set[str], list[str]]:
        spans = {" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)}
        commands = {
            line.split("  #")[0].split("  ")[0] for line in re.findall(r"^    +(\S.*)", text, re.M)
        }
        links = set(re.findall(r"\]\(([^)]+)\)", text)) - {"README.md", "README.zh.md"}
        return spans | commands | links, sorted(FIGURES.findall(text))

    english, chinese = (
        named((ROOT / name).read_text(encoding="utf-8")) for name in ("README.md", "README.zh.md")
    )
    assert english[0] ^ chinese[0] == set()
    assert english[1] == chinese[1]

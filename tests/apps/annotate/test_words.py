from __future__ import annotations

import re
from pathlib import Path

import rlhf.apps.annotate

STATIC = Path(rlhf.apps.annotate.__file__).with_name("static")
ENTRY = re.compile(r'^  (\w+): \["([^"]+)", "([^"]+)"\],$', re.MULTILINE)
SCRIPTS = "".join(
    path.read_text("utf-8") for path in STATIC.glob("*.js") if path.name != "words.js"
)
# Words that reach the page from Python: roles, labels, states and what is refused.
FROM_PYTHON = {
    "system", "user", "assistant", "helpful", "harmless", "waiting", "accepted", "rejected",
    "first", "lapsed", "closed", "gone", "forbidden", "moved",
    "full", "busy", "denied",
}  # fmt: skip


def test_every_word_exists_in_both_languages_and_is_used() -> None:
    words = {key: (english, chinese) for key, english, chinese in ENTRY.findall(_words())}
    assert len(words) == len(re.findall(r"^  \w+:", _words(), re.MULTILINE))
    used = set(re.findall(r't\(\s*"(\w+)"', SCRIPTS))
    assert used <= set(words)
    quoted = set(re.findall(r'"(\w+)"', SCRIPTS))
    grades = {f"grade{grade}" for grade in range(1, 6)}
    assert set(words) <= used | quoted | grades | FROM_PYTHON
    for english, chinese in words.values():
        assert set(re.findall(r"{\d}", english)) == set(re.findall(r"{\d}", chinese))


def _words() -> str:
    return (STATIC / "words.js").read_text("utf-8")

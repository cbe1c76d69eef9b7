"""What was expensive to find out, kept in a file, so that an interrupted evaluation goes on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


class Kept:
    """Values by key in a JSONL file, each written as soon as it is known.

    A line that a dying process has cut short is left out, and found out again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[str, Any] = {}
        content = path.read_bytes() if path.is_file() else b""
        for line in content.splitlines():
            try:
                entry = json.loads(line)
                self._values[entry["key"]] = entry["value"]
            except (ValueError, TypeError, KeyError):
                continue
        if content and not content.endswith(b"\n"):
            self._append("\n")

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def add(self, key: str, value: Any) -> None:
        """value: as JSON has it."""
        self._values[key] = value
        self._append(json.dumps({"key": key, "value": value}, ensure_ascii=False) + "\n")

    def _append(self, text: str) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(text)


def key_of(*parts: Any) -> str:
    """A key for all that a value depends on."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()

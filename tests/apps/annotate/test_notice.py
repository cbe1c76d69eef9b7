from __future__ import annotations

from pathlib import Path
from socket import gethostname

from rlhf.apps.annotate.notice import NOTE, address_of, noted

PAGE = "http://127.0.0.1:7861/"


def test_a_folder_says_where_its_page_is_while_there_is_one(tmp_path: Path) -> None:
    assert address_of(tmp_path) is None
    with noted(tmp_path, PAGE):
        assert address_of(tmp_path) == PAGE
    assert address_of(tmp_path) is None and list(tmp_path.iterdir()) == []


def test_a_note_that_a_crash_left_leads_nowhere(tmp_path: Path) -> None:
    gone = 2**22 + 1  # no process has a number above 2**22
    for holder in (f"process {gone} on {gethostname()}", "process 1 on another-host", "nobody"):
        (tmp_path / NOTE).write_text(f"{holder} at {PAGE}")
        assert address_of(tmp_path) is None
    with noted(tmp_path, "javascript:alert(1)"):
        assert address_of(tmp_path) is None

from __future__ import annotations

from pathlib import Path

from rlhf.evaluation.kept import Kept, key_of


def test_values_are_there_in_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "kept.jsonl"
    kept = Kept(path)
    kept.add("a", {"text": "好\n\u2028"})
    kept.add("b", [1, None])
    again = Kept(path)
    assert "a" in again and "c" not in again
    assert again["a"] == {"text": "好\n\u2028"} and again["b"] == [1, None]


def test_a_line_cut_short_is_found_out_again(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    Kept(path).add("a", "first")
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"key": "b", "val')
    kept = Kept(path)
    assert "a" in kept and "b" not in kept
    kept.add("b", "second")
    again = Kept(path)
    assert again["a"] == "first" and again["b"] == "second"


def test_a_key_tells_what_differs() -> None:
    assert key_of("url", "model", {"x": 1}) == key_of("url", "model", {"x": 1})
    assert len({key_of("a", "bc"), key_of("ab", "c"), key_of("abc")}) == 3

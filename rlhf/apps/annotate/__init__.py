"""Ranking responses by people: a page on 127.0.0.1, answers in SQLite, ranking records out."""

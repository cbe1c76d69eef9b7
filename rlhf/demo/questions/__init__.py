"""The demo world's benchmark: a task of lm-evaluation-harness, and an example of one's own."""

"""Talking to a model at a terminal, MOSS with its plugins."""

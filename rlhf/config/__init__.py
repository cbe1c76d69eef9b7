"""Configs: what they may say (schema), how they are read (load), what comes along (paths)."""

"""Models: importing this package registers the Baichuan family with transformers' Auto classes."""

from __future__ import annotations

from rlhf.models.baichuan.register import register

register()

"""Models: importing this package registers both families with transformers' Auto classes."""

from __future__ import annotations

from rlhf.models.baichuan.register import register as register_baichuan
from rlhf.models.moss.register import register as register_moss

register_baichuan()
register_moss()

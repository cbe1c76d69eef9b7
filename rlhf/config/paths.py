"""Files that come with the package: configs/ and data_schemas/."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def resource(name: str) -> Path:
    """The file or folder `name`, such as "configs/tiny.yaml", in a checkout or in a wheel.

    A checkout has these folders beside the rlhf package, a wheel inside it (setup.py).
    Raises ValueError when no such file comes with the package.
    """
    for root in (_PACKAGE, _PACKAGE.parent):
        if (root / name).exists():
            return root / name
    raise ValueError(f"{name}: no such file comes with rlhf; look into configs/ and data_schemas/")

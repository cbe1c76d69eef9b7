"""What a run says: our own warnings, and not the libraries' notices and bars."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import datasets
import torch
from rich.console import Console
from rich.logging import RichHandler
from transformers.utils import logging as library_logging


@contextmanager
def quiet() -> Iterator[None]:
    """Silences the libraries' own bars and notices, which would break the progress display."""
    verbosity = library_logging.get_verbosity()
    bars = library_logging.is_progress_bar_enabled()
    dataset_bars = datasets.is_progress_bar_enabled()
    accelerate, told = logging.getLogger("accelerate"), logging.getLogger("accelerate").level
    accelerate.setLevel(logging.ERROR)  # that DeepSpeed's accumulation counts, at every stage
    library_logging.set_verbosity_error()
    library_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    if not torch.accelerator.is_available():  # DeepSpeed would tell, wherever it is imported
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            # Of scores, which are a view of the head's output; nobody changes them in place.
            warnings.filterwarnings("ignore", "FSDP2-wrapped module")
            # Of an adapter on the head, at every checkpoint, which has the head beside it then.
            warnings.filterwarnings("ignore", "Setting `save_embedding_layers`")
            # How a GPU's code is made is nobody's concern; the message begins with a line's end.
            warnings.filterwarnings("ignore", r"\s*Online softmax is disabled")
            warnings.filterwarnings("ignore", "TensorFloat32 tensor cores")
            yield
    finally:
        accelerate.setLevel(told)
        library_logging.set_verbosity(verbosity)
        if bars:
            library_logging.enable_progress_bar()
        if dataset_bars:
            datasets.enable_progress_bars()


@contextmanager
def warnings_on(console: Console) -> Iterator[None]:
    """Shows what this project's loggers warn of, above a progress bar that may be running."""
    logger = logging.getLogger("rlhf")
    handler = RichHandler(logging.WARNING, console, show_time=False, show_path=False)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)

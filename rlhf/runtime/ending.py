"""How a process ends."""

from __future__ import annotations

import atexit
import os
import sys
from typing import NoReturn


def end(code: int) -> NoReturn:
    """`sys.exit`; one of several processes (RANK is set) ends without finalising the interpreter.

    A thread of gloo lets go of the last tensors that it has sent when it gets round to it. If the
    interpreter is being finalised by then the thread aborts the process, though all its work is
    done (pytorch/pytorch#190489). destroy_process_group waits for the threads of groups that nobody
    refers to any more, but DeepSpeed and torch keep the first one as default arguments.
    """
    if "RANK" in os.environ:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)

"""Work that is killed again and again, a little later each time, until it ends by itself."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable

import torch


def killed_until_done(work: Callable[[], object], seconds: float) -> int:
    """How often the work was killed: after ``seconds``, twice as many, three times, ...

    It is forked for each attempt, so that only the first process pays for the imports.
    """
    # Threads do not survive a fork.
    torch.set_num_threads(1)
    kills = 0
    while True:
        child = os.fork()
        if child == 0:
            timer = threading.Timer(seconds * (kills + 1), os.kill, (os.getpid(), signal.SIGKILL))
            timer.daemon = True
            timer.start()
            work()
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if status == 0:
            return kills
        if not os.WIFSIGNALED(status):
            sys.exit(f"the work failed with status {status}")
        kills += 1

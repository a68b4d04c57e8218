"""How a process that loads data behaves: one thread, and deaf to signals that are meant for the training."""

import os
import signal
import sys
import threading

import torch


def prepare_worker(worker_id: int) -> None:
    """Let the training decide when this process ends: a terminal or scheduler signals all processes.

    The training itself ends its workers by SIGTERM, so SIGTERM is obeyed where it comes from the parent process.
    """
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":  # elsewhere the sender of a signal is not told, and SIGTERM keeps its meaning
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_the_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_the_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(os.EX_OK)  # what torch's own handler does: another status would be reported as a fault

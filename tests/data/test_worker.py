"""Workers end with the training, and only with it."""

import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from torch.utils.data import DataLoader

from lipsync_lightning.data.worker import prepare_worker

LEFT_OPEN = """
import sys
from torch.utils.data import DataLoader
from lipsync_lightning.data.worker import prepare_worker

if __name__ == "__main__":
    loader = DataLoader(range(100), num_workers=1, worker_init_fn=prepare_worker, persistent_workers=True)
    sys.kept_alive = iter(loader)
    next(sys.kept_alive)
"""


def test_a_process_that_ends_in_the_middle_of_an_epoch_ends(tmp_path):
    script = tmp_path / "left_open.py"
    script.write_text(LEFT_OPEN)

    done = subprocess.run([sys.executable, str(script)], timeout=60, capture_output=True, text=True)

    assert done.returncode == 0
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the sender of a signal is not told")
def test_a_worker_outlives_signals_that_are_not_from_its_training_and_ends_when_that_says_so():
    loader = DataLoader(list(range(20)), num_workers=1, worker_init_fn=prepare_worker, persistent_workers=True)
    batches: Any = iter(loader)
    first = next(batches)
    worker = batches._workers[0]
    for name in ("INT", "USR1", "TERM"):
        subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
    assert [*map(int, first), *(int(batch) for batch in batches)] == list(range(20))
    os.kill(worker.pid, signal.SIGTERM)
    worker.join(timeout=30)
    assert worker.exitcode == 0

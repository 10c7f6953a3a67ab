"""Trainings: what tests of them share, and how they are stopped, killed and spread over processes."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from safetensors.torch import load_file
from transformers import TrainerCallback


# Of a Trainer that leaves nothing behind.
TRAINER = {
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
}
# With these the tiny model learns the reviews, in 92 steps.
FINETUNING = {"epochs": 4, "learning_rate": 3e-3, "batch_size": 8, "max_length": 16}


def weights(folder):
    return load_file(folder / "model.safetensors")


class StopAt(TrainerCallback):
    """Ends a Trainer's run as a kill does: nothing is finished."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


@contextmanager
def stopped_at(step):
    """Stops a run on a task that is started within this context."""

    def stop(self, args, state, control, **kwargs):
        if state.global_step == step:
            raise InterruptedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compactbert.training.run.StepClock.on_step_end", stop)
        with pytest.raises(InterruptedError):
            yield


def kill_when(command, folder, pattern):
    """Runs a command, and kills it as soon as there is in `folder` what `pattern` names."""
    process = subprocess.Popen([*map(str, command)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    try:
        while not list(folder.glob(pattern)):
            assert process.poll() is None, f"It ended before {pattern}."
            assert time.monotonic() < deadline, f"It has not come to {pattern}."
            time.sleep(0.002)
    finally:
        process.kill()
        process.wait()


def in_two_processes(script, *arguments):
    """Runs a script as `torchrun` does, and returns what it says."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    done = subprocess.run(
        [*launcher, script, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

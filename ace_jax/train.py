"""Trains a LoRA adapter on a survey's answers, anchor first and effects after.

    python -m ace_jax.train --config configs/quickstart.py --workdir runs/quickstart/train

Run it again with the same --workdir to go on where it stopped. SIGTERM saves and exits with
status 42. The adapter comes to lie in WORKDIR/adapter, in PEFT format, with the record of its
experiment.
"""

from pathlib import Path

from ml_collections import ConfigDict

from ace_jax import command
from ace_jax.runtime import processes
from ace_jax.runtime.claim import Claim
from ace_jax.runtime.progress import log
from ace_jax.training import run


def main(config: ConfigDict, workdir: Path) -> None:
    """Trains, and says where the adapter lies."""
    processes.start(**config.distributed)
    processes.keep_compiled()
    stop = processes.stop_on_signal()
    with Claim(workdir) as claim:
        trained = run.train(config, claim, stop=stop)
    log(f"adapter: {trained.adapter}")


def cli() -> None:
    """Runs the command line."""
    workdir = command.workdir_flag()
    command.run_with_config(lambda config: main(config, command.directory(workdir)), workdir)


if __name__ == "__main__":
    cli()

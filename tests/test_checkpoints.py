import os
import shutil
import signal
import subprocess
import time

import grain
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from test_train import ROOT, SMALL, command, metrics_of, quick_commands, small_config

from ace_jax import train
from ace_jax.errors import InputError
from ace_jax.training.checkpoints import Policy, open_checkpoints, restore, save
from ace_jax.training.state import TrainState

CLOCKED = ("seconds", "pairs_per_second", "tokens_per_second")


@pytest.fixture(scope="module", autouse=True)
def quick(mesh, tmp_path_factory):
    with quick_commands(mesh, tmp_path_factory):
        yield


def outcome(workdir):
    """What must not depend on interruptions: the adapter's bytes and the metrics, time apart."""
    rows = [
        {name: value for name, value in row.items() if name not in CLOCKED}
        for row in metrics_of(workdir)
    ]
    return (workdir / "adapter" / "adapter_model.safetensors").read_bytes(), rows


@pytest.fixture(scope="module")
def uninterrupted(tiny_checkpoint, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    train.main(small_config(tiny_checkpoint), workdir)
    return outcome(workdir)


@pytest.mark.parametrize("stops", [(1,), (6,), (4, 9, 11)], ids=str)
def test_a_resumed_run_ends_bitwise_as_one_without_a_stop(
    tiny_checkpoint, tmp_path, uninterrupted, stops
):
    for stop in stops:
        train.main(small_config(tiny_checkpoint, max_steps=stop), tmp_path)
        assert len(metrics_of(tmp_path)) == stop
    train.main(small_config(tiny_checkpoint), tmp_path)
    assert outcome(tmp_path) == uninterrupted
    assert len(uninterrupted[1]) == 12


def test_another_order_changes_the_outcome(tiny_checkpoint, tmp_path, uninterrupted):
    """Or the equality above would not say that the data's position is restored."""
    train.main(small_config(tiny_checkpoint, data__shuffle=False), tmp_path)
    assert outcome(tmp_path)[1][0]["loss"] != uninterrupted[1][0]["loss"]


def test_also_between_two_accumulated_steps(tiny_checkpoint, tmp_path):
    def config(**more):
        return small_config(tiny_checkpoint, optimizer__accumulation=2, **more)

    train.main(config(), tmp_path / "whole")
    train.main(config(max_steps=5), tmp_path / "halves")
    train.main(config(), tmp_path / "halves")
    assert outcome(tmp_path / "halves") == outcome(tmp_path / "whole")


def test_sigterm_saves_and_exits_42(tiny_checkpoint, tmp_path):
    # Thousands of steps, so that it cannot be done before the signal comes.
    stages = ((1.0, 0.0, 500), (0.0, 1.0, 500))
    small = SMALL | {"objective.stages": stages, "model.path": tiny_checkpoint}
    settings = [f"--config.{name}={value}" for name, value in small.items()]
    stopped, metrics = tmp_path / "stopped", tmp_path / "stopped" / "metrics.jsonl"
    running = subprocess.Popen(
        command("train", "quickstart.py", stopped, *settings),
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    while running.poll() is None and not (metrics.exists() and len(metrics_of(stopped)) > 2):
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=120)
    steps = len(metrics_of(stopped))
    assert running.returncode == 42, said
    assert said.splitlines()[-1] == f"stopped at step {steps}; run the same command again to go on"
    assert not (stopped / "adapter").exists()
    assert (stopped / "checkpoints" / str(steps)).is_dir()

    more = small_config(tiny_checkpoint, objective__stages=stages, max_steps=steps + 3)
    train.main(more, stopped)
    train.main(more, tmp_path / "whole")
    assert outcome(stopped) == outcome(tmp_path / "whole")


def numbers():
    """A stream of data: 0, 1, 2, ..."""
    return iter(grain.MapDataset.range(100).to_iter_dataset())


def state_at(step):
    lora = nnx.State({"a": jnp.full((2, 3), step, jnp.float32)})
    moments = {"count": jnp.int32(step), "mu": lora}
    return TrainState(jnp.int32(step), lora, moments, jax.random.key(step))


def test_state_and_data_come_back_as_they_were(tmp_path):
    data = numbers()
    with open_checkpoints(tmp_path / "c", Policy(every_steps=10, keep=2)) as saved:
        for step in (1, 2, 3):
            assert next(data) == step - 1
            save(saved, state_at(step), data)
            save(saved, state_at(step), data)  # once more changes nothing
    fresh = numbers()
    with open_checkpoints(tmp_path / "c", Policy(every_steps=10, keep=2)) as saved:
        state = restore(saved, state_at(0), fresh)
    assert next(fresh) == 3
    assert (
        jax.random.key_data(state.key).tolist() == jax.random.key_data(jax.random.key(3)).tolist()
    )
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(state_at(3)), strict=True):
        assert (one.dtype, one.shape, bool((one == other).all())) == (
            other.dtype,
            other.shape,
            True,
        )
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["2", "3"]


def test_a_half_written_checkpoint_is_not_there(tmp_path):
    with open_checkpoints(tmp_path, Policy(every_steps=1, keep=5)) as saved:
        for step in (1, 2):
            save(saved, state_at(step), numbers())
    torn = tmp_path / "3.orbax-checkpoint-tmp"  # what a killed process leaves behind
    shutil.copytree(tmp_path / "2", torn)
    with open_checkpoints(tmp_path, Policy(every_steps=1, keep=5)) as saved:
        assert int(restore(saved, state_at(0), numbers()).step) == 2


def test_without_a_checkpoint_the_state_is_the_one_given(tmp_path):
    data, state = numbers(), state_at(0)
    with open_checkpoints(tmp_path, Policy(every_steps=1, keep=1)) as saved:
        assert restore(saved, state, data) is state
    assert next(data) == 0


def test_it_is_due_every_so_many_steps(tmp_path):
    with open_checkpoints(tmp_path, Policy(every_steps=3, keep=1)) as saved:
        assert [step for step in range(1, 10) if saved.should_save(step)] == [3, 6, 9]


@pytest.mark.parametrize("field", ["every_steps", "keep"])
def test_counts_below_one_are_refused(field):
    counts = {"every_steps": 1, "keep": 1} | {field: 0}
    with pytest.raises(InputError, match=rf"checkpoint\.{field}: 0 is not a positive number"):
        Policy(**counts)

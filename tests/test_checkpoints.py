import math
import shutil
import signal
import time
from dataclasses import replace

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from forked import Forked
from jax.sharding import NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as ocp
from test_train import ROOT, SMALL, command, metrics_of, quick_commands, small_config

from ace_jax import train
from ace_jax.errors import InputError
from ace_jax.model.sharding import make_mesh, replicated
from ace_jax.training.checkpoints import Checkpoints, Policy, _quiet, digest, read_state
from ace_jax.training.step import TrainState

CLOCKED = ("seconds", "pairs_per_second", "tokens_per_second", "data_wait")


@pytest.fixture(scope="module", autouse=True)
def quick(mesh):
    with quick_commands(mesh):
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


@pytest.mark.parametrize("stops", [(1,), (4, 9, 11)], ids=str)
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


def test_also_between_two_accumulated_steps(tiny_checkpoint, tmp_path, capsys):
    def config(**more):
        return small_config(tiny_checkpoint, optimizer__accumulation=2, **more)

    train.main(config(), tmp_path / "whole")
    capsys.readouterr()
    train.main(config(max_steps=1), tmp_path / "halves")
    assert "warning: training did not change the adapter in 1 step" in capsys.readouterr().err
    train.main(config(max_steps=5), tmp_path / "halves")
    with pytest.raises(InputError, match="max_steps: 4 is below the 5 steps that the run in"):
        train.main(config(max_steps=4), tmp_path / "halves")
    train.main(config(), tmp_path / "halves")
    assert "did not change" not in capsys.readouterr().err
    assert outcome(tmp_path / "halves") == outcome(tmp_path / "whole")


def test_sigterm_saves_and_exits_42(tiny_checkpoint, tmp_path):
    # Thousands of steps, so that it cannot be done before the signal comes.
    stages = ((1.0, 0.0, 500), (0.0, 1.0, 500))
    small = SMALL | {"objective.stages": stages, "model.path": tiny_checkpoint}
    settings = [f"--config.{name}={value}" for name, value in small.items()]
    stopped, metrics = tmp_path / "stopped", tmp_path / "stopped" / "metrics.jsonl"
    running = Forked(command("train", "quickstart.py", stopped, *settings), devices=1, cwd=ROOT)
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


def checkpoints(directory, every_steps=10, every_minutes=math.inf, keep=2):
    return Checkpoints(directory, Policy(every_steps, every_minutes, keep))


def test_state_and_data_come_back_as_they_were(tmp_path):
    data = numbers()
    with checkpoints(tmp_path / "c") as saved:
        for step in (1, 2, 3):
            assert next(data) == step - 1
            saved.save(state_at(step), data)
            saved.save(state_at(step), data)  # once more changes nothing
    fresh = numbers()
    with checkpoints(tmp_path / "c") as saved:
        state, _ = saved.restore(state_at(0), fresh)
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


def test_state_comes_back_on_another_mesh(tmp_path):
    """Saved on one device, read on eight, the adapter split among them."""
    values = jnp.arange(8.0).reshape(2, 4)
    with checkpoints(tmp_path) as saved:
        saved.save(replace(state_at(7), lora=nnx.State({"a": values})), numbers())
    mesh = make_mesh(data=2, fsdp=4, tensor=1)
    split = NamedSharding(mesh, PartitionSpec("data", "fsdp"))
    fresh = jax.device_put(state_at(0), replicated(mesh))
    fresh = replace(fresh, lora=jax.device_put(nnx.State({"a": 0 * values}), split))
    with checkpoints(tmp_path) as saved:
        state, _ = saved.restore(fresh, numbers())
    assert state.lora["a"].sharding == split
    assert state.step.sharding == replicated(mesh)
    np.testing.assert_array_equal(state.lora["a"], values)


def test_a_half_written_checkpoint_is_not_there(tmp_path):
    with checkpoints(tmp_path, keep=5) as saved:
        for step in (1, 2):
            saved.save(state_at(step), numbers())
    torn = tmp_path / "3.orbax-checkpoint-tmp"  # what a killed process leaves behind
    shutil.copytree(tmp_path / "2", torn)
    with checkpoints(tmp_path, keep=5) as saved:
        assert int(saved.restore(state_at(0), numbers())[0].step) == 2


def flip_a_number(path):
    """Changes the adapter in a checkpoint as if a bit had flipped that no library notices."""
    _quiet()
    content = ocp.load_checkpointables(path)
    metadata = ocp.checkpointables_metadata(path).custom_metadata
    content["state"]["lora"]["a"] += 2.0**-20
    shutil.rmtree(path)
    ocp.save_checkpointables(path, content, custom_metadata=metadata)


def cut(path):
    for file in (path / "state").rglob("d/*"):
        file.write_bytes(file.read_bytes()[:20])


def without_digests(path):
    (path / "_CHECKPOINT_METADATA").unlink()


@pytest.mark.parametrize("damage", [flip_a_number, cut, without_digests])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_taken(tmp_path, caplog, damage):
    caplog.set_level("INFO", "ace_jax")
    data = numbers()
    with checkpoints(tmp_path) as saved:
        for step in (1, 2):
            next(data)
            saved.save(state_at(step), data)
    abstract = jax.eval_shape(lambda: state_at(0))
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), abstract)
    assert int(read_state(tmp_path, 2, abstract).step) == 2
    damage(tmp_path / "2")
    with pytest.raises(InputError, match=rf"{tmp_path / '2'}: the checkpoint") as error:
        read_state(tmp_path, 2, abstract)
    assert "\n" not in str(error.value)
    fresh = numbers()
    with checkpoints(tmp_path) as saved:
        state, _ = saved.restore(state_at(0), fresh)
        assert (int(state.step), next(fresh)) == (1, 1)
        saved.save(state_at(2), fresh)  # it is done again
    assert [record.message[:8] for record in caplog.records] == ["warning:"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "2.damaged"]
    assert int(read_state(tmp_path, 2, abstract).step) == 2
    for step in ("1", "2"):
        damage(tmp_path / step)
    with checkpoints(tmp_path) as saved, pytest.raises(InputError, match="no checkpoint can be"):
        saved.restore(state_at(0), numbers())


def test_a_digest_is_of_every_bit_and_not_of_the_mesh():
    values = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    mesh = make_mesh(data=2, fsdp=4, tensor=1)
    split = jax.device_put(values, NamedSharding(mesh, PartitionSpec("data", "fsdp")))
    item = {"a": jnp.array(values), "step": 3, "loss": math.inf}
    known = digest(item)
    assert digest(item | {"a": split}) == known
    flips = [digest(item | {"step": 2})]
    for place, bit in ((0, 0), (17, 31), (31, 13)):
        flipped = values.copy()
        flipped.view(np.uint32).flat[place] ^= 1 << bit
        flips.append(digest(item | {"a": jnp.array(flipped)}))
    flips.append(digest(item | {"a": jnp.array(values[:, ::-1])}))  # the same numbers elsewhere
    assert known not in flips and len({*flips}) == len(flips)


@pytest.mark.parametrize("part", ["lora", "optimizer"])
def test_a_state_that_is_not_finite_is_not_saved(tmp_path, part):
    state = replace(state_at(2), **{part: nnx.State({"a": jnp.full((2, 3), jnp.nan)})})
    with checkpoints(tmp_path) as saved, pytest.raises(InputError, match="not finite; nothing was"):
        saved.save(state, numbers())
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=90))
    with (
        checkpoints(tmp_path) as saved,
        pytest.raises(
            InputError, match=r"0\.0 MB are free, .*; make room and run the same command"
        ),
    ):
        saved.save(state_at(2), numbers())
    assert not list(tmp_path.iterdir())


def test_without_a_checkpoint_the_state_is_the_one_given(tmp_path):
    data, state = numbers(), state_at(0)
    with checkpoints(tmp_path) as saved:
        assert saved.restore(state, data)[0] is state
    assert next(data) == 0


def test_it_is_due_every_so_many_steps(tmp_path):
    with checkpoints(tmp_path, every_steps=3) as saved:
        assert [step for step in range(1, 10) if saved.is_due(step)] == [3, 6, 9]
        assert not saved.is_late()


def test_it_is_late_after_so_many_minutes(tmp_path, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with checkpoints(tmp_path, every_minutes=5.0) as saved:
        now += 299
        assert not saved.is_late()
        now += 2
        assert saved.is_late()
        saved.save(state_at(1), numbers())
        assert not saved.is_late()


@pytest.mark.parametrize(
    ("field", "value"), [("every_steps", 0), ("every_minutes", 0.0), ("keep", 0)]
)
def test_numbers_that_are_not_positive_are_refused(field, value):
    numbers = {"every_steps": 1, "every_minutes": 1.0, "keep": 1} | {field: value}
    expected = rf"checkpoint\.{field}: {value} is not a positive number"
    with pytest.raises(InputError, match=expected):
        Policy(**numbers)

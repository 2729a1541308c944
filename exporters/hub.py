"""From a name on the Hugging Face Hub to a folder of files, whole and unchanged.

``huggingface_hub`` downloads: it resumes, shows its progress, keeps files where ``HF_HOME`` says, stays at home where
``HF_HUB_OFFLINE`` is set, and uses the token of ``HF_TOKEN`` or ``hf auth login``. Only what an export needs is asked
for; code never is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, constants, get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import logging

from engine.bundle import file_sha256
from exporters.errors import SourceError, with_room

#: Published checkpoints that are single files among others, by name.
MSCLAP_2023 = "CLAP_weights_2023.pth"
CHECKPOINT_FILES = (MSCLAP_2023,)
#: Names of what is small and always wanted, in any folder of a repository.
_SETTINGS = ("*.json", "*.txt", "*.model", "README.md")
#: What a tokenizer is made of.
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")
#: Weights by preference: of the first kind that is there all files are taken, and none of the others.
_WEIGHTS = (
    ("model.safetensors", "model-*-of-*.safetensors"),
    ("pytorch_model.bin", "pytorch_model-*-of-*.bin"),
    CHECKPOINT_FILES,
)
#: Folders with the same model in other forms.
_OTHERS = ("onnx", "openvino", "coreml", "tf", "flax")
_CHUNK = 1 << 20
#: What ``huggingface_hub`` raises for what isn't there while nobody can be asked.
_ABSENT = (OfflineModeIsEnabled, LocalEntryNotFoundError, CachedRepoTreeNotFoundError)
#: What the HTTP client raises that ``huggingface_hub`` uses, whichever it is.
_TransportError: type[Exception] = HfHubHTTPError.__bases__[0]


def is_hub_name(source: str) -> bool:
    """Whether this may be ``owner/model`` rather than a path."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", source) is not None and not source.startswith(".")


def fetch(name: str) -> Path:
    """The checkpoint's folder, or file where it is a single one; downloaded as far as it isn't there yet.

    Raises ``SourceError``: no such model, no connection, not downloaded while offline, or a file that isn't what the
    Hub says it is.
    """
    folder = _fetch(name, wanted)
    single = [folder / file for file in CHECKPOINT_FILES if (folder / file).is_file()]
    return single[0] if single else folder


def fetch_tokenizer(name: str) -> Path:
    """A folder with a model's tokenizer, without the model. Raises as ``fetch`` does."""
    return _fetch(name, lambda files: [file for file in files if file in _TOKENIZER])


def _fetch(name: str, choose: Callable[[Sequence[str]], list[str]]) -> Path:
    """The folder with those of a repository's files that are chosen. Raises as ``fetch`` does."""
    with _connection(name), with_room(constants.HF_HUB_CACHE, "what has come is kept"):
        if constants.HF_HUB_OFFLINE:
            files = [entry.path for entry in get_cached_repo_tree(name)]
        else:
            files = HfApi().list_repo_files(name)
        folder = Path(snapshot_download(name, allow_patterns=choose(files)))
    changed = [problem for path in sorted(folder.rglob("*")) if path.is_file() and (problem := _change(path))]
    if changed:
        raise SourceError(f"{', '.join(changed)}", "the hashes that the Hub says", "they were removed: pull again")
    return folder


def wanted(files: Sequence[str]) -> list[str]:
    """Of a repository's files those that an export reads."""
    own = [file for file in files if file.split("/")[0] not in _OTHERS]
    chosen = [file for file in own if _is_one_of(file, _SETTINGS)]
    for kind in _WEIGHTS:
        if weights := [file for file in own if _is_one_of(file, kind)]:
            return chosen + weights
    return chosen


def _is_one_of(file: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(file.rsplit("/", 1)[-1], pattern) for pattern in patterns)


def _change(path: Path) -> str:
    """Empty for a file with the hash by which the Hub's cache calls it; another is removed, and named with its hash."""
    blob = path.resolve()
    if len(blob.name) == 64:
        found = file_sha256(blob)
    elif len(blob.name) == 40:  # a small file, under git's name for it
        found = _git_sha1(blob)
    else:  # a cache without links has no hashes
        return ""
    if found == blob.name:
        return ""
    path.unlink()
    blob.unlink(missing_ok=True)
    return f"{path.name} with hash {found[:12]}… for {blob.name[:12]}…"


def _git_sha1(path: Path) -> str:
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _connection(name: str) -> Iterator[None]:
    """Say in our words, and in no others, what went wrong between us and the Hub."""
    verbosity = logging.get_verbosity()
    if verbosity == logging.WARNING:  # its default: a line for each time that it tries again
        logging.set_verbosity_error()
    try:
        yield
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise SourceError(
            f"no model {name!r} on {constants.ENDPOINT} that you may read",
            "the owner and name of one, or a local folder",
            "check the name; for a private or gated one set HF_TOKEN",
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no status"
        raise SourceError(
            f"{constants.ENDPOINT} answering {status} for {name}", "its files", "try again: what has come is kept"
        ) from error
    except (*_ABSENT, _TransportError, ConnectionError) as error:
        offline = constants.HF_HUB_OFFLINE
        raise SourceError(
            f"{name} not downloaded, and "
            + ("HF_HUB_OFFLINE set" if offline else f"no answer of {constants.ENDPOINT}"),
            "a connection, or the files in HF_HOME",
            "unset HF_HUB_OFFLINE" if offline else "try again: what has come is kept",
        ) from error
    finally:
        logging.set_verbosity(verbosity)

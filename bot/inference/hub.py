"""Models on the Hugging Face Hub: what is here already, what a fetch would bring, and the fetch.

The Hub's own client does the work, into its own cache, which other programs of the operator share.
"""

from __future__ import annotations

import errno
import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    SafetensorsParsingError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]  # exported lazily
from tqdm.auto import tqdm

from bot.errors import HubUnreachable, ModelUnavailable
from bot.inference.catalog import ModelSpec
from bot.inference.embedded import Progress
from bot.inference.headers import SINGLE_FILE, Headers, TensorHeader, broken, no_safetensors, shard_names
from bot.inference.tokenizers import TOKENIZER_FILES, has_tokenizer

# Weights as safetensors only: the older formats can run code when they are opened. Folders inside a
# repository hold the same weights in other forms.
WANTED = [
    "*.safetensors",
    "*.json",
    "*.jinja",
    *sorted({name for names in TOKENIZER_FILES for name in names}),
]
UNWANTED = ["*/*", "consolidated*"]

REQUEST_TIMEOUT_S = 10.0  # for each of the requests of a look; whoever looks may have less patience for all


@dataclass(frozen=True, slots=True)
class Peeked:
    """What can be known of a model before it is fetched.

    Attributes:
        folder: its config and tokenizer, which were fetched.
        headers: its tensors, without their data.
        missing_bytes: what a fetch would still bring.
    """

    folder: Path
    headers: Headers
    missing_bytes: int


def fetched(spec: ModelSpec) -> Path | None:
    """The model's folder if all of it is on this disk; asks no network."""
    try:
        folder = Path(
            snapshot_download(
                spec.repository or "",
                revision=spec.revision,
                allow_patterns=WANTED,
                ignore_patterns=UNWANTED,
                local_files_only=True,
            )
        )
    except LocalEntryNotFoundError:
        return None
    return folder if _complete(folder) else None


def _complete(folder: Path) -> bool:
    """Whether weights and a tokenizer are there: other programs share the cache, and may have wanted less."""
    index = folder / "model.safetensors.index.json"
    try:
        shards = (
            set(json.loads(index.read_bytes()).get("weight_map", {}).values()) if index.exists() else set()
        )
    except (ValueError, AttributeError, TypeError, RecursionError):
        return False
    weights = {file.name for file in folder.glob("*.safetensors")}
    return bool(weights) and shards <= weights and has_tokenizer(folder)


def size_bytes(spec: ModelSpec, token: str | None) -> int:
    """How much disk the model's files take.

    Raises:
        ModelUnavailable: the Hub does not say.
    """
    return sum(file.size_bytes for file in _files(spec, token).values())


@dataclass(frozen=True, slots=True)
class _File:
    """A file of a revision. `blob` is the name of its content in the cache, which revisions share where it is the same;
    None where the Hub does not say."""

    size_bytes: int
    blob: str | None


def _files(spec: ModelSpec, token: str | None) -> dict[str, _File]:
    """The files of the model's revision that a fetch brings, by path.

    Raises:
        ModelUnavailable: the Hub does not say.
    """
    with explained(spec):
        tree = HfApi(token=token or False).list_repo_tree(
            spec.repository or "", revision=spec.revision, recursive=True
        )
        return _wanted(
            {
                entry.path: _File(entry.size, entry.lfs.sha256 if entry.lfs else entry.blob_id)
                for entry in tree
                if isinstance(entry, RepoFile)
            }
        )


def _wanted(files: dict[str, _File]) -> dict[str, _File]:
    return {
        path: files[path]
        for path in filter_repo_objects(files, allow_patterns=WANTED, ignore_patterns=UNWANTED)
    }


def peek(spec: ModelSpec, token: str | None) -> Peeked:
    """Fetch what tells about a model, a few megabytes: config, tokenizer, and the headers of the weights.

    Raises:
        HubUnreachable: nobody answers.
        ModelUnavailable: it cannot be had, or has no readable safetensors weights.
    """
    api = HfApi(token=token or False)
    repository = spec.repository or ""
    with explained(spec):
        info = api.model_info(
            repository, revision=spec.revision, timeout=REQUEST_TIMEOUT_S, files_metadata=True
        )
        wanted = _wanted(
            {
                file.rfilename: _File(file.size or 0, file.lfs.sha256 if file.lfs else file.blob_id)
                for file in info.siblings or []
            }
        )
        small = [name for name in wanted if not name.endswith(".safetensors")]
        if "config.json" not in small or len(small) == len(wanted):
            raise no_safetensors(spec.alias)
        for name in small:
            file = hf_hub_download(
                repository,
                name,
                revision=spec.revision,
                token=token or False,
                etag_timeout=REQUEST_TIMEOUT_S,
                tqdm_class=_Hidden,
            )
        folder = Path(file).parent
        shards = [SINGLE_FILE] if SINGLE_FILE in wanted else shard_names(folder, spec.alias)
        headers: dict[str, TensorHeader] = {}
        for shard in shards:
            headers |= _remote_headers(api, spec, shard)
    return Peeked(folder, headers, _missing_bytes(spec, wanted))


def _remote_headers(api: HfApi, spec: ModelSpec, shard: str) -> Headers:
    try:
        told = api.parse_safetensors_file_metadata(
            spec.repository or "", shard, revision=spec.revision, timeout=REQUEST_TIMEOUT_S
        )
    except (SafetensorsParsingError, ValueError, KeyError, TypeError) as error:
        raise broken(spec.alias, shard) from error
    return {name: TensorHeader(str(one.dtype), tuple(one.shape)) for name, one in told.tensors.items()}


class _Hidden(tqdm):  # type: ignore[misc]  # tqdm ships no types
    """A bar that is not drawn."""

    monitor_interval = 0  # see `Bar`

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.pop("name", None)  # the Hub client's own way to switch bars off
        super().__init__(*args, **{**kwargs, "disable": True})


def free_disk_bytes() -> int:
    """How much can still be fetched to where the Hub's files are kept."""
    folder = Path(constants.HF_HUB_CACHE).absolute()
    return shutil.disk_usage(next(one for one in (folder, *folder.parents) if one.exists())).free


def fetch(spec: ModelSpec, token: str | None, report: Progress) -> Path:
    """Fetch what is missing; what an interrupted fetch left is used.

    Raises:
        ModelUnavailable: it cannot be had, with the reason and the fix.
    """
    files = _files(spec, token)
    total_bytes = sum(file.size_bytes for file in files.values())
    step = f"downloading {spec.alias}"
    furthest = 0.0

    class Bar(tqdm):  # type: ignore[misc]  # tqdm ships no types
        """Not drawn: tells `report` how far the fetch is. There may be one for the network and one for the disk."""

        # Without the thread that redraws bars that stand still. It goes through all bars while others come and go, and
        # dies of that.
        monitor_interval = 0

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)  # the Hub client's own way to switch bars off
            super().__init__(*args, **{**kwargs, "disable": False, "file": io.StringIO()})

        def display(self, *args: Any, **kwargs: Any) -> None:
            nonlocal furthest
            fraction = (present_bytes + self.n) / max(1, total_bytes)
            if self.unit == "B" and fraction > furthest:
                furthest = min(0.99, fraction)  # the rest is said when everything is in its place
                report(step, furthest)

    with explained(spec):
        missing_bytes = _missing_bytes(spec, files)
        present_bytes = total_bytes - missing_bytes
        _require_space(spec, missing_bytes, total_bytes)
        report(step, 0.0)
        folder = snapshot_download(
            spec.repository or "",
            revision=spec.revision,
            allow_patterns=WANTED,
            ignore_patterns=UNWANTED,
            token=token or False,
            tqdm_class=Bar,
        )
    report(step, 1.0)
    return Path(folder)


def _missing_bytes(spec: ModelSpec, files: dict[str, _File]) -> int:
    """What a fetch of these files would still bring. Files of other revisions do not count, nor do files that were
    begun and not finished: the Hub's client begins them anew."""
    blobs = Path(constants.HF_HUB_CACHE) / f"models--{(spec.repository or '').replace('/', '--')}" / "blobs"
    missing = (file for file in files.values() if file.blob is None or not (blobs / file.blob).is_file())
    return sum(file.size_bytes for file in missing)


def _require_space(spec: ModelSpec, missing_bytes: int, total_bytes: int) -> None:
    cache = Path(constants.HF_HUB_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    free_bytes = shutil.disk_usage(cache).free
    if free_bytes < missing_bytes:
        raise _disk_full(spec, f"it takes {total_bytes / 1e9:.1f} GB and {free_bytes / 1e9:.1f} GB are free")


def _disk_full(spec: ModelSpec, numbers: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"{spec.alias} does not fit on the disk of {constants.HF_HUB_CACHE}: {numbers}. "
        "Free space there, or move the cache with HF_HOME.",
        for_people=f"{spec.alias} does not fit on the bot's disk: {numbers}. Please tell the bot's operator.",
    )


@contextmanager
def explained(spec: ModelSpec) -> Iterator[None]:
    """Turn what the Hub's client raises into sentences."""
    page = f"{constants.ENDPOINT}/{spec.repository}"
    try:
        yield
    except GatedRepoError:
        raise ModelUnavailable(
            f"The authors of {spec.alias} ask you to accept their terms first: open {page} with your account, "
            "accept, and set HF_TOKEN to a token of that account."
        ) from None
    except RepositoryNotFoundError:
        raise ModelUnavailable(
            f"There is no {spec.repository} on the Hub, or it is private and HF_TOKEN does not open it: check "
            "'repository' in the catalogue."
        ) from None
    except RevisionNotFoundError:
        raise ModelUnavailable(
            f"{spec.repository} has no revision '{spec.revision}': check 'revision' in the catalogue."
        ) from None
    except HfHubHTTPError as error:
        raise _refused(spec, error) from error
    except (httpx2.HTTPError, LocalEntryNotFoundError, ConnectionError) as error:
        # The client says "not in the cache" of whatever went wrong with a file; what it was is further down.
        if isinstance(error.__cause__, HfHubHTTPError):
            raise _refused(spec, error.__cause__) from error
        raise HubUnreachable(
            f"{spec.alias} is not on this disk and the Hub cannot be reached: check the network, then run "
            f"`python -m bot pull {spec.alias}`."
        ) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _disk_full(spec, "no space is left") from error
        if error.strerror is None:  # the client's own checks, of sizes for one
            raise ModelUnavailable(
                f"{spec.alias} did not arrive whole. Please try again; what is here already is kept."
            ) from error
        raise ModelUnavailable(
            f"{spec.alias} cannot be kept in {constants.HF_HUB_CACHE} ({error.strerror}): check the folder's "
            "rights, or move the cache with HF_HOME.",
            for_people=f"{spec.alias} cannot be kept on the bot's disk. Please tell the bot's operator.",
        ) from error


def _refused(spec: ModelSpec, error: HfHubHTTPError) -> ModelUnavailable:
    status = error.response.status_code
    if status in (401, 403):
        return ModelUnavailable(
            f"The Hub refused HF_TOKEN when asked for {spec.alias} ({status}): it is not valid, or may not read "
            f"public gated repositories. Make a new one on {constants.ENDPOINT}/settings/tokens."
        )
    return ModelUnavailable(f"The Hub answered {status} when asked for {spec.alias}. Please try again later.")

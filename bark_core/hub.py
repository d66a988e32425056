"""Downloads from the Hugging Face hub: pinned, resumable, checked, and offline afterwards.

The first look at a repository records its commit and what the hub states of each file (size,
SHA-256) in `pins.json`; from then on only that commit is used, until a person asks for an
update. `huggingface_hub` speaks to the hub; the bytes are fetched here, because its own download
starts from nothing after each stop.

    cache/pins.json                                  commits and checksums
    cache/downloads/OWNER--NAME/COMMIT/FILE          whole and checked
    cache/downloads/OWNER--NAME/COMMIT/FILE.partial  to be resumed
    cache/downloads/OWNER--NAME/manual/FILE          put there by hand, for machines without network
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import filelock
import huggingface_hub
from huggingface_hub import errors as hub_errors
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    build_hf_headers,
    hf_raise_for_status,
)

from bark_core.errors import BarkError, DownloadError, InvalidCheckpoint, StorageError, UnknownModel
from bark_core.files import storage_error, write_bytes_atomically

TIMEOUT_S = 5.0  # of silence; a stop takes hold within it even if nothing comes any more
ATTEMPTS = 6  # tries in a row that bring nothing before giving up
REPORT_EVERY_S = 0.1
MARGIN_BYTES = 64 * 2**20
# huggingface_hub 1 speaks through httpx, 2 through httpx2: the base of either's errors
_HTTP_ERROR: type[Exception] = next(
    base for base in hub_errors.HfHubHTTPError.__mro__ if base.__name__ == "HTTPError"
)


@dataclass(frozen=True, slots=True)
class DownloadProgress:
    """How far getting a model ready has come."""

    step: Literal["download", "check", "convert"]
    file: str
    done_bytes: int  # of all files of this step
    total_bytes: int


ProgressCallback = Callable[[DownloadProgress], None]
"""Called often; raising `Cancelled` from it stops the download, which can be resumed later."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """What the hub states of one file."""

    path: str  # inside the repository
    size: int  # bytes
    sha256: str | None  # of large files
    git_sha1: str | None  # git's own checksum of small files


@dataclass(frozen=True, slots=True)
class Pin:
    """One commit of a repository, and its files."""

    repository: str  # "owner/name"
    commit: str
    files: tuple[RemoteFile, ...]

    def file(self, path: str) -> RemoteFile | None:
        return next((file for file in self.files if file.path == path), None)


@dataclass(frozen=True, slots=True)
class Hub:
    """The hub as seen from one cache folder.

    Args:
        cache: where everything is kept.
        endpoint: another server that speaks the hub's language; None: huggingface_hub's own.
        offline: never use the network.
    """

    cache: Path
    endpoint: str | None = None
    offline: bool = False

    def folder(self, repository: str) -> Path:
        """Where a repository's downloads are."""
        return self.cache / "downloads" / slug(repository)

    def manual_folder(self, repository: str) -> Path:
        """Where a person can put a repository's files by hand."""
        return self.folder(repository) / "manual"

    def pinned(self, repository: str) -> Pin | None:
        """What was recorded of a repository before, without using the network."""
        entry = self._pins().get(repository)
        if not isinstance(entry, dict):
            return None
        try:
            files = tuple(RemoteFile(**file) for file in entry["files"])
            return Pin(repository, str(entry["commit"]), files)
        except (TypeError, KeyError):
            return None

    def pin(self, repository: str, *, update: bool = False) -> Pin:
        """The recorded commit, or today's, which is recorded then.

        Args:
            update: look for a newer commit.
        Raises:
            UnknownModel: there is no such repository.
            DownloadError: the hub can't be reached, or doesn't answer as it should.
        """
        known = self.pinned(repository)
        if known and not update:
            return known
        if self.offline:
            raise DownloadError(f"{repository} was never downloaded, and the network is off")
        try:
            with _hub_errors(repository):
                api = huggingface_hub.HfApi(endpoint=self.endpoint)
                info = api.model_info(repository, files_metadata=True, timeout=3 * TIMEOUT_S)
        except _BrokenLineError as error:
            raise DownloadError(
                f"the hub can't be reached to look up {repository} ({error})"
            ) from error
        pin = Pin(repository, str(info.sha), _remote_files(repository, info.siblings or ()))
        with self.lock("pins"):
            pins = self._pins()
            pins[repository] = {"commit": pin.commit, "files": [asdict(f) for f in pin.files]}
            write_bytes_atomically(
                self._pins_file, json.dumps(pins, indent=1).encode(), make_folder=True
            )
        return pin

    def path(self, pin: Pin, file: RemoteFile) -> Path:
        """Where a file of a commit is, or will be."""
        return self.folder(pin.repository) / pin.commit / file.path

    def has(self, pin: Pin, file: RemoteFile) -> bool:
        """Whether the file is here, whole."""
        path = self.path(pin, file)
        return path.is_file() and path.stat().st_size == file.size

    def bytes_here(self, pin: Pin, file: RemoteFile) -> int:
        """How much of a file has been downloaded."""
        if self.has(pin, file):
            return file.size
        return min(file.size, _size(self.path(pin, file).with_name(_partial(file))))

    def repositories(self) -> list[str]:
        """Those whose commit is recorded, from which something may have been downloaded."""
        return sorted(name for name in self._pins() if self.pinned(name))

    def fetch(
        self,
        pin: Pin,
        files: Iterable[RemoteFile],
        progress: ProgressCallback | None = None,
        *,
        reserve_bytes: int = 0,
    ) -> list[Path]:
        """Have files of a commit here, downloading what is missing.

        Args:
            reserve_bytes: to be left free on the disk beside the files.
        Raises:
            DownloadError: no network, or the hub sent something else than it had stated.
            StorageError: too little space.
            Cancelled: `progress` raised it; what came is kept for the next time.
        """
        files = tuple(files)
        missing = [file for file in files if not self.has(pin, file)]
        if missing:
            with self.lock(slug(pin.repository), progress):
                here = sum(file.size for file in files if file not in missing)
                self._fetch(pin, missing, _Report(progress, missing, here), reserve_bytes)
        return [self.path(pin, file) for file in files]

    def forget(self, repository: str) -> None:
        """Drop the recorded commit."""
        with self.lock("pins"):
            pins = self._pins()
            if pins.pop(repository, None) is not None:
                write_bytes_atomically(self._pins_file, json.dumps(pins, indent=1).encode())

    @contextlib.contextmanager
    def lock(self, name: str, progress: ProgressCallback | None = None) -> Iterator[None]:
        """Only one process at a time works on something of this cache."""
        file = self.cache / "locks" / f"{name}.lock"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(file)
            while True:
                try:
                    lock.acquire(timeout=0.5)
                    break
                except filelock.Timeout:
                    if progress:  # gives a stop its chance while another process downloads
                        progress(DownloadProgress("download", name, 0, 0))
        except OSError as error:
            raise storage_error("write", file, error) from error
        try:
            yield
        finally:
            lock.release()

    @property
    def _pins_file(self) -> Path:
        return self.cache / "pins.json"

    def _pins(self) -> dict[str, Any]:
        try:
            pins = json.loads(self._pins_file.read_bytes())
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise storage_error("read", self._pins_file, error) from error
        except ValueError as error:
            raise InvalidCheckpoint(
                f"{self._pins_file} is damaged; delete it, and the models are looked up again"
            ) from error
        return pins if isinstance(pins, dict) else {}

    def _fetch(
        self,
        pin: Pin,
        missing: list[RemoteFile],
        report: _Report,
        reserve_bytes: int,
    ) -> None:
        if self.offline:
            names = ", ".join(file.path for file in missing)
            raise DownloadError(f"the network is off, and of {pin.repository} is missing: {names}")
        partials = [self.path(pin, file).with_name(_partial(file)) for file in missing]
        to_come = sum(file.size - self.bytes_here(pin, file) for file in missing)
        check_space(self.cache, to_come + reserve_bytes, pin.repository)
        for file, partial in zip(missing, partials, strict=True):
            if self.has(pin, file):  # another process was faster
                report.finish(file)
                continue
            try:
                partial.parent.mkdir(parents=True, exist_ok=True)
                partial.touch()  # of an empty file nothing would come
                self._download(pin, file, partial, report)
                _verify(pin, file, partial, report)
                os.replace(partial, self.path(pin, file))
            except OSError as error:
                if isinstance(error, BarkError):
                    raise
                raise storage_error("write", partial, error) from error

    def _download(self, pin: Pin, file: RemoteFile, partial: Path, report: _Report) -> None:
        """Append to the partial file until it has its size; a broken line is tried again."""
        failures = 0
        while (before := _size(partial)) < file.size:
            try:
                with _hub_errors(pin.repository):
                    self._append(pin, file, partial, report)
            except _BrokenLineError as error:
                failures = 0 if _size(partial) > before else failures + 1
                if failures >= ATTEMPTS:
                    raise DownloadError(
                        f"{file.path} of {pin.repository} can't be downloaded: {error}; what came "
                        "so far is kept: check the connection and try again"
                    ) from error
                report.wait(file, min(0.2 * 2**failures, 5.0))
        if _size(partial) > file.size:
            partial.unlink()
            raise DownloadError(
                f"the hub sent more of {file.path} than the {file.size} bytes it had stated; "
                "try again later"
            )

    def _append(self, pin: Pin, file: RemoteFile, partial: Path, report: _Report) -> None:
        offset = _size(partial)
        url = huggingface_hub.hf_hub_url(
            pin.repository, file.path, revision=pin.commit, endpoint=self.endpoint
        )
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        session = huggingface_hub.get_session()
        with session.stream(
            "GET", url, headers=headers, timeout=TIMEOUT_S, follow_redirects=True
        ) as response:
            if response.status_code == 416:  # what is here doesn't go with what is there
                partial.unlink()
                raise _BrokenLineError("the server refused to resume")
            hf_raise_for_status(response)
            whole = offset and response.status_code != 206
            with partial.open("wb" if whole else "ab") as out:
                report.at(file, out.tell())
                for chunk in response.iter_raw():  # as it comes: nothing is lost with the line
                    out.write(chunk)
                    report.at(file, out.tell())
                    if out.tell() > file.size:
                        return


class _BrokenLineError(Exception):
    """The line broke; worth another try."""


class _Report:
    """Progress over several files, passed on now and then; those that are here count as done."""

    def __init__(
        self, progress: ProgressCallback | None, missing: Iterable[RemoteFile], here_bytes: int
    ) -> None:
        self._progress = progress
        self._total = here_bytes + sum(file.size for file in missing)
        self._finished = here_bytes  # bytes of files that are done
        self._done = 0  # bytes of the file that is being worked on
        self._last = float("-inf")

    def at(self, file: RemoteFile, done: int) -> None:
        """So many bytes of the file have come."""
        self._done = min(done, file.size)
        self._tell("download", file)

    def checking(self, file: RemoteFile) -> None:
        self._tell("check", file)

    def finish(self, file: RemoteFile) -> None:
        self._finished += file.size
        self._done = 0

    def wait(self, file: RemoteFile, seconds: float) -> None:
        """Sleep, but let a stop through."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._tell("download", file)
            time.sleep(min(left, REPORT_EVERY_S))

    def _tell(self, step: Literal["download", "check"], file: RemoteFile) -> None:
        now = time.monotonic()
        if self._progress and (
            now - self._last >= REPORT_EVERY_S or self._finished + self._done >= self._total
        ):
            self._last = now
            done = self._finished + self._done
            self._progress(DownloadProgress(step, file.path, done, self._total))


def slug(repository: str) -> str:
    """A folder's name for a repository: "owner--name"."""
    return repository.replace("/", "--")


def check_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Whether so much fits the disk that the folder is (or will be) on.

    Raises:
        StorageError: it doesn't.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise storage_error("read", folder, error) from error
    if free < needed_bytes + MARGIN_BYTES:
        raise StorageError(
            f"{what} needs {needed_bytes / 1e9:.1f} GB on the disk of {folder}, but only "
            f"{free / 1e9:.1f} GB are free; free some space, or choose another cache folder"
        )


def _remote_files(repository: str, siblings: Iterable[Any]) -> tuple[RemoteFile, ...]:
    files = []
    for sibling in siblings:
        path, lfs = str(sibling.rfilename), sibling.lfs
        parts = PurePosixPath(path)
        if parts.is_absolute() or {"..", ""} & set(path.split("/")) or set(path) & set('\\:*?"<>|'):
            raise DownloadError(f"{repository} on the hub has a file with an unsafe name: {path!r}")
        size = sibling.size if lfs is None else lfs.size
        if not isinstance(size, int) or size < 0:
            continue  # nothing is known that it could be checked against
        sha256 = None if lfs is None else str(lfs.sha256)
        files.append(RemoteFile(path, size, sha256, None if lfs else sibling.blob_id))
    return tuple(files)


def _verify(pin: Pin, file: RemoteFile, partial: Path, report: _Report) -> None:
    """Compare what came with what the hub had stated, and have it on the disk for good."""
    if file.sha256:
        digest, expected = hashlib.sha256(), file.sha256
    elif file.git_sha1:
        digest, expected = hashlib.sha1(usedforsecurity=False), file.git_sha1
        digest.update(b"blob %d\0" % file.size)
    else:
        raise DownloadError(
            f"the hub states no checksum of {file.path} in {pin.repository}, so what came can't be "
            "trusted; choose another repository"
        )
    with partial.open("r+b") as content:
        while chunk := content.read(2**20):
            digest.update(chunk)
            report.checking(file)
        os.fsync(content.fileno())
    if digest.hexdigest() != expected:
        partial.unlink()
        raise DownloadError(
            f"{file.path} of {pin.repository} came damaged: its checksum is {digest.hexdigest()}, "
            f"the hub states {expected}. It was deleted; try again"
        )
    report.finish(file)


def _partial(file: RemoteFile) -> str:
    return f"{PurePosixPath(file.path).name}.partial"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@contextlib.contextmanager
def _hub_errors(repository: str) -> Iterator[None]:
    """Make our errors of those of the hub, and tell a broken line from a refusal."""
    try:
        yield
    except hub_errors.GatedRepoError as error:
        raise DownloadError(
            f"{repository} can only be downloaded by people it was opened to; ask on its page at "
            "huggingface.co, then run `hf auth login`"
        ) from error
    except (hub_errors.RepositoryNotFoundError, hub_errors.HFValidationError) as error:
        raise UnknownModel(
            f"there is no model {repository!r} on the hub (or it is private); check the spelling"
        ) from error
    except hub_errors.OfflineModeIsEnabled as error:
        raise DownloadError(
            f"{repository} can't be downloaded while HF_HUB_OFFLINE is set; unset it"
        ) from error
    except hub_errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (408, 429) or status >= 500:
            raise _BrokenLineError(f"the hub answered {status}") from error
        advice = (
            "the recorded commit may be gone: load it with update=True" if status == 404 else ""
        )
        raise DownloadError(
            f"the hub refused {repository} (status {status}); {advice or 'try again later'}"
        ) from error
    except _HTTP_ERROR as error:
        raise _BrokenLineError(str(error) or type(error).__name__) from error

"""The files of the image data sets: where they are, whether they are right, and how they are fetched.

``data/registry.txt`` lists each file with its SHA-256. A file is used only if its content, as read, has
that hash; a file is written only once all of it is here and has that hash.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from overparam_lib.runtime import data_folder

__all__ = [
    "DataError",
    "DataFile",
    "cache_folder",
    "fetch",
    "files_of",
    "problem",
    "read",
    "registry",
    "state",
]

_VARIABLE = "OVERPARAM_DATA"
_TIMEOUT = 30  # seconds without a byte from the server
_WORTH_A_BAR = 1_000_000  # bytes


class DataError(RuntimeError):
    """A data file is missing or wrong and could not be had.

    The message names the file, its address and the folder, and says what to do.
    """


class DataFile(NamedTuple):
    """A line of the registry.

    Attributes
    ----------
    name : str
        Data set and file, ``"mnist/train-images-idx3-ubyte.gz"``: also the path below the folder.
    sha256 : str
        SHA-256 of the content, in hexadecimal.
    size : int
        Length in bytes.
    source : str
        The address to fetch it from, or the name of the archive in the registry that holds it.
    """

    name: str
    sha256: str
    size: int
    source: str

    def is_content(self, content: bytes) -> bool:
        """Whether `content` is what the file must hold."""
        return len(content) == self.size and hashlib.sha256(content).hexdigest() == self.sha256


def registry() -> dict[str, DataFile]:
    """Return the known files by name.

    Returns
    -------
    dict of str to DataFile
        The content of ``data/registry.txt``.
    """
    lines = (data_folder() / "registry.txt").read_text("utf-8").splitlines()
    rows = (line.split() for line in lines if line.strip() and not line.startswith("#"))
    return {name: DataFile(name, sha256, int(size), source) for name, sha256, size, source in rows}


def files_of(data_set: str) -> list[DataFile]:
    """Return the files that a data set consists of; an archive that only brings others is not one.

    Parameters
    ----------
    data_set : str
        Name of the data set.

    Returns
    -------
    list of DataFile
        In the order of the registry; empty for a data set that needs no file.
    """
    known = registry()
    archives = {file.source for file in known.values()}
    return [f for f in known.values() if f.name.startswith(f"{data_set}/") and f.name not in archives]


def cache_folder(root: str | os.PathLike | None = None) -> Path:
    """Return the folder of the data files.

    Parameters
    ----------
    root : path, optional
        The folder, if it is not to be looked up.

    Returns
    -------
    pathlib.Path
        `root`, else the folder that the environment variable ``OVERPARAM_DATA`` names, else the user's
        cache for this library. It need not exist yet.
    """
    named = root or os.environ.get(_VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    import pooch

    return Path(pooch.os_cache("overparam"))


def state(name: str, *, root: str | os.PathLike | None = None) -> Literal["verified", "missing", "corrupt"]:
    """Say whether a file is there, and right.

    Parameters
    ----------
    name : str
        Name in the registry.
    root : path, optional
        As in :func:`cache_folder`.

    Returns
    -------
    str
        ``"verified"``: there, with the known SHA-256. ``"corrupt"``: another content is there.
        ``"missing"``: nothing is.

    Raises
    ------
    DataError
        If a file is there that may not be read.
    """
    file, folder = registry()[name], cache_folder(root)
    if _content(file, folder) is not None:
        return "verified"
    return "corrupt" if (folder / file.name).exists() else "missing"


def read(name: str, *, root: str | os.PathLike | None = None, download: bool = True) -> bytes:
    """Return the content of a file, verified, and fetch it first where it is missing or corrupt.

    A file is looked for at ``<folder>/<data set>/<file>``, and then at ``<folder>/<file>``.

    Parameters
    ----------
    name : str
        Name in the registry.
    root : path, optional
        As in :func:`cache_folder`.
    download : bool, default True
        Whether it may be fetched.

    Returns
    -------
    bytes
        The content that was hashed: the file is not opened a second time.

    Raises
    ------
    DataError
        If the right content is not there and could not be fetched.
    """
    file, folder = registry()[name], cache_folder(root)
    content = _content(file, folder)
    if content is None and download:
        fetch(name, root=folder)
        content = _content(file, folder)
    if content is None:
        reason = {
            "missing": "the file is not there",
            "corrupt": "the file that is there is not the known one",
            "verified": "the file has just been changed by another program",
        }[state(name, root=folder)]
        raise problem(name, reason + ("" if download else ", and nothing may be downloaded"), root=folder)
    return content


def fetch(name: str, *, root: str | os.PathLike | None = None) -> Path:
    """Make sure that a file is there and right; download it if it is not.

    An archive is not kept: what it holds of the registry is taken out of it, and verified. An archive
    that someone has put into the folder is used instead of a download. Several processes may fetch the
    same file at once.

    Parameters
    ----------
    name : str
        Name in the registry.
    root : path, optional
        As in :func:`cache_folder`.

    Returns
    -------
    pathlib.Path
        Where the file is.

    Raises
    ------
    DataError
        If it cannot be downloaded whole, or cannot be written. Nothing is left behind then; a corrupt
        file that was there before is still there.
    """
    known, folder = registry(), cache_folder(root)
    file = known[name]
    for path in _places(file, folder):
        if _content_at(path, file, folder) is not None:
            return path
    with _scratch(file, folder) as scratch:
        if file.source not in known:
            _put(_download(file, file, folder), file, scratch, folder)
            return folder / file.name
        archive = known[file.source]
        packed = _content(archive, folder) or _download(archive, file, folder)
        brothers = [f for f in known.values() if f.source == archive.name and _content(f, folder) is None]
        for member, content in _members(packed, brothers, file, folder):
            _put(content, member, scratch, folder)
    return folder / file.name


def problem(name: str, reason: str, *, root: str | os.PathLike | None = None) -> DataError:
    """Return the error that says why a file cannot be used, and what to do.

    Parameters
    ----------
    name : str
        Name in the registry.
    reason : str
        What is wrong.
    root : path, optional
        As in :func:`cache_folder`.

    Returns
    -------
    DataError
        To be raised.
    """
    known, folder = registry(), cache_folder(root)
    origin = known.get(known[name].source, known[name])
    return DataError(
        f"{name}: {reason}\n"
        f"  address: {origin.source}\n"
        f"  folder:  {folder}\n"
        f"Try again; or download that address by hand to {folder / origin.name}; "
        f"or set {_VARIABLE} to a folder that holds {name}."
    )


def _places(file: DataFile, folder: Path) -> tuple[Path, Path]:
    return folder / file.name, folder / PurePosixPath(file.name).name


def _content(file: DataFile, folder: Path) -> bytes | None:
    """Return the content of a file if it is there and right, else None."""
    found = (_content_at(path, file, folder) for path in _places(file, folder))
    return next((content for content in found if content is not None), None)


def _content_at(path: Path, file: DataFile, folder: Path) -> bytes | None:
    try:
        if not path.is_file() or path.stat().st_size != file.size:
            return None
        content = path.read_bytes()
    except FileNotFoundError:  # removed between two of these lines
        return None
    except OSError as error:
        raise problem(file.name, f"{path} cannot be read: {error.strerror}", root=folder) from error
    return content if file.is_content(content) else None


def _download(file: DataFile, wanted: DataFile, folder: Path) -> bytes:
    """Return the content at a file's address, verified; complaints are about `wanted`."""
    import pooch
    import requests
    from tqdm import tqdm

    body = io.BytesIO()
    hidden = {"disable": True} if file.size < _WORTH_A_BAR else {}  # else TQDM_DISABLE decides
    bar = tqdm(total=file.size, desc=file.name, unit="B", unit_scale=True, **hidden)
    # "identity": a server that compressed on the way would give other bytes than the hashed ones.
    options = {"timeout": _TIMEOUT, "headers": {"Accept-Encoding": "identity"}}
    with bar:
        try:
            pooch.HTTPDownloader(progressbar=bar, chunk_size=2**16, **options)(file.source, body, None)
        except requests.RequestException as error:
            if error.response is not None:  # an answer like 404, whose page nobody has read
                error.response.close()
            raise problem(wanted.name, _network_reason(error), root=folder) from error
    content = body.getvalue()
    if not file.is_content(content):
        raise problem(wanted.name, _wrong_content(content, file), root=folder)
    return content


def _network_reason(error: Exception) -> str:
    import requests

    if isinstance(error, requests.HTTPError):
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return f"the server was silent for {_TIMEOUT} seconds"
    if isinstance(error, requests.ConnectionError):
        return "the connection to the server failed"
    return f"the download broke off ({type(error).__name__})"


def _wrong_content(content: bytes, file: DataFile) -> str:
    if len(content) != file.size:
        return f"the download has {len(content):,} bytes instead of {file.size:,}"
    return f"the download has SHA-256 {hashlib.sha256(content).hexdigest()} instead of {file.sha256}"


def _members(
    packed: bytes, members: Iterable[DataFile], wanted: DataFile, folder: Path
) -> Iterator[tuple[DataFile, bytes]]:
    """Yield files of a gzipped tar archive, verified. No path of the archive's is ever written to."""
    missing = {PurePosixPath(member.name).name: member for member in members}
    try:
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as archive:
            for entry in archive:
                member = missing.get(PurePosixPath(entry.name).name)
                if member is None or not entry.isreg() or entry.size != member.size:
                    continue
                content = archive.extractfile(entry).read()
                if member.is_content(content):
                    yield missing.pop(PurePosixPath(entry.name).name), content
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise problem(wanted.name, f"the archive is damaged ({error})", root=folder) from error
    if missing:
        raise problem(wanted.name, f"the archive does not hold {', '.join(missing)}", root=folder)


@contextmanager
def _scratch(file: DataFile, folder: Path) -> Iterator[Path]:
    """Make a folder beside the file's place, on its file system, that vanishes with all that is in it."""
    beside = (folder / file.name).parent
    try:
        beside.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=beside) as scratch:
            yield Path(scratch)
    except OSError as error:
        reason = f"{beside} cannot be written to: {error.strerror or error}"
        raise problem(file.name, reason, root=folder) from error


def _put(content: bytes, file: DataFile, scratch: Path, folder: Path) -> None:
    """Write a file under another name, then give it its own in one step."""
    part = scratch / PurePosixPath(file.name).name
    part.write_bytes(content)
    os.replace(part, folder / file.name)

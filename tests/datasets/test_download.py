"""Fetching data files from a server on this machine: it works, or ends in one clear error.

The registry is a small one of our own making, and the server misbehaves as it is told to.
"""

import errno
import gc
import gzip
import hashlib
import http.server
import io
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from overparam_lib.datasets import DataError, files, load_images

TRAIN, TEST = "train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz"
ARCHIVE = "cifar10/cifar-10-binary.tar.gz"


def idx(values: np.ndarray) -> bytes:
    return bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def small_mnist() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    raw = {}
    for part, n in (("train", 7), ("t10k", 3)):
        raw[f"mnist/{part}-images-idx3-ubyte.gz"] = idx(rng.integers(1, 256, (n, 28, 28), np.uint8))
        raw[f"mnist/{part}-labels-idx1-ubyte.gz"] = idx(rng.integers(0, 10, n, np.uint8))
    return {name: gzip.compress(content, mtime=0) for name, content in raw.items()}


def small_cifar() -> dict[str, bytes]:
    rng = np.random.default_rng(1)
    batches = {}
    for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
        table = rng.integers(1, 256, (2, 3073), np.uint8)
        table[:, 0] %= 10
        batches[f"cifar10/{name}"] = table.tobytes()
    return batches


def tar(members: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.size = tarfile.SYMTYPE, target, 2 * 3073
            archive.addfile(entry)
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def line(name: str, content: bytes, source: str) -> str:
    return f"{name} {hashlib.sha256(content).hexdigest()} {len(content)} {source}\n"


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.contents`, spoilt by what `server.spoil` does to them."""

    def do_GET(self):
        name = self.path.lstrip("/")
        self.server.asked.append(name)
        if name not in self.server.contents:
            self.send_error(404)
            return
        content = self.server.contents[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.server.spoil(self.wfile, content)

    def log_message(self, *_):
        pass


def send(stream, content):
    stream.write(content)


def send_half(stream, content):
    stream.write(content[: len(content) // 2])


def send_a_flipped_bit(stream, content):
    middle = len(content) // 2
    stream.write(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A server with small files, a registry of them, and an empty folder to fetch into."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.contents, server.spoil, server.asked = {}, send, []
    server.daemon_threads = False  # closing it waits for them
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    (tmp_path / "library").mkdir()
    monkeypatch.setattr(files, "data_folder", lambda: tmp_path / "library")
    monkeypatch.setenv("OVERPARAM_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    address = f"http://127.0.0.1:{server.server_port}"
    folders = {"folder": tmp_path / "data", "library": tmp_path / "library"}
    yield SimpleNamespace(server=server, address=address, **folders)
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def mnist(world):
    world.server.contents = small_mnist()
    publish(world, world.server.contents)
    return world


@pytest.fixture
def cifar(world):
    batches = small_cifar()
    world.batches = batches
    publish_archive(world, tar({f"cifar-10-batches-bin/{Path(n).name}": c for n, c in batches.items()}))
    return world


def publish(world, contents):
    lines = [line(name, content, f"{world.address}/{name}") for name, content in contents.items()]
    (world.library / "registry.txt").write_text("# a comment\n" + "".join(lines))


def publish_archive(world, packed):
    world.server.contents = {ARCHIVE: packed}
    lines = [line(ARCHIVE, packed, f"{world.address}/{ARCHIVE}")]
    lines += [line(name, content, ARCHIVE) for name, content in world.batches.items()]
    (world.library / "registry.txt").write_text("".join(lines))


def there(folder) -> set[str]:
    """Every file and scratch folder below a folder; the data sets' own folders do not count."""
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*")}
    return found - {"mnist", "cifar10"}


def pixels(packed: bytes) -> torch.Tensor:
    values = np.frombuffer(gzip.decompress(packed), np.uint8, offset=16)
    return torch.from_numpy(values.reshape(-1, 784) / 255.0)


def assert_loads(world):
    data = load_images("mnist", unit_norm=False, dtype=torch.float64)
    assert torch.equal(data.x, pixels(small_mnist()[f"mnist/{TRAIN}"]))
    assert torch.equal(data.x_test, pixels(small_mnist()[f"mnist/{TEST}"]))
    assert data.shape == (1, 28, 28) and len(data.y) == 7 and len(data.y_test) == 3
    assert there(world.folder) == set(small_mnist())


def assert_refused(world, reason, *, name=f"mnist/{TRAIN}", data_set="mnist", left=frozenset()):
    """The one error, which names file, address and folder; and nothing but `left` is in the folder."""
    with pytest.raises(DataError, match=reason) as caught:
        load_images(data_set)
    message = str(caught.value)
    assert message.startswith(f"{name}: ") and f"  folder:  {world.folder}\n" in message
    assert f"  address: {world.address}/{ARCHIVE if data_set == 'cifar10' else name}\n" in message
    assert "by hand to" in message and "OVERPARAM_DATA" in message
    assert there(world.folder) == set(left)


def test_what_is_missing_is_downloaded_once(mnist):
    assert_loads(mnist)
    assert sorted(mnist.server.asked) == sorted(small_mnist())
    assert_loads(mnist)
    assert len(mnist.server.asked) == 4


def test_files_that_are_there_are_used_without_a_server(mnist):
    for name, content in small_mnist().items():
        (mnist.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (mnist.folder / name).write_bytes(content)
    assert_loads(mnist)
    assert mnist.server.asked == []


def test_files_may_lie_side_by_side_and_root_names_their_folder(mnist, tmp_path):
    for name, content in small_mnist().items():
        (tmp_path / Path(name).name).write_bytes(content)
    data = load_images("mnist", root=tmp_path, download=False, unit_norm=False)
    assert len(data.x) == 7 and mnist.server.asked == []


def test_a_file_of_the_same_name_beside_is_no_reason_not_to_download(mnist):
    mnist.folder.mkdir()
    (mnist.folder / TRAIN).write_bytes(b"the file of another data set")
    assert len(load_images("mnist").x) == 7
    assert (mnist.folder / TRAIN).read_bytes() == b"the file of another data set"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(send_half, "broke off|bytes instead of"), (send_a_flipped_bit, "SHA-256 [0-9a-f]{64} instead of")],
    ids=["half", "bit"],
)
def test_a_spoilt_download_is_refused_and_the_next_one_works(mnist, spoil, reason):
    mnist.server.spoil = spoil
    assert_refused(mnist, reason)
    mnist.server.spoil = send
    assert_loads(mnist)


def test_another_file_of_the_right_length_is_refused(mnist):
    name = f"mnist/{TRAIN}"
    mnist.server.contents[name] = bytes(len(mnist.server.contents[name]))
    assert_refused(mnist, "SHA-256 [0-9a-f]{64} instead of")


def test_a_missing_page_is_named(mnist):
    mnist.server.contents = {}
    assert_refused(mnist, "the server answered 404 Not Found")
    gc.collect()  # a connection left open would warn


def test_a_silent_server_is_given_up(mnist, monkeypatch):
    monkeypatch.setattr(files, "_TIMEOUT", 0.2)
    done = threading.Event()
    mnist.server.spoil = lambda stream, content: done.wait(5)
    assert_refused(mnist, "silent|connection to the server failed")
    done.set()


def test_without_a_network_the_error_says_what_to_do(mnist):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # nobody listens there
        mnist.address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        publish(mnist, small_mnist())
        assert_refused(mnist, "the connection to the server failed")
    by_hand = mnist.folder / f"mnist/{TRAIN}"
    with pytest.raises(DataError, match=f"by hand to {by_hand}"):
        load_images("mnist")


def test_one_file_that_fails_leaves_the_others(mnist):
    del mnist.server.contents[f"mnist/{TEST}"]
    rest = set(small_mnist()) - {f"mnist/{TEST}", "mnist/t10k-labels-idx1-ubyte.gz"}
    assert_refused(mnist, "404", name=f"mnist/{TEST}", left=rest)
    mnist.server.contents = small_mnist()
    assert_loads(mnist)
    assert mnist.server.asked.count(f"mnist/{TRAIN}") == 1


def test_downloading_may_be_forbidden(mnist):
    with pytest.raises(DataError, match="is not there, and nothing may be downloaded"):
        load_images("mnist", download=False)
    assert mnist.server.asked == [] and not mnist.folder.exists()


@pytest.mark.parametrize(
    "content",
    [b"", small_mnist()[f"mnist/{TRAIN}"][:-1], small_mnist()[f"mnist/{TEST}"]],
    ids=["empty", "cut", "another"],
)
def test_a_corrupt_file_is_never_used_and_is_replaced_by_the_right_one(mnist, content):
    path = mnist.folder / "mnist" / TRAIN
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(DataError, match="the file that is there is not the known one"):
        load_images("mnist", download=False)
    mnist.server.spoil = send_half
    assert_refused(mnist, "broke off|bytes instead of", left={f"mnist/{TRAIN}"})
    assert path.read_bytes() == content
    mnist.server.spoil = send
    assert_loads(mnist)


def test_a_folder_that_is_a_file_is_refused_before_anything_is_downloaded(mnist):
    mnist.folder.write_text("not a folder")
    assert_refused(mnist, "cannot be written to: ")
    assert mnist.server.asked == [] and mnist.folder.read_text() == "not a folder"


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_read_only_folder_is_refused_before_anything_is_downloaded(mnist, monkeypatch, code):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "mkdtemp", refuse)
        assert_refused(mnist, f"mnist cannot be written to: {os.strerror(code)}")
    assert mnist.server.asked == []
    assert_loads(mnist)


def test_a_full_disk_leaves_nothing(mnist, monkeypatch):
    def write_some(path, content):
        with open(path, "wb") as stream:
            stream.write(content[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_some)
        assert_refused(mnist, "cannot be written to: No space left")
    assert_loads(mnist)


def test_a_file_that_may_not_be_read_is_named(mnist, monkeypatch):
    assert_loads(mnist)

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert_refused(mnist, f"{TRAIN} cannot be read: Permission denied", left=small_mnist())


def test_files_obey_the_umask(mnist):
    before = os.umask(0o022)
    try:
        path = files.fetch(f"mnist/{TRAIN}")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644


CHILD = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
from overparam_lib.__main__ import main
from overparam_lib.datasets import files
files.data_folder = lambda: Path(sys.argv[1])
sys.exit(main(["data", "fetch", "mnist"]))
"""


def fetch_in_a_process(world):
    # The child must not inherit what the parent ignores: SIGINT, where pytest runs in the background.
    command = [sys.executable, "-W", "error", "-c", CHILD, str(world.library)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_may_fetch_at_once(mnist):
    both = threading.Barrier(2, timeout=60)

    def send_when_both_have_asked(stream, content):
        if content == small_mnist()[f"mnist/{TRAIN}"]:
            both.wait()
        stream.write(content)

    mnist.server.spoil = send_when_both_have_asked
    processes = [fetch_in_a_process(mnist) for _ in range(2)]
    ends = [process.communicate(timeout=60) for process in processes]
    assert [p.returncode for p in processes] == [0, 0], ends
    assert mnist.server.asked.count(f"mnist/{TRAIN}") == 2
    assert_loads(mnist)


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_process_that_is_stopped_leaves_no_half_file(mnist, signum, status):
    halfway, enough = threading.Event(), threading.Event()

    def stall_halfway(stream, content):
        send_half(stream, content)
        halfway.set()
        enough.wait(30)

    mnist.server.spoil = stall_halfway
    process = fetch_in_a_process(mnist)
    assert halfway.wait(60)
    process.send_signal(signum)
    out, err = process.communicate(timeout=30)
    enough.set()
    assert process.returncode == status, err
    assert "Traceback" not in err
    assert not [name for name in there(mnist.folder) if not Path(name).name.startswith(".part-")]
    if signum == signal.SIGINT:
        assert there(mnist.folder) == set() and "interrupted" in err
    mnist.server.spoil = send
    shutil.rmtree(mnist.folder)
    assert_loads(mnist)


def test_a_truncated_gzip_with_the_hash_of_the_registry_is_refused(mnist):
    contents = small_mnist()
    contents[f"mnist/{TRAIN}"] = contents[f"mnist/{TRAIN}"][:-9]
    mnist.server.contents = contents
    publish(mnist, contents)
    assert_refused(mnist, "not a whole gzip file", left={f"mnist/{TRAIN}"})


LABELS = "train-labels-idx1-ubyte.gz"
ZEROS = np.zeros((7, 28, 28), np.uint8)


@pytest.mark.parametrize(
    ("name", "raw", "reason"),
    [
        (TRAIN, b"no gzip at all", "not a whole gzip file"),
        (TRAIN, gzip.compress(b"\0\0"), "does not begin like an IDX file of bytes in 3 dimensions"),
        (TRAIN, gzip.compress(idx(np.zeros(7, np.uint8))), "does not begin like an IDX file"),
        (TRAIN, gzip.compress(b"\0\0\x0d\3" + idx(ZEROS)[4:]), "does not begin like an IDX file"),
        (TRAIN, gzip.compress(idx(ZEROS[:, :27])), r"its header says \(7, 27, 28\)"),
        (TRAIN, gzip.compress(idx(ZEROS[:0])), r"its header says \(0, 28, 28\)"),
        (TRAIN, gzip.compress(idx(ZEROS)[:-1]), "5,487 values follow"),
        (TRAIN, gzip.compress(idx(ZEROS) + b"\0"), "5,489 values follow"),
        (LABELS, gzip.compress(idx(np.full(7, 10, np.uint8))), "a label is 10; there are 10 classes"),
        (LABELS, gzip.compress(idx(np.zeros(6, np.uint8))), "6 labels are for 7 images"),
    ],
    ids=["text", "short", "vector", "float", "narrow", "none", "cut", "longer", "label", "labels"],
)
def test_a_file_of_the_wrong_form_is_refused(mnist, name, raw, reason):
    contents = small_mnist() | {f"mnist/{name}": raw}
    mnist.server.contents = contents
    publish(mnist, contents)
    with pytest.raises(DataError, match=reason):
        load_images("mnist")


def batch(world, *names):
    tables = [np.frombuffer(world.batches[f"cifar10/{n}.bin"], np.uint8).reshape(2, 3073) for n in names]
    return torch.from_numpy(np.concatenate(tables)[:, 1:] / 255.0)


def test_an_archive_is_taken_apart_and_not_kept(cifar):
    data = load_images("cifar10", unit_norm=False, dtype=torch.float64)
    assert torch.equal(data.x, batch(cifar, *(f"data_batch_{i}" for i in range(1, 6))))
    assert torch.equal(data.x_test, batch(cifar, "test_batch")) and data.shape == (3, 32, 32)
    assert there(cifar.folder) == set(cifar.batches) and cifar.server.asked == [ARCHIVE]


def test_batches_choose_and_order_and_need_only_their_own_files(cifar):
    (cifar.folder / "cifar10").mkdir(parents=True)
    for i in (1, 3, 5):
        name = f"cifar10/data_batch_{i}.bin"
        (cifar.folder / name).write_bytes(cifar.batches[name])
    data = load_images("cifar10", batches=(3, 1), test_batches=[5], unit_norm=False, dtype=torch.float64)
    assert torch.equal(data.x, batch(cifar, "data_batch_3", "data_batch_1"))
    assert torch.equal(data.x_test, batch(cifar, "data_batch_5"))
    assert cifar.server.asked == []
    with pytest.raises(DataError, match=r"test_batch.bin: .*not there(?s:.*)test_batches=\(5,\)"):
        load_images("cifar10", batches=(1,), download=False)
    data = load_images("cifar10", batches=(1,), unit_norm=False, dtype=torch.float64)
    assert torch.equal(data.x_test, batch(cifar, "test_batch"))


def test_an_archive_put_there_by_hand_is_used_and_kept(cifar):
    (cifar.folder / "cifar10").mkdir(parents=True)
    (cifar.folder / ARCHIVE).write_bytes(cifar.server.contents[ARCHIVE])
    assert len(load_images("cifar10").x) == 10
    assert cifar.server.asked == [] and there(cifar.folder) == {ARCHIVE, *cifar.batches}


@pytest.mark.parametrize("spoil", [send_half, send_a_flipped_bit])
def test_a_spoilt_archive_leaves_nothing(cifar, spoil):
    cifar.server.spoil = spoil
    assert_refused(
        cifar, "broke off|instead of", name="cifar10/data_batch_1.bin", data_set="cifar10", left=set()
    )
    cifar.server.spoil = send
    assert len(load_images("cifar10").x) == 10


def test_an_archive_can_write_nowhere_but_to_the_known_files(cifar, tmp_path):
    members = {f"../../{Path(name).name}": content for name, content in cifar.batches.items()}
    members["../../../evil.bin"] = members[f"{tmp_path}/evil.bin"] = b"evil"
    links = {"cifar-10-batches-bin": str(tmp_path), "data_batch_1.bin": "/etc/passwd"}
    publish_archive(cifar, tar(members, links))
    before = {p for p in tmp_path.rglob("*")}
    assert len(load_images("cifar10").x) == 10
    new = {p for p in tmp_path.rglob("*")} - before
    assert new == {cifar.folder, cifar.folder / "cifar10", *(cifar.folder / n for n in cifar.batches)}
    assert not any(path.is_symlink() for path in new)


@pytest.mark.parametrize("content", [b"short", bytes(2 * 3073)], ids=["short", "another"])
def test_a_wrong_file_in_an_archive_is_refused(cifar, content):
    members = {Path(name).name: raw for name, raw in cifar.batches.items()} | {"data_batch_1.bin": content}
    publish_archive(cifar, tar(members))
    with pytest.raises(DataError, match="the archive does not hold data_batch_1.bin"):
        load_images("cifar10")
    assert not (cifar.folder / "cifar10/data_batch_1.bin").exists()


@pytest.mark.parametrize("kept", [5, 20_000])
def test_a_damaged_archive_with_the_hash_of_the_registry_is_refused(cifar, kept):
    publish_archive(cifar, cifar.server.contents[ARCHIVE][:kept])
    with pytest.raises(DataError, match="the archive is damaged"):
        load_images("cifar10")
    assert not [name for name in there(cifar.folder) if name not in cifar.batches]


@pytest.mark.parametrize(
    ("table", "reason"),
    [(bytes([10]) + bytes(3072), "a label is 10"), (bytes(3072), "no whole"), (b"", "no whole")],
    ids=["label", "cut", "empty"],
)
def test_a_batch_of_the_wrong_form_is_refused(cifar, table, reason):
    name = "cifar10/data_batch_1.bin"
    (cifar.folder / name).parent.mkdir(parents=True)
    (cifar.folder / name).write_bytes(table)
    cifar.batches[name] = table
    publish_archive(cifar, cifar.server.contents[ARCHIVE])
    with pytest.raises(DataError, match=reason):
        load_images("cifar10", batches=(1,), test_batches=(2,))

"""Downloads, against a server of our own on the loopback interface."""

import hashlib
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from smallbatch.core.errors import UserError
from smallbatch.data import download

CONTENT = bytes(number * number % 251 for number in range(700_000))
MD5 = hashlib.md5(CONTENT).hexdigest()
BLOCK = download.BLOCK
EMPTY_MD5 = "d41d8cd98f00b204e9800998ecf8427e"


class Server(ThreadingHTTPServer):
    """Serves `content` at every path and keeps the `Range` header of each request."""

    content = CONTENT
    ranges_supported = True
    statuses: tuple[int, ...] = ()  # of the first requests; 200 after them
    breaks: tuple[int | None, ...] = ()  # bytes of the body after which the first requests break; None: whole

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.tar.gz"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        with self.server.lock:
            turn = len(self.server.asked)
            self.server.asked.append(self.headers["Range"])
        if turn < len(self.server.statuses) and self.server.statuses[turn] != 200:
            self.send_error(self.server.statuses[turn])
            return
        body = self.head()
        cut = self.server.breaks[turn] if turn < len(self.server.breaks) else None
        self.wfile.write(body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    def head(self) -> bytes:
        """Send the headers; return the body that they promise."""
        start, content = 0, self.server.content
        if self.server.ranges_supported and self.headers["Range"]:
            start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1])
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return b""
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        return content[start:]

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "WAITS", (0.0, 0.0, 0.0))
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))


def test_a_file_is_downloaded_once(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "downloads" / "file.tar.gz"
    assert download.fetch(server.url, path, MD5) == path
    assert path.read_bytes() == CONTENT
    download.fetch(server.url, path, MD5)
    assert server.asked == [None]
    assert names(path.parent) == ["file.tar.gz"]


def test_a_broken_connection_is_resumed_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.breaks = (20 * BLOCK, 10 * BLOCK + 7)
    download.fetch(server.url, tmp_path / "file", MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={20 * BLOCK}-", f"bytes={30 * BLOCK}-"]


def test_the_next_call_goes_on_with_what_an_earlier_one_left(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT[:123_456])
    download.fetch(server.url, tmp_path / "file", MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.asked == ["bytes=123456-"]


def test_a_server_without_ranges_is_read_from_the_start(server: Server, tmp_path: Path) -> None:
    server.ranges_supported, server.breaks = False, (20 * BLOCK,)
    download.fetch(server.url, tmp_path / "file", MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={20 * BLOCK}-"]


def test_a_shorter_answer_without_ranges_leaves_nothing_of_the_longer_part(server: Server, tmp_path: Path) -> None:
    server.ranges_supported = False
    (tmp_path / "file.part").write_bytes(b"x" * (len(CONTENT) + 5))
    download.fetch(server.url, tmp_path / "file", MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_part_that_is_whole_already_becomes_the_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT)
    download.fetch(server.url, tmp_path / "file", MD5)
    assert names(tmp_path) == ["file"]


def test_a_server_that_is_busy_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.statuses = (503, 429)
    download.fetch(server.url, tmp_path / "file", MD5)
    assert len(server.asked) == 3


def test_a_refusal_is_final(server: Server, tmp_path: Path) -> None:
    server.statuses = (404,) * 9
    with pytest.raises(UserError, match=rf"^{re.escape(server.url)}: cannot be downloaded .*404") as caught:
        download.fetch(server.url, tmp_path / "file", MD5)
    assert len(server.asked) == 1
    assert "\n" not in str(caught.value)


def test_attempts_end_and_what_arrived_is_kept(server: Server, tmp_path: Path) -> None:
    server.breaks = (BLOCK,) * 9
    with pytest.raises(UserError, match=re.escape(server.url)) as caught:
        download.fetch(server.url, tmp_path / "file", MD5)
    assert "\n" not in str(caught.value)
    assert len(server.asked) == 4
    assert (tmp_path / "file.part").read_bytes() == CONTENT[: 4 * BLOCK]
    server.breaks = ()
    download.fetch(server.url, tmp_path / "file", MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_server_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "WAITS", ())
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/file"
    with pytest.raises(UserError, match=f"^{re.escape(url)}: cannot be downloaded"):
        download.fetch(url, tmp_path / "file", MD5)


def test_a_wrong_md5_is_reported_and_the_file_set_aside(server: Server, tmp_path: Path) -> None:
    for aside in ("file.damaged", "file.2.damaged"):
        with pytest.raises(UserError) as caught:
            download.fetch(server.url, tmp_path / "file", EMPTY_MD5)
        for part in (f"{tmp_path / 'file'}: ", MD5, EMPTY_MD5, aside):
            assert part in str(caught.value)
        assert (tmp_path / aside).read_bytes() == CONTENT
    assert names(tmp_path) == ["file.2.damaged", "file.damaged"]


def test_a_damaged_file_is_set_aside_and_then_downloaded_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=f"file: md5 is {EMPTY_MD5}, expected {MD5}"):
        download.fetch(server.url, tmp_path / "file", MD5)
    assert server.asked == []
    download.fetch(server.url, tmp_path / "file", MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert (tmp_path / "file.damaged").read_bytes() == b""


def test_calls_at_the_same_time_download_once(server: Server, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: download.fetch(server.url, tmp_path / "file", MD5), range(4)))
    assert server.asked == [None]
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_folder_that_cannot_be_made_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "taken"))):
        download.fetch(server.url, tmp_path / "taken" / "file", MD5)
    assert server.asked == []


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(str(tmp_path))}: cannot be read"):
        download.md5_of(tmp_path)

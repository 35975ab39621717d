"""Files that are handed over: taken within bounds, and gone with their sessions."""

import asyncio
import secrets
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.common.in_flight import share
from services.gateway.sources import uploads as module
from services.gateway.sources.uploads import MAX_AT_ONCE, SCHEME, Uploads
from sightline.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnavailableError,
)
from tests.unit.http_parts import served

VIDEO = bytes(range(256)) * 40


async def parts_of(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_a_file_is_kept_and_removed(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path / "new", file_bytes=20_000, total_bytes=25_000)
    assert uploads.folder is None
    source = await uploads.receive(parts_of(VIDEO), len(VIDEO))
    assert uploads.folder is not None
    kept = uploads.folder / source.removeprefix(SCHEME)
    assert kept.read_bytes() == VIDEO
    await uploads.receive(parts_of(VIDEO), len(VIDEO))
    with pytest.raises(ResourceExhaustedError):
        await uploads.receive(parts_of(VIDEO), len(VIDEO))
    uploads.discard(source)
    uploads.discard(source)
    assert not kept.exists()
    assert uploads.kept_bytes == len(VIDEO)
    uploads.close()
    assert files(tmp_path) == []
    assert uploads.kept_bytes == 0


@pytest.mark.parametrize("size", [len(VIDEO) - 1, len(VIDEO) + 1, len(VIDEO) - 5000])
async def test_a_file_of_another_size_than_was_said_is_not_kept(tmp_path: Path, size: int) -> None:
    uploads = Uploads(tmp_path, file_bytes=20_000, total_bytes=20_000)
    with pytest.raises(InvalidArgumentError, match="broke off"):
        await uploads.receive(parts_of(VIDEO), size)
    assert (files(tmp_path), uploads.kept_bytes) == ([], 0)


async def test_whoever_leaves_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path, file_bytes=20_000, total_bytes=20_000)
    begun = asyncio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        yield VIDEO[:10]
        begun.set()
        await asyncio.Event().wait()

    taking = asyncio.create_task(uploads.receive(stalling(), len(VIDEO)))
    await begun.wait()
    assert uploads.kept_bytes == len(VIDEO)
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    assert (files(tmp_path), uploads.kept_bytes) == ([], 0)


async def test_whoever_leaves_while_the_file_is_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk that is slow just then."""
    uploads = Uploads(tmp_path, file_bytes=20_000, total_bytes=20_000)
    making, go_on, opens = threading.Event(), threading.Event(), Path.open

    def slowly(path: Path, *rest: Any) -> Any:
        making.set()
        go_on.wait(20)
        return opens(path, *rest)

    monkeypatch.setattr(Path, "open", slowly)
    taking = asyncio.create_task(uploads.receive(parts_of(VIDEO), len(VIDEO)))
    await asyncio.to_thread(making.wait, 20)
    taking.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await taking
    await asyncio.get_running_loop().shutdown_default_executor()
    assert (files(tmp_path), uploads.kept_bytes) == ([], 0)


async def test_whoever_sends_many_leaves_places_to_others(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path, file_bytes=20_000, total_bytes=2_000_000)
    over = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        await over.wait()
        yield VIDEO

    sending = [
        asyncio.create_task(uploads.receive(slow(), len(VIDEO), "here"))
        for _ in range(share(MAX_AT_ONCE, 0))
    ]
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhaustedError, match="from your address"):
        await uploads.receive(slow(), len(VIDEO), "here")
    await uploads.receive(parts_of(VIDEO), len(VIDEO), "there")
    over.set()
    await asyncio.gather(*sending)


async def test_whoever_trickles_loses_the_place_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never silent, and never done: it had the place for an hour."""

    async def trickling() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0)
            yield b""

    monkeypatch.setattr(module, "SILENT_S", 0.05)
    uploads = Uploads(tmp_path, file_bytes=20_000, total_bytes=20_000)
    with pytest.raises(DeadlineExceededError):
        await uploads.receive(trickling(), 10)


async def test_a_disk_that_takes_nothing_or_is_full_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    nowhere = Uploads(tmp_path / "file" / "folder", file_bytes=20_000, total_bytes=20_000)
    with pytest.raises(UnavailableError):
        await nowhere.receive(parts_of(VIDEO), len(VIDEO))
    uploads = Uploads(tmp_path, file_bytes=20_000, total_bytes=20_000)
    uploads.discard(await uploads.receive(parts_of(VIDEO), len(VIDEO)))
    assert uploads.folder is not None
    monkeypatch.setattr(secrets, "token_hex", lambda _: "full")
    (uploads.folder / "full").symlink_to("/dev/full")
    with pytest.raises(ResourceExhaustedError):
        await uploads.receive(parts_of(VIDEO), len(VIDEO))
    assert uploads.kept_bytes == 0


async def test_without_a_folder_nothing_is_taken() -> None:
    with pytest.raises(PermissionDeniedError, match="GATEWAY_UPLOADS"):
        await Uploads(None, 1000, 1000).receive(parts_of(b"x"), 1)
    async with served() as (_, client):
        assert await (await client.get("/api/uploads")).json() == {"file_bytes": 0}
        assert (await client.post("/api/uploads", data=VIDEO)).status == 403


async def test_a_file_becomes_a_session_and_goes_with_it(tmp_path: Path) -> None:
    limits = {"uploads": tmp_path, "upload_bytes": 20_000, "uploads_bytes": 30_000}
    async with served(**limits) as (parts, client):
        assert await (await client.get("/api/uploads")).json() == {"file_bytes": 20_000}
        reply = await client.post("/api/uploads?name=porch&loop=1", data=VIDEO)
        assert reply.status == 201, await reply.text()
        made = await reply.json()
        assert made["name"] == "porch"
        (session,) = parts.sessions.all()
        assert session.spec.loop
        assert [path.read_bytes() for path in files(tmp_path)] == [VIDEO]
        for data, status in ((b"", 400), (bytes(20_001), 413), (parts_of(VIDEO), 411)):
            assert (await client.post("/api/uploads", data=data)).status == status
        # What becomes no session is not kept.
        assert (await client.post("/api/uploads?name=" + "x" * 81, data=VIDEO)).status == 400
        assert len(files(tmp_path)) == 1
        assert (await client.delete("/api/sessions/porch")).status == 204
        assert files(tmp_path) == []


async def test_what_a_killed_gateway_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    living = Uploads(tmp_path, file_bytes=20_000, total_bytes=20_000)
    source = await living.receive(parts_of(VIDEO), len(VIDEO))
    left = tmp_path / "gateway-left"
    left.mkdir()
    (left / "video").write_bytes(VIDEO)
    (tmp_path / "others").mkdir()
    (tmp_path / "gateway-link").symlink_to(tmp_path / "others")
    Uploads(tmp_path, file_bytes=20_000, total_bytes=20_000).sweep()
    assert not left.exists()
    assert (tmp_path / "others").exists()
    assert living.folder is not None
    assert (living.folder / source.removeprefix(SCHEME)).exists()
    living.close()
    assert not living.folder.exists()
    Uploads(None, file_bytes=1, total_bytes=1).sweep()
    Uploads(tmp_path / "never", file_bytes=1, total_bytes=1).sweep()

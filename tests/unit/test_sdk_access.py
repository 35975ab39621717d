"""How the client enters a server: addresses, and tokens that nobody else shall read."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import sightline
from sightline import aio
from sightline.access import TOKEN_VARIABLE, Access, default_address
from sightline.cli import run
from sightline.v1 import gateway_pb2 as pb
from sightline.v1 import gateway_pb2_grpc


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


async def test_who_names_no_server_means_that_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for said, address in (("cam.lan:5", "cam.lan:5"), ("", "localhost:50051")):
        monkeypatch.setenv("SIGHTLINE_SERVER", said)
        assert default_address() == address
        for client, wanted in ((aio.connect(), address), (aio.connect("here:1"), "here:1")):
            assert client._calls.address == wanted
            await client.aclose()


@pytest.mark.parametrize(
    ("given", "address", "encrypted"),
    [
        ("cam.lan:50051", "cam.lan:50051", False),
        ("http://cam.lan:50051/", "cam.lan:50051", False),
        ("https://cam.lan:50051", "cam.lan:50051", True),
        ("https://cam.lan", "cam.lan:443", True),
        ("https://[::1]:5", "[::1]:5", True),
        ("unix:/x/y", "unix:/x/y", False),
        ("a:1, b:2", "a:1,b:2", False),
        ("https://a:1,https://b", "a:1,b:443", True),
    ],
)
def test_an_address_says_whether_it_is_encrypted(given: str, address: str, encrypted: bool) -> None:
    access = Access.of(given)
    assert access.address == address
    assert (access.credentials is not None) is encrypted


@pytest.mark.parametrize(
    "given", ["https://", "https://a:b", "https://a:0", "https://a/path", "a:1,b", "a:1,unix:/x"]
)
def test_nonsense_is_refused(given: str) -> None:
    with pytest.raises(sightline.InvalidArgumentError):
        Access.of(given)


@pytest.mark.parametrize(
    "address", ["cam.lan:50051", "http://10.0.0.5:1", "localhost.evil:1", "localhost:1,cam.lan:1"]
)
def test_a_token_is_not_sent_where_others_could_read_it(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(sightline.InvalidArgumentError, match="not encrypted"):
        aio.connect(address, token="secret")
    monkeypatch.setenv(TOKEN_VARIABLE, "secret")
    with pytest.raises(sightline.InvalidArgumentError, match="not encrypted") as caught:
        aio.connect(address)
    assert "secret" not in str(caught.value)
    assert Access.of(address, insecure_token=True).token == "secret"
    assert Access.of(address, tls=True).token == "secret"
    assert Access.of(address, token="").token == ""


@pytest.mark.parametrize(
    "address", ["localhost:1", "127.0.0.1:1", "[::1]:1", "unix:/x", "https://cam.lan"]
)
def test_a_token_is_sent_where_nobody_else_reads_it(address: str) -> None:
    access = Access.of(address, token="secret")
    assert access.token == "secret"
    assert "secret" not in repr(access)


async def test_channels_to_several_addresses_begin_with_each_in_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    targets: list[str] = []

    def channel(target: str, options: object) -> str:
        targets.append(target)
        return target

    monkeypatch.setattr("grpc.aio.insecure_channel", channel)
    access = Access.of("127.0.0.1:1,127.0.0.2:2")
    for turn in range(3):
        access.channel(turn)
    assert targets == ["ipv4:127.0.0.1:1,127.0.0.2:2", "ipv4:127.0.0.2:2,127.0.0.1:1", targets[0]]


@pytest.mark.parametrize("token", ["two words", "zeile\nzwei", "käse"])
def test_a_token_is_one_word(token: str) -> None:
    with pytest.raises(sightline.InvalidArgumentError, match="token"):
        Access.of("localhost:1", token=token)


def test_a_missing_authority_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Access.of("cam.lan:1", ca=tmp_path / "none.pem")


class Listening(gateway_pb2_grpc.SightlineServiceServicer):
    """A server that notes what each kind of call brought."""

    def __init__(self) -> None:
        self.brought: dict[str, Any] = {}

    def _note(self, method: str, context: Any) -> None:
        self.brought[method] = dict(context.invocation_metadata()).get("authorization")

    async def ListSessions(self, request: Any, context: Any) -> pb.ListSessionsResponse:
        self._note("unary", context)
        return pb.ListSessionsResponse()

    async def Speak(self, request: Any, context: Any) -> AsyncIterator[pb.AudioChunk]:
        self._note("stream", context)
        yield pb.AudioChunk(sample_rate=16000, pcm=b"\0\0")

    async def GetSession(self, request: Any, context: Any) -> pb.Session:
        return pb.Session(id="s", name="s")

    async def Converse(self, events: Any, context: Any) -> AsyncIterator[pb.ServerEvent]:
        self._note("converse", context)
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "no")
        yield pb.ServerEvent()


@pytest.fixture
async def listening(tmp_path: Path) -> AsyncIterator[tuple[Listening, str]]:
    servicer, server = Listening(), grpc.aio.server()
    gateway_pb2_grpc.add_SightlineServiceServicer_to_server(servicer, server)
    address = f"unix:{tmp_path}/s"
    server.add_insecure_port(address)
    await server.start()
    yield servicer, address
    await server.stop(None)


async def test_every_kind_of_call_brings_the_token(listening: tuple[Listening, str]) -> None:
    servicer, address = listening
    async with aio.connect(address, token="secret") as client:
        await client.sessions()
        assert [chunk async for chunk in client.speak("hello")]
        session = await client.session("s")
        with pytest.raises(sightline.PermissionDeniedError):
            await session.ask("what is there").result()
    assert servicer.brought == dict.fromkeys(("unary", "stream", "converse"), "Bearer secret")
    async with aio.connect(address) as client:
        await client.sessions()
    assert servicer.brought["unary"] is None


async def test_the_command_line_brings_the_token(
    listening: tuple[Listening, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    servicer, address = listening
    assert await run(["--server", address, "--token", "given", "sessions"]) == 0
    assert servicer.brought["unary"] == "Bearer given"
    monkeypatch.setenv(TOKEN_VARIABLE, "known")
    assert await run(["sessions", "--server", address]) == 0
    assert servicer.brought["unary"] == "Bearer known"


async def test_the_command_line_says_why_it_sends_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert await run(["--server", "cam.lan:1", "--token", "secret", "sessions"]) == 2
    assert "not encrypted" in capsys.readouterr().err

"""Services that show each other certificates: who is believed, who is not, and rotation."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest

import sightline
from services.common.channels import channel_to
from services.common.identity import Identity
from sightline.v1 import dialogue_pb2, dialogue_pb2_grpc
from tests.certificates import Authority
from tests.eventually import PATIENCE_S, wait_until
from tests.processes import SHAPES, RedisServer, ServiceProcess

pytestmark = pytest.mark.option

WORDS = "what do you see?"
LOOKED_AGAIN_S = 1.2


@dataclass(slots=True)
class Files:
    """An authority, and a certificate of its with its key."""

    folder: Path
    authority: Authority

    @classmethod
    def made(cls, folder: Path, name: str, *, days: int = 1) -> "Files":
        files = cls(folder, Authority(folder, name))
        files.sign(days=days)
        return files

    def sign(self, *, days: int = 1) -> None:
        self.authority.sign(self.folder / "tls.crt", self.folder / "tls.key", days=days)

    def environment(self, prefix: str) -> dict[str, str]:
        return {
            f"{prefix}PEER_CA": str(self.authority.ca),
            f"{prefix}PEER_CERT": str(self.folder / "tls.crt"),
            f"{prefix}PEER_KEY": str(self.folder / "tls.key"),
        }

    @property
    def identity(self) -> Identity:
        return Identity(self.authority.ca, self.folder / "tls.crt", self.folder / "tls.key")

    @property
    def credentials(self) -> grpc.ChannelCredentials:
        return self.identity.channel_credentials()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files.made(tmp_path / "ours", "ours")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def dialogue(files: Files, redis: RedisServer, tmp_path: Path) -> Iterator[ServiceProcess]:
    environment = {"DIALOGUE_REDIS_URL": redis.url, **files.environment("DIALOGUE_")}
    process = ServiceProcess("dialogue", environment, tmp_path)
    process.credentials = files.credentials
    process.start()
    yield process
    process.stop()


def reached(address: str, credentials: grpc.ChannelCredentials | None) -> bool:
    """Whether a peer with these credentials is answered."""
    if credentials is None:
        channel = grpc.insecure_channel(address)
    else:
        channel = grpc.secure_channel(address, credentials)
    with channel:
        stub = dialogue_pb2_grpc.DialogueServiceStub(channel)
        try:
            stub.Open(dialogue_pb2.OpenConversationRequest(id="c"), timeout=PATIENCE_S)
        except grpc.RpcError as error:
            return error.code() is not grpc.StatusCode.UNAVAILABLE
    return True


def test_peers_of_the_same_authority_alone_are_answered(
    dialogue: ServiceProcess, files: Files, tmp_path: Path
) -> None:
    assert reached(dialogue.address, files.credentials)
    assert not reached(dialogue.address, None), "without encryption"
    believing = grpc.ssl_channel_credentials(files.authority.ca.read_bytes())
    assert not reached(dialogue.address, believing), "without a certificate"
    stranger = Files.made(tmp_path / "strange", "stranger")
    pair = [(stranger.folder / name).read_bytes() for name in ("tls.key", "tls.crt")]
    assert not reached(
        dialogue.address,
        grpc.ssl_channel_credentials(files.authority.ca.read_bytes(), *pair),
    ), "of another authority"
    assert not reached(dialogue.address, stranger.credentials), "who believes another"
    old = [tmp_path / "old.key", tmp_path / "old.crt"]
    files.authority.sign(old[1], old[0], days=-1)
    expired = [path.read_bytes() for path in old]
    assert not reached(
        dialogue.address,
        grpc.ssl_channel_credentials(files.authority.ca.read_bytes(), *expired),
    ), "expired"


async def test_a_service_of_another_authority_or_name_is_not_talked_to(
    dialogue: ServiceProcess, files: Files, tmp_path: Path
) -> None:
    stranger = Files.made(tmp_path / "strange", "stranger")
    other_name = Identity(
        files.authority.ca, files.folder / "tls.crt", files.folder / "tls.key", "elsewhere"
    )
    request = dialogue_pb2.OpenConversationRequest(id="c")
    for identity in (stranger.identity, other_name):
        channel, _ = channel_to(dialogue.address, identity)
        async with channel:
            stub = dialogue_pb2_grpc.DialogueServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Open(request, timeout=PATIENCE_S)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    named = Identity(
        files.authority.ca, files.folder / "tls.crt", files.folder / "tls.key", "localhost"
    )
    channel, _ = channel_to(dialogue.address, named)
    async with channel:
        await dialogue_pb2_grpc.DialogueServiceStub(channel).Open(request, timeout=PATIENCE_S)


async def test_both_sides_read_new_certificates_without_a_restart(
    dialogue: ServiceProcess, files: Files, tmp_path: Path
) -> None:
    """A new authority, believed beside the old one first, as one is rotated."""
    channel, _ = channel_to(dialogue.address, files.identity)
    request = dialogue_pb2.OpenConversationRequest(id="c")
    async with channel:
        stub = dialogue_pb2_grpc.DialogueServiceStub(channel)
        await stub.Open(request, timeout=PATIENCE_S)
        new = Authority(tmp_path / "new", "new")
        old_ca = files.authority.ca.read_bytes()
        files.authority.ca.write_bytes(old_ca + new.ca.read_bytes())
        await asyncio.sleep(LOOKED_AGAIN_S)
        await stub.Open(request, timeout=PATIENCE_S)
        new.sign(files.folder / "tls.crt", files.folder / "tls.key")
        await asyncio.sleep(LOOKED_AGAIN_S)
        await stub.Open(request, timeout=PATIENCE_S)
        files.authority.ca.write_bytes(new.ca.read_bytes())
        await asyncio.sleep(LOOKED_AGAIN_S)
        await stub.Open(request, timeout=PATIENCE_S)
    # A new connection that knows nothing of the old authority is answered.
    assert reached(dialogue.address, files.credentials)


def test_a_suite_speaks_mutual_tls_from_end_to_end(
    dialogue: ServiceProcess, files: Files, tmp_path: Path
) -> None:
    worker = ServiceProcess(
        "inference_worker",
        {
            "WORKER_MODEL": str(SHAPES),
            "WORKER_THREADS": "1",
            "WORKER_MAX_SESSIONS": "2",
            "WORKER_DIALOGUE": dialogue.address,
            **files.environment("WORKER_"),
        },
        tmp_path,
    )
    worker.credentials = files.credentials
    worker.start(120)
    gateway = ServiceProcess(
        "gateway",
        {
            "GATEWAY_WORKERS": worker.address,
            "GATEWAY_DIALOGUE": dialogue.address,
            "GATEWAY_RTMP_PORT": "",
            **files.environment("GATEWAY_"),
        },
        tmp_path,
    )
    gateway.start()
    with sightline.connect(gateway.address) as client:
        wait_until(lambda: client.info().models)
        with client.open(push=True) as session:
            session.push(np.zeros((128, 128, 3), np.uint8))
            talk = session.conversation()
            assert talk.ask(WORDS).result().text
            assert talk.ask(WORDS).result().history_rounds == 1, (
                "dialogue was reached from the worker"
            )
            wait_until(lambda: len(client.history(talk.id)) == 2)
    gateway.stop()
    worker.stop()


@pytest.mark.parametrize("missing", ["CA", "CERT", "KEY"])
def test_half_of_the_settings_refuse_to_start(missing: str, files: Files, tmp_path: Path) -> None:
    environment = files.environment("DIALOGUE_")
    del environment[f"DIALOGUE_PEER_{missing}"]
    process = ServiceProcess(
        "dialogue", {"DIALOGUE_REDIS_URL": "redis://127.0.0.1:1/0", **environment}, tmp_path
    )
    process.spawn()
    assert process.process is not None
    assert process.process.wait(30) == 2
    assert "DIALOGUE_PEER_CA, DIALOGUE_PEER_CERT, DIALOGUE_PEER_KEY" in process.log()

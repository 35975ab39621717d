"""The gateway's settings: what is accepted, and what the refusals name."""

from pathlib import Path

import pytest

from services.common.config import ConfigError
from services.gateway.api.addresses import Addresses
from services.gateway.config import GatewayConfig
from services.gateway.sources.remote.egress_policy import EgressPolicy, UnreachableError


def test_settings_are_read(tmp_path: Path) -> None:
    config = GatewayConfig.from_env(
        {
            "GATEWAY_WORKERS": "a:1, b:2",
            "GATEWAY_TTS": "c:3",
            "GATEWAY_MEDIA_ROOT": str(tmp_path),
            "GATEWAY_RTMP_PORT": "",
            "GATEWAY_ICE_SERVERS": "stun:s:1,turn:u:p@t:2",
            "GATEWAY_ALLOWED_ORIGINS": "https://app.example",
        }
    )
    assert config.workers == ("a:1", "b:2")
    assert config.rtmp_port is None
    assert config.media_root == tmp_path


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WORKERS", ""),
        ("WORKERS", "a"),
        ("WORKERS", "a:x"),
        ("WORKERS", "a:99999"),
        ("TTS", "nowhere"),
        ("MEDIA_ROOT", "/does/not/exist"),
        ("RTMP_PORT", "70000"),
        ("ICE_SERVERS", "http://x"),
        ("ICE_SERVERS", "stun:"),
        ("ICE_SERVERS", "stun:host:port"),
        ("ICE_SERVERS", "turn:u:p@"),
        ("PUBLIC_HOST", ""),
        ("ALLOWED_ORIGINS", "app.example"),
        ("ALLOWED_ORIGINS", "https://app.example/path"),
        ("MAX_SESSIONS", "0"),
        ("URL_ALLOW", "10.0.0.0/33"),
        ("URL_ALLOW", "a b"),
        ("DECODER_BYTES", "1"),
        ("PICTURE_S", "0"),
        ("TLS_CERT", "/only/the/certificate"),
        ("TLS_KEY", "/only/the/key"),
    ],
)
def test_refusals_name_the_variable(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"GATEWAY_{name}"):
        GatewayConfig.from_env({f"GATEWAY_{name}": value})


@pytest.mark.parametrize(
    "settings",
    [
        {"ICE_SERVERS": "trun:user:hunter2@host"},
        {"ICE_SERVERS": "turn:user:hunter2@turn.example", "EDGE": "1"},
        {"AUTH": "jwt", "AUTH_JWKS_URL": "http://user:hunter2@host/keys"},
        {"AUTH": "http", "AUTH_HTTP_URL": "ftp://user:hunter2@host"},
        {"AUTH": "http", "AUTH_HTTP_URL": "https://user:hunter2@example.org", "EDGE": "1"},
        {"REDIS_URL": "redis://:hunter2@host:1/0"},
        {"CLUSTER_SECRET": "hunter2\nhunter2"},
        {"SRT_PASSPHRASE": "hunter2"},
    ],
)
def test_no_refusal_tells_a_password(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        GatewayConfig.from_env({f"GATEWAY_{name}": value for name, value in settings.items()})
    assert "hunter2" not in str(caught.value)


def test_gateways_that_share_sessions_share_a_secret() -> None:
    shared = {"GATEWAY_REDIS_URL": "redis://:hunter2@host:1/0"}
    for secret in ("", "short", "x" * 31):
        with pytest.raises(ConfigError, match="GATEWAY_CLUSTER_SECRET") as caught:
            GatewayConfig.from_env(shared | {"GATEWAY_CLUSTER_SECRET": secret})
        assert "hunter2" not in str(caught.value)
    config = GatewayConfig.from_env(shared | {"GATEWAY_CLUSTER_SECRET": "s" * 32})
    assert "hunter2" not in repr(config)
    assert "sss" not in repr(config)


def test_addresses_follow_the_ports_and_the_public_names() -> None:
    config = GatewayConfig(public_host="cam.example")
    addresses = Addresses(config, 1935)
    addresses.http_port = 8080
    assert addresses.rtmp == "rtmp://cam.example/live"
    assert addresses.http == "http://cam.example:8080"
    addresses.grpc_port = 50051
    assert addresses.grpc == 50051
    elsewhere = GatewayConfig(
        public_host="cam.example", public_rtmp_port=31935, public_grpc_port=30051
    )
    addresses = Addresses(elsewhere, 1935)
    addresses.grpc_port = 50051
    assert addresses.rtmp == "rtmp://cam.example:31935/live"
    assert addresses.grpc == 30051
    assert Addresses(elsewhere, None).rtmp == ""
    assert Addresses(config, 1936).rtmp == "rtmp://cam.example:1936/live"
    assert Addresses(config, None).rtmp == ""
    secure = Addresses(GatewayConfig(tls_cert=Path("a"), tls_key=Path("b"), http_port=5), None)
    assert secure.http == "https://localhost:5"
    proxied = GatewayConfig(public_http_url="https://cam.example/")
    assert Addresses(proxied, None).http == "https://cam.example"


@pytest.mark.parametrize(
    "settings",
    [
        {"GATEWAY_ICE_SERVERS": "stun:stun.example.org:3478"},
        {"GATEWAY_ICE_SERVERS": "turn:user:word@93.184.215.14:3478"},
        {
            "GATEWAY_AUTH": "jwt",
            "GATEWAY_AUTH_JWKS_URL": "https://id.example.org/jwks.json",
        },
        {"GATEWAY_AUTH": "http", "GATEWAY_AUTH_HTTP_URL": "http://auth.example.org/"},
        {"GATEWAY_MQTT_URL": "mqtts://user:word@broker.example.org"},
    ],
)
def test_edge_refuses_what_leads_outside(settings: dict[str, str]) -> None:
    GatewayConfig.from_env(settings)
    with pytest.raises(ConfigError, match=r"leaves the site \(GATEWAY_EDGE\)"):
        GatewayConfig.from_env(settings | {"GATEWAY_EDGE": "1"})


def test_edge_takes_what_stays_inside() -> None:
    config = GatewayConfig.from_env(
        {
            "GATEWAY_EDGE": "1",
            "GATEWAY_ICE_SERVERS": "stun:10.0.0.3:3478,turn:user:word@192.168.1.4:3478",
            "GATEWAY_AUTH": "http",
            "GATEWAY_AUTH_HTTP_URL": "http://127.0.0.1:9000/auth",
            "GATEWAY_MQTT_URL": "mqtt://user:word@10.0.0.5:1883",
        }
    )
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["93.184.215.14"]

    policy = EgressPolicy(config.url_allow, public=not config.edge, resolve=resolve)
    for host in ("93.184.215.14", "camera.example.org"):
        with pytest.raises(UnreachableError):
            policy.addresses(host, 554)
    assert asked == [], "a name is not even looked up"
    named = EgressPolicy(["10.1.0.0/16"], public=False, resolve=lambda host, port: ["10.1.2.3"])
    assert [str(address) for address in named.addresses("camera.lan", 554)] == ["10.1.2.3"]

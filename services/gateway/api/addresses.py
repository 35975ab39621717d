"""Addresses by which publishers and browsers reach this gateway."""

from services.gateway.config import GatewayConfig
from services.gateway.sessions.remote_session import AnySession
from sightline.v1 import gateway_pb2


class Addresses:
    """The addresses that clients are told. `http_port` and `grpc_port` are set once they are known:
    port 0 picks a free one."""

    def __init__(
        self,
        config: GatewayConfig,
        rtmp_port: int | None,
        rtmps_port: int | None = None,
        srt_port: int | None = None,
    ) -> None:
        self._config = config
        self._rtmp_port = rtmp_port
        self._rtmps_port = rtmps_port
        self._srt_port = srt_port
        self.http_port = config.http_port
        self.grpc_port = config.grpc_port

    @property
    def http(self) -> str:
        """The page's address, without a slash at its end."""
        scheme = "http" if self._config.tls_cert is None else "https"
        derived = f"{scheme}://{self._config.public_host}:{self.http_port}"
        return (self._config.public_http_url or derived).rstrip("/")

    @property
    def rtmp(self) -> str:
        """Address to which publishers append their key, encrypted where it can be; "" without
        RTMP."""
        if self._rtmps_port is not None:
            return f"rtmps://{self._config.public_host}:{self._rtmps_port}/live"
        if self._rtmp_port is None:
            return ""
        number = self._config.public_rtmp_port or self._rtmp_port
        port = "" if number == 1935 else f":{number}"
        return f"rtmp://{self._config.public_host}{port}/live"

    @property
    def grpc(self) -> int:
        """The port that programs reach the gateway on."""
        return self._config.public_grpc_port or self.grpc_port

    def with_keys(self, session: AnySession) -> gateway_pb2.Session:
        """The session with its key and the addresses that hold it: for its creator only."""
        message = gateway_pb2.Session()
        message.CopyFrom(session.message())
        if key := session.key:
            message.key = key
            message.whip_url = f"{self.http}/whip/{key}"
            if self.rtmp:
                message.rtmp_url = f"{self.rtmp}/{key}"
            if self._srt_port is not None:
                place = f"{self._config.public_host}:{self._srt_port}"
                message.srt_url = f"srt://{place}?streamid=publish:{key}"
        return message

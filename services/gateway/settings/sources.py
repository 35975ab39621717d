"""Settings of what is watched."""

from dataclasses import dataclass
from pathlib import Path

from services.common.config import ConfigError, setting
from services.gateway.sources.remote.egress_policy import Rule


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """Which sources sessions may have, and what decoding them may take."""

    media_root: Path | None = setting(
        None, "Folder that file sources may be read from; empty: no local files."
    )
    uploads: Path | None = setting(
        None,
        "Folder for files that viewers hand over (drop on the page), each kept for as long as its "
        "session is there; empty: none are taken.",
    )
    upload_bytes: int = setting(512 * 1024 * 1024, "Bytes of one such file.", minimum=1024)
    uploads_bytes: int = setting(
        4 * 1024 * 1024 * 1024, "Bytes of all such files together.", minimum=1024
    )
    url_sources: bool = setting(
        True, "Whether sessions may be created from http, rtsp, rtmp, srt, udp URLs."
    )
    image_urls: bool = setting(
        False,
        "Whether pictures of `/v1` may be fetched from http and https URLs, where URL sources may "
        "lead; otherwise they come as data: URLs.",
    )
    url_allow: tuple[str, ...] = setting(
        (),
        "Where URL sources may lead besides the public internet: networks, hosts and patterns of "
        "hosts, each with a port or for any, e.g. 10.1.0.0/16,camera.lan:554,*.cam.lan.",
    )
    decoder_bytes: int = setting(
        256 * 1024 * 1024,
        "Bytes of pictures that a session's decoder may keep to refer to.",
        minimum=1024 * 1024,
    )
    picture_s: float = setting(
        2.0,
        "Seconds of a processor that one picture may take to decode; a source of slower ones ends.",
        minimum=0.01,
        maximum=60,
    )
    decode_threads: int = setting(
        1,
        "Threads of a session's decoder. Each further one holds back a picture: more than one is "
        "for few sources too large for a core, 4K at 60 pictures a second.",
        minimum=1,
        maximum=16,
    )
    hwaccel: str | None = setting(
        None,
        "Device that decodes: what it cannot do, and all where there is none, software does, and "
        "the log says so. Empty: software.",
        choices=("amf", "cuda", "d3d11va", "drm", "qsv", "vaapi", "videotoolbox", "vulkan"),
    )

    def check_sources(self) -> None:
        """Raise ConfigError for a folder or a rule that is none."""
        if self.media_root is not None and not self.media_root.is_dir():
            raise ConfigError(f"GATEWAY_MEDIA_ROOT={self.media_root} is not a folder")
        check_rules("GATEWAY_URL_ALLOW", self.url_allow)


def check_rules(name: str, rules: tuple[str, ...]) -> None:
    """Raise ConfigError for what is no rule of where connections may lead, with the name of the
    variable that says it."""
    for rule in rules:
        try:
            Rule.parse(rule)
        except ValueError as error:
            raise ConfigError(f"{name}: {error}") from None

"""The certificate by which one WebRTC connection is known, and the ciphers it is used with."""

from typing import Any

from aiortc import RTCCertificate

# aiortc leaves out the second kind: peers whose own certificate is RSA's, as FFmpeg's may be.
_CIPHERS = ":".join(
    f"ECDHE-{kind}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "CHACHA20-POLY1305", "AES128-SHA", "AES256-SHA")
    for kind in ("ECDSA", "RSA")
)


class Certificate(RTCCertificate):
    """aiortc's, for peers with certificates of both kinds."""

    def _create_ssl_context(self, srtp_profiles: Any) -> Any:
        context = super()._create_ssl_context(srtp_profiles)
        context.set_cipher_list(_CIPHERS.encode())
        return context

"""Basic and Digest authentication (RFC 7617, RFC 7616), as HTTP and RTSP servers ask for it."""

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass

MAX_CHARACTERS = 2048  # of a challenge
_PARAMETER = re.compile(r'([A-Za-z]+)\s*=\s*(?:"([^"]*)"|([^\s,"]+))')
_HASHES = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}


@dataclass(slots=True)
class Credentials:
    """A user and a password, and the answers to a server's challenges."""

    user: str
    password: str
    _count: int = 0

    def basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()

    def answer(self, challenges: list[str], method: str, uri: str) -> str | None:
        """The Authorization header for WWW-Authenticate headers; None when none is understood."""
        for challenge in challenges:
            scheme, _, rest = challenge.strip().partition(" ")
            if scheme.lower() == "digest":
                pairs = _PARAMETER.findall(rest[:MAX_CHARACTERS])
                values = {name.lower(): quoted or plain for name, quoted, plain in pairs}
                if (header := self._digest(values, method, uri)) is not None:
                    return header
        if any(challenge.strip().lower().startswith("basic") for challenge in challenges):
            return self.basic()
        return None

    def _digest(self, values: dict[str, str], method: str, uri: str) -> str | None:
        algorithm = values.get("algorithm", "MD5").upper()
        name, session = algorithm.removesuffix("-SESS"), algorithm.endswith("-SESS")
        if name not in _HASHES or "nonce" not in values:
            return None
        qops = [qop.strip() for qop in values.get("qop", "").split(",") if qop.strip()]
        if qops and "auth" not in qops:
            return None
        self._count += 1
        count, client_nonce = f"{self._count:08x}", secrets.token_hex(8)
        realm, nonce = values.get("realm", ""), values["nonce"]

        def hashed(*parts: str) -> str:
            return _HASHES[name](":".join(parts).encode(), usedforsecurity=False).hexdigest()

        first = hashed(self.user, realm, self.password)
        if session:
            first = hashed(first, nonce, client_nonce)
        second = hashed(method, uri)
        fields = [("username", self.user), ("realm", realm), ("nonce", nonce), ("uri", uri)]
        if qops:
            response = hashed(first, nonce, count, client_nonce, "auth", second)
            fields.append(("cnonce", client_nonce))
        else:
            response = hashed(first, nonce, second)
        fields.append(("response", response))
        if "opaque" in values:
            fields.append(("opaque", values["opaque"]))
        header = "Digest " + ", ".join(f'{key}="{_quoted(value)}"' for key, value in fields)
        if "algorithm" in values:
            header += f", algorithm={algorithm}"
        return header + (f", qop=auth, nc={count}" if qops else "")


def _quoted(value: str) -> str:
    return re.sub(r'[\x00-\x1f\x7f"\\]', "", value)

"""What a server answered that serves no video, in words for whoever named it.

Of servers alone that answered, and that a caller may read from: who is silent, refuses or is
forbidden is never told apart, or a caller would have a port scanner.
"""

import ssl

from services.gateway.sources.remote.egress_policy import UnreachableError
from sightline.errors import InvalidArgumentError

MAX_WAIT_S = 300.0  # that a server may ask for before it is asked again
_AGAIN_LATER = (429, 503)
_WORDS = {
    200: "its server does not send the part that is asked for",
    403: "its server does not allow that (403)",
    404: "its server has nothing of that name (404)",
    410: "its server has nothing of that name any longer (410)",
    429: "its server is asked too often, and says so (429): try again later",
    454: "its server has forgotten us (454)",
    503: "its server is overloaded or away (503): try again later",
}
# Of what OpenSSL's verification found.
_CERTIFICATE = {
    9: "is not valid yet",
    10: "has expired",
    18: "is signed by itself alone",
    19: "is signed by somebody who is not trusted",
    20: "is signed by somebody who is not known",
    62: "is for another name",
    64: "is for another address",
}


class NotServedError(UnreachableError):
    """The server answered, and has no such file, or not for us."""

    def __init__(self, status: int, *, asked_as_user: bool = False, wait_s: float = 0.0) -> None:
        super().__init__(f"the server answered {status}")
        self.status = status
        self.asked_as_user = asked_as_user
        self.wait_s = min(MAX_WAIT_S, wait_s) if status in _AGAIN_LATER else 0.0


class NotOpenedError(InvalidArgumentError):
    """A source that gives no video; the text is for its caller. `wait_s`: that its server wants to
    be left alone."""

    def __init__(self, why: str, wait_s: float = 0.0) -> None:
        super().__init__(f"cannot open the source: {why}")
        self.wait_s = wait_s


def words_of(error: BaseException) -> str | None:
    """What a caller may know of an error; None for what is not to be told."""
    if isinstance(error, ssl.SSLCertVerificationError):  # is checked of public servers only
        return f"its server's certificate {_CERTIFICATE.get(error.verify_code, 'does not hold')}"
    if not isinstance(error, NotServedError):
        return None
    if error.status == 401 and error.asked_as_user:
        return "its server does not take this user and password (401)"
    if error.status == 401:
        return "its server asks for a user and a password (401): scheme://user:password@host/…"
    return _WORDS.get(error.status, f"its server answered {error.status}")

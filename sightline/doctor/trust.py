"""Checks of what trust is built on: certificates, and the clock."""

import ctypes
import datetime
import ssl
import time
from collections.abc import Iterator, Mapping
from typing import Any

from sightline.doctor.finding import FAULT, OK, WARNING, Environ, Finding
from sightline.doctor.ports import PORTS
from sightline.doctor.probes import date_of

SOON = datetime.timedelta(days=14)
MOST_SKEW_S = 2.0


def certificates(environ: Environ) -> Iterator[Finding]:
    """Certificates that are named can be used, for the name that is told, and for a while yet."""
    named = [prefix for prefix in _CERTIFIED if environ.get(f"{prefix}_CERT")]
    if not named:
        yield Finding("certificates", OK, "none are named: nothing is encrypted")
    for prefix in named:
        name = environ.get("GATEWAY_PUBLIC_HOST", "") if prefix == "GATEWAY_TLS" else ""
        yield _certificate(prefix, environ, name)


_CERTIFIED = ("GATEWAY_TLS", "GATEWAY_PEER", "WORKER_PEER", "DIALOGUE_PEER", "TTS_PEER", "ASR_PEER")


def _certificate(prefix: str, environ: Environ, name: str) -> Finding:
    certificate, key = environ[f"{prefix}_CERT"], environ.get(f"{prefix}_KEY", "")
    where = f"{prefix}_CERT={certificate}"
    try:
        shown = _shown(certificate, key)
    except ssl.SSLCertVerificationError as error:
        advice = "have a new certificate made; it is read without a restart"
        return Finding("certificates", FAULT, f"{where}: {error.verify_message}", advice)
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        advice = f"see that {prefix}_CERT and {prefix}_KEY are readable and belong together"
        return Finding("certificates", FAULT, f"{where}: {reason}", advice)
    ends_s = ssl.cert_time_to_seconds(str(shown["notAfter"]))
    left = datetime.timedelta(seconds=ends_s - time.time())
    names = [str(value) for _, value in shown.get("subjectAltName", ())]
    if name and not any(_matches(each, name) for each in names):
        advice = "have one made for that name, or change GATEWAY_PUBLIC_HOST"
        words = f"{where} is for {', '.join(names) or 'no name'}, not for {name}"
        return Finding("certificates", FAULT, words, advice)
    if left < SOON:
        return Finding(
            "certificates", WARNING, f"{where} ends in {left.days} days", "have a new one made"
        )
    return Finding("certificates", OK, f"{where} holds for {left.days} days more")


def _shown(certificate: str, key: str) -> Mapping[str, Any]:
    """Certificate as a client would read it, after a handshake in memory."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key or None, password=lambda: b"")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(certificate)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends[0].getpeercert() or {}


def _matches(pattern: str, name: str) -> bool:
    if pattern.startswith("*."):
        return name.partition(".")[2] == pattern[2:]
    return pattern.lower() == name.lower()


def clock(environ: Environ) -> Iterator[Finding]:
    """The clock is set by somebody, and tells a running gateway's time."""
    year = datetime.datetime.now(datetime.UTC).year
    advice = "let the machine's clock be set (NTP): capture times and tokens depend on it"
    if not 2025 <= year <= 2100:
        yield Finding("clock", FAULT, f"it is the year {year} here", advice)
    port = environ.get("GATEWAY_HTTP_PORT", "") or str(PORTS["GATEWAY_HTTP_PORT"][0])
    theirs = date_of(int(port)) if port.isdecimal() else None
    if theirs is not None and abs(theirs - time.time()) > MOST_SKEW_S:
        skew_s = theirs - time.time()
        yield Finding("clock", FAULT, f"the gateway's clock is {skew_s:+.0f} s from ours", advice)
    elif _is_set() is False:
        yield Finding("clock", WARNING, "nobody keeps the clock right", advice)
    else:
        yield Finding("clock", OK, datetime.datetime.now(datetime.UTC).isoformat(" ", "seconds"))


def _is_set() -> bool | None:
    """Whether the kernel's clock is kept by somebody; None where it does not say."""
    try:
        adjtimex = ctypes.CDLL(None).adjtimex
    except (OSError, AttributeError):
        return None
    state = adjtimex(ctypes.byref(ctypes.create_string_buffer(512)))  # modes 0: only ask
    return None if state < 0 else state != 5  # TIME_ERROR

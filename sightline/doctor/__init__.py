"""`sightline doctor`: what on this machine keeps Sightline from running, and what to do about it.

It reads the services' own variables (docs/configuration.md), looks without changing anything, and
needs nothing but Python's own library: a machine on which the services do not start is where it is
used. Each check is a function that gives findings.
"""

from collections.abc import Callable, Iterator

from sightline.doctor import model, ports, redis, srt, trust, udp
from sightline.doctor.finding import WARNING, Environ, Finding

__all__ = ["CHECKS", "Finding", "examine"]

CHECKS: dict[str, Callable[[Environ], Iterator[Finding]]] = {
    "ports": ports.ports,
    "redis": redis.redis,
    "model": model.model,
    "gpu": model.gpu,
    "udp": udp.udp,
    "srt": srt.srt,
    "certificates": trust.certificates,
    "clock": trust.clock,
}


def examine(environ: Environ) -> list[Finding]:
    """Every check, one after the other; one that cannot be made is a warning."""
    findings: list[Finding] = []
    for name, check in CHECKS.items():
        try:
            findings += check(environ)
        except (OSError, ValueError) as error:
            findings.append(Finding(name, WARNING, f"could not be looked at: {error}"))
    return findings

"""Time zone of this machine, by its name of the IANA."""

import os
from collections.abc import Mapping
from pathlib import Path

from services.common.ages import zone_of

FOLDER = "zoneinfo"  # of the system, in which each zone is a file


def own_time_zone(
    environ: Mapping[str, str] | None = None,
    localtime: Path = Path("/etc/localtime"),
    name: Path = Path("/etc/timezone"),
) -> str:
    """What TZ says, or what the machine is set to; "UTC" where neither names a zone."""
    told = (os.environ if environ is None else environ).get("TZ", "").removeprefix(":")
    for found in (told, _named_by(localtime), _written_in(name)):
        try:
            return zone_of(found).key
        except ValueError:
            continue
    return "UTC"


def _named_by(localtime: Path) -> str:
    """The zone whose file this is a link to."""
    parts = localtime.resolve().parts
    return "/".join(parts[parts.index(FOLDER) + 1 :]) if FOLDER in parts else ""


def _written_in(name: Path) -> str:
    try:
        return name.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""

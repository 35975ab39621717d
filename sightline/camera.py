"""Cameras and the screen of this machine, by the names that people give them. Needs PyAV."""

import os
import re
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from sightline.errors import InvalidArgumentError

__all__ = ["Camera"]

SCREEN = "screen"
SCREEN_FPS = "15"
_LIVE = {"fflags": "nobuffer"}


@dataclass(frozen=True, slots=True)
class Camera:
    """A device as libavdevice opens it: the name of its driver, its place, and options."""

    driver: str
    place: str
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def named(
        cls, name: str, platform: str = sys.platform, display: str | None = None
    ) -> "Camera | None":
        """The device that somebody means: a number, /dev/video0, "screen"; None for a file. A file
        whose name is a number is written ./0."""
        if name == SCREEN:
            return cls._screen(platform, display or os.environ.get("DISPLAY", ":0"))
        is_device = re.fullmatch(r"/dev/video[0-9]+", name) or _is_character_device(name)
        if not name.isdecimal() and not is_device:
            return None
        if platform == "darwin":
            # It takes no rate but the device's own, which 30 is everywhere.
            return cls("avfoundation", f"{name}:none", {"framerate": "30", **_LIVE})
        if platform == "win32":
            return cls("dshow", name, _LIVE)
        place = f"/dev/video{name}" if name.isdecimal() else name
        return cls("v4l2", place, _LIVE)

    @classmethod
    def _screen(cls, platform: str, display: str) -> "Camera":
        options = {"framerate": SCREEN_FPS, **_LIVE}
        if platform == "darwin":
            return cls("avfoundation", "Capture screen 0:none", options)
        if platform == "win32":
            return cls("gdigrab", "desktop", options)
        return cls("x11grab", display, options)

    def open(self, av: ModuleType) -> Any:
        """The opened device. Raises InvalidArgumentError, with the reason and what to do."""
        place = self.place
        try:
            if self.driver == "dshow":
                place = _windows_name(av, int(place))
            return av.open(place, format=self.driver, options=dict(self.options))
        except ValueError:
            raise InvalidArgumentError(
                f"this build of PyAV cannot read {self.driver} devices: push what another program "
                "records of it, by RTMP or WHIP"
            ) from None
        except (av.FFmpegError, OSError) as error:
            why = {
                "FileNotFoundError": "there is no such device",
                "PermissionError": "it may not be read: join the group `video`, or allow this "
                "program the camera",
            }.get(type(error).__name__, error.strerror or type(error).__name__)
            raise InvalidArgumentError(f"cannot open {self.driver} {place}: {why}") from None


def _windows_name(av: ModuleType, number: int) -> str:
    """Name of a camera, which DirectShow numbers for nobody."""
    if not hasattr(av, "enumerate_input_devices"):
        raise InvalidArgumentError("cameras are counted by newer releases of PyAV: install av>=17")
    names = [
        device.description or device.name
        for device in av.enumerate_input_devices("dshow")
        if "video" in (getattr(device, "media_types", None) or ["video"])
    ]
    if number >= len(names):
        raise InvalidArgumentError(f"there are {len(names)} cameras, counted from 0")
    return f"video={names[number]}"


def _is_character_device(name: str) -> bool:
    try:
        return stat.S_ISCHR(Path(name).stat().st_mode)
    except (OSError, ValueError):
        return False

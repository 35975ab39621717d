"""Configuration from the environment: what is accepted, and what the refusals say."""

import re
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from services.common.config import ConfigError, EnvConfig, ServiceConfig, rows, setting
from services.common.listener import cannot_listen
from services.common.tracing import set_up_tracing


@dataclass(frozen=True, slots=True, kw_only=True)
class _Config(EnvConfig):
    prefix: ClassVar[str] = "T_"

    url: str = setting(MISSING, "Where.")
    count: int = setting(3, "How many.", minimum=1, maximum=9)
    rate: float = setting(0.5, "How fast.", minimum=0, maximum=1)
    on: bool = setting(True, "Whether.")
    folder: Path | None = setting(None, "Where to.")
    limit: int | None = setting(None, "At most.", minimum=1)
    names: tuple[str, ...] = setting((), "Which.")
    kind: str = setting("a", "Which kind.", choices=("a", "b"))
    peer: str | None = setting(None, "Whom.", address=True)
    filled: str = setting("x", "What is never empty.", filled=True)


def _read(**environ: str) -> _Config:
    return _Config.from_env({"T_URL": "x", **environ})


def test_defaults_and_values() -> None:
    assert _read() == _Config(url="x")
    config = _read(
        T_COUNT="9", T_RATE="1e-1", T_ON="No", T_FOLDER="~/x", T_LIMIT="7", T_NAMES=" a, b,,"
    )
    assert (config.count, config.rate, config.on, config.limit) == (9, 0.1, False, 7)
    assert config.folder == Path("~/x").expanduser()
    assert config.names == ("a", "b")


def test_an_empty_variable_is_none_where_none_is_allowed() -> None:
    assert _read(T_LIMIT="", T_FOLDER="") == _Config(url="x")
    with pytest.raises(ConfigError, match="T_COUNT"):
        _read(T_COUNT="")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("T_COUNT", "many"),
        ("T_COUNT", "0"),
        ("T_COUNT", "10"),
        ("T_COUNT", "1.5"),
        ("T_RATE", "nan"),
        ("T_RATE", "inf"),
        ("T_RATE", "-0.1"),
        ("T_ON", "perhaps"),
        ("T_LIMIT", "0"),
        ("T_KIND", "c"),
    ],
)
def test_a_bad_value_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=name):
        _read(**{name: text})


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("T_COUNT", "5s", "a whole number, without a unit"),
        ("T_RATE", "10%", "a number, without a unit"),
        ("T_ON", "perhaps", "true or false"),
        ("T_LIMIT", "9" * 20, "beyond"),
        ("T_FOLDER", "~nobody-of-this-name/x", "a path"),
        ("T_URL", "a\nb", "control character"),
        ("T_FILLED", " ", "must not be empty"),
        ("T_PEER", "nowhere", "is not host:port"),
        ("T_PEER", "a:99999", "is not host:port"),
        ("T_NAME", "a,b", "there is no T_NAME: T_NAMES may be meant"),
        ("T_CUONT", "", "T_COUNT may be meant"),
        ("T_count", "4", "T_COUNT may be meant"),
    ],
)
def test_a_refusal_is_one_line_that_says_what_to_do(name: str, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _read(**{name: text})
    assert name in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_others_put_into_the_environment_is_left_alone() -> None:
    links = {"T_PORT": "tcp://10.0.0.1:80", "T_PORT_80_TCP_ADDR": "x", "T_SERVICE_PORT_RATE": "1"}
    assert _read(**links, T_HOME="/x", TT_COUN="x", T_UNLIKE_ALL="x") == _Config(url="x")


def test_a_line_break_at_the_end_is_that_of_a_file() -> None:
    assert _read(T_COUNT="4\n", T_URL="y\r\n") == _Config(url="y", count=4)


def test_a_required_variable_is_asked_for_by_name() -> None:
    with pytest.raises(ConfigError, match=r"T_URL must be set: Where\."):
        _Config.from_env({})


def test_rows_document_every_field() -> None:
    table = {name: (default, text) for name, default, text in rows(_Config)}
    assert table["T_COUNT"] == ("3", "How many.")
    assert table["T_URL"] == ("", "Where.")
    assert "One of: a, b." in table["T_KIND"][1]
    assert len(table) == 10


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("127.0.0.1", r"cannot listen on 127\.0\.0\.1:7: choose another port with T_PORT"),
        ("::1", r"cannot listen on ::1:7: choose another port with T_PORT|address .* with T_HOST"),
        ("203.0.113.7", r"an address of this machine with T_HOST"),
    ],
)
def test_a_port_that_cannot_be_had_is_told_from_a_wrong_address(host: str, said: str) -> None:
    assert re.search(said, str(cannot_listen(host, 7, "T_PORT", "T_HOST")))


def test_spans_go_to_an_address_of_http() -> None:
    with pytest.raises(ConfigError, match="TRACES is no http://") as caught:
        set_up_tracing("x", ServiceConfig(traces="grpc://user:hunter2@collector:4317"))
    assert "hunter2" not in str(caught.value)

"""The contract is held to its rules, and to what was released: `make check` would notice."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import REPOSITORY

BUF = Path(sys.executable).with_name("buf")


@pytest.fixture
def contract(tmp_path: Path) -> Path:
    copy = tmp_path / "protos"
    shutil.copytree(REPOSITORY / "protos", copy)
    return copy


def _buf(folder: Path, *arguments: str) -> str:
    """What buf complains of; "" where nothing."""
    command = [str(BUF), *arguments]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert (ran.returncode == 0) == (not ran.stdout), ran.stderr
    return ran.stdout


def _changed(folder: Path, before: str, after: str) -> None:
    file = folder / "sightline" / "v1" / "gateway.proto"
    text = file.read_text()
    assert text.count(before) == 1
    file.write_text(text.replace(before, after))


def test_the_contract_is_as_it_should_be(contract: Path) -> None:
    assert _buf(contract, "lint") == ""
    assert _buf(contract, "breaking", "--against", "released.binpb") == ""


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("  uint32 max_tokens = 3;", "  string max_tokens = 3;", "max_tokens"),
        ("  uint32 max_tokens = 3;", "  uint32 most_tokens = 3;", "max_tokens"),
        ("  uint32 max_tokens = 3;", "", "max_tokens"),
        ("  uint32 max_tokens = 3;", "  repeated uint32 max_tokens = 3;", "max_tokens"),
        ("SESSION_STATE_LIVE = 2;", "SESSION_STATE_LIVE = 9;", "SessionState"),
        ("  rpc ListSessions(ListSessionsRequest) returns (ListSessionsResponse);", "", "List"),
    ],
)
def test_what_breaks_programs_of_the_last_release_is_told(
    contract: Path, before: str, after: str, complaint: str
) -> None:
    _changed(contract, before, after)
    assert complaint in _buf(contract, "breaking", "--against", "released.binpb")


def test_what_is_misspelt_is_told(contract: Path) -> None:
    _changed(contract, "message Labels {", "message labels_of {")
    _changed(contract, "  Labels labels = 6;", "  labels_of labels = 6;")
    assert "labels_of" in _buf(contract, "lint")

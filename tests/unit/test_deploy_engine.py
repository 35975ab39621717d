"""What a Docker engine of our own leaves behind is taken away, and nothing else."""

from pathlib import Path

import pytest

from tools import docker_engine as engine

BEFORE = {
    "filter": [":INPUT ACCEPT", ":FORWARD ACCEPT", ":FIREWALL -", "-A INPUT -j FIREWALL"],
    "nat": [":OUTPUT ACCEPT"],
}
AFTER = {
    "filter": [
        ":INPUT ACCEPT",
        ":FORWARD DROP",
        ":FIREWALL -",
        ":DOCKER -",
        "-A INPUT -j FIREWALL",
        "-A FORWARD -o docker0 -j DOCKER",
        '-A DOCKER -m comment --comment "two words" -j RETURN',
    ],
    "nat": [":OUTPUT ACCEPT", ":DOCKER -"],
    "raw": [":PREROUTING DROP"],  # a table that was not there
}


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Commands that would have been run, with `AFTER` in the packet filter."""
    ran: list[str] = []
    monkeypatch.setattr(engine, "_rules", lambda tool: AFTER)
    monkeypatch.setattr(engine, "run", lambda *command, quiet: ran.append("|".join(command)))
    return ran


def test_new_rules_chains_and_policies_are_undone(commands: list[str]) -> None:
    engine._restore_rules("iptables", BEFORE)
    assert commands == [
        "iptables|-w|-t|filter|-P|FORWARD|ACCEPT",
        "iptables|-w|-t|filter|-D|FORWARD|-o|docker0|-j|DOCKER",
        "iptables|-w|-t|filter|-D|DOCKER|-m|comment|--comment|two words|-j|RETURN",
        "iptables|-w|-t|filter|-F|DOCKER",
        "iptables|-w|-t|filter|-X|DOCKER",
        "iptables|-w|-t|nat|-F|DOCKER",
        "iptables|-w|-t|nat|-X|DOCKER",
        "iptables|-w|-t|raw|-P|PREROUTING|ACCEPT",
    ]


def test_nothing_is_undone_where_nothing_changed(commands: list[str]) -> None:
    engine._restore_rules("iptables", AFTER)
    assert commands == []


def test_files_and_control_groups_are_removed_unless_they_were_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new_file, new_folder = (tmp_path / name for name in ("old", "key.json", "run"))
    old.mkdir()
    (tmp_path / "forward").write_text("0\n")
    monkeypatch.setattr(engine, "FILTERS", ())
    monkeypatch.setattr(engine, "_links", lambda: [])
    monkeypatch.setattr(engine, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(engine, "FORWARDING", tmp_path / "forward")
    monkeypatch.setattr(engine, "STRAYS", (old, new_file, new_folder, tmp_path / "never"))
    with engine._footprint_removed():
        new_file.write_text("{}")
        (new_folder / "plugins").mkdir(parents=True)
        (old / "state").write_text("theirs")
        (tmp_path / "memory" / "docker" / "buildkit").mkdir(parents=True)
        (tmp_path / "forward").write_text("1\n")
    assert not new_file.exists()
    assert not new_folder.exists()
    assert not (tmp_path / "memory" / "docker").exists()
    assert (old / "state").read_text() == "theirs"
    assert (tmp_path / "forward").read_text() == "0\n"

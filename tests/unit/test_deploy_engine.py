"""What a Docker engine of our own leaves in the packet filter is taken away, and nothing else."""

import pytest

from deploy.docker import engine

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

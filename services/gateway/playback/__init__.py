"""How a session's video leaves the gateway again, for people who watch it."""

"""Other models that a session's hard questions are asked of."""

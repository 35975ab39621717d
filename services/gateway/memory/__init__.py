"""Memory of sessions beyond the window that a model holds."""

"""Runs the whole suite on one machine: for newcomers, development and tests."""

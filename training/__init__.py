"""Trains the built-in model on generated video and measures it through the running engine."""

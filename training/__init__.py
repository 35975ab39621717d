"""Trains the built-in model on generated video, measures it through the running engine, and tunes
models on users' own video."""

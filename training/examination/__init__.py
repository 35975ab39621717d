"""Examines any model that the worker loads: questions and watches of a clip, through its engine.

A `Case` is one clip with what is asked about it, made by a generated world (`worlds`) or read from
a renderer's JSONL (`exchange`). It is sat under several `setups`: less of the video, no dialogue,
another worker, fewer bits, lost frames. `scoring` marks what was said, `report` sets it in a table.
"""

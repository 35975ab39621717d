"""OpenAI's Realtime wire (GA) over Sightline's sessions: a codec of frozen dataclasses, and the
conversation that acts on it."""

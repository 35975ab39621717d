"""Google's Gemini Live wire over Sightline's sessions: a codec of frozen dataclasses, and a session
that acts on it through a Realtime conversation."""

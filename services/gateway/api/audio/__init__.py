"""OpenAI's `/v1/audio`: recordings to words, texts to recordings."""

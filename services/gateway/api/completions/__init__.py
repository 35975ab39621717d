"""OpenAI's chat completions and models over live sessions, for the clients that people have."""

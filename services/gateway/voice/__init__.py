"""Speech of a person as turns of a conversation: what is said, when it ends, who has the floor.

`Ear.feed(pcm, sample_rate)` takes a microphone, and tells by the events of `heard.py` when speech
begins and ends and what its words are. `Floor` decides what becomes of an answer that is being
spoken when somebody speaks. Neither knows viewers, sockets or messages.
"""

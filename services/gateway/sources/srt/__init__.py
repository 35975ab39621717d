"""SRT: MPEG-TS by UDP that repeats what was lost and may be encrypted, by libsrt where it is."""

"""The generated worlds that the built-in model learns: clips with the truth about every frame.

`shapes` is the narrow one, coloured shapes only: what the shipped weights know. The other modules
are the wide one: sprites, words, hands and a live shop, filmed as a live camera would.
"""

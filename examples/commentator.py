"""Commentator of a live stream: says what happens, and never the same twice in a row.

    python examples/commentator.py demo
    python examples/commentator.py demo --aloud | aplay -q -t raw -f S16_LE -r 22050

With `--aloud` the speech goes to standard output, as 16-bit mono samples, and the words to
standard error.
"""

import argparse
import sys
import time

import sightline

QUESTION = "What is in the scene?"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("session", help="a live session's name")
    parser.add_argument("--server", help="$SIGHTLINE_SERVER, else localhost:50051")
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two looks")
    parser.add_argument("--for", dest="length_s", type=float, default=float("inf"))
    parser.add_argument("--aloud", action="store_true")
    options = parser.parse_args()

    with sightline.connect(options.server) as client:
        session = client.session(options.session)
        started_s, said = time.monotonic(), ""
        while (now_s := time.monotonic() - started_s) < options.length_s:
            # A conversation of its own for each look: what was said before would colour the answer.
            with session.conversation(speech=options.aloud) as conversation:
                answer = conversation.ask(options.question, temperature=0)
                text = answer.result().text.strip()
                if text and text != said:
                    said = text
                    print(f"{now_s:6.1f} s  {text}", file=sys.stderr if options.aloud else None)
                    if options.aloud:
                        for piece in answer.audio():
                            sys.stdout.buffer.write(piece.pcm)
                    sys.stdout.flush()
            time.sleep(max(0.0, options.every - (time.monotonic() - started_s - now_s)))


if __name__ == "__main__":
    main()

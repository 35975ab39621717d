"""Push from OpenCV: what a program of yours captures or makes is what the model sees.

    pip install opencv-python-headless
    python examples/push_opencv.py 0                     # the first camera
    python examples/push_opencv.py clip.mp4 --question "What is in the scene?"

Whatever OpenCV does before (cropping, undistorting, drawing) is done on your side: see `prepare`.
"""

import argparse
import time

import cv2

import sightline


def prepare(frame: cv2.typing.MatLike) -> cv2.typing.MatLike:
    """The picture that the model is shown: OpenCV's are BGR, Sightline's RGB."""
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="a camera's number, a file or a URL")
    parser.add_argument("--question", default="What is in the scene?")
    parser.add_argument("--every", type=float, default=3.0, help="seconds between two questions")
    parser.add_argument("--server", help="$SIGHTLINE_SERVER, else localhost:50051")
    options = parser.parse_args()
    capture = cv2.VideoCapture(int(options.source) if options.source.isdigit() else options.source)
    if not capture.isOpened():
        parser.error(f"OpenCV cannot open {options.source}")
    fps = capture.get(cv2.CAP_PROP_FPS) or 30.0
    is_file = capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0

    with (
        sightline.connect(options.server) as client,
        client.open(push=True) as session,
        session.pusher() as pusher,
    ):
        started_s = asked_s = time.monotonic()
        number, answer = 0, None
        while True:
            there, frame = capture.read()
            if not there:
                break
            if is_file:  # a file would be through in no time; a camera waits by itself
                time.sleep(max(0.0, started_s + number / fps - time.monotonic()))
            pusher.send(prepare(frame))
            number += 1
            # The answer is written while the video goes on: nothing here waits for it.
            if time.monotonic() - asked_s >= options.every:
                if answer is not None:
                    print(answer.result().text, flush=True)
                asked_s, answer = time.monotonic(), session.ask(options.question)
        report = pusher.end()
        print((answer or session.ask(options.question)).result().text)
        print(f"{report.received} frames pushed, {report.understood} understood")


if __name__ == "__main__":
    main()

"""`helm test`: shows a session a moving square, asks what is there, and reads the answer."""

import os

import sightline

WIDTH, HEIGHT, FRAMES = 320, 240, 16


def picture(number: int) -> memoryview:
    """A red square on grey, a little further to the right with each frame."""
    row, left = bytearray(b"\x80\x80\x80" * WIDTH), 20 + 12 * number
    inside = row[:]
    inside[3 * left : 3 * (left + 60)] = b"\xd0\x20\x20" * 60
    pixels = b"".join(bytes(inside if 90 <= y < 150 else row) for y in range(HEIGHT))
    return memoryview(pixels).cast("B", (HEIGHT, WIDTH, 3))


def main() -> None:
    address, model = os.environ["GATEWAY"], os.environ.get("MODEL", "")
    secure = {"tls": True, "ca": os.environ["CA"]} if os.environ.get("CA") else {}
    with sightline.connect(address, insecure_token=not secure, **secure) as client:
        for found in client.info().models:
            print(f"model {found.name}: {found.free_sessions} of {found.max_sessions} free")
        with client.open(push=True, lossless=True, name="helm-test", model=model) as session:
            report = session.push(map(picture, range(FRAMES)), fps=8)
            answer = session.ask("What is in the scene?").result()
            print(f"{report.understood} frames understood; {answer.text!r}")
            if not (report.understood == FRAMES and answer.text.strip() and answer.frames_seen):
                raise SystemExit("no answer about what was shown")


if __name__ == "__main__":
    main()

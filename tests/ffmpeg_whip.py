"""FFmpeg's own WHIP publisher, which holds up the interpreter while it calls: a process of its own.

`python -m tests.ffmpeg_whip URL FOLDER` sends two seconds of pictures and sound, by a certificate
that is RSA's, as many programs have one. By itself FFmpeg with GnuTLS would make one on a curve
that nobody takes any longer.
"""

import datetime
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.certificates import DAY
from tests.sources import TONE_RATE, picture_array, tone

FPS, NUM_PICTURES = 15, 30


def certify(folder: Path) -> dict[str, str]:
    """FFmpeg's options for a certificate and its key, written to the folder."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lavf")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    today = datetime.datetime.now(datetime.UTC)
    builder = builder.not_valid_before(today - DAY).not_valid_after(today + DAY)
    certificate = builder.sign(key, hashes.SHA256())
    (folder / "whip.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "whip.key").write_bytes(private)
    return {"cert_file": str(folder / "whip.crt"), "key_file": str(folder / "whip.key")}


def publish(url: str, folder: Path) -> None:
    with av.open(url, "w", format="whip", options=certify(folder)) as output:
        video = output.add_stream(
            "libx264", rate=FPS, options={"preset": "ultrafast", "tune": "zerolatency"}
        )
        video.width, video.height, video.pix_fmt = 160, 120, "yuv420p"
        video.codec_context.gop_size, video.codec_context.max_b_frames = FPS, 0
        sound = output.add_stream("libopus", rate=48_000)
        sound.layout = "stereo"
        began_s = time.monotonic()
        for index in range(NUM_PICTURES):
            picture = av.VideoFrame.from_ndarray(picture_array(index, 160, 120), format="rgb24")
            picture.pts, picture.time_base = index, Fraction(1, FPS)
            output.mux(video.encode(picture))
            start, end = (place * TONE_RATE // FPS for place in (index, index + 1))
            output.mux(sound.encode(tone(start, end - start)))
            time.sleep(max(0.0, began_s + (index + 1) / FPS - time.monotonic()))


if __name__ == "__main__":
    publish(sys.argv[1], Path(sys.argv[2]))

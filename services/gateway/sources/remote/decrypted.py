"""Segments of playlists that are encrypted."""

from typing import Protocol

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes


class File(Protocol):
    def read(self, size: int) -> bytes: ...
    def close(self) -> None: ...


class Decrypted:
    """A segment of a playlist with AES-128 (RFC 8216, section 4.3.2.4), decrypted as it is read."""

    def __init__(self, file: File, key: bytes, iv: bytes) -> None:
        cipher = Cipher(algorithms.AES(key), modes.CBC(iv))
        self._file = file
        self._decryptor: CipherContext = cipher.decryptor()
        self._held = b""  # the newest block may be the last, which is padded

    def read(self, size: int) -> bytes:
        while data := self._file.read(size):
            plain = self._held + self._decryptor.update(data)
            ready = max(0, min(len(plain) - 16, size))
            self._held = plain[ready:]
            if ready:
                return plain[:ready]
        plain, self._held = self._held, b""
        if len(plain) > size:
            self._held = plain[size:]
            return plain[:size]
        padding = plain[-1] if plain else 0
        return plain[:-padding] if 0 < padding <= 16 else plain

    def close(self) -> None:
        self._file.close()

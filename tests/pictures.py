"""The bytes of small pictures, whole and broken, for what opens files."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image


def picture_file(size=(40, 30), colour=(200, 30, 60), kind="PNG", **options):
    """A picture of one colour as a file."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width, height):
    """A PNG that says how large it is, and then holds next to nothing."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")

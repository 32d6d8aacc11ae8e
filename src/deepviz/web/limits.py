"""The limits of a server."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """The limits of a server. What exceeds them is refused, or the oldest results are dropped.

    Args:
        upload_bytes: of one image's file.
        volume_bytes: likewise, of a volume, clip or image of bands.
        request_bytes: of any other request.
        pixels: of one image, by its header, before anything is decoded.
        photographs_bytes: of all decoded images that are kept; the least recently used is forgotten first.
        results_bytes: of all maps that are kept, likewise.
        queued: jobs that wait for one model; more are answered with 429.
        waiting: other requests that wait for one model; more are answered with 429.
        jobs: whose progress can still be asked for.
        cells: maps that one job may ask for.
        drawings: of channels, under way or paused; more are answered with 429.
        channels: that one drawing may ask for.
        attention_bytes: of a layer's rows; of more, the mean over heads alone.
        thumbnails_bytes: of the small pictures of a run's maps that are kept.
    """

    upload_bytes: int = 32 * MIB
    volume_bytes: int = 256 * MIB
    request_bytes: int = MIB // 8
    pixels: int = 40_000_000
    photographs_bytes: int = 512 * MIB
    results_bytes: int = 384 * MIB
    queued: int = 16
    waiting: int = 16
    jobs: int = 512
    cells: int = 256
    drawings: int = 4
    channels: int = 8
    attention_bytes: int = 8 * MIB
    thumbnails_bytes: int = 64 * MIB

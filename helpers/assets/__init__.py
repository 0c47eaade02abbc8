"""04: a world's files on this disk: found, fetched from the hub, imported, verified, read.

It knows files and their records. It must not know how a world is played.
Start reading at `fetch.fetch_suite`.
"""

from helpers.assets.fetch import fetch_suite

__all__ = ["fetch_suite"]

"""04: a world's files on this disk: found, fetched from the hub, imported, verified, opened.

Importing it loads neither torch nor the hub's client. It must not know how a world is played.
Start reading at `fetch.prepare_assets`.
"""

from helpers.assets.converted import open_suite, safe_checkpoints
from helpers.assets.fetch import Request, describe_assets, fetch_suite, prepare_assets
from helpers.assets.find import SuitePaths, find_suite, latest_checkpoint
from helpers.assets.record import recorded_checksums

__all__ = ["Request", "SuitePaths", "describe_assets", "fetch_suite", "find_suite", "latest_checkpoint"]
__all__ += ["open_suite", "prepare_assets", "recorded_checksums", "safe_checkpoints"]

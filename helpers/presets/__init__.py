"""Speed against quality: measured once for a world on a device, then asked for by frames a second.

It plays worlds to measure them. It must not know the player or headless runs.
Start reading at `measure.apply`, then `choose.choose`.
"""

from helpers.presets.choose import check
from helpers.presets.draw import show
from helpers.presets.measure import apply

__all__ = ["apply", "check", "show"]

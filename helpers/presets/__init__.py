"""Speed against quality: measured once for a world on a device, then asked for by frames a second.

It plays worlds to measure them. It must not know the player or headless runs.
Start reading at `measure.apply`.
"""

from helpers.presets.measure import apply, show

__all__ = ["apply", "show"]

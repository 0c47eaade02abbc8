"""02 and 03: which torch fits this machine, how it and the other packages are installed, and the proof.

It must work before torch is installed: standard library only. It must not know worlds or notebooks.
Start reading at `builds.choose`.
"""

from helpers.torch_build.builds import choose

__all__ = ["choose"]

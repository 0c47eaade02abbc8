"""How the embedded worlds were recorded, trained and measured.

Notebooks 00 to 05 must not need it, and it must not know the player or headless runs.
Start reading at `coinrun_train`, or at `crafter_tiles` and `crafter_dynamics`.
"""

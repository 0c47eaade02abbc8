"""Everything the notebooks call, one package a room.

From the top down; a room imports only from rooms below it (`tests/test_house.py` enforces this):

    share                         a world as one file that plays in any browser
    player · batch · presets      playing by hand · headless runs, baselines, sweeps · speed against quality
    play                          05: open a world, choose a clip, generate frames, record and replay
    machine                       00 and 01: judge the computer and the Python; the doctor
    torch_build · assets          02 and 03: install torch and the rest · 04: find, fetch and verify files
    worldmodel                    the engine: checkpoints, models, decoding
    worlds · pictures · parameters · report · cells · commands · run_folder · gpu · h5 · files · errors

`bench`, `training` (a world of one's own from a video) and `train` (how the embedded worlds were made) stand
beside them: no notebook from 00 to 05 needs one. Importing this package imports nothing, for
every step up to 02_torch must work before torch is installed.
"""

PYTHONS = ("3.11", "3.12", "3.10", "3.13")
"""The Pythons that everything here runs under, the safest choice first; `pyproject.toml` says the same."""
PYTHON_RANGE = f"{min(PYTHONS)} to {max(PYTHONS)}"

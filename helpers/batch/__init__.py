"""Headless runs: the same notebooks through papermill, once, as a regression test, or as a sweep.

It knows notebooks and run folders. It must not know the player.
Start reading at `headless.main`, which is `python runbook.py run`.
"""

"""A world of one's own from a screen recording: ``runbook.py train my_game.mp4 --minutes 60``.

Notebooks 00 to 05 must not need it, and it must not know the player, headless runs, or any one game.
Start reading at `command.train`, then `trainer.Trainer` and `objectives`.
"""

"""Trains worlds: records games, fits the three models, measures what they play.

Knows nothing of notebooks, run folders or the player, and nothing the notebooks need lives here.
Start at `crafter_record`, then `crafter_train`; `crafter_evaluate` prints what a world reaches.
"""

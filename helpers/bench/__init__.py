"""How fast the engine is, against a straightforward loop and against the published project's code.

It must not know notebooks, and nothing but `runbook.py` and `train` may import it.
Start reading at `frames.main`.
"""

"""The engine: tensors and checkpoints.

It must not know notebooks, run folders, widgets or the hub. Start reading at `session.Session`.

>>> suite = load_suite(video_tokenizer=..., latent_actions=..., dynamics=..., device="cpu")
>>> session = Session(suite, context_frames)
>>> frame = session.step(3)
"""

from helpers.worldmodel.decode import maskgit_decode
from helpers.worldmodel.session import Session
from helpers.worldmodel.suite import Suite, load_suite

__all__ = ["Session", "Suite", "load_suite", "maskgit_decode"]

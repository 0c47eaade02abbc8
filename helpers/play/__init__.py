"""05: a world is opened, a clip chosen, frames are generated, and everything is recorded and measured.

It knows the engine and the worlds' files. It must not know widgets, papermill or presets' measurements.
Start reading at `rollout.play`.
"""

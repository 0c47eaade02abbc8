"""Compiles a suite's models with torch.compile, where this machine has what that takes."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from helpers.worldmodel.layers import Transformer
from helpers.worldmodel.suite import Suite


def compile_models(suite: Suite, try_step: Callable[[], object]) -> str:
    """Compile the models in place and try them.

    Args:
        suite: The models.
        try_step: Plays a step, which makes torch compile what the step calls: minutes on a CPU.

    Returns:
        Empty if that worked; otherwise a sentence that says why not, and the models run uncompiled.
    """
    models = (suite.video_tokenizer, suite.latent_actions, suite.dynamics)
    parts = [part for model in models for part in model.modules() if isinstance(part, Transformer)]
    for part in parts:
        part.compile()
    try:
        try_step()
    except Exception as error:  # torch.compile raises whatever its back ends and compilers raise
        for part in parts:
            undo_compile(part)
        return (
            f"compile was asked for and failed ({type(error).__name__}{_likely_cause(error)}); "
            "the models run uncompiled."
        )
    return ""


def undo_compile(module: nn.Module) -> None:
    """Let a module run uncompiled again; torch has no counterpart of `Module.compile`, which sets this."""
    module._compiled_call_impl = None


def _likely_cause(error: Exception) -> str:
    """Why compiling failed, where that is known: ``": …"``; else empty."""
    if "InvalidCxxCompiler" in str(error) or "cl is not found" in str(error):
        return ": there is no C++ compiler here"
    places = (Path(torch.__file__).parent, os.environ.get("TORCHINDUCTOR_CACHE_DIR") or tempfile.gettempdir())
    for place in places:  # torch.compile writes them into the compiler's command line without quotes
        if " " in str(place):
            return f": the space in the path {place} breaks the C++ compiler's command line"
    return ""

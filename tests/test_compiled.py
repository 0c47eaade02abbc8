"""Compiling works where there is a compiler; elsewhere the models run uncompiled and a sentence says why."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from golden_cases import random_suite

from helpers.worldmodel import linear
from helpers.worldmodel.compiled import compile_models, undo_compile
from helpers.worldmodel.layers import RMSNorm, Transformer


def transformers(suite):
    models = (suite.video_tokenizer, suite.latent_actions, suite.dynamics)
    return [part for model in models for part in model.modules() if isinstance(part, Transformer)]


def fail(error):
    raise error


needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "cl"))), reason="no C++ compiler here: nothing was compiled"
)


@needs_compiler
def test_a_linear_map_that_onednn_would_compute_is_compiled_as_torchs_own(monkeypatch):
    monkeypatch.setattr(linear, "_LARGE", 0)
    part, x = linear.Linear(12, 7).requires_grad_(False), torch.randn(5, 12)
    with torch.inference_mode():
        torch.testing.assert_close(torch.compile(part, fullgraph=True)(x), part(x))


COMPILED = """
import sys
from dataclasses import replace
from pathlib import Path

import torch
from golden_cases import SMALL, random_frames, random_suite

from helpers.worldmodel.compiled import compile_models
from helpers.worldmodel.layers import Transformer

plain, suite = (random_suite(1, replace(SMALL, num_blocks=0)) for _ in range(2))  # of seconds

def tokens(world):
    with torch.inference_mode():
        return world.video_tokenizer.tokenize(random_frames(1, 2))

note = compile_models(suite, lambda: tokens(suite))
assert note == "", note
parts = [part for part in suite.video_tokenizer.modules() if isinstance(part, Transformer)]
assert parts and all(part._compiled_call_impl is not None for part in parts)
assert torch.equal(tokens(suite), tokens(plain))
assert any(Path(sys.argv[1]).rglob("*.cpp"))
"""


@needs_compiler
def test_a_compiled_model_makes_the_tokens_of_an_uncompiled_one(tmp_path):
    # In a process of its own, as a notebook's kernel is, and with nothing that was compiled before.
    here = Path(__file__).parent
    environment = {
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(here.parent), str(here)]),
    }
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, str(tmp_path)],
        env=os.environ | environment,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    assert done.returncode == 0, done.stderr


def test_where_compiling_fails_the_models_run_uncompiled_and_a_sentence_says_so():
    suite = random_suite()
    note = compile_models(suite, lambda: fail(RuntimeError("no such back end")))
    assert note == "compile was asked for and failed (RuntimeError); the models run uncompiled."
    assert all(part._compiled_call_impl is None for part in transformers(suite))


@pytest.mark.parametrize(
    ("torch_file", "cache", "message", "says"),
    [
        ("/env/torch/__init__.py", "/tmp", "InvalidCxxCompiler: No working C++", "no C++ compiler here"),
        ("/env/torch/__init__.py", "/tmp", "Compiler: cl is not found.", "no C++ compiler here"),
        (
            "/a folder/torch/__init__.py",
            "/tmp",
            "C++ compile error",
            "the space in the path /a folder/torch breaks",
        ),
        ("/env/torch/__init__.py", "/a cache", "C++ compile error", "the space in the path /a cache breaks"),
    ],
)
def test_the_note_says_why_where_that_is_known(monkeypatch, torch_file, cache, message, says):
    monkeypatch.setattr(torch, "__file__", str(Path(torch_file)))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(Path(cache)))
    note = compile_models(random_suite(), lambda: fail(RuntimeError(message)))
    note = note.replace(f" {Path.cwd().drive}{os.sep}", f" {os.sep}")  # Windows puts a drive before a path
    assert says.replace("/", os.sep) in note and "the models run uncompiled" in note


def test_undoing_is_the_counterpart_of_torchs_compile():
    part, calls = RMSNorm(2), []
    part.compile(backend=lambda graph, _inputs: calls.append(1) or graph.forward)
    undo_compile(part)
    part(torch.ones(1, 2))
    assert not calls
    part.compile(backend=lambda graph, _inputs: calls.append(1) or graph.forward)
    part(torch.ones(1, 2))
    assert calls

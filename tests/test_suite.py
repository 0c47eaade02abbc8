"""A suite: three checkpoints that belong together, on a device that is there."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from golden_cases import CASES, KINDS, golden_paths, golden_suite, random_frames

from helpers.errors import ActionError, CheckpointError, DeviceError, SuiteError
from helpers.worldmodel import load_suite
from helpers.worldmodel.suite import resolve_device

FILES = golden_paths("small_pth")
NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")


@pytest.fixture
def suite_with(tmp_path):
    """Paths of the published suite, some of its checkpoints changed by functions and saved anew."""

    def change(**changes):
        paths = dict(FILES)
        for kind, function in changes.items():
            loaded = torch.load(FILES[kind], weights_only=True)
            function(loaded)
            paths[kind] = tmp_path / f"{kind}.pth"
            torch.save(loaded, paths[kind])
        return paths

    return change


def test_loading_a_suite_does_not_load_torchs_compiler():
    code = (
        "import sys; from helpers.worldmodel import load_suite; from helpers.assets import find_suite; "
        "found = find_suite('crafter'); load_suite(video_tokenizer=found.video_tokenizer, "
        "latent_actions=found.latent_actions, dynamics=found.dynamics); print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == "False"  # it takes nine tenths of the whole loading


def config(**values):
    """A change of a checkpoint's config; None takes the key away."""

    def change(loaded):
        loaded["config"].update(values)
        loaded["config"] = {key: value for key, value in loaded["config"].items() if value is not None}

    return change


def weights(**tensors):
    """A change of a checkpoint's weights; keys are written with ``__`` for ``.``."""
    named = {key.replace("__", "."): tensor for key, tensor in tensors.items()}
    return lambda loaded: loaded["model"].update(named)


# --- loading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_three_checkpoints_of_either_form_make_a_suite(case):
    suite = golden_suite(case)

    assert suite.frame_size == 32
    assert suite.n_actions == {"small_pth": 8, "small_dir": 4}[case]
    assert suite.device == torch.device("cpu")
    assert suite.paths == golden_paths(case)
    models = (suite.video_tokenizer, suite.latent_actions, suite.dynamics)
    assert suite.parameter_count() == sum(p.numel() for model in models for p in model.parameters())


def test_paths_may_be_text():
    paths = {kind: str(path) for kind, path in FILES.items()}
    assert load_suite(**paths).paths == FILES


def test_the_two_forms_may_be_mixed_as_long_as_the_parts_agree(tmp_path):
    folder = tmp_path / "dynamics_step_500"
    folder.mkdir()
    loaded = torch.load(FILES["dynamics"], weights_only=True)
    torch.save(loaded["model"], folder / "model_state_dict.pt")
    torch.save({"config": loaded["config"]}, folder / "state.pt")

    suite = load_suite(**{**FILES, "dynamics": folder})

    expected = golden_suite("small_pth").dynamics.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in suite.dynamics.state_dict().items())


def test_a_checkpoint_in_anothers_slot_is_refused():
    with pytest.raises(CheckpointError, match="is a dynamics checkpoint; it was given as video_tokenizer"):
        load_suite(**{**FILES, "video_tokenizer": FILES["dynamics"]})


GAMMA_BETA = [
    f"decoder__transformer__blocks__{block}__{part}__norm__to_gamma_beta__1__weight"
    for block in range(2)
    for part in ("spatial_attn", "temporal_attn", "ffn")
]

# --- agreement -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "values"),
    [
        ("frame_size", {"dynamics": config(frame_size=64)}, (32, 64)),
        ("frame_size", {"latent_actions": config(frame_size=64)}, (32, 64)),
        ("patch_size", {"dynamics": config(patch_size=8)}, (4, 8)),
        (
            "patch_size",
            {
                "latent_actions": weights(
                    encoder__patch_embed__proj__weight=torch.zeros(32, 192, 1, 1),
                    decoder__patch_embed__proj__weight=torch.zeros(32, 192, 1, 1),
                    decoder__frame_head__1__weight=torch.zeros(192, 32),
                    decoder__frame_head__1__bias=torch.zeros(192),
                )
            },
            (4, 8),
        ),
        (
            "latent_dim",
            {
                "dynamics": weights(
                    latent_embed__weight=torch.zeros(32, 2),
                    mask_token=torch.zeros(1, 1, 1, 2),
                    output_mlp__weight=torch.zeros(16, 32),
                    output_mlp__bias=torch.zeros(16),
                )
            },
            (5, 2),
        ),
        (
            "num_bins",
            {"dynamics": weights(output_mlp__weight=torch.zeros(243, 32), output_mlp__bias=torch.zeros(243))},
            (4, 3),
        ),
        (
            "num_bins",
            {"video_tokenizer": weights(quantizer__basis=5 ** torch.arange(5))},
            (5, 4),
        ),
        (
            "action_dim",
            {
                "latent_actions": weights(
                    encoder__action_head__1__weight=torch.zeros(8, 64),
                    encoder__action_head__1__bias=torch.zeros(8),
                    encoder__action_head__3__weight=torch.zeros(2, 8),
                    encoder__action_head__3__bias=torch.zeros(2),
                    quantizer__basis=torch.tensor([1, 2]),
                    **{name: torch.zeros(64, 2) for name in GAMMA_BETA},
                )
            },
            (2, 3),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value)),
)
def test_what_two_parts_disagree_on_is_named_with_both_files_and_values(suite_with, name, changes, values):
    paths = suite_with(**changes)
    changed = next(iter(changes))

    with pytest.raises(SuiteError, match=f"disagree on {name}") as caught:
        load_suite(**paths)

    message = str(caught.value)
    others = [kind for kind in KINDS if kind != changed and str(paths[kind]) in message]
    assert str(paths[changed]) in message and others
    assert all(str(value) in message for value in values)
    assert "three checkpoints of one suite" in message


@pytest.mark.parametrize("silent", [("dynamics",), ("video_tokenizer", "latent_actions")])
def test_a_frame_size_that_some_configs_do_not_state_is_taken_from_the_others(suite_with, silent):
    paths = suite_with(**{kind: config(frame_size=None) for kind in silent})
    assert load_suite(**paths).frame_size == 32


def test_a_frame_size_that_no_config_states_is_the_published_default(suite_with):
    suite = load_suite(**suite_with(**{kind: config(frame_size=None) for kind in KINDS}))
    assert suite.frame_size == 128
    assert suite.video_tokenizer.tokenize(random_frames(1, 1, 128)).shape == (1, 1, 32 * 32)


def test_a_dynamics_model_whose_config_is_silent_on_patches_has_those_of_its_tokenizer(suite_with):
    suite = load_suite(**suite_with(dynamics=config(patch_size=None)))
    assert suite.dynamics.config.patch_size == 4


@pytest.mark.parametrize("size", [40, 36, 4])
def test_any_frame_size_that_patches_divide_will_do(suite_with, size):
    suite = load_suite(**suite_with(**{kind: config(frame_size=size) for kind in KINDS}))
    frames = random_frames(1, 2, size)
    assert suite.video_tokenizer(frames).shape == frames.shape


def test_a_frame_size_that_patches_do_not_divide_is_refused(suite_with):
    with pytest.raises(CheckpointError, match="frame_size 33 is no multiple of patch_size 4"):
        load_suite(**suite_with(**{kind: config(frame_size=33) for kind in KINDS}))


@pytest.mark.parametrize("size", [0, -32, 32.0, "32", True, [32, 32], (32, 32), {}, 10**9])
def test_a_frame_size_that_is_none_is_refused_with_its_file(suite_with, size):
    paths = suite_with(latent_actions=config(frame_size=size))
    with pytest.raises(CheckpointError, match="its config says frame_size is") as caught:
        load_suite(**paths)
    assert str(paths["latent_actions"]) in str(caught.value)


def test_a_dynamics_model_that_takes_no_actions_fits_any_action_model(suite_with):
    def unconditioned(loaded):
        norms = {key: value for key, value in loaded["model"].items() if "to_gamma_beta" in key}
        for key in norms:
            del loaded["model"][key]
            if key.endswith("weight"):
                loaded["model"][key.replace("to_gamma_beta.1", "rms")] = torch.ones(32)

    suite = load_suite(**suite_with(dynamics=unconditioned))

    assert suite.dynamics.config.action_dim is None and suite.n_actions == 8


# --- actions ---------------------------------------------------------------------------------------


def test_action_ids_and_their_latents_are_two_names_for_the_same(tmp_path):
    suite = golden_suite("small_pth")
    ids = torch.arange(8).reshape(2, 4)
    latents = suite.action_latents(ids)
    assert latents.shape == (2, 4, 3) and set(latents.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(suite.latent_actions.quantizer.latents_to_indices(latents), ids)


@pytest.mark.parametrize("action", [-1, 8, 2**40])
def test_an_id_that_is_none_of_the_suites_is_refused_with_the_range(action):
    with pytest.raises(ActionError, match=f"{action} is not an action id of this suite. Use 0 to 7"):
        golden_suite("small_pth").action_latents(torch.tensor([[0, action]]))


# --- devices ---------------------------------------------------------------------------------------


@NO_CUDA
@pytest.mark.parametrize("device", ["cuda", "cuda:1", torch.device("cuda")])
def test_cuda_where_there_is_none_is_refused_with_the_way_out(device):
    with pytest.raises(DeviceError, match=r"CUDA is not available .*device=\"cpu\""):
        load_suite(**FILES, device=device)


def test_the_device_is_checked_before_any_file_is_read():
    with pytest.raises(DeviceError):
        load_suite(video_tokenizer="nowhere", latent_actions="nowhere", dynamics="nowhere", device="nothing")


@NO_CUDA
def test_auto_is_the_cpu_where_there_is_no_gpu():
    assert resolve_device("auto") == torch.device("cpu")


@NO_CUDA
def test_a_gpu_that_torch_sees_and_cannot_use_is_refused_and_auto_passes_it_by(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # as with a build for other GPUs
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)

    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(DeviceError, match="cannot run the simplest kernel"):
        resolve_device("cuda")
    with pytest.raises(DeviceError, match="There is no cuda:3: this machine has 1"):
        resolve_device("cuda:3")


@pytest.mark.parametrize("device", ["gpu", "", "CPU", "cuda:x", None, 1.5, []], ids=repr)
def test_what_is_no_device_is_refused(device):
    with pytest.raises(DeviceError, match="is not a device"):
        resolve_device(device)


@pytest.mark.parametrize("device", ["meta", "xla"])
def test_devices_that_the_engine_does_not_know_are_refused(device):
    with pytest.raises(DeviceError, match="is not supported"):
        resolve_device(device)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has Metal")
def test_metal_where_there_is_none_is_refused_with_the_way_out():
    with pytest.raises(DeviceError, match=r"no Metal GPU.*device=\"cpu\""):
        resolve_device("mps")


def test_a_suite_whose_folder_has_spaces_and_chinese_letters_loads(tmp_path):
    folder = tmp_path / "用户 world {x}"
    folder.mkdir()
    paths = {kind: Path(shutil.copy(path, folder)) for kind, path in FILES.items()}
    assert load_suite(**paths).paths == paths

"""Checkpoints: every published form loads, and whatever else lies there is refused with a sentence."""

import contextlib
import io
import os
import pickle
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from golden_cases import CASES, KINDS, golden_paths
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.errors import CheckpointError
from helpers.worldmodel.checkpoint import build_model, read_checkpoint, write_converted

CPU = torch.device("cpu")
FUZZ_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "100"))
FILES = golden_paths("small_pth")
FOLDERS = golden_paths("small_dir")
Q_PROJ = "transformer.blocks.0.spatial_attn.q_proj.weight"


def contents(kind="dynamics"):
    """What one published single file holds."""
    return torch.load(FILES[kind], weights_only=True)


@pytest.fixture
def save(tmp_path):
    """Writes something with torch.save and returns the file."""

    def write(what, name="checkpoint.pth"):
        torch.save(what, tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def save_changed(save):
    """Writes a published dynamics checkpoint with its weights changed by a function."""

    def write(change):
        loaded = contents()
        change(loaded["model"])
        return save(loaded)

    return write


def build(path, kind="dynamics"):
    return build_model(read_checkpoint(path, kind), 32, CPU)


def refusal(path, kind="dynamics"):
    """The sentence with which a checkpoint is refused, which always names the file and a way out."""
    with pytest.raises(CheckpointError) as caught:
        build(path, kind)
    assert Path(path).name in caught.value.what and caught.value.fix
    assert "weights_only" not in str(caught.value)  # torch's own advice is to switch the checks off
    return str(caught.value)


def rezip(source, target, change):
    """Copy an archive, passing every member's name and bytes through ``change``."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            for changed_name, data in change(name, old.read(name)):
                new.writestr(changed_name, data)
    return target


# --- what loads ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_both_published_forms_load(case, kind):
    checkpoint = read_checkpoint(golden_paths(case)[kind], kind)

    assert checkpoint.kind == kind
    assert checkpoint.config["embed_dim"] == {"small_pth": 32, "small_dir": 48}[case]
    assert {tensor.dtype for tensor in checkpoint.weights.values()} <= {torch.float32, torch.int64}
    model = build_model(checkpoint, 32, CPU)
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("as_text", [True, False])
def test_a_path_may_be_text_and_hold_spaces_and_chinese_letters(tmp_path, as_text):
    folder = tmp_path / "a folder 世界"
    folder.mkdir()
    path = Path(shutil.copy(FILES["dynamics"], folder / "动力学 model.pth"))
    assert read_checkpoint(str(path) if as_text else path, "dynamics").path == path


@pytest.mark.parametrize("name", ["model", "state_dict", "model_state_dict", None])
def test_weights_are_found_under_every_name_they_go_by(save, name):
    weights = contents()["model"]
    path = save(weights if name is None else {name: weights, "epoch": 3})
    assert read_checkpoint(path, "dynamics").weights.keys() == weights.keys()


def test_a_name_that_holds_no_weights_does_not_hide_one_that_does(save):
    weights = contents()["model"]
    path = save({"model": "dynamics", "state_dict": {}, "model_state_dict": weights})
    assert read_checkpoint(path, "dynamics").weights.keys() == weights.keys()


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module.", "_orig_mod.module.", "module._orig_mod.", "module._orig_mod.module."]
)
def test_prefixes_of_compiled_and_data_parallel_models_are_stripped(save, prefix):
    loaded = contents()
    weights = loaded["model"]
    loaded["model"] = {prefix + key: tensor for key, tensor in weights.items()}

    read = read_checkpoint(save(loaded), "dynamics")

    assert read.weights.keys() == weights.keys()
    assert all(torch.equal(read.weights[key], weights[key]) for key in weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_float_type_load_as_float32(save_changed, dtype):
    path = save_changed(lambda weights: weights.update({k: v.to(dtype) for k, v in weights.items()}))
    assert {parameter.dtype for parameter in build(path).parameters()} == {torch.float32}


def test_tensors_win_over_a_config_that_lies(save):
    loaded = contents()
    loaded["config"].update(
        embed_dim=512, hidden_dim=7, num_blocks=9, latent_dim=2, num_bins=9, conditioning_dim=5, use_moe=True
    )

    config = build(save(loaded)).config

    assert (config.embed_dim, config.num_blocks, config.latent_dim, config.num_bins) == (32, 2, 5, 4)
    assert (config.ffn_width, config.action_dim, config.num_experts) == (42, 3, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("config", ["missing", None, "text", ["list"], {}])
def test_without_a_config_shapes_are_read_and_the_rest_has_published_defaults(save, kind, config):
    loaded = {"model": contents(kind)["model"]} | ({} if config == "missing" else {"config": config})

    built = build(save(loaded), kind).config

    assert (built.embed_dim, built.num_blocks, built.ffn_width) == (32, 2, 42)
    assert (built.num_heads, built.patch_size) == (8, 8 if kind == "dynamics" else 4)


def test_experts_are_counted_and_how_many_are_used_is_asked_of_the_config():
    config = build(FOLDERS["dynamics"]).config
    assert (config.num_experts, config.top_k_experts, config.num_bins) == (4, 2, 3)


def test_a_directory_without_state_pt_loads_without_a_config(tmp_path):
    shutil.copytree(FOLDERS["dynamics"], tmp_path / "dynamics_step_500")
    (tmp_path / "dynamics_step_500" / "state.pt").unlink()
    assert read_checkpoint(tmp_path / "dynamics_step_500", "dynamics").config == {}


def test_a_checkpoint_that_was_saved_to_a_buffer_loads_too(tmp_path):
    buffer = io.BytesIO()  # the folder inside the archive then has another name than the file
    torch.save(contents(), buffer)
    (tmp_path / "buffered.pth").write_bytes(buffer.getvalue())
    assert read_checkpoint(tmp_path / "buffered.pth", "dynamics").config == contents()["config"]


# --- foreign code ----------------------------------------------------------------------------------


class Payload:
    """Unpickled with all checks off, it creates a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("place", ["bare", "config", "model"])
def test_a_pickle_with_foreign_code_is_refused_and_not_run(save, tmp_path, place):
    created, loaded = tmp_path / "created", contents()
    payload = Payload(created)
    loaded[place] = {**loaded.get(place, {}), "payload": payload}
    path = save(payload if place == "bare" else loaded)

    message = refusal(path)

    assert not created.exists()
    assert "wants to run code" in message and "nothing was run" in message
    assert f"{open.__module__}.open" in message
    torch.load(path, weights_only=False)  # the trap was live
    assert created.exists()


def test_a_foreign_class_is_named_beside_the_known_ones_that_are_not(save, monkeypatch):
    module = type(sys)("utils.config")
    for name in ("DeviceType", "EvilType"):
        setattr(module, name, type(name, (), {"__module__": "utils.config", "__qualname__": name}))
    monkeypatch.setitem(sys.modules, "utils", type(sys)("utils"))
    monkeypatch.setitem(sys.modules, "utils.config", module)
    loaded = contents()
    loaded["config"]["known"], loaded["config"]["foreign"] = module.DeviceType(), module.EvilType()

    message = refusal(save(loaded))

    assert "utils.config.EvilType" in message and "DeviceType" not in message


def test_the_published_projects_own_classes_are_replaced_by_inert_ones_and_never_imported(
    tmp_path, monkeypatch
):
    (tmp_path / "utils").mkdir()
    trap = "from pathlib import Path\nPath(__file__).with_name('imported').touch()\n"
    for name in ("__init__.py", "config.py"):
        (tmp_path / "utils" / name).write_text(trap, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with zipfile.ZipFile(FOLDERS["dynamics"] / "state.pt") as archive:
        assert b"utils.config" in archive.read("state/data.pkl")

    config = read_checkpoint(FOLDERS["dynamics"], "dynamics").config

    assert not (tmp_path / "utils" / "imported").exists()
    assert "utils.config" not in sys.modules
    foreign = {type(value).__name__ for value in config.values()} - {
        "int",
        "float",
        "str",
        "bool",
        "NoneType",
    }
    assert "_Inert" in foreign and foreign <= {"_Inert", "dict", "list"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_archive_with_a_program_is_refused(tmp_path):
    program = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))
    program.save(str(tmp_path / "program.pth"))
    assert "TorchScript program, which is code" in refusal(tmp_path / "program.pth")


# --- what is no checkpoint -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is an empty file"),
        (b"\n  <!DOCTYPE html><html><body>404</body></html>", "is an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "is a Git-LFS pointer"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "is not a checkpoint"),
        (b"PK\x03\x04", "is truncated or damaged"),
        (pickle.dumps({"model": {}}), "is not a checkpoint: torch.save has written zip archives"),
    ],
    ids=["empty", "web page", "git lfs", "h5", "first bytes", "bare pickle"],
)
def test_a_file_saved_under_a_checkpoints_name_is_called_what_it_is(tmp_path, content, what):
    (tmp_path / "saved.pth").write_bytes(content)
    assert what in refusal(tmp_path / "saved.pth")


def test_a_missing_file_is_called_missing(tmp_path):
    assert "does not exist" in refusal(tmp_path / "nowhere.pth")


def test_a_directory_without_weights_says_which_file_it_lacks(tmp_path):
    assert "directory without model_state_dict.pt" in refusal(tmp_path)


def test_the_form_that_torch_wrote_before_zip_archives_is_refused(tmp_path):
    torch.save(contents(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert "zip archives since torch 1.6" in refusal(tmp_path / "old.pth")


def test_another_zip_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "pictures.pth", "w") as archive:
        archive.writestr("a.txt", "hello")
    assert "no checkpoint: it has no data.pkl" in refusal(tmp_path / "pictures.pth")


@pytest.mark.parametrize("what", [[1, 2], 3, torch.zeros(2), {"weights": {}}, {}], ids=repr)
def test_a_file_without_weights_says_what_it_holds_instead(save, what):
    message = refusal(save(what))
    assert "holds no weights under model, state_dict, model_state_dict or bare" in message
    assert ("weights'" if what == {"weights": {}} else type(what).__name__) in message


def test_weights_of_something_else_are_refused(save):
    assert "is not a checkpoint of a TinyWorlds suite" in refusal(save(torch.nn.Linear(2, 2).state_dict()))


@pytest.mark.parametrize("slot", KINDS)
@pytest.mark.parametrize("given", KINDS)
def test_a_checkpoint_in_anothers_slot_is_named_with_both_kinds(slot, given):
    if slot != given:
        message = refusal(FILES[given], slot)
        assert f"is a {given} checkpoint; it was given as {slot}" in message


# --- damage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused_wherever_it_was_cut(tmp_path, share):
    data = FILES["dynamics"].read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[: int(len(data) * share)])
    assert "truncated or damaged" in refusal(tmp_path / "cut.pth")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.8])
def test_one_flipped_bit_is_found(tmp_path, share):
    data = bytearray(FILES["dynamics"].read_bytes())
    data[int(len(data) * share)] ^= 1
    (tmp_path / "flipped.pth").write_bytes(data)
    assert "damaged" in refusal(tmp_path / "flipped.pth")


def test_a_damaged_config_beside_sound_weights_names_its_file(tmp_path):
    folder = Path(shutil.copytree(FOLDERS["dynamics"], tmp_path / "dynamics_step_500"))
    (folder / "state.pt").write_bytes(b"<html>")
    with pytest.raises(CheckpointError, match=r"state\.pt is an HTML page"):
        read_checkpoint(folder, "dynamics")


@pytest.mark.parametrize(
    "damage", [b"", b"garbage", b"\x80\x02.", b"\x80\x02}q\x00(", b"\x80\x02cos\nsystem\n"]
)
def test_a_pickle_that_makes_no_sense_is_refused(tmp_path, damage):
    path = rezip(
        FILES["dynamics"],
        tmp_path / "nonsense.pth",
        lambda name, data: [(name, damage if name.endswith("data.pkl") else data)],
    )
    refusal(path)


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(50_000_000))
    assert "members claim 50000000 bytes" in refusal(tmp_path / "bomb.pth")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_two_members_of_one_name_is_refused(tmp_path):
    path = rezip(FILES["dynamics"], tmp_path / "twice.pth", lambda name, data: [(name, data)] * 2)
    assert "two of its members have the same name" in refusal(path)


def test_a_tensor_that_claims_more_than_it_stores_is_refused(save_changed):
    path = save_changed(lambda weights: weights.update({Q_PROJ: torch.zeros(1).expand(100_000, 100_000)}))
    assert f"{Q_PROJ} claims the shape [100000, 100000] and stores less" in refusal(path)


def test_a_pickle_that_claims_a_larger_tensor_than_its_storage_is_refused(tmp_path, save):
    small = save({"model": {"output_mlp.weight": torch.zeros(77, 5)}})
    path = rezip(  # 77 is pickled as K, one byte
        small, tmp_path / "claims.pth", lambda name, data: [(name, data.replace(b"KMK\x05", b"K\xffK\x05"))]
    )
    assert path.read_bytes() != small.read_bytes()
    refusal(path)


# --- weights that fit no model ---------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_no_number_is_found(save_changed, value):
    path = save_changed(lambda weights: weights[Q_PROJ].view(-1)[3:4].fill_(value))
    assert f"{Q_PROJ} holds NaN or infinite values" in refusal(path)


@pytest.mark.parametrize(
    "key",
    ["mask_token", "latent_embed.weight", "transformer.blocks.1.ffn.w_o.bias", "output_mlp.bias", Q_PROJ],
)
def test_a_missing_tensor_is_named(save_changed, key):
    assert f"{key} is missing" in refusal(save_changed(lambda weights: weights.pop(key)))


def test_a_tensor_that_belongs_nowhere_is_named(save_changed):
    path = save_changed(lambda weights: weights.update(extra=torch.zeros(2)))
    assert "extra belongs to no part of the model" in refusal(path)


def test_a_tensor_of_the_wrong_shape_is_named_with_both_shapes(save_changed):
    path = save_changed(lambda weights: weights.update({"output_mlp.bias": torch.zeros(7)}))
    assert "output_mlp.bias has shape [7] where [1024] is needed" in refusal(path)


def test_of_many_complaints_the_first_few_are_told(save_changed):
    def lose_the_last_block(weights):
        for key in [key for key in weights if ".blocks.1.ffn" in key or ".blocks.1.temporal_attn" in key]:
            del weights[key]

    assert "more)" in refusal(save_changed(lose_the_last_block))


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("text", "extra is a str, not a tensor"),
        (None, "extra is a NoneType, not a tensor"),
        (torch.zeros(2, dtype=torch.int32), "extra is a torch.int32 tensor"),
        (torch.zeros(2, dtype=torch.complex64), "torch.ComplexFloatStorage"),
        (torch.zeros(2, 2).to_sparse(), "_rebuild_sparse_tensor"),
        (torch.zeros(2, device="meta"), "_rebuild_meta_tensor_no_storage"),
    ],
    ids=["text", "none", "int32", "complex", "sparse", "meta"],
)
def test_an_entry_among_the_weights_that_is_no_plain_tensor_is_named(save_changed, value, named):
    assert named in refusal(save_changed(lambda weights: weights.update(extra=value)))


def test_whole_numbers_in_place_of_floats_are_refused(save_changed):
    path = save_changed(lambda weights: weights.update({Q_PROJ: weights[Q_PROJ].long()}))
    assert f"{Q_PROJ} holds torch.int64 where torch.float32 is needed" in refusal(path)


def test_two_keys_that_a_prefix_alone_tells_apart_are_refused(save_changed):
    path = save_changed(lambda weights: weights.update({f"module.{Q_PROJ}": weights[Q_PROJ]}))
    assert f"{Q_PROJ} occurs twice" in refusal(path)


def test_a_codebook_that_is_no_power_of_the_latents_width_is_refused(save_changed):
    def change(weights):
        weights.update({"output_mlp.weight": torch.zeros(1000, 32), "output_mlp.bias": torch.zeros(1000)})

    assert "has 1000 outputs, which is no whole number to the power of 5" in refusal(save_changed(change))


@pytest.mark.parametrize("basis", [[1, -4, 16, -64, 256], [1, 4, 16, 64, 255], [1, 2**62, 0, 0, 0]])
def test_a_basis_that_belongs_to_no_codebook_is_refused(save, basis):
    loaded = contents("video_tokenizer")
    loaded["model"]["quantizer.basis"] = torch.tensor(basis)
    message = refusal(save(loaded), "video_tokenizer")
    assert "quantizer.basis is [1, 4, 16, 64, 255] where" in message or "make no codebook" in message


@pytest.mark.parametrize(
    ("key", "tensor"),
    [
        (Q_PROJ, torch.zeros(0, 32)),
        ("latent_embed.weight", torch.zeros(32, 0)),
        ("output_mlp.weight", torch.zeros(1, 32)),
        ("output_mlp.weight", torch.zeros(32)),
        ("transformer.blocks.0.spatial_attn.norm.to_gamma_beta.1.weight", torch.zeros(64)),
        ("transformer.blocks.0.ffn.w_v.weight", torch.zeros(0, 32)),
    ],
    ids=lambda value: value if isinstance(value, str) else str(list(value.shape)),
)
def test_tensors_of_senseless_shapes_are_refused_by_name(save_changed, key, tensor):
    message = refusal(save_changed(lambda weights: weights.update({key: tensor})))
    assert key in message or "make no codebook" in message


def test_patches_without_pixels_are_refused(save):
    loaded = contents("video_tokenizer")
    loaded["model"]["encoder.patch_embed.proj.weight"] = torch.zeros(32, 1, 1, 1)
    refusal(save(loaded), "video_tokenizer")


# --- a config that fits nothing --------------------------------------------------------------------


@pytest.mark.parametrize("key", ["num_heads", "patch_size"])
@pytest.mark.parametrize(
    "value", [0, -4, True, 4.0, "4", None, [4], 10**30, {"a": 1}, "x" * 10_000], ids=lambda v: repr(v)[:12]
)
def test_a_setting_that_no_model_can_have_is_refused_by_name(save, key, value):
    loaded = contents()
    loaded["config"][key] = value

    message = refusal(save(loaded))

    assert f"its config says {key} is" in message and len(message) < 500


@pytest.mark.parametrize(
    ("key", "value", "named"), [("num_heads", 7, "embed_dim 32"), ("patch_size", 5, "frame_size 32")]
)
def test_a_setting_that_does_not_divide_what_it_must_is_refused(save, key, value, named):
    loaded = contents()
    loaded["config"][key] = value
    assert f"{named} is no multiple of {key} {value}" in refusal(save(loaded))


def test_more_experts_than_there_are_cannot_be_used(tmp_path):
    folder = Path(shutil.copytree(FOLDERS["dynamics"], tmp_path / "dynamics_step_500"))
    torch.save({"config": {"num_heads": 4, "top_k_experts": 99}}, folder / "state.pt")
    assert build(folder).config.top_k_experts == 4


# --- claims that would take all memory -------------------------------------------------------------


class Bytes:
    """Unpickled, it allocates what it merely claims."""

    def __init__(self, count):
        self.count = count

    def __reduce__(self):
        return bytearray, (self.count,)


def test_a_pickle_that_asks_for_memory_by_a_name_torch_allows_is_refused_unread(save):
    assert "builtins.bytearray" in refusal(save({"model": {}, "bomb": Bytes(10**13)}))


def test_a_few_tensors_that_describe_a_model_of_terabytes_are_refused_by_their_shapes(save_changed):
    path = save_changed(lambda weights: weights.update({Q_PROJ: torch.zeros(2_000_000, 1)}))
    assert "is needed" in refusal(path)


def test_a_frame_of_more_patches_than_attention_can_hold_is_refused(save):
    loaded = contents()
    loaded["config"]["patch_size"] = 1
    path = save(loaded)
    with pytest.raises(CheckpointError, match="makes 1048576 patches"):
        build_model(read_checkpoint(path, "dynamics"), 1024, CPU)


def test_a_pickle_far_larger_than_any_of_a_suite_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "large.pth", "w") as archive:
        archive.writestr("large/data.pkl", bytes(65_000_000))
    assert "its pickle is far larger" in refusal(tmp_path / "large.pth")


def test_members_that_lead_out_of_the_archive_are_never_written(tmp_path):
    path = rezip(
        FILES["dynamics"],
        tmp_path / "up.pth",
        lambda name, data: [(name, data), (f"../../{Path(name).name}.out", b"x")],
    )
    with contextlib.suppress(CheckpointError):
        read_checkpoint(path, "dynamics")
    assert not list(tmp_path.parent.rglob("*.out"))


def with_pickle(save, tmp_path, pickled):
    """A sound archive of one tensor whose pickle is made of the original's by a function."""
    small = save({"model": {"output_mlp.weight": torch.zeros(77, 5)}})
    change = lambda name, data: [(name, pickled(data) if name.endswith("data.pkl") else data)]  # noqa: E731
    return rezip(small, tmp_path / "changed.pth", change)


@pytest.mark.parametrize(("opens", "closes"), [(b"(", b"t"), (b"](", b"e")], ids=["tuple", "list"])
def test_tensors_of_a_hundred_thousand_dimensions_are_refused_unread(save, tmp_path, opens, closes):
    def pickled(data):
        """The tensor's shape and strides exchanged."""
        assert data.count(b"KMK\x05\x86") == data.count(b"K\x05K\x01\x86") == 1
        many = opens + b"K\x01" * 100_000 + closes
        return data.replace(b"KMK\x05\x86", many).replace(b"K\x05K\x01\x86", many)

    assert "far too many dimensions" in refusal(with_pickle(save, tmp_path, pickled))


@pytest.mark.parametrize("depth", [10_000, 900_000])
def test_a_key_of_tuples_in_tuples_is_refused_before_its_hash_ends_the_interpreter(save, tmp_path, depth):
    path = with_pickle(save, tmp_path, lambda _: b"\x80\x02})" + b"\x85" * depth + b"K\x01s.")
    assert "lie in one another far too deep" in refusal(path)


def test_a_tensor_of_more_dimensions_than_any_model_has_is_refused(save_changed):
    path = save_changed(lambda weights: weights.update(extra=torch.zeros([1] * 9)))
    assert "extra claims the shape [1, 1, 1, 1, 1, 1, 1, 1, 1]" in refusal(path)


@pytest.mark.parametrize("views", [5_000, 20_000])
def test_thousands_of_views_of_one_storage_are_refused_before_a_value_is_looked_at(save_changed, views):
    large = torch.zeros(1_000_000)
    path = save_changed(lambda weights: weights.update({f"v{number}": large[:] for number in range(views)}))
    message = refusal(path)
    assert "tensors share their values" in message or "its pickle is far larger" in message


def test_a_value_that_is_too_large_for_32_bits_is_found(save_changed):
    path = save_changed(lambda weights: weights.update({Q_PROJ: weights[Q_PROJ].double().fill_(1e300)}))
    assert f"{Q_PROJ} holds NaN or infinite values, or some that are too large" in refusal(path)


@pytest.mark.parametrize(
    "key",
    ["x" * 501, "module." * 100_000, "\x1b[2J\x07", "\u202e", "世界", 3, ("a", "b")],
    ids=["long", "prefixes", "terminal", "direction", "not ASCII", "number", "tuple"],
)
def test_a_key_that_names_no_parameter_is_refused_in_a_short_sentence(save_changed, key):
    message = refusal(save_changed(lambda weights: weights.update({key: torch.zeros(2)})))
    assert "is no name of a parameter" in message and len(message) < 500
    assert message.isprintable()


@pytest.mark.parametrize("key", ["x" * 400_000, "\x1b[2J" * 1000])
def test_keys_around_the_weights_are_told_in_a_short_sentence(save, key):
    message = refusal(save({key: 3, key[1:]: 4}))
    assert "holds no weights" in message and len(message) < 700 and message.isprintable()


def test_a_name_of_code_is_told_in_a_short_sentence(save, tmp_path):
    named = b"\x80\x02c" + b"os\x1b[2J" * 10_000 + b"\nsystem\n(tR."
    message = refusal(with_pickle(save, tmp_path, lambda _: named))
    assert "wants to run code (os" in message and len(message) < 500 and message.isprintable()


# --- the form without code -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_a_converted_checkpoint_builds_the_same_model(tmp_path, case, kind):
    original = read_checkpoint(golden_paths(case)[kind], kind)
    write_converted(original, tmp_path / "c.safetensors", "source")

    converted = read_checkpoint(tmp_path / "c.safetensors", kind)

    assert converted.weights.keys() == original.weights.keys()
    assert all(torch.equal(converted.weights[key], original.weights[key]) for key in original.weights)
    assert build_model(converted, 32, CPU).config == build_model(original, 32, CPU).config


@pytest.mark.parametrize("name", ["c.safetensors", "c.json"])
def test_a_converted_checkpoint_that_was_altered_is_refused(tmp_path, name):
    write_converted(read_checkpoint(FILES["dynamics"], "dynamics"), tmp_path / "c.safetensors", "source")
    changed = bytearray((tmp_path / name).read_bytes())
    changed[len(changed) // 2] ^= 1
    (tmp_path / name).write_bytes(changed)
    assert "cannot be read as a converted checkpoint" in refusal(tmp_path / "c.safetensors")


# --- files that nobody thought of ------------------------------------------------------------------


@settings(deadline=None, max_examples=FUZZ_EXAMPLES, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_checkpoint_changed_anywhere_loads_or_is_refused(tmp_path_factory, data):
    """Its pickle and its zip directory are changed at random; member checksums are made right again."""
    with zipfile.ZipFile(FILES["dynamics"]) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in members if name.endswith("data.pkl"))
    pickled = bytearray(members[name])
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(pickled) - 1), st.integers(0, 255)), min_size=1, max_size=8)
    ):
        pickled[place] = value
    path = tmp_path_factory.mktemp("fuzz") / "fuzzed.pth"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in {**members, name: bytes(pickled)}.items():
            archive.writestr(member, content)
    try:
        build(path)
    except CheckpointError as error:
        assert path.name in error.what and error.fix

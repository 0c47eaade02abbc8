"""The training of the Crafter world: real parts at tiny sizes; only recording needs the game's package."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers.assets.dataset import FrameDataset
from helpers.errors import DatasetError, ParameterError
from helpers.train import crafter_actions, crafter_chance, crafter_clips, crafter_measures, crafter_tokenizer
from helpers.train.crafter_balance import LONGEST, correction
from helpers.train.crafter_data import (
    Batches,
    Noise,
    Recording,
    bits_of,
    effect_weights,
    has_effect,
    latents_of,
    read_recording,
)
from helpers.train.crafter_dynamics import Plan, Training, new_model
from helpers.train.crafter_evaluate import Decoding, World, next_frame, there_and_back, walking, walks
from helpers.train.crafter_tiles import (
    CENTRE,
    DO,
    DOWN,
    GRID,
    ITEM_TOKENS,
    ITEMS,
    LEFT,
    MAP_PATCHES,
    MAP_TILES,
    MAP_TOKENS,
    RIGHT,
    STEPS,
    TileSheet,
    item_token,
    map_token,
)
from helpers.training.parallel import HalfLinear, hidden, project
from helpers.worldmodel import load_suite
from helpers.worldmodel.models import Dynamics, ModelConfig

TINY = Plan(steps=6, decay_steps=2, batch=2, embed_dim=48, heads=4, ffn_width=16, blocks=2, half=False)


@pytest.fixture(autouse=True)
def one_thread():
    """As training runs; on a busy machine two threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def sheet() -> TileSheet:
    """Tiles of one colour each, all different."""
    rng = np.random.default_rng(0)
    map_colours = rng.permutation(200)[: len(MAP_TILES)].astype(np.uint8)
    map_tiles = np.zeros((len(MAP_TILES), 8, 8, 3), np.uint8)
    map_tiles[..., 0], map_tiles[..., 1] = map_colours[:, None, None], 255 - map_colours[:, None, None]
    item_tiles = np.zeros((18, 10, 8, 8, 3), np.uint8)
    item_tiles[..., 2] = (np.arange(10) * 25)[None, :, None, None]
    item_tiles[..., 1] = (np.arange(18) * 12)[:, None, None, None]
    return TileSheet(map_tiles, item_tiles)


def walk_recording(frames: int = 160, seed: int = 0) -> Recording:
    """A player who walks over an endless meadow with stones: every step scrolls or bumps into one."""
    rng = np.random.default_rng(seed)
    land = np.where(rng.random((64, 64)) < 0.25, map_token("stone"), map_token("grass")).astype(np.uint8)
    land[rng.random((64, 64)) < 0.2] = map_token("sand")
    x = y = 32
    land[y, x] = map_token("grass")
    names = dict(zip(STEPS, ("left", "right", "up", "down"), strict=True))
    facing, tokens, actions = "down", [], []
    for _ in range(frames):
        action = int(rng.integers(1, 5))
        rows, columns = np.arange(y - 3, y + 4) % 64, np.arange(x - 4, x + 5) % 64
        frame = np.full(81, item_token(0), np.uint8)
        frame[:MAP_PATCHES] = land[rows][:, columns].reshape(-1)
        frame[CENTRE] |= map_token("grass", f"player-{facing}") & 15
        tokens.append(frame)
        actions.append(action)
        facing = names[action]
        there = (x + STEPS[action][0]) % 64, (y + STEPS[action][1]) % 64
        if land[there[1], there[0]] != map_token("stone"):
            x, y = there
    episodes = np.arange(frames) // 40
    return Recording(np.stack(tokens), np.array(actions, np.uint8), episodes.astype(np.int32), sheet())


def write(path: Path, data: Recording) -> Path:
    """The recording as a file."""
    np.savez(
        path,
        tokens=data.tokens,
        actions=data.actions,
        episodes=data.episodes,
        map_tiles=data.sheet.map_tiles,
        item_tiles=data.sheet.item_tiles,
    )
    return path


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two models have the same weights, bit for bit."""
    return all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_every_tile_has_a_token_of_its_own():
    assert len({*MAP_TOKENS.tolist(), *ITEM_TOKENS.tolist()}) == len(MAP_TILES) + 10


def test_frames_drawn_from_tokens_are_read_back():
    data = walk_recording(20)
    tokens, distances = data.sheet.read(data.sheet.draw(data.tokens))
    assert (tokens == data.tokens).all()
    assert distances.max() == 0


def test_a_file_that_is_no_recording_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", frames=np.zeros(3))
    with pytest.raises(DatasetError, match="crafter_record"):
        read_recording(tmp_path / "other.npz")
    with pytest.raises(DatasetError, match="could not be read"):
        read_recording(tmp_path / "missing.npz")


def test_recordings_are_joined_with_their_episodes_apart(tmp_path):
    data = walk_recording(80)
    path = write(tmp_path / "one.npz", data)
    joined = read_recording(path, path)
    assert len(joined.tokens) == 160
    assert joined.episodes.tolist() == [*data.episodes.tolist(), *(data.episodes + 2).tolist()]
    assert not np.isin([39, 79, 119], joined.starts(2)).any()


def test_tokens_become_the_latents_that_the_quantizer_gives_them():
    tokenizer = crafter_tokenizer.new_tokenizer()
    tokens = torch.arange(256)
    assert torch.equal(latents_of(tokens), tokenizer.quantizer.latents_of(tokens))


def test_a_batch_follows_from_seed_and_step_alone():
    data = walk_recording()
    one, other = (Batches(data, 3, 4, 2, Noise(1.0, 0.5)) for _ in range(2))
    other.draw(1)
    for a, b in zip(vars(one.draw(5)).values(), vars(other.draw(5)).values(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.draw(5).context, one.draw(6).context)


def test_spoiled_contexts_keep_their_targets():
    data = walk_recording()
    clean, spoiled = (Batches(data, 3, 4, 2, noise, 1.0).draw(0) for noise in (Noise(0, 0), Noise(1.0, 0.5)))
    assert torch.equal(clean.target, spoiled.target)
    assert clean.masked.all()
    assert 0 < (clean.context != spoiled.context).float().mean() < 0.5


@pytest.mark.parametrize("frames", [1, 3])
def test_all_targets_at_once_are_what_the_model_computes_one_by_one(frames):
    torch.manual_seed(0)
    model = Dynamics(ModelConfig(72, 8, 48, 4, 16, 2, latent_dim=8, num_bins=2, action_dim=3))
    latents = torch.randint(0, 2, (2, frames, 81, 8)).float() * 2 - 1
    actions = torch.randint(0, 2, (2, frames, 3)).float() * 2 - 1
    masked = model.mask_token.expand(2, frames, 81, 8)
    with torch.no_grad():
        found = hidden(model, latents, masked, actions)
        for time in range(1, frames + 1):
            past, films = model.context(latents[:, :time], actions[:, :time], 1)
            wanted, _ = model.hidden(masked[:, :1], films, past)
            torch.testing.assert_close(found[:, time - 1], wanted[:, 0], rtol=1e-4, atol=1e-4)


def test_the_half_precision_product_has_the_gradients_of_the_whole_one():
    torch.manual_seed(0)
    leaves = [torch.randn(*shape, requires_grad=True) for shape in ((5, 7, 16), (8, 16), (8,))]
    pull = torch.randn(5, 7, 8)
    gradients = []
    for multiply in (F.linear, HalfLinear.apply):
        gradients.append(torch.autograd.grad((multiply(*leaves) * pull).sum(), leaves))
    for whole, half in zip(*gradients, strict=True):
        assert (whole - half).norm() < 0.01 * whole.norm()


def test_attention_starts_at_the_neighbours():
    model = new_model(replace(TINY, embed_dim=128))
    attention = model.transformer.blocks[0].spatial_attn
    x = F.linear(latents_of(torch.from_numpy(walk_recording(1).tokens).long()), model.latent_embed.weight)
    queries, keys, _ = project(attention, x + model.encoding, False).permute(2, 0, 3, 1, 4)
    weights = (queries @ keys.transpose(-1, -2) * attention.head_dim**-0.5).softmax(-1)[0]  # [h, 81, 81]
    for head, (column, row) in enumerate(STEPS.values()):
        assert weights[head, CENTRE, CENTRE + row * GRID + column] > 0.9


def test_a_training_that_was_killed_ends_with_the_same_weights(tmp_path):
    data = walk_recording()
    whole = Training(TINY, tmp_path / "whole", Batches(data, 0, 2))
    (tmp_path / "whole").mkdir()
    whole.run(save_seconds=1000)
    (tmp_path / "killed").mkdir()
    killed = Training(TINY, tmp_path / "killed", Batches(data, 0, 2))
    killed.run(save_seconds=0, stop=lambda: killed.step == 3)
    killed.learn()  # done and never saved
    again = Training(TINY, tmp_path / "killed", Batches(data, 0, 2))
    assert again.step == 3
    again.run(save_seconds=1000)
    assert same(whole.model, again.model)
    assert all(
        torch.equal(value, again.average.weights[name]) for name, value in whole.average.weights.items()
    )


def test_a_longer_plan_goes_on_from_before_the_decay(tmp_path):
    data = walk_recording()
    Training(TINY, tmp_path, Batches(data, 0, 2)).run()
    longer = Training(replace(TINY, steps=9), tmp_path, Batches(data, 0, 2))
    assert longer.step == TINY.steps - TINY.decay_steps
    with pytest.raises(ParameterError, match="another shape"):
        Training(replace(TINY, blocks=1), tmp_path, Batches(data, 0, 2))


def test_training_learns(tmp_path):
    plan = replace(TINY, steps=12, learning_rate=1e-2)
    held_out = Batches(walk_recording(seed=1), 1, 2, whole=1.0)
    training = Training(plan, tmp_path, Batches(walk_recording(), 0, 2), held_out)
    before = training.measure()["held_loss"]
    training.run()
    assert training.measure()["held_loss"] < before


def test_single_tiles_are_encoded_as_whole_frames_are():
    model = crafter_tokenizer.new_tokenizer()
    tiles = crafter_tokenizer.Tiles(model)
    data = walk_recording(1)
    frame = torch.from_numpy(data.sheet.draw(data.tokens)).permute(0, 3, 1, 2).float()[None] / 127.5 - 1
    pictures = data.sheet.pictures[np.arange(81), data.tokens[0]].transpose(0, 3, 1, 2).reshape(81, -1)
    flat = torch.from_numpy(np.ascontiguousarray(pictures)).float() / 127.5 - 1
    model.encoder.transformer.encoding.zero_()
    with torch.no_grad():
        alone = tiles.encode(flat, torch.arange(81))
        torch.testing.assert_close(model.encoder(frame)[0, 0], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("module", [crafter_tokenizer, crafter_actions])
def test_tokenizer_and_actions_go_on_where_they_were_killed(tmp_path, module, monkeypatch):
    recording = write(tmp_path / "train.npz", walk_recording())
    monkeypatch.setattr(crafter_tokenizer, "BATCH", 32)
    monkeypatch.setattr(crafter_actions, "FRAMES", 8)
    monkeypatch.setattr(crafter_actions, "LENGTHS", (2, 4))
    whole = module.train(recording, tmp_path / "whole", 4, save_every=1)
    saved = []

    class Killed(Exception):
        pass

    def save_twice(contents, path):
        if path.suffix == ".pt":
            saved.append(path)
            if len(saved) == 3:
                raise Killed
        torch.save(contents, path)

    (tmp_path / "killed").mkdir()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, "save_atomically", save_twice)
        module.train(recording, tmp_path / "killed", 4, save_every=1)
    assert same(whole, module.train(recording, tmp_path / "killed", 4, save_every=1))


def test_an_action_of_the_hands_has_effect_where_it_changes_tile_or_inventory():
    before = walk_recording(3).tokens
    after = before.copy()
    wood = MAP_PATCHES + ITEMS.index("wood")
    health = MAP_PATCHES
    faced = crafter_measures.faced_place(before)
    after[0, wood] = item_token(1)
    after[1, health] = item_token(5)
    before[2, faced[2]], after[2, faced[2]] = map_token("tree"), map_token("grass")
    found = crafter_measures.effects(before, after)
    assert np.argwhere(found).tolist() == [[0, wood], [2, faced[2]]]
    data = Recording(
        np.stack((before[0], after[0])), np.array([DO, DO], np.uint8), np.zeros(2, np.int32), sheet()
    )
    assert has_effect(data, np.array([0])).tolist() == [True]


def test_a_step_scrolls_where_the_way_is_free():
    data = walk_recording(60)
    told = [
        crafter_measures.did_scroll(before, after, int(action))
        == crafter_measures.is_free(before, int(action))
        for before, after, action in zip(data.tokens[:39], data.tokens[1:40], data.actions[:39], strict=True)
    ]
    assert all(told)


def test_what_stayed_in_view_is_followed_there_and_back():
    data = walk_recording(40, seed=5)
    track = crafter_measures.Track(data.tokens[0])
    for before, after, action in zip(data.tokens[:-1], data.tokens[1:], data.actions[:-1], strict=True):
        track.move(before, int(action))
        track.see(after)
    right, stayed, right_again, back = track.unchanged(data.tokens[-1])
    assert (right, right_again) == (stayed, back)
    spoiled = data.tokens[-1].copy()
    spoiled[:MAP_PATCHES] = map_token("water")
    assert track.unchanged(spoiled)[0] == 0


def meadow(frames: int) -> np.ndarray:
    """A player who stands in the grass."""
    tokens = np.full((frames, 81), map_token("grass"), np.uint8)
    tokens[:, MAP_PATCHES:] = item_token(0)
    tokens[:, CENTRE] = map_token("grass", "player-down")
    return tokens


def test_the_dice_say_where_the_creatures_go():
    tokens = meadow(4)
    left, right = 10, 16  # a cow in each half of the view, two rows above the player
    for frame, (one, other) in enumerate(
        [(left, right), (left + 1, right), (left + 1, right + 9), (left + 1, 0)]
    ):
        tokens[frame, [one, other]] = map_token("grass", "cow")
    dice = crafter_chance.throw(tokens, np.zeros(4, np.uint8), np.zeros(4, np.int32))
    assert dice[0].tolist() == [RIGHT, crafter_chance.STAY]
    assert dice[1].tolist() == [crafter_chance.STAY, DOWN]
    assert dice[3].tolist() == [crafter_chance.UNKNOWN] * 2


def test_dice_are_followed_while_the_map_scrolls():
    tokens = meadow(2)
    tokens[0, 16] = map_token("grass", "cow")
    tokens[1, 16 - 1 + 9] = map_token("grass", "cow")  # one down, and one left as the player went right
    dice = crafter_chance.throw(tokens, np.array([RIGHT, RIGHT], np.uint8), np.zeros(2, np.int32))
    assert dice[0].tolist() == [crafter_chance.STAY, DOWN]


def test_dice_are_drawn_black():
    tokens = meadow(2)
    thrown = crafter_chance.with_dice(tokens, np.array([[LEFT, DOWN], [DOWN, LEFT]], np.uint8))
    assert (thrown != tokens).sum() == 4
    pictures = sheet()
    pictures.item_tiles[16:] = 0
    pictures = TileSheet(pictures.map_tiles, pictures.item_tiles)
    assert (pictures.draw(thrown) == pictures.draw(tokens)).all()


def test_chance_decides_new_land_needs_and_dice_and_leaves_creatures_to_the_dice():
    tokens = meadow(2)
    tokens[:, 16] = map_token("grass", "cow")
    found = crafter_chance.by_chance(tokens, np.array([0, RIGHT]))
    still, walked = found[:, :MAP_PATCHES].reshape(2, 7, 9)
    assert not still.any()
    assert walked[:, -1].all() and not walked[:, :-1].any()
    assert found[:, MAP_PATCHES : MAP_PATCHES + 4].all()
    assert found[:, list(crafter_chance.DICE)].all()


def test_effects_of_the_hands_are_drawn_as_often_as_asked():
    data = walk_recording()
    data.actions[::10] = DO
    data.tokens[1::10, MAP_PATCHES + ITEMS.index("wood")] = item_token(3)
    rows = data.starts(2)
    weights = effect_weights(data, rows, 0.3)
    assert weights[has_effect(data, rows)].sum() / weights.sum() == pytest.approx(0.3)


def test_clips_are_cut_from_episodes_of_their_own(tmp_path):
    data = walk_recording(160)
    starts = crafter_clips.choose(data, 3, 0)
    assert len(set(data.episodes[starts])) == 3
    crafter_clips.write(tmp_path / "clips.h5", data, starts, "a test")
    with FrameDataset(tmp_path / "clips.h5") as clips:
        assert clips.frame_size == (72, 72)
        assert len(clips) == 3 * crafter_clips.LENGTH
    with pytest.raises(DatasetError, match="Record more"):
        crafter_clips.choose(data, 9, 0)


def test_histograms_kinds_and_creatures():
    data = walk_recording(20)
    own = crafter_measures.histogram(data.tokens)
    assert crafter_measures.jensen_shannon(own, own) == pytest.approx(0)
    assert crafter_measures.jensen_shannon(np.eye(256)[0], np.eye(256)[1]) == pytest.approx(1)
    assert 3 <= crafter_measures.kinds(data.tokens) <= 4
    frame = np.full(81, map_token("grass"), np.uint8)
    with_cow = frame.copy()
    with_cow[CENTRE + 2] = map_token("grass", "cow")
    moved = np.roll(with_cow, 1)
    assert crafter_measures.vanished(with_cow, moved, (0, 0)) == (0, 1)
    assert crafter_measures.vanished(with_cow, frame, (0, 0)) == (1, 1)


def test_a_kind_of_tile_that_walks_show_too_rarely_is_raised_and_one_that_nobody_shows_stays():
    game, own = np.zeros(256), np.zeros(256)
    game[[1, 2, 3]], own[[1, 2, 3]] = (0.5, 0.3, 0.2), (0.7, 0.3, 0.0)
    shift = correction(game, own, 10_000)
    assert shift[1] < 0 == shift[2] == shift[200] < shift[3] == LONGEST


def test_the_three_checkpoints_load_as_a_suite_and_are_measured(tmp_path):
    data = walk_recording()
    recording = write(tmp_path / "train.npz", data)
    crafter_tokenizer.train(recording, tmp_path, 1)
    crafter_actions.train(recording, tmp_path, 1)
    Training(TINY, tmp_path, Batches(data, 0, 2)).save()
    suite = load_suite(
        video_tokenizer=tmp_path / "crafter_video_tokenizer.pth",
        latent_actions=tmp_path / "crafter_latent_actions.pth",
        dynamics=tmp_path / "crafter_dynamics.pth",
    )
    assert suite.n_actions == 8
    assert torch.equal(suite.action_latents(torch.tensor([RIGHT])), bits_of(torch.tensor([RIGHT]), 3))
    world = World(suite, data, Decoding())
    sheet_path = tmp_path / "sheet.png"
    lines = [*next_frame(world, 4), *walking(world, 4), *there_and_back(world, 2, 2)]
    lines += walks(world, 2, 4, sheet_path)
    assert len(lines) == 9
    assert sheet_path.stat().st_size


def test_the_recorder_writes_frames_of_known_tiles(tmp_path):
    pytest.importorskip("crafter", reason="recording needs the package crafter 1.8.3")
    from helpers.train.crafter_record import record

    record(tmp_path / "one.npz", 5, 40, 30, worlds_a_part=1)
    data = read_recording(tmp_path / "one.npz")
    assert len(data.tokens) == 40
    assert np.isin(data.tokens[:, :MAP_PATCHES], MAP_TOKENS).all()
    assert np.isin(data.tokens[:, MAP_PATCHES:], ITEM_TOKENS).all()

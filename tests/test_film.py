"""Films: real worlds played and real files opened again, with the keys where the actions say."""

import io
import itertools
from pathlib import Path

import av
import numpy as np
import pytest
import small_world
from PIL import Image, ImageColor, ImageSequence

from helpers.pictures import upscale
from helpers.play import recording
from helpers.play.game import Game
from helpers.play.settings import Settings
from helpers.player import film
from helpers.player.autopilot import CrafterPilot, held_keys, nearest
from helpers.player.keycaps import CAP, LIT, Keycaps
from helpers.player.keymap import default_keys
from helpers.player.labels import ActionLabel
from helpers.run_folder import ROOT
from helpers.train import crafter_tiles
from helpers.worlds import WORLDS, world

README = ROOT / "helpers" / "demo" / "crafter" / "play.webp"
SAME_PLAY = ("-p", "seed=8")  # as the README's
NAMES = world("crafter").true_actions
LABELS = [ActionLabel(number, name, certainty=float(number > 0)) for number, name in enumerate(NAMES)]
MEADOW = np.full((7, 9), crafter_tiles.map_token("grass"), np.uint8)
TREE, STONE, WATER = (crafter_tiles.map_token(ground) for ground in ("tree", "stone", "water"))


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of Crafter, filmed by the command."""
    folder = tmp_path_factory.mktemp("电影 film")
    assert film.main(["--seconds", "2", *SAME_PLAY, "--to", str(folder)]) == 0
    return folder


def animation(path: Path) -> tuple[np.ndarray, int]:
    """The pictures of a WebP or GIF, uint8 ``[T, H, W, 3]``, and its playing time in milliseconds."""
    with Image.open(path) as image:
        pictures = []
        played = 0
        for picture in ImageSequence.Iterator(image):
            pictures.append(np.asarray(picture.convert("RGB")))
            played += picture.info["duration"]
    return np.stack(pictures), played


def video(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def actions_of(session: Path) -> list[int]:
    return [event["action"] for event in recording.read(session)["events"]]


def frames_of(session: Path) -> np.ndarray:
    """The frames of a session, played again token for token and enlarged."""
    settings = film.recorded_settings(Settings(replay=str(session)))
    opened = film.open_world(settings)
    game = film.play(opened, settings, LABELS, 0)
    assert game.replay is not None and game.replay.equal
    return upscale(game.rollout().frames, 6)


def test_every_form_holds_every_frame_at_six_times_its_size(filmed: Path) -> None:
    wanted = frames_of(filmed / "session.json")[:16]
    webp, played = animation(filmed / "film.webp")
    assert played == 16 * 125 == animation(filmed / "film.gif")[1] + 16 * 5  # GIF counts in 10 ms
    assert np.array_equal(webp[:, :432], wanted)
    mp4 = video(filmed / "film.mp4")
    assert mp4.shape == webp.shape == (16, webp.shape[1], 432, 3)
    assert np.abs(mp4.astype(int) - webp).mean() < 4


def test_the_lit_keycap_is_that_of_the_action_that_led_to_the_frame(filmed: Path) -> None:
    pictures, _ = animation(filmed / "film.webp")
    caps = Keycaps(LABELS, default_keys(LABELS), 432)
    codes = ["", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Space", "KeyE", "KeyC"]
    lit, up = ImageColor.getrgb(LIT), ImageColor.getrgb(CAP)
    actions = [None, *actions_of(filmed / "session.json")]
    assert len(set(actions[:16])) > 3
    for picture, action in zip(pictures, actions, strict=False):
        for code, (x, y, width) in caps.places.items():
            colour = tuple(picture[432 + y + 19 if code == "Space" else 432 + y + 8, x + width - 8])
            assert colour == (lit if action and code == codes[action] else up), (action, code)


def test_a_recorded_session_is_filmed_frame_for_frame(filmed: Path, tmp_path: Path) -> None:
    session, again = filmed / "session.json", tmp_path / "again.webp"
    assert film.main(["--session", str(session), "--to", str(again)]) == 0
    assert np.array_equal(animation(again)[0][:, :432], frames_of(session))
    assert list(tmp_path.iterdir()) == [again]


def test_given_actions_are_filmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = small_world.small_world(tmp_path)
    settings = small_world.settings(actions=(1, 0, 2))
    monkeypatch.setattr(film, "open_world", lambda _: opened)
    game = film.play(opened, settings, [], 99)
    assert game.rollout().actions == [1, 0, 2]
    labels = [ActionLabel(number, str(number)) for number in range(4)]
    assert len(film.pictures(game, labels)) == settings.context_window + 3


def test_a_film_of_no_length_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert film.main(["--seconds", "0"]) == 2
    assert "--seconds is 0" in capsys.readouterr().err


def test_keys_held_together_are_lit_together_and_many_keys_go_on_below() -> None:
    names = WORLDS["coinrun"].true_actions
    labels = [ActionLabel(number, name, motion=(number, 0)) for number, name in enumerate(names)]
    caps = Keycaps(labels, default_keys(labels), 384)
    assert sorted(caps.held(names.index("right + jump"))) == ["ArrowRight", "ArrowUp"]
    assert caps.held(0) == caps.held(None) == []
    many = [ActionLabel(number, "", motion=(number, 0)) for number in range(16)]
    wide = Keycaps(many, default_keys(many), 384)
    assert len(set(wide.places.values())) == 15
    assert all(x + width <= 384 and y + 38 <= wide.height for x, y, width in wide.places.values())
    assert wide.draw(7).shape == (wide.height, 384, 3)


# --- the autopilot ---------------------------------------------------------------------------------


def crafter_tokens(view: np.ndarray, facing: str, **have: int) -> np.ndarray:
    """A frame's tokens ``[1, 81]``: the player in the middle of a view, with things in the inventory."""
    items = [crafter_tiles.item_token(have.get(item, 0)) for item in crafter_tiles.ITEMS]
    view = view.copy()
    view[3, 4] = crafter_tiles.map_token("grass", f"player-{facing}")
    return np.concatenate([view.reshape(-1), items, [crafter_tiles.item_token(0)] * 2])[None]


def test_the_autopilot_reads_the_tokens_that_the_training_defines() -> None:
    from helpers.player import autopilot as pilot

    for name in ("NOTHING", "LEFT", "RIGHT", "UP", "DOWN", "DO", "PLACE", "CRAFT"):
        assert getattr(pilot, name) == getattr(crafter_tiles, name)
    for ground in ("grass", "sand", "path", "water", "tree", "stone", "coal", "iron", "table"):
        assert getattr(pilot, ground.upper()) == crafter_tiles.map_token(ground)
    walkable = crafter_tiles.WALKABLE
    assert {crafter_tiles.map_token(ground, "cow") for ground in walkable} == pilot.COWS
    assert {crafter_tiles.map_token(ground, "zombie") for ground in walkable} == pilot.ZOMBIES
    assert {crafter_tiles.map_token(ground) for ground in walkable} == pilot.FREE
    places = {"DRINK": "drink", "SAPLINGS": "sapling", "WOOD": "wood", "STONES": "stone"}
    places |= {"PICKAXE": "wood_pickaxe", "STONE_PICKAXE": "stone_pickaxe", "SWORD": "wood_sword"}
    assert all(getattr(pilot, name) == crafter_tiles.ITEMS.index(item) for name, item in places.items())


def test_the_autopilot_goes_around_water_to_the_nearest_tree() -> None:
    view = MEADOW.copy()
    view[2:5, 5], view[3, 6] = WATER, TREE
    assert nearest(view, {TREE}) == (crafter_tiles.UP, 6, TREE)
    view[2:5, 3] = view[2, 4] = view[4, 4] = WATER
    assert nearest(view, {TREE}) is None


def test_the_autopilot_turns_to_a_tree_takes_wood_and_makes_a_table() -> None:
    view = MEADOW.copy()
    view[3, 5] = TREE
    for facing, wood, action in (
        *(("up", 0, crafter_tiles.RIGHT), ("right", 0, crafter_tiles.DO)),
        *(("up", 4, crafter_tiles.CRAFT),),
    ):
        assert CrafterPilot(0)(crafter_tokens(view, facing, wood=wood, drink=9)) == action


def test_the_autopilot_never_spends_all_its_time_on_one_thing() -> None:
    view = MEADOW.copy()
    view[3, 5] = TREE  # which never gives any wood
    pilot = CrafterPilot(0)
    actions = [pilot(crafter_tokens(view, "right", drink=9)) for _ in range(40)]
    assert actions.count(crafter_tiles.DO) < 20 and len(set(actions)) > 2


def test_other_worlds_are_played_with_keys_held_for_a_while(tmp_path: Path) -> None:
    opened = small_world.small_world(tmp_path)
    labels = [ActionLabel(0, "still"), ActionLabel(1, "unused", dead=True), ActionLabel(2, "right")]
    settings = small_world.settings(seed=4)
    game = film.play(opened, settings, labels, 40)
    taken = game.rollout().actions
    assert isinstance(game, Game) and set(taken) == {0, 2}
    assert sum(a != b for a, b in itertools.pairwise(taken)) < 20
    pilot = held_keys(labels, 4)
    assert [pilot(game.tokens) for _ in taken] == taken


# --- the README's picture --------------------------------------------------------------------------


def test_the_readmes_picture_in_motion_is_what_the_command_films_today(
    filmed: Path, pytestconfig: pytest.Config
) -> None:
    if pytestconfig.getoption("pictures"):
        assert film.main(["--seconds", "16", *SAME_PLAY, "--to", str(README)]) == 0
    (today, _), (shown, _) = animation(filmed / "film.webp"), animation(README)
    # On another machine a last bit may differ, and frames after it.
    assert today.shape[0] > 8 and np.mean(today[:8] != shown[:8]) < 0.05


def test_the_readmes_film_is_twelve_seconds_or_more_in_less_than_three_megabytes() -> None:
    data = README.read_bytes()
    pictures, played = animation(README)
    assert len(data) < 3_000_000 and Image.open(io.BytesIO(data)).format == "WEBP"
    assert played == 16_000 and 125 * len(pictures) <= played  # frames that are alike are one, shown longer
    assert pictures.shape[2] == 432 and len({picture[:432].tobytes() for picture in pictures}) > 60


@pytest.mark.parametrize("ending", film.ENDINGS)
def test_ctrl_c_leaves_the_film_that_was_there_and_no_half_of_another(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_frames: object, path: Path, *_: object, **__: object) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(film, "write_video", interrupted)
    monkeypatch.setattr(film, "write_animation", interrupted)
    before = tmp_path / f"film{ending}"
    before.write_bytes(b"whole")
    with pytest.raises(KeyboardInterrupt):
        film._write(np.zeros((1, 4, 4, 3), np.uint8), before, 8)
    assert list(tmp_path.iterdir()) == [before] and before.read_bytes() == b"whole"

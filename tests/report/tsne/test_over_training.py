"""Maps over a training: when they are drawn, where they begin, and the files that they leave."""

import os

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

import raysb
from raysb.report import TSNEOverTraining
from raysb.report.tsne.window import Window, has_display

pytest.importorskip("matplotlib")

ROWS = 60


def digits(rows=ROWS):
    from raysb.source.demo import digits

    return {name: column[:rows] for name, column in digits().items()}


def model_of(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def film(model, out=None, **words):
    words = {"forward": raysb.inputs("image"), "perplexity": 10, "window": False, **words}
    return TSNEOverTraining(model, digits(), out=out, **words)


def train(model, steps, call, lr=0.5):
    """Plain SGD on the digits; `call` after every step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    images = torch.from_numpy(digits()["image"]).permute(0, 3, 1, 2) / 255
    labels = torch.from_numpy(digits()["label"])
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        call()
    return [p.detach().clone() for p in model.parameters()]


def test_a_map_is_drawn_at_the_start_and_every_so_many_steps() -> None:
    model = model_of()
    of = film(model, every=3)
    train(model, 8, of.step)
    assert [each.step for each in of.frames] == [0, 3, 6]
    first, *_, last = of.frames
    assert last.points.wrong.mean() < first.points.wrong.mean()
    assert (last.points.labels == digits()["label"]).all()


def test_a_map_begins_with_the_points_of_the_one_before() -> None:
    """One begun anew would not follow a map that is turned over."""
    of = film(model_of())
    before = of.add_frame(1).points.xy
    before[:, 0] *= -1
    after = of.add_frame(2)
    went = np.linalg.norm(after.points.xy - before, axis=1)
    assert np.median(went) < 0.2 * before.std()  # nothing was trained between
    assert after.kl_divergence <= of.frames[0].kl_divergence * 1.1


def test_training_is_the_same_with_and_without_it() -> None:
    watched, alone = model_of(), model_of()
    of = film(watched, every=2)
    for one, other in zip(train(watched, 5, of.step), train(alone, 5, lambda: None), strict=True):
        assert torch.equal(one, other)
    assert not any(module._forward_pre_hooks for module in watched.modules())


@pytest.mark.parametrize("name", ["film.gif", "film.png"])
def test_the_film_has_a_picture_for_each_map_and_a_table_beside_it(tmp_path, name) -> None:
    model = model_of()
    with film(model, tmp_path / name, every=2) as of:
        train(model, 5, of.step)
    with Image.open(tmp_path / name) as picture:
        assert picture.n_frames == 3
        assert picture.info["duration"] == 250
        picture.seek(2)
        picture.load()
        assert picture.info["duration"] == 2000
    table = pq.read_table(tmp_path / "film.parquet").to_pandas()
    assert list(table["step"].unique()) == [0, 2, 4]
    assert len(table) == 3 * ROWS
    last = table[table["step"] == 4]
    np.testing.assert_array_equal(last[["x", "y"]], of.frames[-1].points.xy)
    assert (last["label"].to_numpy() == digits()["label"]).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "film.parquet"])


def test_a_training_that_fails_leaves_its_film(tmp_path) -> None:
    with pytest.raises(RuntimeError), film(model_of(), tmp_path / "film.gif"):
        raise RuntimeError
    assert (tmp_path / "film.gif").exists()


def test_it_hangs_on_the_optimizer_of_a_run_that_has_its_own_loop(tmp_path) -> None:
    films = []

    def optimizer(model):
        made = torch.optim.SGD(model.parameters(), lr=0.1)
        films.append(film(model, every=5))
        made.register_step_post_hook(films[-1].step)
        return made

    trainer = raysb.SelectiveTrainer(
        model=model_of,
        loss=raysb.losses.cross_entropy("label"),
        forward=raysb.inputs("image"),
        datasets={"train": digits(200)},
        optimizer=optimizer,
        training=raysb.Training(epochs=50, batch_size=32, max_steps=12, num_threads=1),
        engine="local",
        run_config=None,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        trainer.fit()
    assert [each.step for each in films[-1].frames] == [0, 5, 10]


def test_rows_without_labels_are_dots() -> None:
    of = film(model_of(), target=None)
    assert of.frames[0].points.labels is None
    assert of.frames[0].points.wrong is None


def test_a_window_shows_the_newest_map_and_one_that_is_closed_stays_closed() -> None:
    from matplotlib import pyplot

    before = set(pyplot.get_fignums())
    window = Window("maps")
    for value in (0, 255):
        window.show(np.full((20, 30, 3), value, np.uint8))
        (number,) = set(pyplot.get_fignums()) - before
        (image,) = pyplot.figure(number).axes[0].images
        assert (image.get_array() == value).all()
        drawn = np.asarray(pyplot.figure(number).canvas.buffer_rgba())  # not "when it is idle"
        assert (drawn[drawn.shape[0] // 2, drawn.shape[1] // 2, :3] == value).all()
    window.react()
    pyplot.close(number)
    window.react()
    window.show(np.zeros((20, 30, 3), np.uint8))
    assert set(pyplot.get_fignums()) == before
    window.close()


@pytest.mark.skipif("DISPLAY" not in os.environ, reason="there is no display")
def test_what_a_window_shows_is_on_the_screen() -> None:
    import matplotlib
    from PIL import ImageGrab

    matplotlib.use("tkagg")
    window, screens = Window("colours"), []
    for colour in ((12, 200, 99), (150, 20, 230)):
        window.show(np.broadcast_to(np.uint8(colour), (300, 400, 3)))
        screen = np.asarray(ImageGrab.grab(xdisplay=os.environ["DISPLAY"]).convert("RGB"))
        screens.append((screen == colour).all(2).sum())
    window.close()
    matplotlib.use("agg")
    assert min(screens) > 0.9 * 300 * 400


def test_without_a_display_there_is_no_window(monkeypatch) -> None:
    import matplotlib

    matplotlib.use("agg")
    assert not has_display()
    assert film(model_of(), window=None)._window is None


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"every": 0}, "every=0"),
        ({"target": "digit"}, "columns image, label, id"),
        ({"out": "film.mp4"}, r"\.gif or \.png"),
        ({"out": "nowhere/film.gif"}, "there is no folder"),
        ({"out": "there.gif"}, "exists already"),
        ({"perplexity": 60}, "less than the number of rows"),
    ],
)
def test_what_cannot_be_filmed_is_refused_before_the_training(
    tmp_path, monkeypatch, words, told
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.gif").touch()
    with pytest.raises(ValueError, match=told):
        film(model_of(), **words)
    assert [path.name for path in tmp_path.iterdir()] == ["there.gif"]

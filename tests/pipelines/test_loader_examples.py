"""The examples of the loader run, with the other libraries where these are installed."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

PIPELINES = Path(__file__).parents[2] / "pipelines"


def run(name: str, *words: str, folder: Path) -> str:
    command = [sys.executable, str(PIPELINES / f"{name}.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_plain_loop_learns_the_digits_from_less_than_all_rows(tmp_path) -> None:
    last = run("loader_plain", "8", folder=tmp_path).splitlines()[-1]
    found = re.fullmatch(r"epoch 8: (\d+) steps, kept (\d+)%, error ([\d.]+)%", last)
    assert found, last
    assert 30 <= int(found[2]) <= 60
    assert float(found[3]) < 20  # by chance: 90
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("library", ["lightning", "accelerate"])
def test_other_libraries_train_with_the_loader_and_are_skipped_where_missing(
    library, tmp_path
) -> None:
    said = run(f"loader_{library}", "3", folder=tmp_path)
    if importlib.util.find_spec(library) is None:
        assert said == f"skipped: {library} is not installed (pip install {library})\n"
    else:
        found = re.search(r"3 epochs: \d+ steps, kept \d+%, error ([\d.]+)%", said)
        assert found, said
        assert float(found[1]) < 50


def test_a_lightning_run_resumed_at_the_end_of_an_epoch_equals_one_never_stopped(tmp_path) -> None:
    lightning = pytest.importorskip("lightning")
    code = f"""
import sys; sys.path.insert(0, {str(PIPELINES)!r})
import warnings; warnings.simplefilter("ignore")
import logging; logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
import lightning, torch
from loader_lightning import Classifier

def fit(epochs, resume=None):
    lightning.seed_everything(0, verbose=False)
    model = Classifier()
    quiet = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "logger"), False)
    trainer = lightning.Trainer(max_epochs=epochs, devices=1, accelerator="cpu",
                                enable_checkpointing=False, **quiet)
    trainer.fit(model, model.loader, ckpt_path=resume)
    return trainer, model

whole, model = fit(4)
half, _ = fit(2)
half.save_checkpoint("half.ckpt")
rest, again = fit(4, "half.ckpt")
assert whole.global_step == rest.global_step, (whole.global_step, rest.global_step)
assert model.loader.num_backpropped == again.loader.num_backpropped
for p, q in zip(model.parameters(), again.parameters()):
    assert torch.equal(p, q)
"""
    del lightning
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_language_model_learns_from_text_that_ships_with_python(tmp_path) -> None:
    words = ("--seeds", "1", "--cost", "1", "--rows", "400")
    first, *rest = run("text_language_model", *words, folder=tmp_path).splitlines()
    assert first.startswith("400 sequences")
    reached = {line.split()[0]: float(line.split()[-1]) for line in rest}
    assert reached.keys() == {"uniform", "selective"}
    assert all(perplexity < 230 for perplexity in reached.values())  # a guess among 256 bytes: 256

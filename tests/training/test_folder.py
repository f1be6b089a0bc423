"""A token tells one folder from another of the same name, on a disk and behind a URI."""

import pytest

from raysb.config import load
from raysb.errors import RunDirectoryError
from raysb.prepare import prepare
from raysb.training.checkpoints import Checkpoints
from raysb.training.folder import Folder, Token, leave_near


@pytest.fixture(params=["local", "uri"])
def named(request, tmp_path):
    """A folder's name, which is not there yet."""
    folder = tmp_path / "a" / "b"
    return str(folder) if request.param == "local" else f"file://{folder}"


def test_who_sees_the_token_has_the_same_folder(named, tmp_path) -> None:
    token = Token.leave(named)
    assert token.unseen() is None
    (tmp_path / "a" / "b").rename(tmp_path / "moved")
    assert token.unseen() == "it is not there"
    (tmp_path / "a" / "b").mkdir()
    assert token.unseen() == "another folder has this name there"
    assert Token.leave(named).unseen() is None
    assert token.unseen() is not None  # somebody else's token is not this one


def test_a_token_that_is_removed_leaves_nothing(named, tmp_path) -> None:
    token = Token.leave(named)
    token.remove()
    token.remove()
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_before_a_folder_is_made_the_token_lies_in_the_nearest_that_is_there(tmp_path) -> None:
    token = leave_near(str(tmp_path / "runs" / "one"))
    assert token.folder == str(tmp_path)
    assert not (tmp_path / "runs").exists()
    assert Folder(str(tmp_path)).nearest().path == str(tmp_path)


def test_a_machine_with_another_folder_finds_no_checkpoint_but_an_error(tmp_path) -> None:
    """Without it a worker there would begin anew, at step 0, without a word."""
    with Checkpoints(folder=str(tmp_path / "run")).shared() as store:
        assert store.newest() is None
        (tmp_path / "run").rename(tmp_path / "elsewhere")
        with pytest.raises(RunDirectoryError, match="must be the same on every machine") as told:
            store.newest_history()
        assert "it is not there" in str(told.value)
        (tmp_path / "elsewhere").rename(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_checkpoints_that_cannot_be_written_are_refused_before_the_run(tmp_path) -> None:
    (tmp_path / "file").touch()
    words = ("--data.train", "digits", "--model.name", "mlp", "--run.dir", str(tmp_path / "run"))
    where = ("--run.checkpoints", str(tmp_path / "file" / "checkpoints"))
    with pytest.raises(RunDirectoryError, match=r"run.checkpoints='.*nothing can be written"):
        prepare(load(None, (*words, *where)))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

"""`raysb train --ask`: walks through the main settings on the terminal.

Every answer is checked as the command line is, and asked for again with the error that the command
would have given. What the command line itself says is settled and not asked.
"""

import shlex
import textwrap
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from raysb.commands.options import UsageError
from raysb.config import KIND, SELECTOR, Config, flat, kind_of, load, settings
from raysb.errors import RaysbError
from raysb.settings_io import Setting, describe_setting, read_flags
from raysb.source.demo import DEMOS
from raysb.values import type_name

INTRO = """\
Enter keeps the default; `none` means no value where none is allowed. Ctrl-C ends without a trace.
"""


def _custom_data(config: Config) -> bool:
    return config.data.train not in DEMOS


def _scored(config: Config) -> bool:
    return config.selector.needs_scores


def _on_ray(config: Config) -> bool:
    return config.engine == "ray"


def _always(config: Config) -> bool:
    return True


@dataclass(frozen=True)
class Question:
    """A setting to ask for.

    Args:
        key: Its dotted name.
        when: Whether it matters, given the answers before it.
        check: Raises where the answer alone shows that it cannot be used.
    """

    key: str
    when: Callable[[Config], bool] = _always
    check: Callable[[Config], object] = _always


def check_data(config: Config) -> None:
    """Open the rows, as a run does."""
    from raysb.prepare import open_data

    open_data(config)


def _find_files(config: Config) -> None:
    """Raise where files are missing; what else is wrong with the rows shows after all answers."""
    try:
        check_data(config)
    except FileNotFoundError:
        raise
    except (RaysbError, ValueError, TypeError, OSError, ImportError):
        return


def _find_model(config: Config) -> object:
    from raysb.imports import resolve
    from raysb.nn.registry import MODELS

    return resolve(config.model.name, MODELS, "model.name")


def _find_optimizer(config: Config) -> object:
    from raysb.imports import resolve
    from raysb.optim.registry import OPTIMIZERS

    return resolve(config.train.optimizer, OPTIMIZERS, "train.optimizer")


def check_run(config: Config) -> None:
    """Try every part once and claim the run directory, as a run does; nothing is written."""
    from raysb.prepare import prepare

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run itself warns
        prepare(config)


TOPICS: tuple[tuple[str, Callable[[Config], None], tuple[Question, ...]], ...] = (
    (
        "data",
        check_data,
        (
            Question("data.train", check=_find_files),
            Question("data.test", _custom_data, _find_files),
            Question("data.test_fraction", lambda c: _custom_data(c) and c.data.test is None),
            Question("data.inputs", _custom_data),
            Question("data.target", _custom_data),
        ),
    ),
    (
        "model, selection and training",
        check_run,
        (
            Question("model.name", check=_find_model),
            Question("selector.kind"),
            Question("selector.beta", lambda c: hasattr(c.selector, "beta")),
            Question("train.epochs"),
            Question("train.batch_size"),
            Question("train.optimizer", check=_find_optimizer),
            Question("train.lr"),
        ),
    ),
    (
        "machine",
        check_run,
        (
            Question("engine"),
            Question("train.num_workers", _on_ray),
            Question("scoring.num_actors", lambda c: _on_ray(c) and _scored(c)),
            Question("scoring.max_staleness_steps", lambda c: _on_ray(c) and _scored(c)),
            Question("run.dir"),
        ),
    ),
)


class Interview:
    """Questions and answers over a configuration.

    Args:
        file: The configuration file, or `None`.
        flags: Settings of the command line, which are not asked.
        read: Gives one answer for a prompt, and raises EOFError where there is none; `input`.
        write: Takes text for the person.
        echo: Write the answers too, where no terminal shows them.
    """

    def __init__(
        self,
        file: str | None,
        flags: Sequence[str],
        *,
        read: Callable[[str], str],
        write: Callable[[str], object],
        echo: bool = False,
    ) -> None:
        self._file = file
        self._flags = list(flags)
        self._read = read
        self._write = write
        self._echo = echo
        self._answers: dict[str, str] = {}
        everything = settings()
        switches = {k for k, s in everything.items() if "true|false" in type_name(s.hint)}
        self._settled = {given.key for given in read_flags(flags, lambda key: key in switches)}

    def hold(self) -> Config:
        """Ask everything; returns the configuration.

        Raises:
            ValueError: File and flags cannot be used, whatever the answers.
            UsageError: There is no answer to a question.
        """
        self._config()
        self._write(INTRO)
        for topic, check, questions in TOPICS:
            self._write(f"\n{topic}\n")
            self._ask_topic(check, questions)
        self._write(f"\n{self.command()}\n\n")
        return self._config()

    def command(self) -> str:
        """The command line that says the same without questions."""
        file = [] if self._file is None else ["--config", self._file]
        answers = [word for k, v in self._answers.items() for word in (f"--{k}", v)]
        return shlex.join(["raysb", "train", *file, *self._flags, *answers])

    def _ask_topic(self, check: Callable[[Config], None], questions: Sequence[Question]) -> None:
        """Ask until what the topic's questions say together can be used."""
        waiting = list(questions)
        refused: Config | None = None
        while True:
            for question in waiting:
                if question in self._open(questions):
                    self._ask(question)
            config = self._config()
            try:
                return check(config)
            except (RaysbError, ValueError, TypeError, OSError, ImportError) as error:
                waiting = self._blamed(str(error), questions)
                if not waiting or config == refused:  # Enter everywhere: asking on changes nothing
                    raise
                refused = config
                self._refuse(error)

    def _open(self, questions: Sequence[Question]) -> list[Question]:
        """Those that matter now and that the command line has not answered."""
        config = self._config()
        return [q for q in questions if q.key not in self._settled and q.when(config)]

    def _blamed(self, message: str, questions: Sequence[Question]) -> list[Question]:
        """What to ask again: the setting that an error names first, else the whole topic.

        Nothing where that setting came with the command line. The columns of data hang together
        and are asked together.
        """
        open_ = self._open(questions)
        keys = [*self._settled, *(q.key for q in open_)]
        _, named = min(
            ((message.find(key), key) for key in keys if key in message), default=(0, "")
        )
        if not named or (named.startswith("data.") and named not in self._settled):
            return open_
        self._answers.pop(named, None)  # Enter keeps what was there before
        return [q for q in open_ if q.key == named]

    def _ask(self, question: Question) -> None:
        """Ask for one setting until the answer can be used."""
        key = question.key
        while True:
            setting = self._setting(key)
            self._write(describe_setting(setting) + "\n")
            answer = self._answer(key)
            if not answer:
                return
            answers = {**self._without(key), key: answer}
            try:
                other = self._config(answers)
                question.check(other)
            except (ValueError, FileNotFoundError) as error:
                self._refuse(error)
                continue
            if other != self._config():
                self._answers = answers
            return

    def _without(self, key: str) -> dict[str, str]:
        """The answers that another one to this question leaves standing."""
        if key == KIND:  # another kind has other settings
            return {k: v for k, v in self._answers.items() if not k.startswith(f"{SELECTOR}.")}
        return {k: v for k, v in self._answers.items() if k != key}

    def _answer(self, key: str) -> str:
        try:
            answer = self._read("  > ").strip()
        except EOFError:
            self._write("\n")
            raise UsageError(
                f"--ask: standard input ended at the question for {key}. Answer on a terminal, or "
                f"give the settings as flags; settled so far: {self.command()}"
            ) from None
        if self._echo:
            self._write(f"{answer}\n")
        return answer

    def _setting(self, key: str) -> Setting:
        """The setting, its default the value that Enter keeps."""
        config = self._config()
        return replace(settings(kind_of(config))[key], default=flat(config)[key])

    def _config(self, answers: dict[str, str] | None = None) -> Config:
        answers = self._answers if answers is None else answers
        return load(self._file, [*self._flags, *(f"--{k}={v}" for k, v in answers.items())])

    def _refuse(self, error: Exception) -> None:
        self._write(textwrap.indent(f"error: {error}\n", "  "))

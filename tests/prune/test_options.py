"""What `raysb prune` refuses before it looks at the run."""

import pytest

from raysb.commands.options import UsageError
from raysb.commands.prune import run


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--keep", "a=8,a=4"], "--keep a=8,a=4: gives a more than once"),
        (["--keep", "a=8,b=2,a=8"], "gives a more than once"),
        (["--amount", ".5", "--criterion-args", "beta=1,beta=2"], "gives beta more than once"),
    ],
)
def test_a_name_that_is_given_twice_is_refused(words, told) -> None:
    with pytest.raises(UsageError, match=told):
        run(["nowhere", *words])

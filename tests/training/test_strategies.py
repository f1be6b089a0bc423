"""What `train.strategy` cannot do is refused when it is set, with the key to change."""

import subprocess
import sys

import pytest

from raysb.training.settings import Training
from raysb.training.strategies import (
    ARGUMENTS,
    ONE_PROCESS,
    check_engine,
    in_one_process,
    parallel_steps,
)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"strategy": "dpp"}, r"train\.strategy='dpp': unknown; did you mean 'ddp'\?"),
        ({"strategy": "data-parallel"}, r"did you mean 'data_parallel'\? known: data_parallel, "),
        ({"strategy": None}, r"train\.strategy=None: unknown"),
        ({"strategy": ["ddp"]}, r"train\.strategy=\['ddp'\]: unknown; .*known: data_parallel, ddp"),
        ({"strategy": {"ddp": 1}}, r"train\.strategy={'ddp': 1}: unknown; .*known: data_par"),
        (
            {"strategy": "ddp", "strategy_args": {"split": [1]}},
            r"train\.strategy_args\.split=\[1\]: an argument of ddp unknown; known: none",
        ),
        (
            {"strategy": "model_parallel", "strategy_args": {"splits": [1]}},
            r"splits=\[1\]: an argument of model_parallel unknown; did you mean 'split'\?",
        ),
        (
            {"strategy": "model_parallel", "strategy_args": {"split": [3, 2]}},
            r"train\.strategy_args\.split=\[3, 2\]: must be rising whole numbers",
        ),
        (
            {"strategy": "model_parallel", "strategy_args": {"split": 3}},
            r"train\.strategy_args\.split=3: must be rising",
        ),
        ({"strategy": "pipeline", "num_workers": 1, "accumulate": 4}, r"every worker is a stage"),
        (
            {"strategy": "pipeline", "num_workers": 4},
            r"train\.accumulate=1: a pipeline of 4 stages needs .* set train\.accumulate=16",
        ),
        (
            {
                "strategy": "pipeline",
                "num_workers": 2,
                "accumulate": 4,
                "strategy_args": {"schedule": "1f2b"},
            },
            r"strategy_args\.schedule='1f2b': unknown; did you mean '1f1b'\?",
        ),
        (
            {"find_unused_parameters": True, "strategy": "fsdp"},
            r"train\.find_unused_parameters=true: train\.strategy=fsdp waits for no",
        ),
        (
            {"accumulate": 5, "batch_size": 64},
            r"train\.accumulate=5: must divide the 64 rows of a step .* set 4, or",
        ),
        ({"accumulate": 65, "batch_size": 64}, r"must divide the 64 rows .* set 64, or"),
        ({"normalize": "row"}, r"train\.normalize='row': must be rows or weights"),
    ],
)
def test_what_does_not_go_together_is_refused(given, message) -> None:
    with pytest.raises(ValueError, match=message):
        Training(**given)


@pytest.mark.parametrize("strategy", ONE_PROCESS)
def test_a_strategy_of_one_process_has_one_worker(strategy) -> None:
    Training(strategy=strategy)
    with pytest.raises(ValueError, match=rf"strategy='{strategy}'.*num_workers=2.*strategy=ddp"):
        Training(strategy=strategy, num_workers=2)


def test_a_pipeline_counts_the_rows_of_all_workers() -> None:
    """3 workers of 2 rows are 6 rows, in 6 micro-batches."""
    Training(strategy="pipeline", num_workers=3, batch_size=2, accumulate=6)
    with pytest.raises(ValueError, match="the 6 rows of a step"):
        Training(strategy="pipeline", num_workers=3, batch_size=2, accumulate=4)


@pytest.mark.parametrize("split", [[], [1], [1, 2, 3]])
def test_a_pipeline_is_cut_into_as_many_stages_as_there_are_workers(split) -> None:
    """Else every worker of the run would refuse it, after all of them were started."""
    args = {"strategy": "pipeline", "num_workers": 3, "accumulate": 4}
    Training(**args)
    Training(**args, strategy_args={"split": [1, 4]})
    said = rf"split=\[.*\]: makes {len(split) + 1} stages, .*train\.num_workers=3; give 2 of them"
    with pytest.raises(ValueError, match=said):
        Training(**args, strategy_args={"split": split})


def test_the_local_engine_refuses_what_needs_several_processes() -> None:
    for name in ARGUMENTS:
        training = Training(strategy=name, **({"accumulate": 4} if name == "pipeline" else {}),
                            num_workers=1 if name in ONE_PROCESS else 2)  # fmt: skip
        check_engine(training, "ray")
        if name not in ("fsdp", "pipeline"):
            check_engine(training, "local")
            continue
        with pytest.raises(ValueError, match=rf"strategy='{name}': needs several .*engine=ray"):
            check_engine(training, "local")


def test_the_settings_load_without_torch() -> None:
    code = "import sys, raysb.training.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_in_one_process_a_pipeline_has_the_rows_of_all_stages_and_others_those_of_a_worker() -> (
    None
):
    for name in ("ddp", "fsdp"):
        one = in_one_process(Training(strategy=name, num_workers=4, batch_size=32, accumulate=2))
        assert (one.strategy, one.num_workers, one.batch_size, one.accumulate) == (
            "single",
            1,
            32,
            2,
        )
    stages = Training(
        strategy="pipeline",
        strategy_args={"split": [2], "schedule": "gpipe"},
        num_workers=2,
        batch_size=32,
        accumulate=8,
    )
    one = in_one_process(stages)
    assert (one.strategy, one.batch_size, one.accumulate, one.strategy_args) == (
        "single",
        64,
        8,
        {},
    )
    unused = Training(num_workers=(1, 2), find_unused_parameters=True)
    assert in_one_process(unused).num_workers == 1
    for name in ONE_PROCESS:
        alone = Training(strategy=name)
        assert in_one_process(alone) is alone


@pytest.mark.parametrize(
    ("given", "times"),
    [
        ({}, 1),
        ({"strategy": "single"}, 1),
        ({"num_workers": 4}, 4),
        ({"num_workers": (2, 4)}, 4),
        ({"strategy": "fsdp", "num_workers": 3}, 3),
        # 2 stages, 4 micro-batches: 5 turns for the work of 8 half ones, 4 / 5 of 2
        ({"strategy": "pipeline", "num_workers": 2, "accumulate": 4}, 1.6),
        ({"strategy": "pipeline", "num_workers": 4, "accumulate": 4}, 16 / 7),
    ],
)
def test_workers_train_so_many_times_the_rows_of_one_process(given, times) -> None:
    assert parallel_steps(Training(**given)) == pytest.approx(times)


def test_one_process_takes_no_changing_number_of_workers() -> None:
    with pytest.raises(ValueError, match=r"num_workers=\(1, 2\).*one number"):
        check_engine(Training(num_workers=(1, 2)), "local")
    check_engine(Training(num_workers=(1, 2)), "ray")

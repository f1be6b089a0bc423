"""Two processes train as one, whatever the strategy, and go on from each other's checkpoints."""

from pathlib import Path

import numpy as np
import pytest

FOLDER = str(Path(__file__).parent)
pytestmark = pytest.mark.gloo

HEAD = '''
import sys
sys.path.insert(0, {folder!r})
import copy, tempfile
from pathlib import Path
from test_parallel import B, Given, build, rows, squares
from raysb.schema import ID, WEIGHT
from raysb.task import Task, inputs
from raysb.training.exchange import Exchange
from raysb.training.learner import Learner
from raysb.training.parallel import parallelize
from raysb.training.settings import Training

CPU = [torch.device("cpu")]
BLOCKS = [[rows(40), rows(24, 40)], [rows(13, 100), rows(0, 113), rows(30, 120)]]  # 64 and 43

def flat(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()]).tolist()

def settings_of(strategy, **options):
    return Training(batch_size=B, num_workers=2, strategy=strategy, **OPTIMIZER, **options)

OPTIMIZER = dict(optimizer="adam", lr=.01, clip_norm=.5)

def start(training, build=build, state=None, module=None):
    torch.manual_seed(0)
    module = build() if module is None else module
    learner = Learner.build(Task(model=build, forward=inputs("x"), loss=squares), module,
                            training, CPU)
    if state is not None:
        learner.load_state_dict(state)
    return learner

def drive(learner, blocks, exchange=None):
    stream = Given(blocks, exchange)
    for batch in stream.iter_batches(batch_size=B, epochs=1, model=learner.module):
        learner.step(stream, batch, 1.0)
    return stream

def oracle(learner, blocks):
    """One process, plain torch: all rows of a step at once, Adam, the norm clipped."""
    module, optimizer = learner
    wholes = [dict((k, np.concatenate([b[k] for b in own])) for k in ("x", "y", WEIGHT))
              for own in blocks]
    for k in range(-(-max(len(w["y"]) for w in wholes) // B)):
        t = dict((n, torch.from_numpy(np.concatenate([w[n][k*B:k*B+B] for w in wholes])))
                 for n in ("x", "y", WEIGHT))
        loss = (squares(module(t["x"]), t) * t[WEIGHT]).sum() / len(t["y"])
        optimizer.zero_grad(); loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), .5)
        optimizer.step()

def plain(build=build):
    torch.manual_seed(0)
    module = build()
    return module, torch.optim.Adam(
        [p for p in module.parameters() if p.requires_grad], lr=.01)
'''

SCRIPT = """
found = {}
whole = plain(); oracle(whole, BLOCKS); found["expected"] = flat(whole[0])
CASES = {
    "ddp": settings_of("ddp"),
    "ddp, micro-batches": settings_of("ddp", accumulate=4),
    "ddp, search": settings_of("ddp", find_unused_parameters=True),
    "fsdp": settings_of("fsdp"),
    "fsdp, micro-batches": settings_of("fsdp", accumulate=4),
    "1f1b": settings_of("pipeline", accumulate=4),
    "gpipe": settings_of("pipeline", accumulate=2,
                         strategy_args={"schedule": "gpipe", "split": [1]}),
}
exchange = Exchange()
for name, training in CASES.items():
    learner = start(training)
    stream = drive(learner, BLOCKS[rank], exchange)
    loss = exchange.sum(np.array(stream.take_train_loss()))
    found[name] = flat(learner.parallel.whole()), loss.tolist(), stream.num_steps

# half of the rows under one strategy, the rest under another, from what the first has saved
first = [[blocks[0]] for blocks in BLOCKS]
second = [blocks[1:] for blocks in BLOCKS]
whole = plain(); oracle(whole, first); oracle(whole, second)
found["expected after a change"] = flat(whole[0])
for before in ("ddp", "fsdp", "1f1b"):
    learner = start(CASES[before])
    drive(learner, first[rank], exchange)
    state, module = copy.deepcopy(learner.state_dict()), copy.deepcopy(learner.parallel.whole())
    found[f"plain {before}"] = sorted(map(str, state["optimizer"]["state"])), str(type(
        state["optimizer"]["state"][0]["exp_avg"]).__name__)
    for after in ("ddp", "fsdp", "1f1b"):
        again = start(CASES[after], state=copy.deepcopy(state), module=copy.deepcopy(module))
        drive(again, second[rank], exchange)
        found[f"{before} to {after}"] = flat(again.parallel.whole())
    # and in one process
    optimizer = torch.optim.Adam(module.parameters(), lr=.01)
    optimizer.load_state_dict(state["optimizer"])
    oracle((module, optimizer), second)
    found[f"{before} to one"] = flat(module)

class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
    def forward(self, x):
        self.calls += 1
        return x

def counting():
    layers = [nn.Linear(3, 8), Counting(), nn.Tanh(), nn.Linear(8, 1), Counting()]
    return nn.Sequential(*layers).double()
for name in ("ddp, micro-batches", "fsdp, micro-batches", "1f1b"):
    learner = start(CASES[name], counting)
    drive(learner, BLOCKS[rank], exchange)
    found["calls, " + name] = [int(b) for b in learner.parallel.whole().buffers()]

# channels_last: neither what passes between the stages nor its gradient is contiguous
class Single(nn.Module):
    def forward(self, x):
        return x.float()

def pictures():
    layers = [Single(), nn.Unflatten(1, (1, 1, 3)), nn.Conv2d(1, 8, 1), nn.Conv2d(8, 8, 1),
              nn.ReLU(), nn.Flatten(), nn.Linear(24, 1)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)
net = pictures()
found["layouts"] = [net[:k](torch.ones(4, 3)).is_contiguous() for k in (4, 5)]
whole = plain(pictures); oracle(whole, BLOCKS); found["pictures"] = flat(whole[0])
for name, split in (("pipeline", [3]), ("pipeline", [4]), ("fsdp", None)):
    more = {"accumulate": 4, "strategy_args": {"split": split}} if split else {}
    learner = start(settings_of(name, **more), pictures)
    drive(learner, BLOCKS[rank], exchange)
    found.setdefault("pictures " + name, []).append(flat(learner.parallel.whole()))

def frozen():
    from raysb.nn.freeze import freeze
    net = build()
    freeze(net, ["2"])
    return net
whole = plain(frozen); oracle(whole, BLOCKS); found["frozen"] = flat(whole[0])
for name in ("ddp", "fsdp"):
    learner = start(CASES[name], frozen)
    drive(learner, BLOCKS[rank], exchange)
    found["frozen " + name] = flat(learner.parallel.whole())
"""


@pytest.fixture(scope="module")
def two(gloo):
    return gloo(HEAD.format(folder=FOLDER) + SCRIPT, workers=2)


@pytest.mark.parametrize(
    "case",
    [
        *("ddp", "ddp, micro-batches", "ddp, search"),
        *("fsdp", "fsdp, micro-batches", "1f1b", "gpipe"),
    ],
)
def test_two_processes_train_as_one_process_with_all_rows(two, case) -> None:
    """64 and 43 rows, 8 a step: worker 1 ends with 3, and then has none for two steps."""
    for found in two:
        parameters, loss, steps = found[case]
        np.testing.assert_allclose(parameters, found["expected"], rtol=0, atol=1e-6)
        assert steps == 8
        assert loss[1] == 107
    assert two[0][case] == two[1][case]
    assert two[0][case][1][0] == pytest.approx(two[0]["ddp"][1][0], rel=1e-5)


def test_a_checkpoint_of_one_strategy_goes_on_under_any_other(two) -> None:
    """Adam's moments too: without them the later steps would be others."""
    for found in two:
        for before in ("ddp", "fsdp", "1f1b"):
            assert found[f"plain {before}"] == [["0", "1", "2", "3", "4", "5"], "Tensor"]
            for after in ("ddp", "fsdp", "1f1b", "one"):
                np.testing.assert_allclose(
                    found[f"{before} to {after}"],
                    found["expected after a change"],
                    rtol=0,
                    atol=1e-6,
                    err_msg=f"{before} to {after}",
                )


def test_frozen_layers_stay_and_the_others_train_as_in_one_process(two) -> None:
    for found in two:
        for name in ("ddp", "fsdp"):
            np.testing.assert_allclose(found[f"frozen {name}"], found["frozen"], rtol=0, atol=1e-6)


def test_images_in_channels_last_pass_between_stages(two) -> None:
    """gloo and NCCL send contiguous tensors only: a pipeline of convolutions could not start."""
    for found in two:
        assert found["layouts"] == [False, False]
        for name in ("pipeline", "fsdp"):
            for each in found[f"pictures {name}"]:
                np.testing.assert_allclose(each, found["pictures"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", ["ddp, micro-batches", "fsdp, micro-batches", "1f1b"])
def test_buffers_move_once_a_micro_batch_and_are_gathered(two, case) -> None:
    """8 steps of 4 micro-batches; left to itself, a pipeline runs its stages once more."""
    assert [found[f"calls, {case}"] for found in two] == [[32, 32]] * 2


UNUSED = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.extra = nn.Linear(3, 1).double(), nn.Linear(3, 1).double()
    def forward(self, x):
        Net.calls += 1
        # with 'sometimes', only the first micro-batch of a step reaches it
        also = MODE == "sometimes" and Net.calls % 2 == 1
        return self.used(x) + (self.extra(x) if also else 0)

found, exchange = {}, Exchange()
for MODE, options in (("never", {}), ("sometimes", {"accumulate": 2}),
                      ("searched", {"find_unused_parameters": True})):
    Net.calls = 0
    learner = start(settings_of("ddp", **options), Net)
    before = flat(learner.module)
    try:
        found[MODE] = drive(learner, BLOCKS[rank], exchange).num_steps
    except Exception as error:
        found[MODE] = type(error).__name__ + ": " + str(error)
    found[MODE + " moved"] = flat(learner.module) != before
"""


def test_a_parameter_without_a_gradient_is_named_with_the_option(gloo) -> None:
    """DDP alone says so at the second step, with numbers in place of names."""
    for found in gloo(HEAD.format(folder=FOLDER) + UNUSED, workers=2):
        for mode in ("never", "sometimes"):
            assert found[mode].startswith("ModelError: 'extra.weight', 'extra.bias' had no part")
            assert "train.find_unused_parameters=true" in found[mode]
        assert not found["never moved"], "no step is taken on gradients that nobody averaged"
        assert found["searched"] == 8

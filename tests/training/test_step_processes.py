"""Two processes have the average of the weights of one, and compiled take the steps of one."""

from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.gloo, pytest.mark.slow]

SCRIPT = """
import sys, warnings
sys.path.insert(0, {folder!r})
warnings.simplefilter("ignore")  # the compiler's own
from test_parallel import B, Given, build, rows, squares
from torch._dynamo.utils import counters
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from raysb.schema import WEIGHT
from raysb.task import Task, inputs
from raysb.training.exchange import Exchange
from raysb.training.learner import Learner
from raysb.training.settings import Training

BLOCKS = [[rows(40), rows(24, 40)], [rows(13, 100), rows(0, 113), rows(30, 120)]]  # 64 and 43
exchange = Exchange()

def flat(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()]).tolist()

def fitted(**options):
    torch.manual_seed(0)
    training = Training(batch_size=B, num_workers=2, lr=.01, optimizer="adam", **options)
    task = Task(model=build, forward=inputs("x"), loss=squares)
    learner = Learner.build(task, build(), training, [torch.device("cpu")])
    stream = Given(BLOCKS[rank], exchange)
    for batch in stream.iter_batches(batch_size=B, epochs=1, model=learner.module):
        learner.step(stream, batch, 1.0)
    return learner

found = {{}}
found["average"] = flat(fitted(ema=.8).judged())
torch.manual_seed(0)
module = build()
average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(.8))
optimizer = torch.optim.Adam(module.parameters(), lr=.01)
wholes = [{{k: np.concatenate([b[k] for b in own]) for k in ("x", "y", WEIGHT)}} for own in BLOCKS]
for k in range(64 // B):
    t = {{n: torch.from_numpy(np.concatenate([w[n][k * B:k * B + B] for w in wholes]))
         for n in ("x", "y", WEIGHT)}}
    optimizer.zero_grad()
    ((squares(module(t["x"]), t) * t[WEIGHT]).sum() / len(t["y"])).backward()
    optimizer.step()
    average.update_parameters(module)
found["expected average"], found["expected"] = flat(average.module), flat(module)

for name, parts in (("compiled", 1), ("compiled, micro-batches", 4)):
    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch(error_on_recompile=True):
        found[name] = flat(fitted(compile=True, accumulate=parts).module)
    found["graphs of " + name] = counters["stats"]["unique_graphs"]
"""


@pytest.fixture(scope="module")
def both(gloo):
    return gloo(SCRIPT.format(folder=str(Path(__file__).parent)), workers=2)


def test_under_ddp_every_worker_has_the_average_of_one_process(both) -> None:
    for found in both:
        np.testing.assert_allclose(found["average"], found["expected average"], rtol=1e-6)
    assert both[0]["average"] == both[1]["average"]
    assert not np.allclose(both[0]["average"], both[0]["expected"], rtol=1e-3)


@pytest.mark.parametrize("name", ["compiled", "compiled, micro-batches"])
def test_a_compiled_step_under_ddp_is_that_of_one_process(both, name) -> None:
    for found in both:
        np.testing.assert_allclose(found[name], found["expected"], rtol=1e-6)
        assert found[f"graphs of {name}"] == 1

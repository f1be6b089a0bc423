"""Batches reach the device as they are; on a GPU beside what it computes."""

import numpy as np
import pytest
import torch

from raysb.task import inputs, to_tensors
from raysb.training.transfer import Transfer

BATCH = {
    "image": np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8),
    "label": np.arange(64),
    "weight": np.linspace(0, 1, 64, dtype=np.float32),
}


def test_on_a_cpu_nothing_is_copied() -> None:
    given = to_tensors(BATCH)
    moved = Transfer(torch.device("cpu"))(given)
    assert all(moved[name] is given[name] for name in given)


def test_images_travel_as_uint8_and_become_numbers_where_the_model_is() -> None:
    seen = []

    class Model(torch.nn.Module):
        def forward(self, images):
            seen.append(images)
            return images

    forward = inputs("image", mean=(0.5,) * 3, std=(0.25,) * 3)
    given = to_tensors(BATCH)
    assert given["image"].dtype == torch.uint8
    forward(Model(), Transfer(torch.device("cpu"))(given))
    expected = (BATCH["image"].transpose(0, 3, 1, 2) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(seen[0].numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
def test_a_batch_is_copied_while_the_gpu_computes_and_waited_for_on_the_gpu() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    transfer, busy = Transfer(device), torch.cuda.Event()
    first = transfer(to_tensors(BATCH))  # allocates
    torch.cuda.synchronize()
    torch.cuda._sleep(2_000_000_000)  # cycles, about a second
    busy.record()
    moved = transfer(to_tensors(BATCH))
    transfer.stream.synchronize()
    assert not busy.query()  # all is copied, and the GPU still computes
    sums = {name: tensor.double().sum() for name, tensor in moved.items()}
    for name, column in BATCH.items():
        assert float(sums[name]) == pytest.approx(float(column.sum(dtype=np.float64)))
        assert torch.equal(first[name].cpu(), torch.from_numpy(column))
        assert moved[name].dtype == torch.from_numpy(column).dtype


@pytest.mark.gpu
def test_memory_of_a_batch_is_not_given_to_the_next_before_it_is_used() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    transfer = Transfer(device)
    sums = []
    for value in range(20):
        batch = transfer({"x": torch.full((1 << 20,), float(value))})
        torch.cuda._sleep(20_000_000)
        sums.append(batch["x"].sum())
        del batch
    assert [float(total) / (1 << 20) for total in sums] == list(map(float, range(20)))

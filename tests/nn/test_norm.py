import pytest
import torch
from torch import nn

from raysb.nn.norm import has_batch_statistics, make_norm, num_groups


@pytest.mark.parametrize(
    ("channels", "groups"),
    [
        (1, 1),
        (3, 1),
        (8, 1),
        (12, 1),
        (16, 2),
        (20, 2),
        (32, 4),
        (64, 8),
        (72, 9),
        (100, 10),
        (128, 16),
        (256, 32),
        (512, 32),
        (640, 32),
        (1000, 25),
    ],
)
def test_num_groups_is_the_largest_divisor_that_leaves_eight_channels_a_group(channels, groups):
    assert num_groups(channels) == groups


@pytest.mark.parametrize("channels", range(1, 300))
def test_groups_divide_the_channels_and_none_is_smaller_than_eight(channels):
    groups = num_groups(channels)
    assert channels % groups == 0
    assert groups == 1 or (channels // groups >= 8 and groups <= 32)


def test_group_norm_of_a_row_does_not_depend_on_the_other_rows():
    x = torch.randn(6, 16, 5, 5)
    norm = make_norm("group", 16)
    torch.testing.assert_close(norm(x)[:2], norm(x[:2]), rtol=0, atol=1e-6)


def test_each_kind_gives_its_layer():
    assert isinstance(make_norm("group", 64), nn.GroupNorm)
    assert isinstance(make_norm("batch", 64), nn.BatchNorm2d)
    assert isinstance(make_norm("batch", 64, dims=0), nn.BatchNorm1d)
    assert isinstance(make_norm("none", 64), nn.Identity)


def test_an_unknown_kind_is_refused_with_the_key():
    with pytest.raises(ValueError, match=r"model\.norm='layer'.*'group', 'batch', 'none'"):
        make_norm("layer", 8)


def test_batch_statistics_are_found_wherever_they_hide():
    inner = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    model = nn.ModuleDict({"a": nn.GroupNorm(1, 4), "b": inner, "c": nn.SyncBatchNorm(4)})
    assert has_batch_statistics(model) == ["b.1", "c"]
    assert has_batch_statistics(nn.GroupNorm(1, 4)) == []

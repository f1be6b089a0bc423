"""Groups of channels: whatever units stay of one, what needs equally many gets equally many."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raysb.prune.groups import Constraint, find_groups


@st.composite
def nets(draw):
    """Layers whose outputs are channels of 0 to 7, and needs over some, often one several times."""
    one = st.integers(0, 7)
    layers = draw(st.lists(st.lists(one, min_size=1, max_size=8), min_size=1, max_size=3))
    rows, width = draw(st.integers(2, 3)), draw(st.integers(1, 4))
    need = st.lists(one, min_size=rows * width, max_size=rows * width)
    needs = draw(st.lists(need, max_size=2))
    stays = draw(st.sets(one, max_size=1))
    return layers, [torch.tensor(each).view(rows, width) for each in needs], stays


@settings(max_examples=300, deadline=None)
@given(net=nets(), data=st.data())
def test_whatever_units_stay_equally_many_do_where_it_is_needed(net, data) -> None:
    layers, needs, stays = net
    outputs = {str(i): torch.tensor(ids) for i, ids in enumerate(layers)}
    made = {one for ids in layers for one in ids}
    fixed = torch.tensor([one in stays or one not in made for one in range(8)])
    groups, _ = find_groups(outputs, [Constraint(each) for each in needs], fixed)
    scores = torch.tensor(data.draw(st.permutations(range(8)))).double()
    kept = torch.ones(8, dtype=torch.bool)
    for group in groups:
        left = data.draw(st.integers(1, group.num_units))
        for unit in group.ranked(scores)[left:]:
            kept[unit] = False
    assert kept[fixed].all()
    for each in needs:
        assert len(set(kept[each].sum(1).tolist())) == 1


def test_a_channel_that_a_layer_has_twice_is_no_equal_of_one_that_it_has_once() -> None:
    """So that each unit takes as many outputs of the layer, and its costs are linear in them."""
    groups, _ = find_groups({"a": torch.tensor([0, 0, 1, 2, 2, 3])}, [], torch.zeros(4) > 0)
    assert sorted(sorted(cell.tolist()) for g in groups for cell in g.cells) == [[0, 2], [1, 3]]


def test_channels_of_a_row_twice_and_once_are_not_ranked_together() -> None:
    need = Constraint(torch.tensor([[0, 0, 1], [2, 3, 3]]))
    (group,), _ = find_groups({"a": torch.arange(4)}, [need], torch.zeros(4) > 0)
    assert group.num_units == 1


def test_what_stays_fixes_all_that_must_be_as_many() -> None:
    need = Constraint(torch.arange(8).view(2, 4))
    stays = torch.tensor([True] + [False] * 7)
    groups, fixed = find_groups({"a": torch.arange(8)}, [need], stays)
    assert groups == ()
    assert fixed.all()

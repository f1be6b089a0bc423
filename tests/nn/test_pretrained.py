"""Weights of a file fit exactly, or the difference is named and what to do about it."""

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from torch import nn

from raysb.errors import ModelError
from raysb.nn.pretrained import load_weights, prepare
from raysb.nn.registry import MODELS, build_model
from raysb.nn.settings import Model


def net(classes=3, seed=0, name="cnn"):
    torch.manual_seed(seed)
    return build_model(Model(name=name), image_shape=(8, 8, 1), num_classes=classes)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_model(net(5, seed=9), str(path))
    return path


def test_a_head_of_another_size_is_refused_with_names_shapes_and_the_option(file) -> None:
    model = net(3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ModelError) as caught:
        load_weights(model, file)
    text = str(caught.value)
    assert "head.weight: [3, 128] in the model, [5, 128] in the file" in text
    assert "head.bias: [3] in the model, [5] in the file" in text
    assert "model.init_exclude=['head']" in text
    assert "stages" not in text
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("exclude", [["head"], ["head.*"], ["head.weight", "head.bias"]])
def test_what_is_excluded_stays_as_drawn_and_all_else_is_loaded(file, exclude) -> None:
    model, drawn, source = net(3), net(3).state_dict(), net(5, seed=9).state_dict()
    load_weights(model, file, exclude=exclude)
    for name, tensor in model.state_dict().items():
        expected = drawn if name.startswith("head") else source
        assert torch.equal(tensor, expected[name]), name


def test_names_on_one_side_only_are_told_and_those_of_the_file_can_be_passed_over(
    file, tmp_path
) -> None:
    with pytest.raises(ModelError, match=r"layers\.0\.weight: .* in the model, not in the file"):
        load_weights(net(name="mlp"), file)
    tensors = net(3, seed=9).state_dict()
    save_file({**tensors, "ema.decay": torch.ones(())}, tmp_path / "more.safetensors")
    with pytest.raises(ModelError, match=r"ema\.decay: \[\] in the file, not in the model"):
        load_weights(net(3), tmp_path / "more.safetensors")
    model = net(3)
    load_weights(model, tmp_path / "more.safetensors", exclude=["ema"])
    assert torch.equal(model.head.weight, tensors["head.weight"])


def test_a_long_list_of_differences_is_cut(file) -> None:
    with pytest.raises(ModelError, match=r"and \d+ more") as caught:
        load_weights(nn.Sequential(*(nn.Linear(2, 2) for _ in range(9))), file)
    assert len(str(caught.value).splitlines()) < 12


def test_an_exclusion_that_matches_nothing_or_everything_is_refused(file) -> None:
    with pytest.raises(ValueError, match=r"model\.init_exclude='heads': matches no part"):
        load_weights(net(5), file, exclude=["heads"])
    with pytest.raises(ValueError, match=r"nothing of .* would be loaded"):
        load_weights(net(5), file, exclude=["*"])


def test_half_precision_of_a_file_becomes_that_of_the_model(tmp_path) -> None:
    tensors = {k: v.bfloat16() for k, v in net(3, seed=9).state_dict().items()}
    save_file(tensors, tmp_path / "half.safetensors")
    model = net(3)
    load_weights(model, tmp_path / "half.safetensors")
    assert model.head.weight.dtype == torch.float32
    assert torch.equal(model.head.weight, tensors["head.weight"].float())


def test_tied_weights_are_in_the_file_once_under_either_name(tmp_path) -> None:
    def tied(seed):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    source = tied(1).state_dict()
    for dropped in ("0.weight", "1.weight"):
        kept = {k: v for k, v in source.items() if k != dropped}
        save_file(kept, tmp_path / "tied.safetensors")
        model = tied(2)
        load_weights(model, tmp_path / "tied.safetensors")
        assert torch.equal(model[0].weight, source["0.weight"])
        assert model[0].weight is model[1].weight


def test_prepare_loads_then_adapts_then_trains_only_what_is_left(file) -> None:
    settings = Model(
        init=str(file),
        init_exclude=("head",),
        adapter="lora",
        adapter_args={"rank": 2, "modules_to_save": ["head"]},
    )
    model = prepare(net(3), settings)
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    convs = {f"stages.{i}.0.lora.{ab}.weight" for i in range(3) for ab in "AB"}
    assert names == {"head.weight", "head.bias"} | convs
    assert torch.equal(model.stages[0][0].weight, net(5, seed=9).stages[0][0].weight)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"freeze": ["stagse"]}, r"^model\.freeze='stagse': matches no part"),
        ({"freeze": ["*"]}, r"^model\.freeze=.*freezes every parameter"),
        ({"adapter": "lora", "adapter_args": {"r": 2}}, r"^model\.adapter_args\.r=2:.*add_lora"),
        ({"adapter": "lora", "adapter_args": {"rank": 0}}, r"^model\.adapter_args\.rank=0: must"),
    ],
)
def test_what_cannot_be_prepared_is_refused_by_the_name_of_its_key(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(net(), Model(**settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init_exclude": ("head",)}, r"^model\.init_exclude=\('head',\): .*set model\.init"),
        ({"freeze": "stem"}, r"^model\.freeze='stem': must be a list"),
        ({"freeze": ("",)}, r"^model\.freeze=\('',\): every pattern"),
        ({"adapter": "prefix"}, r"^model\.adapter='prefix': must be one of lora, or none"),
        ({"adapter_args": {"rank": 2}}, r"^model\.adapter_args=.*set model\.adapter"),
        ({"adapter_args": [2]}, r"^model\.adapter_args=\[2\]: must be a table"),
        ({"adapter": "lora", "freeze": ("stem",)}, r"^model\.freeze=.*adapter freezes the whole"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Model(**settings)


def test_patterns_come_from_lists_of_a_file_as_tuples() -> None:
    assert Model(freeze=["a", "b"]).freeze == ("a", "b")


def started(settings, num_classes=2):
    model = build_model(settings, image_shape=(8, 8, 1), num_classes=num_classes)
    return prepare(model, settings)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_model_starts_from_the_weights_of_a_file(name, tmp_path):
    first = build_model(Model(name=name), image_shape=(8, 8, 1), num_classes=2)
    path = tmp_path / "weights.safetensors"
    save_file(first.state_dict(), path)
    second = started(Model(name=name, init=str(path)))
    for tensor, expected in zip(
        second.state_dict().values(), first.state_dict().values(), strict=True
    ):
        assert torch.equal(tensor, expected)


def test_weights_that_do_not_fit_are_refused_and_the_difference_is_named(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(build_model(Model(), image_shape=(8, 8, 1), num_classes=2).state_dict(), path)
    with pytest.raises(ModelError, match=r"(?s)model\.init=.*head\.weight"):
        started(Model(init=str(path)), num_classes=3)
    path.write_bytes(b"no weights")
    with pytest.raises(ModelError, match=r"model\.init="):
        started(Model(init=str(path)))
    with pytest.raises(FileNotFoundError, match=r"model\.init='nowhere"):
        started(Model(init="nowhere.safetensors"))


def converted(norm="batch", seed=0, **settings):
    torch.manual_seed(seed)
    model = Model(norm=norm, convert_norm=True, **settings)
    return prepare(build_model(model, image_shape=(8, 8, 1), num_classes=3), model)


@pytest.fixture
def batch_norm_file(tmp_path):
    torch.manual_seed(9)
    model = build_model(Model(norm="batch"), image_shape=(8, 8, 1), num_classes=3)
    save_model(model, str(tmp_path / "batch.safetensors"))
    return tmp_path / "batch.safetensors"


def test_a_converted_model_starts_from_the_file_of_the_one_with_batch_norm(batch_norm_file) -> None:
    tensors = load_file(batch_norm_file)
    assert "stages.0.2.running_mean" in tensors
    state = converted(init=str(batch_norm_file)).state_dict()
    assert state.keys() < tensors.keys()
    assert all(torch.equal(state[name], tensors[name]) for name in state)


def test_a_converted_model_starts_from_the_file_of_a_converted_one(tmp_path) -> None:
    source = converted(seed=9)
    save_model(source, str(tmp_path / "group.safetensors"))
    found = converted(init=str(tmp_path / "group.safetensors")).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in source.state_dict().items())


def test_without_convert_norm_statistics_too_many_are_refused(batch_norm_file) -> None:
    with pytest.raises(ModelError, match=r"running_mean: \[\d+\] in the file, not in the model"):
        started(Model(init=str(batch_norm_file)), num_classes=3)
    more = batch_norm_file.with_name("more.safetensors")
    save_file({**load_file(batch_norm_file), "stages.0.0.running_mean": torch.ones(1)}, more)
    with pytest.raises(ModelError, match=r"stages\.0\.0\.running_mean"):  # of no group norm
        converted(init=str(more))


@pytest.mark.parametrize("settings", [{"freeze": ("stages.0",)}, {"adapter": "lora"}])
def test_a_pretrained_batch_norm_that_is_frozen_is_not_converted_in_silence(
    batch_norm_file, settings
) -> None:
    with pytest.raises(ValueError, match=r"^model\.convert_norm=true: 'stages\.0\.2' is a batch"):
        converted(init=str(batch_norm_file), **settings)
    converted(**settings)  # nothing was trained with the batch norm

import pytest
import torch
from torch import nn

from raysb.errors import ModelError
from raysb.nn.norm import has_batch_statistics
from raysb.nn.registry import build_model
from raysb.nn.settings import Model


def test_an_import_path_is_called_with_the_arguments_only():
    settings = Model(name="torch.nn:Linear", args={"in_features": 3, "out_features": 2})
    model = build_model(settings, image_shape=(8, 8, 1), num_classes=10)
    assert isinstance(model, nn.Linear)
    assert model.weight.shape == (2, 3)


def test_an_unknown_name_names_the_nearest_right_one():
    with pytest.raises(
        ValueError, match=r"model\.name='resnet81': unknown; did you mean 'resnet18'"
    ):
        build_model(Model(name="resnet81"), image_shape=(8, 8, 1), num_classes=10)


def test_an_unknown_argument_names_the_allowed_ones():
    with pytest.raises(ValueError, match=r"model\.args\.hiden=.*did you mean 'hidden'"):
        build_model(Model(name="mlp", args={"hiden": [3]}), num_features=3, num_classes=10)


def test_an_argument_of_the_wrong_type_is_refused_with_its_key():
    with pytest.raises(ValueError, match=r"^model\.args=.*MLP says"):
        build_model(Model(name="mlp", args={"hidden": 3}), num_features=3, num_classes=10)


def test_an_import_path_that_builds_no_module_is_refused():
    with pytest.raises(ModelError, match=r"returned int, not a torch\.nn\.Module"):
        build_model(Model(name="builtins:int"))


def test_classes_of_the_settings_win_over_those_of_the_data():
    model = build_model(Model(name="mlp", num_classes=3), num_features=4, num_classes=10)
    assert model.head.out_features == 3


def test_missing_classes_are_asked_for():
    with pytest.raises(ValueError, match=r"model\.num_classes"):
        build_model(Model(), image_shape=(28, 28, 1))


@pytest.mark.parametrize("shape", [None, (7, 28, 1), (28,), (2, 8, 8, 1)])
def test_what_is_no_picture_is_refused_with_the_key_to_change(shape):
    with pytest.raises(ValueError, match=r"model\.name='cnn'.*data\."):
        build_model(Model(), image_shape=shape, num_classes=10)


def test_mlp_takes_pictures_as_rows_of_numbers():
    model = build_model(Model(name="mlp"), image_shape=(28, 28, 1), num_classes=10)
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 10)
    with pytest.raises(ValueError, match="number of features"):
        build_model(Model(name="mlp"), num_classes=10)


def test_the_norm_has_one_key_only():
    with pytest.raises(ValueError, match=r"model\.args\.norm='batch': is set by model\.norm"):
        build_model(Model(args={"norm": "batch"}), image_shape=(8, 8, 1), num_classes=2)


@pytest.mark.parametrize("name", ["cnn", "densenet100_12", "mlp", "resnet18", "wide_resnet28_2"])
def test_with_convert_norm_a_model_of_batch_norms_has_none(name):
    settings = Model(name=name, norm="batch", convert_norm=True)
    model = build_model(settings, image_shape=(8, 8, 1), num_classes=2)
    assert has_batch_statistics(model) == []
    assert any(isinstance(module, nn.GroupNorm) for module in model.modules())


def test_an_import_path_is_converted_too_also_where_it_is_a_batch_norm_itself():
    settings = Model(name="torch.nn:BatchNorm2d", args={"num_features": 16}, convert_norm=True)
    assert isinstance(build_model(settings), nn.GroupNorm)


def test_a_norm_that_cannot_be_converted_is_refused_with_the_key():
    args = {"num_features": 2}
    settings = Model(name="torch.nn:BatchNorm1d", args=args, convert_norm=True)
    with pytest.raises(ValueError, match=r"^model\.convert_norm=true: convert_norm\(\): cannot"):
        build_model(settings)


@pytest.mark.parametrize("given", [1, "true", None])
def test_convert_norm_is_true_or_false(given):
    with pytest.raises(TypeError, match=rf"^model\.convert_norm={given!r}: must be true or false"):
        Model(convert_norm=given)

"""The cost frontier: rows as its regimes promise, ratios as by hand, cells that are run once."""

import itertools
import json

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from raysb.config import load as load_config
from raysb.planning.advice import line, recommend
from raysb.planning.costs import Processors, RowCosts, Work
from raysb.planning.labels import Labels


@pytest.fixture(scope="module")
def rows(load):
    return load("frontier_rows")


@pytest.fixture(scope="module")
def fit(load):
    return load("frontier_fit")


@pytest.fixture(scope="module")
def digits():
    """3,000 pictures of noise, each its own, so that copies can be told by their likeness."""
    random = np.random.default_rng(0)
    image = np.zeros((3000, 28, 28, 1), np.uint8)
    image[:, 6:22, 6:22] = random.integers(0, 256, (3000, 16, 16, 1))
    return image, random.permutation(np.arange(3000) % 10)


# --- regimes --------------------------------------------------------------------------------------


def test_few_originals_of_all_classes_make_four_fifths_of_the_rows(rows, digits):
    made = rows.near_duplicates(*digits)
    counts = np.bincount(made.origin, minlength=3000)
    assert len(made) == 3000
    assert np.bincount(counts).tolist() == [3000 - 700, 600, *[0] * 22, 100]
    assert made.copied.mean() == 0.8
    assert np.bincount(digits[1][counts == 24]).tolist() == [10] * 10
    np.testing.assert_array_equal(made.label, digits[1][made.origin])


def test_rows_that_appear_once_are_unchanged_and_in_random_order(rows, digits):
    made = rows.near_duplicates(*digits)
    single = ~made.copied
    np.testing.assert_array_equal(made.image[single], digits[0][made.origin[single]])
    assert 0.15 < single[:1000].mean() < 0.25


def test_a_copy_is_its_original_moved_by_two_pixels_at_most(rows, digits):
    made = rows.near_duplicates(*digits)
    found = set()
    for row in np.flatnonzero(made.copied)[:300]:
        original = digits[0][made.origin[row], ..., 0].astype(float)
        copy = made.image[row, ..., 0].astype(float)
        alike = {
            (y, x): np.corrcoef(np.roll(original, (y, x), (0, 1)).ravel(), copy.ravel())[0, 1]
            for y in range(-4, 5)
            for x in range(-4, 5)
        }
        best = max(alike, key=alike.__getitem__)
        assert alike[best] > 0.9
        found.add(best)
    assert found == {(y, x) for y in range(-2, 3) for x in range(-2, 3)}


def test_no_two_near_copies_are_equal_so_removing_equal_rows_removes_nothing(rows, digits):
    made = rows.near_duplicates(*digits)
    assert len(np.unique(made.image.reshape(len(made), -1), axis=0)) == len(made)
    assert len(rows.without_equal_rows(made)) == len(made)
    twice = made.take(np.r_[np.arange(50), np.arange(20)])
    np.testing.assert_array_equal(rows.without_equal_rows(twice).origin, made.origin[:50])


def test_one_row_is_left_of_each_original(rows, digits):
    made = rows.one_of_each_original(rows.near_duplicates(*digits))
    assert len(made) == 700
    assert len(np.unique(made.origin)) == 700


def test_a_fifth_of_the_labels_is_wrong_evenly_among_the_other_nine_classes(rows, digits):
    right = rows.near_duplicates(*digits)
    made = rows.near_duplicates_wrong_labels(*digits)
    np.testing.assert_array_equal(made.image, right.image)
    np.testing.assert_array_equal(made.wrong, made.label != right.label)
    assert made.wrong.sum() == 600
    away = np.bincount((made.label - right.label)[made.wrong] % 10, minlength=10)
    # 600 over 9: 66.7 with a standard deviation of 7.7; 4.5 of them
    assert away[0] == 0
    assert np.abs(away[1:] - 600 / 9).max() < 35


def test_imbalanced_classes_shrink_by_a_constant_factor(rows, digits):
    made = rows.imbalanced(*digits)
    sizes = np.bincount(made.label)
    np.testing.assert_allclose(sizes, 300 * 0.05 ** (np.arange(10) / 9), atol=0.5)
    np.testing.assert_array_equal(made.label, digits[1][made.origin])


@pytest.mark.parametrize("regime", ["clean", "near_duplicates_wrong_labels", "imbalanced"])
def test_a_regime_is_the_same_at_every_call(rows, digits, regime):
    first, second = (rows.REGIMES[regime](*digits) for _ in range(2))
    for name in ("image", "label", "origin", "wrong"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_the_test_rows_are_the_real_ones_and_a_moved_copy_of_each(rows, digits):
    image, label = digits
    given = rows.Digits(image[:0], label[:0], image[:40], label[:40])
    pixels, labels = rows.test_rows(given)
    np.testing.assert_array_equal(pixels[:40], image[:40])
    np.testing.assert_array_equal(labels, np.r_[label[:40], label[:40]])
    assert (pixels[40:] != image[:40]).any(axis=(1, 2, 3)).all()


def test_moving_by_a_quarter_turn_and_whole_pixels_is_exact(rows):
    image = np.random.default_rng(0).integers(0, 256, (1, 28, 28, 1)).astype(np.uint8)
    turned = rows._moved(image, np.array([np.pi / 2]), np.zeros((1, 2)))[0, ..., 0]
    expected = [np.rot90(image[0, ..., 0], k) for k in (1, 3)]
    assert any(np.abs(turned.astype(int) - each).max() <= 1 for each in expected)
    shifted = rows._moved(image, np.zeros(1), np.array([[3.0, -2.0]]))[0, ..., 0]
    np.testing.assert_allclose(
        shifted[2:, :25].astype(int), image[0, :26, 3:, 0].astype(int), atol=1
    )


def test_rows_that_are_held_out_are_no_others_and_none_is_lost(rows, digits):
    made = rows.near_duplicates_wrong_labels(*digits)
    aside, rest = rows.hold_out(made, 0.1, 1)
    assert (len(aside), len(rest)) == (300, 2700)
    pictures = np.concatenate([part.image.reshape(len(part), -1) for part in (aside, rest)])
    assert len(np.unique(pictures, axis=0)) == 3000  # no two rows of `made` are equal
    again, other = (rows.hold_out(made, 0.1, seed)[0] for seed in (1, 2))
    np.testing.assert_array_equal(again.origin, aside.origin)
    assert (other.origin != aside.origin).any()


# --- ratios ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_the_fit_is_that_of_isotonic_regression(fit, seed):
    values = np.random.default_rng(seed).random(7).round(1)
    oracle = IsotonicRegression(increasing=False).fit_transform(np.arange(7), values)
    np.testing.assert_allclose(fit.decreasing(values), oracle, atol=1e-12)


def _runs(fit, cost, rows, error, seeds=5):
    return fit.Runs(*(np.tile(np.asarray(x, float), (seeds, 1)) for x in (cost, rows, error)))


def test_a_method_with_the_errors_of_uniform_at_half_the_cost_has_ratio_one_half(fit):
    error = [0.08, 0.06, 0.05, 0.04]
    uniform = _runs(fit, [1, 2, 3, 4], [1, 2, 3, 4], error)
    half = _runs(fit, [0.5, 1, 1.5, 2], [0.25, 0.5, 0.75, 1], error)
    for budget in (1, 2, 3):
        cost, rows = fit.ratios(half, uniform, budget)
        assert (cost.value, cost.low, cost.high) == pytest.approx((0.5, 0.5, 0.5))
        assert rows.value == pytest.approx(0.25)
    assert fit.ratios(uniform, uniform, -1)[0].value == 1


def test_between_budgets_the_frontier_is_a_straight_line(fit):
    uniform = _runs(fit, [1, 2, 3, 4], [1, 2, 3, 4], [0.08, 0.06, 0.05, 0.04])
    method = _runs(fit, [1, 2, 3, 4], [0.5, 1, 1.5, 2], [0.07, 0.05, 0.03, 0.02])
    cost, rows = fit.ratios(method, uniform, 3)
    assert cost.value == pytest.approx(2.5 / 4)
    assert rows.value == pytest.approx(1.25 / 4)


def test_an_error_that_is_never_reached_has_an_infinite_ratio(fit):
    uniform = _runs(fit, [1, 2], [1, 2], [0.08, 0.06])
    method = _runs(fit, [1, 2], [1, 2], [0.09, 0.07])
    assert fit.ratios(method, uniform, 1)[0].value == np.inf
    assert np.isfinite(fit.ratios(method, uniform, 0)[0].value)


def test_a_method_better_at_its_smallest_budget_counts_with_that_budget(fit):
    uniform = _runs(fit, [1, 2], [1, 2], [0.08, 0.06])
    method = _runs(fit, [1, 2], [0.5, 1], [0.01, 0.005])
    cost, rows = fit.ratios(method, uniform, 1)
    assert (cost.value, rows.value) == (0.5, 0.25)


def test_where_uniform_rises_again_its_earlier_cost_counts(fit):
    uniform = _runs(fit, [1, 2, 3], [1, 2, 3], [0.08, 0.05, 0.05])
    assert fit.ratios(uniform, uniform, 2)[0].value == 1
    method = _runs(fit, [1, 2, 3], [1, 2, 3], [0.08, 0.08, 0.05])
    assert fit.ratios(method, uniform, 2)[0].value == pytest.approx(1.5)


def test_the_interval_pairs_the_seeds(fit):
    """Seeds that are hard for both alike cancel: the ratio is 1 in every resample."""
    random = np.random.default_rng(0)
    error = np.array([0.08, 0.06, 0.05]) + random.normal(0, 0.01, (5, 1))
    grid = np.tile([1.0, 2.0, 3.0], (5, 1))
    runs = fit.Runs(grid, grid, error)
    cost, _ = fit.ratios(runs, runs, 2)
    assert (cost.low, cost.high) == (1, 1)


# --- cells ----------------------------------------------------------------------------------------


@pytest.fixture
def plan(load, tmp_path):
    cells, plans = load("frontier_cells"), load("frontier_plan")
    return plans.Plan(
        methods={"uniform": cells.Method("Uniform"), "sb": plans.METHODS["sb"]},
        regimes=["clean", "imbalanced"],
        seeds=[1, 2],
        budgets=[1.0, 2.0],
        setup=cells.Setup(None, 600, 0.25),
        folder=tmp_path,
    )


def _finish(load, plan, cell, **found):
    cells = load("frontier_cells")
    wanted = cells.settings(cell, plan.methods[cell.method], plan.setup)
    record = {"settings": wanted, "error": 0.1, "cost": cell.cost, "num_backpropped": 60}
    cells.write(plan.folder / cell.file, {**record, "unit_rows": 60, **found})


def test_all_learning_rates_are_tuned_first_then_seed_by_seed_over_all_methods(load, plan):
    order = []
    while (cell := plan.next(set())) is not None:
        _finish(load, plan, cell, error=0.1 + abs(cell.lr - 0.05))
        order.append(cell)
    assert [cell.seed for cell in order] == [0] * 12 + [1] * 8 + [2] * 8
    assert {cell.lr for cell in order[12:]} == {0.05}
    for start in range(12, 28, 2):  # the two methods of a pair follow one another
        first, second = order[start : start + 2]
        assert (first.regime, first.cost) == (second.regime, second.cost)
    assert plan.cost_left() == 0


def test_a_cell_whose_learning_rate_is_not_known_waits(load, plan):
    waiting = set(plan.tuning())
    assert plan.next(waiting) is None
    for cell in plan.tuning():
        if (cell.regime, cell.method) == ("imbalanced", "sb"):
            _finish(load, plan, cell)
            plan._take(cell)
    found = plan.next(waiting)
    assert (found.regime, found.method, found.seed) == ("imbalanced", "sb", 1)


def test_a_cell_of_other_settings_is_not_taken_over(load, plan):
    cells = load("frontier_cells")
    cell = plan.tuning()[0]
    _finish(load, plan, cell)
    method, path = plan.methods[cell.method], plan.folder / cell.file
    assert cells.read(path, cells.settings(cell, method, plan.setup))["error"] == 0.1
    for setup in (cells.Setup(None, 600, 0.3), cells.Setup(None, 500, 0.25)):
        assert cells.read(path, cells.settings(cell, method, setup)) is None
    other = cells.Method("SelectiveBackprop", {"beta": 3.0})
    assert cells.read(path, cells.settings(cell, other, plan.setup)) is None


def test_ratios_take_only_seeds_that_both_have_finished_and_the_rest_prints_as_a_dash(load, plan):
    report = load("frontier_report")
    for cell in plan.tuning():
        _finish(load, plan, cell)
    plan.load()
    for cell in plan.figures():
        if cell.seed == 1 and cell.regime == "clean":
            _finish(load, plan, cell, error=0.2 / cell.cost, num_backpropped=60 * cell.cost)
    plan.load()
    lines = report.comparisons(plan)
    assert {tuple(x["seeds"]) for x in lines if x["regime"] == "clean"} == {(1,)}
    assert all(x["cost"] is None for x in lines if x["regime"] == "imbalanced")
    last = report._ratio_table(plan, "frontier").splitlines()[-1]
    assert last.split(" | ")[4:] == ["-", "-", "0 |"]
    assert all(x["cost"].value == 1 for x in lines if x["regime"] == "clean")


# --- one cell -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["uniform", "sb"])
def test_a_cell_ends_when_its_cost_is_spent(load, name):
    cells, plans = load("frontier_cells"), load("frontier_plan")
    setup = cells.Setup(None, 1200, 0.25)
    cell = cells.Cell("near_duplicates_wrong_labels", name, 1.0, 1, 0.05)
    found = cells.run(cell, plans.METHODS[name], setup)
    paid = (found["num_backpropped"] + 0.25 * found["num_scored"]) / found["unit_rows"]
    assert found["cost"] == pytest.approx(paid)
    assert 1 <= paid < 1 + 2 * (64 + 0.25 * 256) / 1200
    assert found["stopped_by"] == "train.max_cost=1"
    assert (found["num_scored"] == 0) == (name == "uniform")
    assert found["wrong_rows"] == pytest.approx(0.2, abs=1e-3)
    if name == "uniform":  # one epoch trains every row once
        assert found["wrong_trained"] == pytest.approx(0.2, abs=0.01)
    assert 0 < found["error"] < 1
    assert found["error"] == pytest.approx((found["error_real"] + found["error_moved"]) / 2)
    assert found["worst_class_error"] > found["error"]


def test_a_model_of_held_out_rows_and_one_scoring_of_the_others_are_paid_from_the_budget(load):
    cells, plans = load("frontier_cells"), load("frontier_plan")
    setup, r, unit = cells.Setup(None, 1200, 0.25), 0.25, 1200
    cell = cells.Cell("near_duplicates_wrong_labels", "reducible_loss_half", 2.0, 1, 0.05)
    method = plans.METHODS[cell.method]
    found = cells.run(cell, method, setup)
    paid = (found["num_backpropped"] + r * found["num_scored"]) / found["unit_rows"]
    assert found["cost"] == pytest.approx(paid)
    assert 2 <= paid < 2 + 2 * (64 + r * 256) / unit
    held, once = 0.2 * 2.0, r * 0.9  # a tenth of the rows trains the model, the rest is scored
    passes = (2 - held - once) / (0.9 * (r + 0.5))  # of the rest, each scored, half of them trained
    assert found["passes"] == pytest.approx(passes, abs=2 * 320 / 1080)
    assert found["kept_fraction"] == pytest.approx(0.5, abs=0.05)


def test_losses_beyond_those_of_a_held_out_model_leave_wrong_labels_out(load):
    """Of 4,000 digits: by the loss alone wrong labels come first, beyond the other model's last."""
    cells, plans = load("frontier_cells"), load("frontier_plan")
    found = {}
    for name in ("highest_k", "reducible_loss_half"):
        cell = cells.Cell("near_duplicates_wrong_labels", name, 3.0, 1, 0.05)
        found[name] = cells.run(cell, plans.METHODS[name], cells.Setup(None, None, 0.25))
    assert found["highest_k"]["wrong_trained"] > 0.25
    assert found["reducible_loss_half"]["wrong_trained"] < 0.2


def test_cells_of_methods_without_what_came_later_stay_valid(load):
    cells, plans = load("frontier_cells"), load("frontier_plan")
    cell, setup = cells.Cell("clean", "sb", 2.0, 1, 0.05), cells.Setup(None, None, 0.25)
    known = cells.settings(cell, plans.METHODS["sb"], setup)
    names = "regime method cost seed lr data limit scoring_cost selector scoring rows"
    assert list(known) == names.split()
    others = [cells.Method("ConfidenceBand", adjust={"class_floor": x}) for x in (0.1, 0.5)]
    others += [cells.Method("ReducibleLoss", holdout=cells.Holdout(rows=x)) for x in (0.1, 0.2)]
    found = [cells.settings(cell, method, setup) for method in others]
    assert all(one != other for one, other in itertools.combinations(found, 2))


def test_what_the_plan_names_where_a_fifth_of_the_labels_is_wrong_is_among_the_methods(load):
    methods = load("frontier_plan").METHODS.values()
    measured = {(repr(m.build()), m.adjust.get("class_floor", 0.0)) for m in methods}
    costs = RowCosts(read=0.05, score=0.3, train=1.0)
    plain = {"": line("sb", [Work(kept=0.5)], costs, Processors(scorers=1, trainers=1), 1000)}
    for flags in recommend(plain, Labels(finding="wrong", share=0.2), costs).others:
        config = load_config(None, flags.split())
        assert (repr(config.selector), config.adjust.class_floor) in measured


def test_fewer_rows_are_charged_in_epochs_of_all_of_them(load):
    cells, plans = load("frontier_cells"), load("frontier_plan")
    cell = cells.Cell("near_duplicates", "uniform_originals", 0.5, 1, 0.05)
    found = cells.run(cell, plans.METHODS["uniform_originals"], cells.Setup(None, 1200, 0.25))
    assert (found["num_rows"], found["unit_rows"]) == (280, 1200)
    assert found["num_backpropped"] == pytest.approx(600, abs=64)
    assert found["passes"] == pytest.approx(600 / 280, abs=0.3)


def test_the_learning_rate_is_flat_then_linear_to_zero(load):
    cells = load("frontier_cells")
    cell = cells.Cell("clean", "uniform", 2.0, 1, 0.05)
    setup = cells.Setup(None, None, 0.25, 0.1)
    half = cells.Method("SelectiveBackprop", scoring={"image_scale": 0.5})
    assert cells.training_of(cell, half, setup, 9).scoring_cost == 0.1
    training = cells.training_of(cell, cells.Method("Uniform"), setup, 9)
    assert training.scoring_cost == 0.25
    budget = cells.PlateauThenLinear(training=training, rows_per_epoch=10)
    assert [budget.factor(x) for x in (0, 0.5, 0.7)] == [1, 1, 1]
    assert budget.factor(0.85) == pytest.approx(0.5)
    assert budget.factor(1.0) == 0


def test_expected_figures_are_there_for_every_line_of_the_headline(load):
    expected = load("frontier_report").read_expected("frontier")
    main = load("frontier")
    for regime in main.HEADLINE_REGIMES:
        for method in main.HEADLINE[1:]:
            for at in ("2", "3", "4"):
                cost, rows = expected[regime, method, at]
                assert " to " in cost
                assert " to " in rows


def test_an_interrupted_benchmark_goes_on_and_writes_its_record(load, tmp_path):
    """Cells in processes of their own; whoever comes after finds them and adds nothing."""
    plans = load("frontier_plan")
    plan = plans.Plan(
        methods={"uniform": plans.METHODS["uniform"]},
        regimes=["clean"],
        seeds=[1],
        budgets=[1.0],
        setup=load("frontier_cells").Setup(None, 600, 0.25),
        folder=tmp_path,
    )
    load("frontier").run(plan, 2)
    files = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    assert len(files) == 4
    assert not list(tmp_path.glob("*.draft"))
    again = plans.Plan(**{**vars(plan), "done": {}})
    again.load()
    assert again.next(set()) is None
    paths = load("frontier_report").report(
        again,
        {"ratio": 0.25, "score_s": 1e-5, "train_s": 4e-5},
        tmp_path / "out",
        name="frontier",
        quick=True,
    )
    record = json.loads(paths[0].read_text())
    assert len(record["cells"]) == 1
    assert len(record["tuning"]) == 3
    assert "| uniform | 1 | 1.0" in paths[1].read_text()
    assert paths[2].stat().st_size > 10_000
    assert files == {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.json")}

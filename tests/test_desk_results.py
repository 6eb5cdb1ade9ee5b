"""What the specifications of the methods say must hold at desk scale, asserted on the committed tables.

The tables are the output of the last run of all methods with all seeds that reports/ claims (`report_seeds` in
config/desk.yaml); other runs leave them alone, and no statement here is made of fewer seeds. What the papers leave open is
not asserted.
"""

import pandas as pd
import pytest

from compressbench.plan import Plan
from compressbench.reporting import SEEDS
from compressbench.reporting.collect import AT
from compressbench.reporting.readers import COSTS
from compressbench.reporting.run_files import STAGES
from compressbench.reporting.seeds import read_seeds
from compressbench.reporting.statistics import t_interval
from tests.conftest import ROOT

TABLES = ROOT / "reports/tables"
CLAIMED = Plan(ROOT, "desk").scale.report_seeds
PENDING = {"photograph_crops/efficientnet_lite0"}  # pairs declared since the last run of all methods
PENDING_SETTINGS = {"n4_p75_w8a8", "n16_p75_w8a8"}  # and settings
QUALITIES = dict.fromkeys(("quality.top1", "quality.psnr", "quality.agreement"), "quality")
NOT_BY_SEED = {"switch_ms", "reload_ms", "block_sums_rank_correlation"}  # measured times, and what follows from them


@pytest.fixture(scope="module")
def quality() -> pd.Series:
    """Mean quality by (method, setting), of those that run on one pair only."""
    frames = [pd.read_csv(path) for path in TABLES.glob("comparison_*.csv")]
    table = pd.concat(frames).query("method != 'dense'").drop_duplicates(["method", "setting"], keep=False)
    return table.set_index(["method", "setting"]).quality


@pytest.fixture(scope="module")
def dense() -> pd.Series:
    """Mean quality of the shared dense model by 'dataset_model', where one is trained."""
    tables = {p.stem.removeprefix("comparison_"): pd.read_csv(p) for p in TABLES.glob("comparison_*.csv")}
    trained = {name: t[(t.method == "dense") & (t.setting == "checkpoint")].quality for name, t in tables.items()}
    return pd.Series({name: quality.item() for name, quality in trained.items() if len(quality)})


@pytest.fixture(scope="module")
def records() -> pd.Series:
    """Mean of every recorded number by (method, setting, name)."""
    return pd.read_csv(TABLES / "records.csv").set_index(["method", "setting", "name"])["mean"]


@pytest.fixture(scope="module")
def seeds() -> pd.DataFrame:
    """Every single seed's numbers, with `at`: the setting as the other tables have it."""
    table = read_seeds(ROOT / "reports" / SEEDS)
    return table.assign(at=table.setting.where(table.point == "", table.setting + AT + table.point))


def test_nothing_is_missing_and_every_mean_is_of_all_claimed_seeds() -> None:
    assert "nothing is missing" in (TABLES / "missing.md").read_text(encoding="utf-8").lower()
    for path in TABLES.glob("comparison_*.csv"):
        assert (pd.read_csv(path).n == len(CLAIMED)).all(), path.name


def test_every_run_of_all_claimed_seeds_is_committed(seeds: pd.DataFrame) -> None:
    runs = ["dataset", "model", "method", "setting", "seed"]
    qualities = seeds[seeds.name.isin(QUALITIES)]
    expected = [
        run
        for run in Plan(ROOT, "desk", seeds=CLAIMED).runs
        if run.pair not in PENDING and run.setting not in PENDING_SETTINGS
    ]
    planned = {tuple(getattr(run, key) for key in runs) for run in expected}
    assert set(qualities[runs].itertuples(index=False, name=None)) == planned
    measured = qualities[qualities.name != "quality.agreement"]  # which is 100 % of the float network itself
    assert measured.value.between(0, 100, inclusive="neither").all()


def test_comparison_tables_are_the_means_of_the_single_seeds(seeds: pd.DataFrame) -> None:
    names = seeds.name.replace(QUALITIES)
    columns = ["quality", *COSTS]
    wide = seeds.assign(name=names)[names.isin(columns)]
    compared = 0
    for (dataset, model), own in wide.groupby(["dataset", "model"]):
        table = pd.read_csv(TABLES / f"comparison_{dataset}_{model}.csv").set_index(["method", "setting"])
        # one stored file of several operating points is no row of this table
        own = own[[key in table.index for key in zip(own.method, own["at"], strict=True)]]
        for (method, setting, name), part in own.groupby(["method", "at", "name"]):
            mean, low, high, n = t_interval(part.value)
            row = table.loc[method, setting]
            assert n == len(CLAIMED) and row[name] == pytest.approx(mean, rel=1e-9)
            if name == "quality":
                assert (row.quality_low, row.quality_high) == pytest.approx((low, high), rel=1e-9)
                compared += 1
        assert set(zip(own.method, own["at"], strict=True)) == set(table.index)
    assert compared == sum(len(pd.read_csv(path)) for path in TABLES.glob("comparison_*.csv"))


def test_records_are_the_means_of_the_single_seeds(seeds: pd.DataFrame) -> None:
    key = ["dataset", "model", "method", "setting", "name"]
    table = pd.read_csv(TABLES / "records.csv").set_index(key)["mean"]
    stage = seeds.name.str.partition(".")[0]
    single = seeds[stage.isin(STAGES)].assign(name=seeds.name.str.partition(".")[2])
    points = seeds[seeds.point != ""][key[:-1]].drop_duplicates()
    stored = seeds[(seeds.name == "stored_bytes") & (seeds.point == "")].merge(points, on=key[:-1])
    single = pd.concat([single, stored.assign(name="stored_bytes_of_all_points")])
    means = single.groupby(key).value.mean()
    by_seed = table[~table.index.get_level_values("name").isin(NOT_BY_SEED)]
    pd.testing.assert_series_equal(means.sort_index(), by_seed.sort_index(), check_names=False, rtol=1e-9)


def test_settings_that_share_a_latency_have_networks_of_the_same_size() -> None:
    plan, checked = Plan(ROOT, "desk", seeds=[0]), 0
    for run, timed in plan.timed.items():
        table = pd.read_csv(TABLES / f"comparison_{run.dataset}_{run.model}.csv").set_index(["method", "setting"])
        if run != timed:
            sizes = table.loc[[(run.method, run.setting), (timed.method, timed.setting)]]
            assert (sizes[["params", "macs", "kept_weights", "stored_bytes"]].nunique() == 1).all(), run.name
            checked += 1
    assert checked > 20


def test_optg_is_far_above_random_masks_at_98_percent(quality: pd.Series) -> None:
    assert quality["optg", "p98"] >= quality["random", "p98"] + 10


def test_reranking_changes_optg_by_less_than_two_points(records: pd.Series) -> None:
    for setting in ("p95", "p98"):
        last, again = (records["optg", setting, f"validation_top1_{name}"] for name in ("last_masks", "reranked"))
        assert abs(last - again) < 2


SPARSITIES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p98": 0.98}


@pytest.fixture(scope="module")
def sparse() -> pd.DataFrame:
    return pd.read_csv(TABLES / "comparison_fashion_mnist_resnet_mini.csv")


@pytest.mark.parametrize(("setting", "sparsity"), SPARSITIES.items())
def test_unstructured_methods_keep_exactly_as_many_weights(sparse: pd.DataFrame, setting: str, sparsity: float) -> None:
    table = sparse[sparse.setting.isin([setting, f"global_{setting}"])].set_index("method")
    assert set(table.index) == {
        "optg", "lottery_jackpots", "gradual_magnitude", "magnitude", "random", "rigl", "snip",
    }  # fmt: skip
    weights, classifier = 74512, 640  # Lottery Jackpots leaves the classifier dense
    jackpot = int((weights - classifier) * (1 - sparsity)) + classifier
    assert abs(table.kept_weights["lottery_jackpots"] - jackpot) <= 1
    for row in table.drop(index="lottery_jackpots").itertuples():
        # OptG keeps floor(N (1 - P)); the global baselines N - floor(P N); layer-wise ones that by layer (8 layers)
        assert int(weights * (1 - sparsity)) <= row.kept_weights <= weights - int(weights * sparsity) + 8


def test_a_jackpot_is_found_without_a_change_of_any_weight(quality: pd.Series, dense: pd.Series) -> None:
    jackpot = quality["lottery_jackpots", "p90"]
    assert jackpot >= quality["lottery_jackpots", "no_search_p90"] + 10
    assert quality["lottery_jackpots", "no_search_p90"] > quality["lottery_jackpots", "random_mask_p90"]
    assert jackpot >= dense["fashion_mnist_resnet_mini"] - 6
    assert jackpot > quality["lottery_jackpots", "random_weights_p90"]


def test_a_search_from_random_masks_turns_towards_large_weights(records: pd.Series) -> None:
    found, chance = (
        records["lottery_jackpots", "random_start_p90", f"magnitude_overlap{name}"] for name in ("", "_by_chance")
    )
    assert found >= 1.5 * chance


def test_a_search_from_magnitude_masks_is_cheaper() -> None:
    """Steps until the validation first reaches the qualities that both reach."""
    table = pd.read_csv(TABLES / "time_to_quality_fashion_mnist_resnet_mini.csv").set_index(["method", "setting"])
    steps = table.filter(like="behind_")
    magnitude, scattered = (steps.loc[("lottery_jackpots", setting)] for setting in ("p90", "random_start_p90"))
    both = magnitude.notna() & scattered.notna()
    assert both.any() and (magnitude[both] < scattered[both]).all()


def test_subp_keeps_its_rows_equal_and_stays_below_the_dense_network_of_its_budget() -> None:
    table = pd.read_csv(TABLES / "records.csv").query("method == 'subp' and name == 'imbalance'")
    assert len(table) == 11 and (table["mean"] == 1).all()
    for model in ("resnet_mini", "plain_mini"):
        own = pd.read_csv(TABLES / f"comparison_fashion_mnist_{model}.csv").query("method == 'subp'")
        assert (own.against == "Dense, whole budget").all() and (own.change < 0).all()


def test_larger_blocks_cost_more_at_90_percent() -> None:
    table = pd.read_csv(TABLES / "comparison_fashion_mnist_plain_mini.csv")
    quality = table.set_index(["method", "setting"]).quality
    chain = [
        ("magnitude", "inner_layerwise_p90"),
        ("one_by_n", "n4_p90"),
        ("one_by_n", "n16_p90"),
        ("l1_filter", "masked_p90"),
    ]
    values = [quality[key] for key in chain]
    assert values == sorted(values, reverse=True)


def test_intraq_at_4_bits_stays_within_three_points_of_full_precision(quality: pd.Series, dense: pd.Series) -> None:
    assert quality["intraq", "w4a4"] >= dense["fashion_mnist_resnet8"] - 3


def test_synthetic_images_of_intraq_are_diverse_inside_a_class(records: pd.Series) -> None:
    ours = records["intraq", "w4a4", "intra_class_distance"]
    assert ours >= 2 * records["intraq", "w4a4_bn_ce", "intra_class_distance"]
    assert ours <= 1.3 * records["intraq", "w4a4", "intra_class_distance_real"]
    assert records["intraq", "w4a4", "teacher_accuracy"] >= 95


@pytest.mark.parametrize("bits", [3, 4])
def test_dual_bounds_beat_symmetric_ranges(quality: pd.Series, bits: int) -> None:
    """At 2 bits MinMax rounds nearly all weights of the body to 0, and compares with nothing: see methods/ddtb/README.md."""
    assert quality["ddtb", f"ptq_w{bits}a{bits}"] >= quality["minmax_sr", f"ptq_w{bits}a{bits}"] + 0.7
    assert quality["ddtb", f"w{bits}a{bits}"] >= quality["minmax_sr", f"qat_w{bits}a{bits}"] + 0.7


def test_more_bits_are_better_and_training_helps_ddtb(quality: pd.Series, dense: pd.Series) -> None:
    trained = [quality["ddtb", s] for s in ("w2a2", "w3a3", "w4a4")]
    assert trained == sorted(trained)
    assert trained[-1] < dense["photographs_edsr_mini"]
    for bits, value in zip((2, 3, 4), trained, strict=True):
        assert value > quality["ddtb", f"ptq_w{bits}a{bits}"]


def test_fdda_recovers_what_its_quantizer_loses(quality: pd.Series, dense: pd.Series) -> None:
    """The order of FDDA, of the network-wide loss alone and of the calibration images alone is within noise."""
    assert quality["fdda", "w3a3"] >= quality["fdda", "w3a3_quantizer"] + 3
    assert quality["fdda", "w3a3"] >= dense["fashion_mnist_resnet8"] - 3


def test_class_centres_tell_classes_apart_and_pull_the_generator(records: pd.Series) -> None:
    ours, without = records["fdda", "w4a4"], records["fdda", "w3a3_global"]
    assert ours["centre_distance_own"] < ours["centre_distance_other"] / 2
    assert ours["centre_distance_generated"] < without["centre_distance_generated"]
    assert ours["one_class_accuracy"] > without["one_class_accuracy"]


@pytest.fixture(scope="module")
def data_free() -> pd.Series:
    return pd.read_csv(TABLES / "comparison_fashion_mnist_resnet14_conv.csv").set_index(["method", "setting"]).quality


def test_udfc_is_far_above_pruning_without_compensation(data_free: pd.Series) -> None:
    """That it beats Neuron Merging does not show here: see methods/udfc/README.md."""
    assert data_free["udfc", "p30_w6"] >= data_free["udfc", "naive_p30_w6"] + 20
    assert data_free["udfc", "p30_w6"] >= data_free["udfc", "means_p30_w6"] + 5
    assert data_free["udfc", "data_p30_w6"] > data_free["udfc", "p30_w6"]  # the upper bound, which sees data


def test_df_mpc_lives_on_the_batch_norms(data_free: pd.Series) -> None:
    ours = data_free["df_mpc"]
    assert ours["w2_6"] >= ours["direct_w2_6"] + 15
    assert ours["w2_6"] >= data_free["dense", "checkpoint"] - 6
    assert abs(ours["c_w2_6"] - ours["direct_w2_6"]) < 3  # c without any step on the batch norms does not help
    assert abs(ours["w2_6"] - ours["norms_w2_6"]) < 3  # nor does it with both
    assert ours["norm_c_w2_6"] < ours["norm_w2_6"]  # the variance of the next batch norm makes c harmless


def test_the_closed_forms_take_less_than_a_second() -> None:
    table = pd.read_csv(TABLES / "comparison_fashion_mnist_resnet14_conv.csv").query("method != 'dense'")
    assert (table.seconds < 2).all() and table[~table.setting.str.startswith("data_")].seconds.max() < 1


FILTERS = {"vgg_mini": ("m50", "m75"), "resnet14": ("m50", "m65")}


def filter_table(model: str) -> pd.DataFrame:
    return pd.read_csv(TABLES / f"comparison_fashion_mnist_{model}.csv").query("method != 'dense'")


@pytest.mark.parametrize("model", FILTERS)
def test_filter_methods_meet_at_the_same_arithmetic(model: str) -> None:
    """A ranking removes whole filters at once, and the vote whole steps of the keep rate: never less than asked."""
    table = filter_table(model)
    for level in FILTERS[model]:
        cuts = table[table.level == level].macs_reduction
        assert {"clr_rnf", "dcff", "white_box", "l1_filter"} <= set(table[table.level == level].method)
        asked = int(level[1:]) / 100
        assert (cuts >= asked - 0.005).all() and (cuts <= asked + 0.035).all()


@pytest.mark.parametrize("model", FILTERS)
def test_the_controls_of_the_filter_methods_are_all_there(model: str) -> None:
    table, level = filter_table(model), FILTERS[model][1]
    settings = table[table.level == level].groupby("method").setting.agg(set)
    prefix = "residual_" if model == "resnet14" else ""
    assert {f"{prefix}{c}_{level}" for c in ("l1", "random", "scratch")} <= settings["clr_rnf"]
    assert {f"{c}_{level}" for c in ("random", "scratch")} <= settings["white_box"] & settings["l1_filter"]
    assert f"random_{level}" in settings["dcff"]


def test_costs_in_the_ranking_remove_arithmetic(records: pd.Series) -> None:
    """Of the plain network at the milder ratio; elsewhere they do not: see methods/clr_rnf/README.md."""
    assert records["clr_rnf", "m50", "macs_reduction"] > records["clr_rnf", "m50", "macs_reduction_without_costs"]


def test_reciprocal_filters_are_small_and_l1_filters_large(records: pd.Series) -> None:
    for prefix, level in (("", "m75"), ("residual_", "m65")):
        ours, l1 = (records["clr_rnf", f"{prefix}{name}{level}", "kept_norm"] for name in ("", "l1_"))
        assert ours < 1 < l1


def test_inherited_weights_beat_scratch_for_as_long_as_fine_tuning(quality: pd.Series) -> None:
    assert quality["clr_rnf", "l1_m75"] >= quality["clr_rnf", "short_scratch_m75"]


def test_the_selection_of_dcff_is_frozen_as_published_and_alive_when_annealed() -> None:
    table = pd.read_csv(TABLES / "records.csv").query("method == 'dcff'")
    by_model = table.set_index(["model", "setting", "name"])["mean"]
    for model, levels in FILTERS.items():
        for level in levels:
            layers = by_model[model, level, "fused_layers"]
            assert by_model[model, level, "finite_scores_epoch0"] == layers
            assert by_model[model, level, "finite_scores_later"] == 0
            assert by_model[model, level, "overlap_min"] == 1
        assert by_model[model, f"anneal_{levels[1]}", "finite_scores_later"] > 0
        assert by_model[model, f"anneal_{levels[1]}", "overlap_min"] < 1


def test_class_masks_answer_to_the_labels_that_they_are_told() -> None:
    table = pd.read_csv(TABLES / "records.csv").query("method == 'white_box'")
    by_model = table.set_index(["model", "setting", "name"])["mean"]
    for model, levels in FILTERS.items():
        for level in levels:
            told = {which: by_model[model, level, f"class_top1_told_{which}"] for which in ("true", "wrong")}
            assert told["true"] > told["wrong"]


@pytest.mark.parametrize("model", FILTERS)
def test_no_run_of_white_box_ends_at_chance(model: str) -> None:
    table = filter_table(model).query("method == 'white_box'")
    assert len(table) == 5 and (table.quality > 20).all()


def test_recu_and_siman_are_far_above_plain_signs(quality: pd.Series, dense: pd.Series) -> None:
    """That the clamp of ReCU helps does not show: without it the same network is as good."""
    for method in ("recu", "siman"):
        assert quality[method, "w1a1"] >= quality["bnn", "w1a1"] + 2
        assert quality[method, "w1a1"] < dense["fashion_mnist_binary_resnet8"]
    table = pd.read_csv(TABLES / "comparison_fashion_mnist_binary_resnet8.csv").set_index("method")
    assert table.stored_bytes["siman"] < table.stored_bytes["dense"] / 15


def test_distillation_leaves_the_network_as_it_is() -> None:
    """No order of the methods is asserted: FFSD is below the network alone, see methods/ffsd/README.md."""
    table = pd.read_csv(TABLES / "comparison_fashion_mnist_resnet8_thin.csv")
    assert set(table.method) == {"ffsd", "mutual_learning", "knowledge_distillation", "longer_training", "dense"}
    assert (table[["params", "macs", "stored_bytes"]].nunique() == 1).all() and (table.quality > 80).all()


@pytest.fixture(scope="module")
def coarse_to_fine() -> pd.DataFrame:
    table = pd.read_csv(TABLES / "comparison_fashion_mnist_vit_mini.csv").query("method == 'cf_vit'")
    return table.set_index(table.setting.str.removeprefix("alpha50@"))


def test_the_second_look_pays_where_the_first_is_unsure(coarse_to_fine: pd.DataFrame, records: pd.Series) -> None:
    """Below a plain coarse transformer all the same: see methods/cf_vit/README.md."""
    quality, macs = coarse_to_fine.quality, coarse_to_fine.macs
    assert (macs["coarse"], macs["both"]) == (2_987_264, 11_108_864)
    assert quality["both"] > quality["coarse"] + 0.5
    assert quality["t70"] > quality["both"] - 0.5 and macs["t70"] < 0.75 * macs["both"]
    for point in ("t50", "t60", "t70"):
        share = (macs[point] - macs["coarse"]) / (macs["both"] - macs["coarse"])
        assert quality[point] > quality["coarse"] + share * (quality["both"] - quality["coarse"])  # exits at random
    top, random, low = (
        records["cf_vit", "alpha50", f"{regions}_regions_top1"] for regions in ("top", "random", "lowest")
    )
    assert top > random + 2 > low + 6


def test_priorities_beat_uniform_sampling_and_one_checkpoint_costs_accuracy(records: pd.Series) -> None:
    table = pd.read_csv(TABLES / "comparison_fashion_mnist_mobilenet_tiny.csv")
    table = table.join(table.setting.str.extract(r"(?P<kind>\w+)@(?P<point>\w+)")).set_index(
        ["method", "kind", "point"]
    )
    ours, uniform, alone = (table.quality[m, "small"] for m in ("pss_net", "uniform_subnets", "separate_subnets"))
    selected = table.quality["pss_net", "small_uniform"]
    pools = [p for p in ours.index if p.startswith("m") and p[1:].isdigit()]
    assert len(pools) >= 9 and (ours[pools] - uniform[pools]).mean() > 0.3
    assert (selected[pools] - uniform[pools]).mean() > (ours[pools] - selected[pools]).mean() > 0
    assert (ours[alone.index] < alone).all()
    assert records["pss_net", "small", "switch_ms"] < records["pss_net", "small", "reload_ms"]
    assert (
        records["pss_net", "small", "smallest_validation_top1"]
        > records["pss_net", "small", "smallest_validation_top1_shared_statistics"] + 10
    )


def test_nearest_class_mean_beats_everything_that_trains_in_the_sessions(records: pd.Series) -> None:
    table = pd.read_csv(TABLES / "comparison_fashion_mnist_sessions_plain_growing.csv").set_index(["method", "setting"])
    quality, ours = table.quality, table.quality["lec_net"]
    assert (quality.drop(("nearest_class_mean", "shots5")) < quality["nearest_class_mean", "shots5"] - 10).all()
    assert ours["shots5"] > ours["shots5_no_distillation"]
    assert ours["shots5"] > quality["session_fine_tuning", "shots5"]
    assert ours["shots5"] == pytest.approx(ours["shots5_dense"], abs=0.1)
    assert table.stored_bytes["lec_net", "shots5"] < table.stored_bytes["lec_net", "shots5_dense"]
    gate, free = (records["lec_net", setting, "mean_gate"] for setting in ("shots5", "shots5_no_penalty"))
    assert gate < free and ours["shots5_no_penalty"] - ours["shots5"] < 1.5


def test_the_results_page_shows_the_committed_overview() -> None:
    table = [line for line in (TABLES / "overview.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert "\n".join(table) in (ROOT / "docs/results.md").read_text(encoding="utf-8")

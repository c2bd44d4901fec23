# SPDX-License-Identifier: Apache-2.0
"""Settings are judged before anything is read: each refusal names the setting, the value and what to do."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from data.split import TimeSplit
from simulation.league import FORMAT, Merchant, PreparedLeague
from simulation.plans import SettingsError, Size, check_league, check_settings, plans
from tests.simulation.test_config import composed

SPLIT = TimeSplit(*(datetime(2025, month, 1, tzinfo=UTC) for month in (3, 4, 5)))
LEAGUE = PreparedLeague(
    FORMAT, "small", "own", SPLIT, 9, (Merchant("a", 3, 9, "0"), Merchant("b", 3, 9, "1")), 5, 0, 2
)
TWO = "data.min_merchants=2"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("strategy.fraction_train=0", r"strategy.fraction_train must lie in \(0, 1\], found 0"),
        ("strategy.fraction_train=1.5", r"strategy.fraction_train must lie in \(0, 1\], found 1.5"),
        (
            "strategy=fedadam strategy.options.eta=fast",
            "strategy.options.eta must be a finite number, found 'fast'",
        ),
        ("model.strategy.options.eta=fast", "strategy.options.eta must be a finite number, found 'fast'"),
        ("model.options.dimension=wide", "model.options.dimension: Expected `int`, got `str`; found 'wide'"),
        ("model.options.dimension=2.5", "model.options.dimension: Expected `int`, got `float`; found 2.5"),
        ("model.options.dimension=0", "dimension must be at least 1, found 0"),
        ("model.options.mixing=[1.0]", "model.options.mixing: Expected `array` of length 4"),
        ("+model.options.colour=3", "model.options has no colour; it has dimension"),
        ("+model.under_noise.distributed.options.colour=3", "model.options has no colour; it has dimension"),
        ("model.under_noise.distributed.training.expected_users=0", "model.under_noise.distributed.training"),
        ("privacy.dropouts=0.7", r"privacy.dropouts is a share of the merchants in \[0, 0.5\), found 0.7"),
        ("privacy.colluders=-1", r"privacy.colluders is a share of the merchants in \[0, 0.5\), found -1"),
        ("cohort.aggregation=plain", "shares noise under masks: set cohort.aggregation=secure, or privacy=local"),
        ("strategy.fraction_train=0.5", "set strategy.fraction_train=1, found 0.5"),
        ("privacy.scale_log2=31", "leaves no room|lower scale_log2"),
        ("privacy.steps_per_round=2", "steps_per_round must be 1, found 2"),
        ("privacy.mode=telepathy", "privacy.mode='telepathy'; choose one of none, local, distributed"),
        ("+model.training.speed=3", "model.training has no speed; it has cool_down"),
        ("+model.centralised.speed=3", "model.centralised has no speed; it has cool_down"),
        ("model.local_only.optimiser=lion", "model.local_only.optimiser: Invalid enum value 'lion'"),
        ("model.centralised.cool_down=2", "model.centralised.*cool_down is a share"),
        ("model.task=telepathy", "model.task='telepathy'; choose one of"),
        ("seed=-1", "seed must be at least 0, found -1"),
        ("rounds=0", "rounds must be at least 1, found 0"),
        ("data.valid_weeks=0", "data.valid_weeks must be at least 1, found 0"),
        ("data.test_weeks=-2", "data.test_weeks must be at least 1, found -2"),
        ("data.max_events=0", "data.max_events must be at least 1, found 0"),
        ("data.events=sales.csv", "data.events=sales.csv is read with data=files alone: add data=files"),
        ("data.league=elsewhere", "data.league='elsewhere'; choose one of complete_journey, files"),
        ("engine.name=slurm", "engine.name='slurm'; choose one of in_process, ray"),
        ("cohort.min_survivors=0", r"cohort.min_survivors must lie in \(0, 1\], found 0"),
        ("cohort.min_survivors=2", r"cohort.min_survivors must lie in \(0, 1\], found 2"),
        ("cohort.round_timeout_s=-1", "cohort.round_timeout_s must be a positive number of seconds, found -1"),
        ("privacy.delta=1e-50", "delta=1e-50 is too small to account for; raise it"),
        ("privacy.unit=home_user privacy.merchants_per_user=2", "1 with every other unit"),
        ("privacy=merchant cohort.aggregation=plain", "privacy.mode=merchant shares noise under masks"),
        ("privacy=merchant privacy.gate_share=0.1", "mode merchant has no gate"),
        ("privacy=merchant repository=shelf", "leaves nothing to compare .*: another mode has one"),
        ("privacy.gate_share=0 repository=shelf", "privacy.gate_share=0 leaves nothing .* repository=shelf"),
        ("device=gpu", "device='gpu' is unknown; use auto, cpu or cuda"),
        ("device=cuda", "device=cuda: this machine has no CUDA device; use device=auto"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_name_value_and_remedy(override, words, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SettingsError, match=words):
        check_settings(composed(*override.split()))


def test_every_range_that_is_broken_is_said_at_once():
    with pytest.raises(SettingsError, match=r"data.max_events .*; seed "):
        check_settings(composed("seed=-1", "data.max_events=0"))


def test_a_gate_without_budget_is_fine_where_nothing_is_compared():
    check_settings(composed("privacy.gate_share=0"))
    check_settings(composed("privacy=none", "repository=shelf"))


def test_a_league_smaller_than_the_cohort_is_refused_before_anybody_waits():
    check_league(composed("experiment=open", "cohort.min_merchants=2", TWO), LEAGUE)
    with pytest.raises(SettingsError, match=r"cohort.min_merchants=3, the league has 2: bring more merchants"):
        check_league(composed("experiment=open", "cohort.min_merchants=3", TWO), LEAGUE)


def test_a_league_of_fewer_merchants_than_must_carry_an_item_is_refused():
    with pytest.raises(SettingsError, match=r"data.min_merchants=3, the league has 2: .*lower data.min_merchants"):
        check_league(composed("experiment=open", "data.min_merchants=3"), LEAGUE)


def test_a_league_too_small_for_masks_is_told_how_to_go_on_without():
    with pytest.raises(SettingsError, match=r"takes at least 3 merchants, the league has 2: .* experiment=open"):
        check_league(composed(), LEAGUE)


def large(merchants):
    return replace(LEAGUE, merchants=tuple(Merchant(f"m{n:03d}", 3, 9, str(n)) for n in range(merchants)))


def test_a_league_beyond_one_roster_is_taken_where_each_sum_has_enough_merchants():
    check_league(composed("data.min_merchants=128"), large(257))
    with pytest.raises(SettingsError, match=r"cohort.min_merchants=129 .* divided into rosters of 128 and more"):
        check_league(composed("cohort.min_merchants=129"), large(257))
    with pytest.raises(SettingsError, match=r"data.min_merchants=129 .* 257 are divided into rosters of 128"):
        check_league(composed("data.min_merchants=129"), large(257))
    check_league(composed("data.min_merchants=255"), large(255))
    check_league(composed("experiment=open", "cohort.min_merchants=129"), large(257))


def test_shared_noise_is_laid_out_for_the_largest_roster_and_the_survivors_of_the_smallest():
    config = composed("privacy.dropouts=0", "privacy.colluders=0.1")
    plan = next(iter(plans(config, Size(129, 1000, fewer=1)).values()))
    assert (plan.cohort, plan.dropouts, plan.colluders) == (129, 1, 12)
    assert plan.share("training").tolerance.least_survivors == 128
    alone = next(iter(plans(config, Size(129, 1000)).values()))
    assert alone.dropouts == 0
    assert plan.noise_multiplier == alone.noise_multiplier
    assert plan.merchant_noise("training") > alone.merchant_noise("training")


def test_user_k_is_refused_where_a_user_shops_at_more_than_k_merchants():
    config = composed(
        "privacy=local", "cohort.aggregation=plain", "privacy.unit=user_k", "privacy.merchants_per_user=2", TWO
    )
    check_league(config, LEAGUE)
    with pytest.raises(SettingsError, match=r"shops at 5 merchants.*privacy.merchants_per_user=5"):
        check_league(config, replace(LEAGUE, most_merchants=5))
    check_league(composed("experiment=open", TWO), replace(LEAGUE, most_merchants=5))

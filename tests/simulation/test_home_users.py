# SPDX-License-Identifier: Apache-2.0
"""The unit `home_user` in a simulated league: workers see home users alone, the researcher sees everybody."""

from dataclasses import replace

import pytest

from client.errors import Refused
from client.home import create_home, open_home
from client.worker import Worker
from data.errors import ContractError
from data.files import load_merchant
from privacy.plan import Unit
from simulation.league import events_file, home_file
from simulation.nodes import home_path
from simulation.research import Researcher
from tests.client.small import PLAN, POLICY, request
from tests.simulation.made import Made, make


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("home"), home_users=True)


def workers(made: Made) -> list[Worker]:
    runtime = made.runtime()
    return [Worker(open_home(home_path(made.spec, merchant)), runtime) for merchant in made.league.merchants]


def test_a_user_of_two_merchants_contributes_at_one_only(made: Made) -> None:
    everybody = [
        set(load_merchant(str(events_file(made.spec.league, m)))["user_id"]) for m in made.league.merchants
    ]
    shared = set.intersection(*everybody)
    assert len(shared) == 19
    training = [set(worker.histories.user_ids) for worker in workers(made)]
    judging = [set(worker.validation.histories.user_ids) for worker in workers(made)]
    for north, south in (training, judging):
        assert not north & south
        assert north & shared
        assert south & shared
    assert set.union(*training) == set.union(*everybody)


def test_the_evaluation_stays_over_everybody(made: Made) -> None:
    researcher = Researcher(made.spec.league, made.league, made.runtime())
    known = [len(researcher.known(merchant, "valid")) for merchant in made.league.merchants]
    assert known == [20, 20]


def lonely(made: Made, units: str) -> Worker:
    merchant = made.league.merchants[0]
    empty = made.spec.homes / "empty.parquet"
    load_merchant(str(home_file(made.spec.league, merchant))).clear().write_parquet(empty)
    home = made.spec.homes / f"lonely-{units}"
    settings = replace(open_home(home_path(made.spec, merchant)).settings, events=str(empty))
    create_home(home, settings, POLICY + f'units = ["{units}"]\n', bytes(32))
    return Worker(open_home(home), made.runtime())


def test_a_merchant_that_is_nobodys_home_answers_with_noise_alone(made: Made) -> None:
    worker = lonely(made, "home_user")
    reply = worker.answer(request(made.runtime(), plan=replace(PLAN, unit=Unit.HOME_USER)))
    assert (len(worker.histories), reply.weight) == (0, 1)
    assert any(array.any() for array in reply.arrays.values())
    assert len(worker.validation) == 0


def test_home_users_must_be_in_the_merchants_own_policy_and_only_then_may_its_events_be_empty(made: Made) -> None:
    worker = lonely(made, "user_merchant")
    with pytest.raises(Refused, match="unit 'home_user' is not among"):
        worker.answer(request(made.runtime(), plan=replace(PLAN, unit=Unit.HOME_USER)))
    with pytest.raises(ContractError, match="there are no rows"):
        worker.answer(request(made.runtime()))

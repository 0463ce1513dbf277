"""A short run of the fuzzer; `python -m tests.fuzz` runs it at length."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.contract import check
from tests.fuzz.run import faults_of, fire
from tests.fuzz.siege import besiege
from tests.fuzz.stand import Stand, doors

SEED, SHOTS, SLOW, ROUNDS, EXAMPLES = 4, 1_200, 100, 3, 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def stand(folder: Path) -> Iterator[Stand]:
    with doors(folder) as found:
        yield found


def test_whatever_is_sent_gets_a_documented_answer_and_every_promise_is_kept(stand: Stand, folder: Path) -> None:
    """`python -m tests.fuzz --seed 4 --requests 1200 --doors` fires the same kinds of shots."""
    report = fire(stand, SEED, SHOTS)
    print("\n".join(report.lines()))
    assert faults_of(report, stand, stand.books(), folder) == []
    assert min(report.tally.promised.values()) > 50


def test_slow_and_greedy_clients_are_shown_out_and_cost_no_memory(stand: Stand) -> None:
    siege = besiege(stand, SLOW, ROUNDS)
    print("\n".join(siege.lines()))
    assert siege.faults == []
    assert sum(siege.answers.values()) == SLOW


def test_delivery_keeps_to_its_own_document(stand: Stand) -> None:
    contract = check(stand, SEED, EXAMPLES)
    assert contract.faults == []
    assert contract.asked > 60
    assert contract.answers["POST /v1/decisions/{decision_id}/reward", 200]

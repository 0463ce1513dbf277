"""A service asked by its own OpenAPI document: schemathesis draws what it allows and what it does not allow."""

import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import hypothesis
import requests
import schemathesis
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.fuzz.stand import Stand

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
ALWAYS_DOCUMENTED = frozenset({404, 405})  # an address that fits none, and a method: the same body for all


@dataclass
class Contract:
    """What came of it: answers by operation and status, and what broke the document."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    @property
    def asked(self) -> int:
        """How many requests were made."""
        return sum(self.answers.values())


def check(stand: Stand, seed: int, examples: int) -> Contract:
    """Ask delivery, see `ask_all`."""
    return ask_all(f"http://127.0.0.1:{stand.settings.delivery_port}", seed, examples, has_warehouse=stand.is_whole)


def ask_all(
    url: str, seed: int, examples: int, *, has_warehouse: bool = True, leave_out: Callable[[str], bool] | None = None
) -> Contract:
    """Ask each operation so many times, within the document and again outside of it.

    has_warehouse: without one, 503 because of it is no fault. leave_out: true for operations (`GET /v1/lines`) of which
    others of the same kind are asked.
    """
    contract = Contract()
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    schema.config.base_url = url
    with requests.Session() as session, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Hypothesis, on how schemathesis uses it
        for found in schema.get_all_operations():
            if leave_out is not None and leave_out(found.ok().label):
                continue
            for mode in GenerationMode:
                _ask(found.ok(), mode, (contract, session, has_warehouse), (seed, examples))
    return contract


def _ask(
    operation: object, mode: GenerationMode, into: "tuple[Contract, requests.Session, bool]", how: tuple[int, int]
) -> None:
    contract, session, has_warehouse = into
    seed, examples = how

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )  # fmt: skip
    @hypothesis.given(operation.as_strategy(generation_mode=mode))  # type: ignore[attr-defined]
    def ask(case: Case) -> None:
        answer = case.call(session=session, allow_redirects=False, timeout=30)
        contract.answers[case.operation.label, answer.status_code] += 1
        away = answer.status_code == 503 and not has_warehouse and b"warehouse" in answer.content
        if away or answer.status_code in ALWAYS_DOCUMENTED:
            return
        try:
            case.validate_response(answer, checks=CHECKS)
        except (Failure, FailureGroup) as failure:
            if len(contract.faults) < 20:
                contract.faults.append(f"{case.operation.label}: {str(failure)[:600]}")

    try:
        ask()
    except hypothesis.errors.Unsatisfiable:
        return  # nothing can be wrong with an address that takes nothing

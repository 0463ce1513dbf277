"""Who plays, with which settings: one visible list, the same for every problem.

What is deployed plays whole, with the settings that Herald starts with. VW's best is chosen after the fact for each
problem, which is harder on us. VARIANTS are the bare functions of pipeline/core with a new model after each outcome:
what the defaults were chosen among (on seeds 0-2 of some of these problems at a few thousand rounds).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from pipeline.core.linear_policy import Drawing, LinearRules
from tests.bench_learning.deployed import Deployed
from tests.bench_learning.players import Linear, Plain, Player
from tests.bench_learning.problems import Problem, World
from tests.bench_learning.rivals import MabWiser, VowpalWabbit, is_installed

SPREAD = LinearRules(floor_share_max=0.01)
NO_FLOOR = LinearRules(floor=0.0)
COSTS = "--cb_min_cost -1 --cb_max_cost 0"  # a reward of 1 is a cost of -1
OURS, RIVAL = "ours", "rival"
VW, BOUND_VW = "vw ", "vw+floor "
"""How the names of VW's rows begin: as it comes, and bound to show each action as often as ours promise to."""
PROMISE = Drawing()


class Entrant(NamedTuple):
    """One row. library: "" or what must be installed. actions_max: above so many it would take hours."""

    name: str
    kind: str
    make: Callable[[World], Player]
    library: str = ""
    actions_max: int = 1_000
    needs_features: bool = False


def _deployed(policy: str, more: str = "", floor: float | None = None) -> Entrant:
    return Entrant(f"deployed {policy}{more}", OURS, lambda world: Deployed(world, policy, floor))


def _linear(name: str, policy: str, rules: LinearRules = SPREAD, **more: Any) -> Entrant:
    return Entrant(
        name, OURS, lambda world: Linear(world, policy, rules, **more), needs_features=bool(more.get("is_shared"))
    )


def _vw(name: str, arguments: str, kind: str = VW, promise: Drawing | None = None) -> Entrant:
    return Entrant(kind + name, RIVAL, lambda world: VowpalWabbit(world, arguments, promise), "vowpalwabbit")


def _mabwiser(policy: str) -> Entrant:
    return Entrant(f"mabwiser {policy}", RIVAL, lambda world: MabWiser(world, policy), "mabwiser", 10)


VW_SETTINGS = {
    "squarecb": f"--squarecb {COSTS}",
    "squarecb 1000, l 2": f"--squarecb --gamma_scale 1000 -l 2 {COSTS}",
    "regcbopt": f"--regcb --regcbopt --mellowness 0.01 {COSTS}",
    "regcbopt, l 2": f"--regcb --regcbopt --mellowness 0.01 -l 2 {COSTS}",
    "softmax 10": "--softmax --lambda 10",
    "epsilon .05": "--epsilon 0.05",
}
VW_BEST = ("squarecb", "squarecb 1000, l 2", "regcbopt", "regcbopt, l 2")
"""Each of them was the best one on some problem."""
LINEUP: tuple[Entrant, ...] = (
    Entrant("uniform", RIVAL, lambda world: Plain(world, "uniform")),
    _deployed("epsilon_greedy"),
    _deployed("thompson"),
    _deployed("linear_igw"),
    _deployed("linear_igw", ", floor .1 %", 0.001),
    *(_vw(name, arguments) for name, arguments in VW_SETTINGS.items()),
    *(_vw(name, VW_SETTINGS[name], BOUND_VW, PROMISE) for name in VW_BEST),
    _mabwiser("LinUCB"),
    _mabwiser("LinTS"),
)
VARIANTS: tuple[Entrant, ...] = (
    _deployed("linear_squarecb"),
    Entrant("epsilon_greedy", OURS, lambda world: Plain(world, "epsilon_greedy")),
    Entrant("thompson", OURS, lambda world: Plain(world, "thompson")),
    _linear("linear_igw", "linear_igw"),
    _linear("linear_igw, no floor", "linear_igw", NO_FLOOR),
    _linear("linear_squarecb", "linear_squarecb"),
    _linear("linear_squarecb, no floor", "linear_squarecb", NO_FLOOR),
    _linear("linear_epsilon", "linear_epsilon"),
    _linear("linear_igw, drift watch", "linear_igw", is_watched=True),
    _linear("linear_igw, 64 hashed columns", "linear_igw", dimension=64),
    _linear("shared linear_igw", "linear_igw", is_shared=True),
    _linear("shared linear_squarecb", "linear_squarecb", is_shared=True),
    _mabwiser("LinGreedy"),
)
DEFAULT = "deployed linear_igw"
"""The row that is held to the aim: what a placement has where who sees it says what earns."""


def named(name: str) -> Entrant:
    """Return the entrant of this name."""
    return next(entrant for entrant in (*LINEUP, *VARIANTS) if entrant.name == name)


def entrants(problem: Problem, actions: int, with_variants: bool = True) -> list[tuple[Entrant, str]]:
    """Return who plays a problem; with why not, for those who cannot."""
    found = []
    for entrant in (*LINEUP, *VARIANTS) if with_variants else LINEUP:
        why = ""
        if entrant.library and not is_installed(entrant.library):
            why = "not installed"
        elif actions > entrant.actions_max:
            why = f"more than {entrant.actions_max} actions"
        elif entrant.needs_features and not problem.has_attributes:
            continue
        found.append((entrant, why))
    return found

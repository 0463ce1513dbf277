"""Every policy that a placement can be set to, by the name it has in settings and logs; and which one is for what."""

from collections.abc import Mapping
from typing import Final

from pipeline.core.linear_policy import LINEAR_POLICIES
from pipeline.core.policy import POLICIES, Policy

ALL_POLICIES: Final[Mapping[str, type[Policy]]] = {**POLICIES, **LINEAR_POLICIES}

MEANINGS: Final[Mapping[str, str]] = {
    "epsilon_greedy": "the default: the action with the best mean, and a share of HERALD_POLICY_EPSILON spread over "
    "all. Best or equal of all on rare rewards without context (measured on headline tests and an ad log), cheap, safe",
    "ucb": "few actions: the best upper bound, with the same share spread over all. Explores longer",
    "thompson": "few actions: each as often as it is likely to be the best, with a floor of 5 % spread over all",
    "linear_igw": "where who sees it, or what the action is, says what earns: learns by the decision's context, the "
    "visitor's profile and the actions' features, new actions by their features alone. The further behind the best in "
    "this context, the seldomer shown; but HERALD_POLICY_FLOOR of decisions at least, 1 %, as long as all floors "
    "together are no more than a tenth",
    "linear_squarecb": "the same with more greed early: where rewards are frequent",
    "linear_epsilon": "the same model, shown as epsilon_greedy does: its plainest rival",
    "uniform": "each equally often: for tests, and for logs that every other policy can be judged on",
}
"""What each policy is for (measurements: `make bench-learning`)."""

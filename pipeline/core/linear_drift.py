"""Drift: an action whose model has stopped being right is started anew (River's ADWIN on its squared error).

Optional. Costs 0-2 % of regret where nothing drifts, and saves most of it where something does. It sees only actions
that are shown: that is what the floor is for. A fold with a watch is a pure function of its log, cut into blocks as it
is; but no longer of the outcomes' order, since an alarm depends on what came before.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from pipeline.core.features import GRID
from pipeline.core.linear import MICROS, LinearDelta, learn, start_anew
from pipeline.core.linear_model import DECIMALS, RidgeRules, weights
from schemas.linear import LinearArm, LinearStatistics

if TYPE_CHECKING:
    from river import drift

DELTA: Final = 0.002
"""ADWIN's significance: how sure it is before it raises an alarm."""


class DriftWatch:
    """ADWIN on each action's squared errors. Its state is small (0.6-3 kB an action) and can be kept."""

    def __init__(self, kept: Mapping[str, bytes] | None = None, delta: float = DELTA) -> None:
        """kept: what `keep` returned, of the same River version: its layout is River's own."""
        self._delta = delta
        self._watched: dict[str, drift.ADWIN] = {}
        for action_id, state in (kept or {}).items():
            self._watch(action_id)._helper.__setstate__(state)

    def see(self, action_id: str, squared_error: float) -> bool:
        """Take one error in; say whether they have changed. After an alarm the action is watched anew.

        Smaller ones alarm too: where what paid 40 % pays 5 % now, they shrink.
        """
        watched = self._watched.get(action_id) or self._watch(action_id)
        watched.update(squared_error)  # type: ignore[no-untyped-call]
        if watched.drift_detected:
            del self._watched[action_id]
            return True
        return False

    def keep(self) -> dict[str, bytes]:
        """Return its state, action by action."""
        return {action_id: watched._helper.__getstate__() for action_id, watched in self._watched.items()}

    def _watch(self, action_id: str) -> "drift.ADWIN":
        from river import drift  # with scipy.stats and more it takes a second and 90 MB: not for who watches nothing

        watched = self._watched[action_id] = drift.ADWIN(delta=self._delta)  # type: ignore[no-untyped-call]
        return watched


def learn_watching(
    statistics: LinearStatistics,
    deltas: Sequence[LinearDelta],
    watch: DriftWatch,
    rules: RidgeRules,
    trials_min: int = 0,
) -> list[str]:
    """Add outcomes as `learn` does, but start an action anew where its errors have changed.

    trials_min: before so many trials an action is not watched: its errors change because it is learning.
    Errors are those of the model before this block; a correction downwards is no error of the model and is not seen.
    Returns the action ids that were started anew, from the decision on that raised the alarm.
    """
    arms = {delta.action_id: statistics.arms.get(delta.action_id, LinearArm()) for delta in deltas}
    arms = {action_id: arm for action_id, arm in arms.items() if arm.trials >= trials_min}
    models = dict(zip(arms, weights(list(arms.values()), statistics.dimension, rules), strict=True))
    seen = [delta for delta in deltas if delta.action_id in arms and (delta.trials or delta.reward_micros > 0)]
    alarms: dict[str, int] = {}
    for delta in seen:
        if delta.action_id in alarms:
            continue  # its model has gone: the errors from here on are nobody's
        expected = round(float(models[delta.action_id] @ delta.vector) / GRID, DECIMALS)
        if watch.see(delta.action_id, (delta.reward_micros / MICROS - expected) ** 2):
            alarms[delta.action_id] = delta.decided_ms
    for action_id, since_ms in alarms.items():
        start_anew(statistics, action_id, since_ms)
    learn(statistics, deltas)
    return list(alarms)

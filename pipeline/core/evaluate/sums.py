"""What the learn stage would know at a moment of the log."""

from pipeline.core.evaluate.logged import MICROS
from schemas.model import ArmStatistics


class Sums:
    """Each action's trials and rewards (see `pipeline.core.learn`)."""

    def __init__(self) -> None:
        """Start with nothing known."""
        self.arms: dict[str, ArmStatistics] = {}

    def add(self, action_id: str, trials: int, reward_micros: int) -> None:
        """Add to an action's sums. reward_micros: the whole reward at once, or 0."""
        arm = self.arms.get(action_id)
        if arm is None:
            arm = self.arms[action_id] = ArmStatistics()
        arm.trials += trials
        arm.reward_micros += reward_micros
        arm.reward_squares_micros += reward_micros**2 // MICROS

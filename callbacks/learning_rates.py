"""Learning rate and weight decay of each parameter group."""

from __future__ import annotations

from typing import Any

from composer.core import Callback, State
from composer.loggers import Logger

from maws_composer.registry import register_callback


@register_callback("learning_rates")
class LearningRates(Callback):
    """Logs `lr/<group>` in each step, and `weight_decay/<group>` when it is new, by the groups' own names.

    They are those of the step that was made; Composer's LRMonitor logs under a step's number the rate of the next.
    """

    def fit_start(self, state: State, logger: Logger) -> None:
        self.known_decay: dict[str, float] = {}

    def batch_start(self, state: State, logger: Logger) -> None:
        groups = named_groups(state)
        self.rates = {f"lr/{name}": float(group["lr"]) for name, group in groups.items()}
        self.decay = {f"weight_decay/{name}": float(group.get("weight_decay", 0.0)) for name, group in groups.items()}

    def batch_end(self, state: State, logger: Logger) -> None:
        logger.log_metrics(self.rates)
        if self.decay != self.known_decay:
            logger.log_metrics(self.decay)
            self.known_decay = self.decay


def named_groups(state: State) -> dict[str, dict[str, Any]]:
    """The optimizers' groups; one without a name by its number."""
    groups = [group for optimizer in state.optimizers for group in optimizer.param_groups]
    return {group.get("name", f"group{number}"): group for number, group in enumerate(groups)}

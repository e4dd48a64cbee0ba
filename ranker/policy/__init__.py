"""What a queued URL promises: the contract, `tinylm`'s own policy, and the orders of the literature."""

from collections.abc import Callable

from ranker.graph import LinkGraph
from ranker.policy.orders import ORDERS
from ranker.policy.policy import Floats as Floats
from ranker.policy.policy import Moves as Moves
from ranker.policy.policy import Policy as Policy
from ranker.policy.promise import LearnedPromise
from tinylm.errors import ConfigError

# By the names that users select, the same in a crawl and in the simulator.
POLICIES: dict[str, Callable[[LinkGraph], Policy]] = {LearnedPromise.name: LearnedPromise, **ORDERS}


def policy_named(name: str) -> Callable[[LinkGraph], Policy]:
    """The policy of a crawl; raises ConfigError if there is none of that name."""
    if name not in POLICIES:
        raise ConfigError(f"policy = {name!r}: there is {', '.join(sorted(POLICIES))}")
    return POLICIES[name]

"""What a queued URL promises: the contract, `tinylm`'s own policy, and the orders of the literature."""

from collections.abc import Callable

from ranker.graph import LinkGraph
from ranker.policy.orders import ORDERS
from ranker.policy.policy import Floats as Floats
from ranker.policy.policy import Moves as Moves
from ranker.policy.policy import Policy as Policy
from ranker.policy.promise import LearnedPromise

# By the names that users select, the same in a crawl and in the simulator.
POLICIES: dict[str, Callable[[LinkGraph], Policy]] = {LearnedPromise.name: LearnedPromise, **ORDERS}

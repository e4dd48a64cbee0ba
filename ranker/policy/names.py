"""The policies by the names that users select, the same in a crawl and in the simulator."""

from collections.abc import Callable

from ranker.graph import LinkGraph
from ranker.policy.orders import ORDERS
from ranker.policy.policy import Policy
from ranker.policy.promise import LearnedPromise

POLICIES: dict[str, Callable[[LinkGraph], Policy]] = {
    LearnedPromise.name: LearnedPromise,
    **{order.name: order for order in ORDERS},
}

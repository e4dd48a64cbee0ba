"""The policies by the names that users select, the same in a crawl and in the simulator."""

from collections.abc import Callable

from ranker.evidence import LinkGraph
from ranker.orders import ORDERS
from ranker.policy import Policy
from ranker.promise import LearnedPromise

POLICIES: dict[str, Callable[[LinkGraph], Policy]] = {
    LearnedPromise.name: LearnedPromise,
    **{order.name: order for order in ORDERS},
}

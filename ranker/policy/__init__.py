"""What a queued URL promises: the contract, `tinylm`'s own policy, and the orders of the literature."""

from ranker.policy.policy import Floats as Floats
from ranker.policy.policy import Moves as Moves
from ranker.policy.policy import Policy as Policy

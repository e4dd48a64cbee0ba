"""Which documents are near each other, and which one of them stays: over signatures, as tables of the engine.

No task holds a component or all of anything: each step is a join or a grouping, on one machine or many.
"""

from typing import Any

import daft
import numpy as np
from daft import DataFrame, DataType, Series, col
from daft.functions import hash as hashed
from daft.functions import when

from shards.text.dedup import PERMUTATIONS

# A component of chains of pairs may have few documents near its best one: then the best of the rest is looked
# at, so many times. What is left over is like none of these, and stays.
_LEADERS = 20


@daft.func.batch(return_dtype=DataType.float64())
def _overlap(one: Series, other: Series) -> Any:
    """Share of values in which signatures agree: estimates the Jaccard overlap."""
    values = [np.asarray(side.to_arrow().flatten()).reshape(-1, PERMUTATIONS) for side in (one, other)]
    return (values[0] == values[1]).mean(axis=1)


def pairs(keys: DataFrame) -> DataFrame:
    """`u`, `v`: each `node` with the first one that has the same `key`, v < u, once."""
    firsts = keys.groupby("key").agg(col("node").min().alias("v"), col("node").count().alias("count"))
    several = firsts.where(col("count") > daft.lit(1)).select("key", "v")
    return (
        keys.join(several, on="key")
        .where(col("node") > col("v"))
        .select(col("node").alias("u"), "v")
        .distinct()
    )


def components(edges: DataFrame) -> DataFrame:
    """`node`, `root`: of each node of `edges` (u, v), the first node of its connected component.

    Large stars and small stars in turn (Kiveris et al. 2014), some ten times for a hundred million edges.
    """
    stars, before = edges, (-1, -1)
    while True:
        stars = _small_stars(_large_stars(stars)).collect()
        digest = (hashed(col("u"), col("v")) % daft.lit(1 << 31)).cast(DataType.int64())
        rows = stars.agg(col("u").count().alias("edges"), digest.sum().alias("digest")).to_pylist()
        now = (rows[0]["edges"], rows[0]["digest"])
        if now == before or not now[0]:
            break
        before = now
    roots = stars.select(col("v").alias("node"), col("v").alias("root")).distinct()
    return stars.select(col("u").alias("node"), col("v").alias("root")).union_all(roots)


def _large_stars(edges: DataFrame) -> DataFrame:
    """Each larger neighbour of a node is tied to the least of its neighbours and itself."""
    both = edges.select("u", "v").union_all(edges.select(col("v").alias("u"), col("u").alias("v")))
    least = both.groupby("u").agg(col("v").min().alias("least"))
    tied = both.join(least, on="u").where(col("v") > col("u"))
    to = when(col("least") < col("u"), col("least")).otherwise(col("u"))
    return tied.select(col("v").alias("u"), to.alias("v")).distinct()


def _small_stars(edges: DataFrame) -> DataFrame:
    """A node and its smaller neighbours are tied to the least of these."""
    least = edges.groupby("u").agg(col("v").min().alias("least"))
    tied = edges.join(least, on="u").where(col("v") != col("least"))
    of_others = tied.select(col("v").alias("u"), col("least").alias("v"))
    return of_others.union_all(least.select("u", col("least").alias("v"))).distinct()


def leaders(members: DataFrame, signed: DataFrame, overlap: float) -> DataFrame:
    """`node`, `leader`, `id` of that, `overlap` with it, `same` text: what is dropped, and for what.

    `members` are (node, root), `signed` has (node, id, best, digest, minhash). Of each component the best
    stays, the first of those as good; what is near it goes; and so on with the rest.
    """
    left = members.join(signed, on="node").select("node", "root", "best", "digest", "minhash").collect()
    ids = signed.select(col("node").alias("leader"), "id")
    found = []
    for _ in range(_LEADERS):
        top = left.groupby("root").agg(col("best").max().alias("top"))
        first = left.join(top, on="root").where(col("best") == col("top")).groupby("root")
        chosen = first.agg(col("node").min().alias("leader"))
        of_chosen = left.select(
            col("node").alias("leader"),
            col("digest").alias("its_digest"),
            col("minhash").alias("its_minhash"),
        )
        compared = (
            left.join(chosen, on="root")
            .where(col("node") != col("leader"))
            .join(of_chosen, on="leader")
            .with_column("overlap", _overlap(col("minhash"), col("its_minhash")))
            .with_column("same", col("digest") == col("its_digest"))
            .collect()
        )
        near = col("same") | (col("overlap") >= daft.lit(overlap))
        found.append(compared.where(near).select("node", "leader", "overlap", "same"))
        left = compared.where(~near).select("node", "root", "best", "digest", "minhash").collect()
        if not left.count_rows():
            break
    dropped = found[0]
    for more in found[1:]:
        dropped = dropped.union_all(more)
    return dropped.join(ids, on="leader")

"""Centrality agrees with its definitions on small graphs, and with igraph on large ones."""

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranker.links import centrality
from ranker.links.centrality import DAMPING, Graph, harmonic, pagerank

DATA = Path(os.environ.get("TINYLM_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


@st.composite
def graphs(draw, most=12):
    nodes = draw(st.integers(1, most))
    ends = st.integers(0, nodes - 1)
    links = draw(st.lists(st.tuples(ends, ends), max_size=40))
    return nodes, links


def made(nodes, links):
    sources, targets = np.array(links, dtype=np.int32).reshape(-1, 2).T
    return Graph.of(nodes, sources, targets)


def random_graph(nodes, links, seed=0):
    """Targets are drawn unevenly, so that there are hubs, chains and nodes without links."""
    random = np.random.default_rng(seed)
    targets = (nodes * random.random(links) ** 3).astype(np.int32)
    return Graph.of(nodes, random.integers(nodes, size=links).astype(np.int32), targets)


def solved(nodes, links, jump):
    """PageRank from its linear equations."""
    passes = np.zeros((nodes, nodes))
    for source, target in {(source, target) for source, target in links if source != target}:
        passes[target, source] = 1
    for node in range(nodes):
        passes[:, node] = passes[:, node] / passes[:, node].sum() if passes[:, node].any() else jump
    return np.linalg.solve(np.eye(nodes) - DAMPING * passes, (1 - DAMPING) * jump)


def walked(nodes, links):
    """Harmonic centrality by walking back from each node."""
    found = []
    for node in range(nodes):
        total, distance, seen, edge = 0.0, 0, {node}, {node}
        while edge:
            distance += 1
            edge = {source for source, target in links if target in edge} - seen
            seen |= edge
            total += len(edge) / distance
        found.append(total)
    return found


@given(graphs())
def test_a_graph_has_each_link_once_and_none_to_itself(given_graph):
    nodes, links = given_graph
    graph = made(nodes, links)
    found = list(zip(graph.sources.tolist(), graph.targets.tolist(), strict=True))
    assert found == sorted({link for link in links if link[0] != link[1]}, key=lambda link: link[::-1])


@given(graphs())
def test_pagerank_solves_its_equations(given_graph):
    nodes, links = given_graph
    expected = solved(nodes, links, np.full(nodes, 1 / nodes))
    assert np.abs(pagerank(made(nodes, links)) - expected).sum() < 6e-9


@given(graphs(), st.data())
def test_personalised_pagerank_solves_its_equations(given_graph, data):
    nodes, links = given_graph
    weights = st.lists(st.integers(0, 5), min_size=nodes, max_size=nodes).filter(any)
    teleport = np.array(data.draw(weights), dtype=np.float64)
    expected = solved(nodes, links, teleport / teleport.sum())
    assert np.abs(pagerank(made(nodes, links), teleport) - expected).sum() < 6e-9


@given(graphs())
def test_harmonic_centrality_is_what_walking_back_finds(given_graph):
    assert harmonic(made(*given_graph)).tolist() == pytest.approx(walked(*given_graph))


@given(graphs(), st.data())
def test_a_graph_of_groups_links_two_if_any_of_theirs_are_linked(given_graph, data):
    nodes, links = given_graph
    group = data.draw(st.lists(st.integers(-1, 3), min_size=nodes, max_size=nodes))
    graph = made(nodes, links).grouped(np.array(group), 4)
    expected = {(group[source], group[target]) for source, target in links if group[source] != group[target]}
    found = set(zip(graph.sources.tolist(), graph.targets.tolist(), strict=True))
    assert found == {link for link in expected if min(link) >= 0}


def test_no_nodes_have_no_centrality():
    assert pagerank(made(0, [])).size == harmonic(made(0, [])).size == 0


def test_a_chain_longer_than_a_block_is_walked_to_its_end():
    nodes = 2100  # more than two blocks of sources, the last of no whole word
    chain = made(nodes, [(node, node + 1) for node in range(nodes - 1)])
    sums = np.cumsum([0.0, *(1 / distance for distance in range(1, nodes))])
    assert harmonic(chain) == pytest.approx(sums)


def test_the_estimate_is_as_near_as_it_says(monkeypatch):
    graph = random_graph(4000, 16_000)
    exact = harmonic(graph)
    monkeypatch.setattr(centrality, "EXACT_UP_TO", 0)
    estimated = harmonic(graph)
    linked = exact > 0
    error = estimated[linked] / exact[linked] - 1
    assert (estimated[~linked] == 0).all()
    assert np.sqrt((error**2).mean()) < 0.09


def test_igraph_finds_the_same():
    igraph = pytest.importorskip("igraph")
    graph = random_graph(3000, 9000)
    reference = igraph.Graph(n=graph.nodes, edges=np.stack([graph.sources, graph.targets], 1), directed=True)
    teleport = np.random.default_rng(0).random(graph.nodes)
    assert np.abs(pagerank(graph) - reference.pagerank()).sum() < 1e-8
    assert np.abs(pagerank(graph, teleport) - reference.personalized_pagerank(reset=teleport)).sum() < 1e-8
    expected = reference.harmonic_centrality(mode="in", normalized=False)
    assert harmonic(graph) == pytest.approx(np.array(expected))


@pytest.fixture(scope="module")
def cnr():
    """A crawl of cnr.it in 2000, 325,557 pages, as this graph and as igraph's."""
    igraph = pytest.importorskip("igraph")
    path = DATA / "web" / "cnr-2000.parquet"
    if not path.exists():
        pytest.skip(f"{path} is not there; TINYLM_TEST_DATA names the folder it is in")
    table = pq.read_table(path)
    graph = Graph.of(325_557, table["src"].to_numpy(), table["dst"].to_numpy())
    edges = np.stack([graph.sources, graph.targets], 1)
    return graph, igraph.Graph(n=graph.nodes, edges=edges, directed=True)


@pytest.mark.long
def test_igraph_finds_the_same_pagerank_of_a_real_web(cnr):
    graph, reference = cnr
    assert np.abs(pagerank(graph) - reference.pagerank()).sum() < 1e-8


@pytest.mark.long
def test_igraph_finds_nearly_the_same_harmonic_centrality_of_a_real_web(cnr):
    graph, reference = cnr
    pages = np.random.default_rng(1).choice(graph.nodes, 400, replace=False)
    exact = np.array(reference.harmonic_centrality(pages.tolist(), mode="in", normalized=False))
    estimated = harmonic(graph)[pages]
    assert ((estimated == 0) == (exact == 0)).all()
    error = estimated[exact > 0] / exact[exact > 0] - 1
    assert np.sqrt((error**2).mean()) < 0.09

"""`tinylm simulate` as a user types it: a table, JSON and a plot; or one line that says what is wrong."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lxml import etree

from deploy.cli.app import main
from ranker.replay.experiment import RECALL_AT

PAGES = 120


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def web(tmp_path):
    """A small recorded web: options for it, with a worth."""
    random = np.random.default_rng(0)
    edges, pages = tmp_path / "small.parquet", tmp_path / "pages.tsv"
    ends = random.integers(0, PAGES, (2, 6 * PAGES))
    pq.write_table(pa.table({"src": ends[0], "dst": ends[1]}), edges)
    lines = [
        f"{page}\thttp://h{page % 3}.test/{page % 5}/{page}.html\t{'prose' if page % 5 else 'nonenglish'}"
        f"\t{random.integers(0, 30_000)}"
        for page in range(PAGES)
    ]
    pages.write_text("\n".join(["id\turl\tkind\tprose_chars", *lines]) + "\n")
    return [
        "--edges", str(edges), "--pages", str(pages),
        "--worth", "where(kind == 'nonenglish', 0, min(prose_chars, 20000))",
    ]  # fmt: skip


QUICK = ["--policy", "tinylm,opic,bfs", "--seeds", "3", "--draws", "2", "--budget", "30"]


@pytest.fixture
def simulate(capfd):
    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["simulate", *map(str, arguments)])
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return ended.value.code or 0, out, err

    return run


def test_the_result_has_what_was_agreed_on(web, simulate, tmp_path):
    path = tmp_path / "out.json"
    code, out, _ = simulate(*web, *QUICK, "--json", path)
    assert code == 0
    result = json.loads(path.read_text())
    assert {"graph", "budget", "policies"} <= result.keys()
    assert (result["graph"], result["budget"], result["draws"]) == ("small", 30, 2)
    assert list(result["policies"]) == ["random", "tinylm", "opic", "bfs", "oracle-greedy"]
    for name, of in result["policies"].items():
        assert of.keys() == {
            "auc", "auc_ci", "percent_of_oracle", "percent_of_oracle_ci", "recall", "us_per_decision",
            "curve",
        }  # fmt: skip
        assert list(of["recall"]) == [str(share) for share in RECALL_AT]
        assert 0 < of["recall"]["1.0"] <= 1
        assert of["auc_ci"][0] <= of["auc"] <= of["auc_ci"][1]
        assert len(of["curve"]) == 30
        assert of["us_per_decision"] >= 0
        assert f"{name} " in out
    assert result["policies"]["oracle-greedy"]["percent_of_oracle"] == pytest.approx(100)
    assert "small: 120 pages" in out
    assert "30 fetches, 2 draws" in out


def test_a_second_run_says_the_same_in_place_of_the_first(web, simulate, tmp_path):
    path = tmp_path / "out.json"
    results = []
    for seed in (0, 0, 1):
        assert simulate(*web, *QUICK, "--json", path, "--seed", seed)[0] == 0
        of = json.loads(path.read_text())["policies"]
        results.append({name: (each["auc"], each["curve"]) for name, each in of.items()})
    assert results[0] == results[1] != results[2]
    assert not list(tmp_path.glob("*.tmp"))


def test_the_plot_is_a_picture_whatever_the_case_of_its_name(web, simulate, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "out.SVG"
    assert simulate(*web, *QUICK, "--plot", path)[0] == 0
    assert etree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert path.read_text().count("<path") > 10
    code, _, err = simulate(*web, *QUICK, "--plot", tmp_path / "out.docx")
    assert code
    assert "error: plot = " in err


def test_an_edge_list_alone_is_enough(web, simulate, tmp_path):
    path = tmp_path / "out.json"
    assert simulate(*web[:2], "--policy", "bfs", "indegree", "--budget", "20", "--json", path)[0] == 0
    assert list(json.loads(path.read_text())["policies"]) == ["random", "bfs", "indegree", "oracle-greedy"]


def test_simulated_time_and_starts_of_hosts(web, simulate, tmp_path):
    path = tmp_path / "out.json"
    timed = ["--delay", "1", "--workers", "4", "--latency", "0.2", "--exploration", "0.1", "--start", "hosts"]
    assert simulate(*web, *QUICK, *timed, "--json", path)[0] == 0
    assert json.loads(path.read_text())["budget"] == 30


def test_crawls_start_from_the_urls_of_a_file(web, simulate, tmp_path):
    path, start = tmp_path / "out.json", tmp_path / "start.txt"
    start.write_text("HTTP://h1.test/1/1.html#top\n\nhttp://h2.test/2/2.html\n")
    assert simulate(*web, *QUICK, "--start", start, "--json", path)[0] == 0
    of = json.loads(path.read_text())["policies"]["bfs"]
    assert of["auc_ci"] == [of["auc"]] * 2  # every draw is the same


def test_where_nothing_is_to_be_won_the_result_is_json_still(web, simulate, tmp_path):
    path, plot = tmp_path / "out.json", tmp_path / "out.svg"
    assert simulate(*web[:4], "--worth", "0", *QUICK, "--json", path, "--plot", plot)[0] == 0
    assert "NaN" not in path.read_text()
    of = json.loads(path.read_text())["policies"]["bfs"]
    assert (of["auc"], of["percent_of_oracle"], of["percent_of_oracle_ci"]) == (0, None, [None, None])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--policy", "tinylm,best"], "policy = 'best': there is tinylm, "),
        (["--worth", "quality"], "no column 'quality'; there is id, kind, prose_chars, url"),
        (["--worth", "where(kind"], "worth = 'where(kind'"),
        (["--edges", "none.parquet"], "none.parquet: cannot be read as a table"),
        (["--start", "none.txt"], "start = none.txt: cannot be read"),
        (["--json", "none/out.json"], "none/out.json: cannot be written"),
        (["--draws", "0"], "draws"),
        (["--seeds", "0"], "seeds"),
        (["--budget", "0"], "budget"),
        (["--workers", "0", "--delay", "1"], "workers"),
        (["--exploration", "2"], "exploration"),
        (["--delay", "-1"], "delay"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(web, simulate, monkeypatch, tmp_path, arguments, said):
    monkeypatch.chdir(tmp_path)
    options = dict(zip([*web, *QUICK][::2], [*web, *QUICK][1::2], strict=True))
    options |= dict(zip(arguments[::2], arguments[1::2], strict=True))
    code, _, err = simulate(*(part for option in options.items() for part in option))
    assert code
    [line] = [line for line in err.splitlines() if line]
    assert said in line


def test_tables_and_starts_that_do_not_fit_are_said_in_a_line(web, simulate, tmp_path):
    start = tmp_path / "start.txt"
    start.write_text("http://h1.test/1/1.html\nhttp://other.test/\n")
    code, _, err = simulate(*web, *QUICK, "--start", start)
    assert code
    assert "http://other.test/ is no page of small" in err
    (tmp_path / "pages.tsv").write_text("id\taddress\n1\thttp://a.test/\n")
    code, _, err = simulate(*web, *QUICK)
    assert code
    assert "pages.tsv: no column 'url'; there is id, address" in err
    code, _, err = simulate(*QUICK)
    assert code
    assert "edges" in err

"""Settings: flags over the environment over the file over the directory over defaults; no key is ignored."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from cyclopts import App, Parameter
from hypothesis import given
from hypothesis import strategies as st

import tinylm.config
from crawler.config import CrawlConfig, CrawlPlace, FrontierConfig
from deploy.cli.app import main
from ranker.config import WalkConfig
from tinylm.config import (
    KEPT,
    Setting,
    config_file,
    in_force,
    inherited_environment,
    keep,
    layers,
    said,
    without_password,
)
from tinylm.errors import ConfigError


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class Boat:
    name: str = "none"
    """Painted on the bow."""
    oars: int = 2
    length: float = 4.5
    beta2: float = 0.5
    covered: bool = False
    ports: tuple[str, ...] = ("home",)
    log: Path = Path("log")

    def __post_init__(self) -> None:
        if self.oars < 0:
            raise ConfigError(f"oars = {self.oars!r}: 0 or more")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class Crew:
    sailors: int = 1


@pytest.mark.parametrize("where", ["flag", "environment", "file"])
def test_a_fraction_of_what_is_counted_is_refused_and_not_rounded(where, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if where == "environment":
        monkeypatch.setenv("TINYLM_BOAT_OARS", "2.5")
    if where == "file":
        Path("tinylm.toml").write_text("[boat]\noars = 2.5\n")
    with pytest.raises(ConfigError, match=r"^oars = 2\.5: must be a whole number"):
        command(["--oars", "2.5"] if where == "flag" else [])


def command(argv):
    app = App(config=layers(boat=Boat, crew=Crew))

    @app.default
    def sail(*, boat: Boat = Boat(), crew: Crew = Crew()) -> tuple[Boat, Crew]:
        return boat, crew

    return app(argv, result_action="return_value", exit_on_error=False, print_error=False)


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """A working directory and an environment without settings, and two tables more."""
    ours = {"boat": f"{__name__}:Boat", "crew": f"{__name__}:Crew"}
    monkeypatch.setattr("tinylm.config._TABLES", ours | tinylm.config._TABLES)
    monkeypatch.chdir(tmp_path)
    for variable in list(os.environ):
        if variable.startswith("TINYLM_"):
            monkeypatch.delenv(variable)


def write(text, name="tinylm.toml"):
    Path(name).write_text(text)


def test_a_flag_wins_over_the_environment_that_over_the_file_that_over_the_default(monkeypatch):
    write('[boat]\noars = 3\nname = "file"\nlength = 7\n[crew]\nsailors = 9\n')
    monkeypatch.setenv("TINYLM_BOAT_OARS", "4")
    monkeypatch.setenv("TINYLM_BOAT_NAME", "environment")
    boat, crew = command(["--oars", "5"])
    assert boat == Boat(oars=5, name="environment", length=7.0)
    assert crew == Crew(sailors=9)


def test_every_setting_says_where_it_came_from(monkeypatch):
    write('[boat]\nlength = 7\nports = ["a", "b"]\n')
    monkeypatch.setenv("TINYLM_BOAT_OARS", "4")
    found = {setting.name: setting for setting in in_force()}
    assert found["oars"] == Setting("boat", "oars", 4, "environment TINYLM_BOAT_OARS")
    assert found["length"].value == 7.0
    assert Path(found["length"].source).name == "tinylm.toml"
    assert found["ports"].value == ("a", "b")
    assert found["name"] == Setting("boat", "name", "none", "default")
    assert found["sailors"] == Setting("crew", "sailors", 1, "default")


def test_another_file_can_be_named_and_must_be_there(monkeypatch):
    write("[boat]\noars = 3\n")
    write("[boat]\noars = 8\n", "other.toml")
    monkeypatch.setenv("TINYLM_CONFIG", "other.toml")
    assert config_file() == Path("other.toml")
    assert command([])[0].oars == 8
    monkeypatch.setenv("TINYLM_CONFIG", "missing.toml")
    for use in (lambda: command([]), lambda: list(in_force())):
        with pytest.raises(ConfigError, match=r"TINYLM_CONFIG=missing\.toml: there is no such file"):
            use()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[boat]\noarz = 3\n", r"tinylm\.toml: \[boat\] has no setting oarz: did you mean oars\?"),
        ("[boat]\nsailors = 3\n", r"\[boat\] has no setting sailors: it is one of \[crew\]"),
        ("[baot]\noars = 3\n", r"tinylm\.toml: baot is no table of settings: did you mean boat\?"),
        ("sailors = 3\n", r"sailors is no table of settings: it is one of \[crew\]"),
        ("[[boats]]\noars = 3\n", r"boats is no table"),
        # Of what other commands take, a misspelling is one as well.
        ("[crwal]\npages = 5\n", r"crwal is no table of settings: did you mean crawl\?"),
        ("[crawl]\nuser-agnet = 'x'\n", r"\[crawl\] has no setting user-agnet: did you mean user_agent\?"),
        ("[crawl]\ndelay = 5\n", r"\[crawl\] has no setting delay: it is one of \[frontier\]"),
        ("[pretrain]\nstpes = 5\n", r"\[pretrain\] has no setting stpes: did you mean steps\?"),
        ("[boat\n", r"tinylm\.toml: .*line 1"),
        ("boat = 3\n", r"tinylm\.toml: .*boat"),
        ("[boat]\noars = -1\n", r"oars = -1: 0 or more"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_with_its_name_and_key(text, message):
    write(text)
    with pytest.raises(ConfigError, match=message) as caught:
        command([])
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=message):
        list(in_force())


@pytest.mark.parametrize("text", ['[boat]\noars = "many"\n', "[boat]\noars = [1, 2]\n"])
def test_a_value_of_another_type_is_refused_by_name(text):
    write(text)
    with pytest.raises(ConfigError, match="oars"):
        list(in_force())


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("TINYLM_BOAT_OARZ", "TINYLM_BOAT_OARS"),
        ("TINYLM_BAOT_OARS", "TINYLM_BOAT_OARS"),
        ("TINYLM_SAILORS", "TINYLM_CREW_SAILORS"),
        ("TINYLM_CRWAL_PAGES", "TINYLM_CRAWL_PAGES"),
        ("TINYLM_SFT_EPOCH", "TINYLM_SFT_EPOCHS"),
        ("TINYLM_CONFG", "TINYLM_CONFIG"),
    ],
)
def test_a_variable_that_names_no_setting_is_refused_with_the_nearest_that_does(monkeypatch, name, right):
    monkeypatch.setenv(name, "3")
    for use in (lambda: command([]), lambda: list(in_force())):
        with pytest.raises(ConfigError, match=rf"^{name}: .*did you mean {right}\?"):
            use()


def test_variables_of_compose_and_of_kubernetes_services_are_no_settings(monkeypatch):
    compose = Path(__file__).parents[2].joinpath("docker-compose.yml").read_text()
    ours = set(re.findall(r"\$\{(TINYLM_\w+)", compose))
    assert len(ours) > 5
    of_a_service = {"TINYLM_SERVICE_HOST", "TINYLM_PORT", "TINYLM_CRAWL_PORT_6379_TCP_ADDR"}
    for name in ours | of_a_service | {"TINYLM_REDIS_SERVICE_PORT_REDIS"}:
        monkeypatch.setenv(name, "tcp://10.0.0.1:6379")
    assert command([]) == (Boat(), Crew())


def crawl_command(*argv):
    """The settings that `tinylm crawl` with these flags would have."""
    app = App(config=layers(frontier=FrontierConfig, crawl=CrawlConfig, walk=WalkConfig))

    @app.default
    def crawl(
        *,
        frontier: FrontierConfig = FrontierConfig(),
        crawl: CrawlConfig = CrawlConfig(),
        walk: WalkConfig = WalkConfig(),
    ) -> tuple[FrontierConfig, CrawlConfig, WalkConfig]:
        return frontier, crawl, walk

    return app(argv, result_action="return_value", exit_on_error=False, print_error=False)


def test_what_a_crawl_was_given_before_stands_between_the_file_and_the_defaults(monkeypatch):
    kept = Path("runs/a") / KEPT
    kept.parent.mkdir(parents=True)
    before = CrawlConfig(pages=2, gigabytes=3.0, hours=4.0, workers=5)
    assert keep(kept, frontier=FrontierConfig(delay=7.0), crawl=before, walk=WalkConfig(languages=())) == []
    write('[frontier]\ndata = "runs/a"\n[crawl]\ngigabytes = 30\n')
    monkeypatch.setenv("TINYLM_CRAWL_HOURS", "40")
    frontier, crawl, walk = crawl_command("--workers", "50")
    assert (frontier.delay, walk.languages) == (7.0, ())
    assert (crawl.pages, crawl.gigabytes, crawl.hours, crawl.workers) == (2, 30.0, 40.0, 50)
    assert said() == {"data", "gigabytes", "hours", "workers"}
    found = {setting.name: setting.source for setting in in_force()}
    assert (found["delay"], found["languages"], found["hours"]) == (
        "runs/a/settings.toml",
        "runs/a/settings.toml",
        "environment TINYLM_CRAWL_HOURS",
    )
    elsewhere = {(each.section, each.name): each for each in in_force("--data", "runs/b")}
    assert elsewhere["frontier", "delay"].value == 1.0
    assert elsewhere["frontier", "data"].source == "--data"
    # What is said now wins, also where that is the default, and the difference is told.
    assert keep(kept, frontier=FrontierConfig(), crawl=crawl) == [
        "[frontier] delay = 1.0, was 7.0",
        "[crawl] gigabytes = 30.0, was 3.0",
        "[crawl] hours = 40.0, was 4.0",
        "[crawl] workers = 50, was 5",
    ]
    assert crawl_command("--data", "runs/a")[0].delay == 1.0
    assert crawl_command("--data", "runs/a")[2].languages == (), "a table that was not given is kept"


def test_a_command_that_takes_some_of_a_table_leaves_the_others_alone(monkeypatch):
    write('[frontier]\ndelay = 7\ncrawl-id = "a"\n')
    keep(Path(KEPT), frontier=FrontierConfig(crawl_id="a", partitions=3, attempts=9))
    monkeypatch.setenv("TINYLM_FRONTIER_BACKOFF", "7")
    app = App(config=layers(frontier=CrawlPlace))

    @app.default
    def look(*, frontier: CrawlPlace = CrawlPlace()) -> CrawlPlace:
        return frontier

    found = app(["--data", "."], result_action="return_value", exit_on_error=False, print_error=False)
    assert found == CrawlPlace(data=Path(), crawl_id="a", partitions=3)


@pytest.mark.parametrize("other", [("--redis-url", "redis://b"), ("--crawl-id", "b")])
def test_the_settings_of_another_crawl_say_nothing(other):
    keep(Path(KEPT), frontier=FrontierConfig(redis_url="redis://a", crawl_id="a", delay=7.0))
    assert crawl_command("--data", ".")[0].delay == 7.0
    assert crawl_command("--data", ".", "--redis-url", "redis://a", "--crawl-id", "a")[0].delay == 7.0
    assert crawl_command("--data", ".", *other)[0].delay == 1.0


def test_settings_that_another_tinylm_wrote_are_refused_by_name():
    write("version = 9\n[frontier]\ndelay = 7.0\n", KEPT)
    with pytest.raises(ConfigError, match=rf"{KEPT} has version 9, not 1: another tinylm wrote it"):
        crawl_command("--data", ".")


@pytest.mark.parametrize(
    ("url", "written"),
    [
        ("redis://:secret@a:6379/0", "redis://:***@a:6379/0"),
        ("redis+cluster://me:sec/r@et@a", "redis+cluster://me:***@a"),
        ("unix://me@/a.sock?db=1&password=secret", "unix://me@/a.sock?db=1&password=***"),
        ("redis://a:6379/0", "redis://a:6379/0"),
        ("unix:///a:b@c/d.sock", "unix:///a:b@c/d.sock"),
        ("", ""),
    ],
)
def test_a_password_is_not_written(url, written):
    assert without_password(url) == written


def test_a_password_is_not_said_in_an_error():
    with pytest.raises(ConfigError, match=r"^redis_url = 'rediz://:\*\*\*@a'"):
        FrontierConfig(redis_url="rediz://:secret@a")


plain = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
boats = st.builds(
    Boat,
    name=plain | st.sampled_from(['"', "\\", "a\nb", "'''", "\x7f", "#", "[x]", "", "\\n"]),
    oars=st.integers(0, 2**53),
    length=st.floats(allow_nan=False),
    covered=st.booleans(),
    ports=st.lists(plain).map(tuple),
    log=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20).map(Path),
)


@given(boats, st.builds(Crew, sailors=st.integers(0, 9)))
def test_what_is_written_is_read_back_equal(boat, crew):
    keep(Path("tinylm.toml"), boat=boat, crew=crew)
    assert command([]) == (boat, crew)
    assert [path.name for path in Path.cwd().iterdir()] == ["tinylm.toml"]


def test_only_what_differs_from_the_defaults_is_written():
    keep(Path("x.toml"), boat=Boat(oars=3), crew=Crew())
    assert Path("x.toml").read_text() == "version = 1\n\n[boat]\noars = 3\n\n[crew]\n"


def test_a_child_has_the_settings_of_its_file_and_no_others(monkeypatch, tmp_path):
    monkeypatch.setenv("TINYLM_BOAT_OARS", "7")
    monkeypatch.setenv("TINYLM_BOAT_BETA2", "7")
    monkeypatch.setenv("TINYLM_LOG", "DEBUG")
    monkeypatch.setenv("UNRELATED", "1")
    environment = inherited_environment(Path("run.toml"))
    assert environment["TINYLM_CONFIG"] == str(tmp_path / "run.toml")
    assert not [name for name in environment if name.startswith("TINYLM_BOAT")]
    assert (environment["TINYLM_LOG"], environment["UNRELATED"]) == ("DEBUG", "1")


@pytest.mark.parametrize("words", ["config", "crawl", "status", "shards hold-out x"])
def test_at_the_command_line_an_unknown_key_is_one_line_and_exit_code_2(words, capsys):
    """Of commands that take other tables as well."""
    write("[crawl]\npagez = 3\n")
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    said = capsys.readouterr().err
    assert (ended.value.code, said.count("\n"), said.startswith("error: ")) == (2, 1, True)
    assert "pagez" in said
    assert "tinylm.toml" in said


def test_so_it_is_for_the_trainer():
    write("[crawl]\npagez = 3\n")
    argv = [sys.executable, "-m", "trainer.instructions"]
    there = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(argv, capture_output=True, text=True, check=False, env=there)
    assert ended.returncode == 2
    assert re.fullmatch(r"error: .*tinylm\.toml.*pagez.*\n", ended.stderr)


@pytest.mark.parametrize("flag", ["--include", "--data", "--crawl-id", "--memory"])
def test_settings_are_text_whose_bytes_are_utf_8(flag):
    name = flag[2:].replace("-", "_")
    with pytest.raises(ConfigError, match=f"{name} = caf\ufffd: text whose bytes are UTF-8"):
        crawl_command(flag, "caf\udce9")

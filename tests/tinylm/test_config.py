"""Settings: flags over the environment over the file over defaults, and no key is ignored."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from cyclopts import App, Parameter
from hypothesis import given
from hypothesis import strategies as st

from tinylm.config import Setting, config_file, in_force, inherited_environment, layers, write_file
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
    """A working directory and an environment without settings."""
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
    found = {setting.name: setting for setting in in_force(boat=Boat, crew=Crew)}
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
    for use in (lambda: command([]), lambda: list(in_force(boat=Boat))):
        with pytest.raises(ConfigError, match=r"TINYLM_CONFIG=missing\.toml: there is no such file"):
            use()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[boat]\noarz = 3\n", r"tinylm\.toml: .*oarz"),
        ("[boat]\nsailors = 3\n", r"tinylm\.toml: .*sailors"),
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
        list(in_force(boat=Boat))


@pytest.mark.parametrize("text", ['[boat]\noars = "many"\n', "[boat]\noars = [1, 2]\n"])
def test_a_value_of_another_type_is_refused_by_name(text):
    write(text)
    with pytest.raises(ConfigError, match="oars"):
        list(in_force(boat=Boat))


def test_a_variable_that_names_no_setting_is_refused(monkeypatch):
    monkeypatch.setenv("TINYLM_BOAT_OARZ", "3")
    with pytest.raises(ConfigError, match="TINYLM_BOAT_OARZ"):
        command([])


def test_a_table_that_names_no_section_is_refused_where_all_are_known():
    write("[baot]\noars = 3\n")
    with pytest.raises(ConfigError, match=r"\[baot\] is none of \[boat\], \[crew\]"):
        list(in_force(boat=Boat, crew=Crew))


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
    write_file(Path("tinylm.toml"), boat=boat, crew=crew)
    assert command([]) == (boat, crew)
    assert [path.name for path in Path.cwd().iterdir()] == ["tinylm.toml"]


def test_only_what_differs_from_the_defaults_is_written():
    write_file(Path("x.toml"), boat=Boat(oars=3), crew=Crew())
    assert Path("x.toml").read_text() == "[boat]\noars = 3\n\n[crew]\n\n"


def test_a_child_has_the_settings_of_its_file_and_no_others(monkeypatch, tmp_path):
    monkeypatch.setenv("TINYLM_BOAT_OARS", "7")
    monkeypatch.setenv("TINYLM_BOAT_BETA2", "7")
    monkeypatch.setenv("TINYLM_LOG", "DEBUG")
    monkeypatch.setenv("UNRELATED", "1")
    environment = inherited_environment(Path("run.toml"))
    assert environment["TINYLM_CONFIG"] == str(tmp_path / "run.toml")
    assert not [name for name in environment if name.startswith("TINYLM_BOAT")]
    assert (environment["TINYLM_LOG"], environment["UNRELATED"]) == ("DEBUG", "1")


CLI = [sys.executable, "-m", "deploy.cli.app"]


def test_at_the_command_line_an_unknown_key_is_one_line_and_exit_code_2():
    write("[crawl]\npagez = 3\n")
    for argv in (["config"], ["crawl"]):
        ended = subprocess.run(
            [*CLI, *argv],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert ended.returncode == 2
        assert ended.stderr.startswith("error: ")
        assert len(ended.stderr.splitlines()) == 1
        assert "pagez" in ended.stderr
        assert "tinylm.toml" in ended.stderr

"""Reading scenario files and their parameters."""

import pytest

from iflab.scenario import ScenarioError, find_scenario, list_scenarios, load


def write(tmp_path, text):
    path = tmp_path / "09_mine.py"
    path.write_text(text)
    return path


def test_parameters_have_types_and_defaults(tmp_path):
    mine = load(
        write(
            tmp_path,
            '"""Mine does it."""\n'
            "def scenario(lab, count: int = 3, wait: float = 0.5, loud: bool = False, who: str = 'bob'): ...\n",
        )
    )

    assert (mine.name, mine.purpose) == ("mine", "Mine does it.")
    assert mine.values({}) == {"count": 3, "wait": 0.5, "loud": False, "who": "bob"}
    assert mine.values({"count": "7", "wait": "2", "loud": "yes", "who": "eve"}) == {
        "count": 7,
        "wait": 2.0,
        "loud": True,
        "who": "eve",
    }


def test_wrong_values_name_the_parameter_and_its_type(tmp_path):
    mine = load(write(tmp_path, "def scenario(lab, count: int = 3): ..."))

    with pytest.raises(ScenarioError, match="count='many' is no int; the default is 3"):
        mine.values({"count": "many"})
    with pytest.raises(ScenarioError, match=r"has no parameter 'cuont'; it has count \(int\)"):
        mine.values({"cuont": "1"})


def test_a_parameter_with_a_type_and_no_default_must_be_set(tmp_path):
    mine = load(write(tmp_path, "def scenario(lab, n: int, wait: float = 0.5): ..."))

    assert mine.values({"n": "5"}) == {"n": 5, "wait": 0.5}
    assert [str(parameter) for parameter in mine.parameters.values()] == ["n=<int>", "wait=0.5"]
    with pytest.raises(ScenarioError, match=r"09_mine\.py needs a value for n; write --set n=<int>$"):
        mine.values({"wait": "1"})
    with pytest.raises(ScenarioError, match=r"n='many' is no int; write --set n=<int>$"):
        mine.values({"n": "many"})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x = 1", "has no function scenario"),
        ("def scenario(): ...", "takes no lab"),
        ("def scenario(lab, n): ...", "parameter n has no default; give it one, or a type, as n: int, to be"),
        ("def scenario(lab, n: bytes): ...", "the parameter n is no int, float, str or bool"),
        ("def scenario(lab, *n: int): ...", "the parameter n has no default"),
        ("def scenario(lab, **n: int): ...", "the parameter n has no default"),
        ("import nowhere_at_all", "does not load: ModuleNotFoundError"),
        ("x = 1\ndef scenario(lab)\n    pass", r"does not load: SyntaxError: expected ':' \(line 2\)$"),
        ("x = '\0'", "does not load: SyntaxError: source code string cannot contain null bytes$"),
        ("async def scenario(lab): ...", "would only be begun"),
        ("def scenario(lab): yield", "would only be begun"),
        ("import sys\nsys.exit(0)", r"does not load: SystemExit: 0 \(line 2\)"),
    ],
)
def test_files_that_are_no_scenario_say_why(tmp_path, text, complaint):
    with pytest.raises(ScenarioError, match=complaint):
        load(write(tmp_path, text))


def test_one_that_does_not_load_hides_no_other(tmp_path, monkeypatch):
    folder = tmp_path / "scenarios"
    folder.mkdir()
    (folder / "90_exits.py").write_text("raise SystemExit(0)\n")
    (folder / "91_good.py").write_text("def scenario(lab): ...\n")
    monkeypatch.chdir(tmp_path)
    unfit = []

    found = list_scenarios(unfit.append)

    assert [s.name for s in found][:2] == ["good", "first_ping"]
    assert "90_exits.py does not load: SystemExit: 0" in str(unfit[0])


def test_of_an_unknown_scenario_the_nearest_is_named():
    with pytest.raises(ScenarioError, match=r"no scenario 'frist_ping'; did you mean first_ping\?"):
        find_scenario("frist_ping")
    with pytest.raises(ScenarioError, match="no scenario 'xyzzy'; 'iflab list' shows those that there are"):
        find_scenario("xyzzy")


def test_every_scenario_of_the_project_is_listed_with_a_purpose():
    found = list_scenarios()

    assert [s.name for s in found][:8] == [
        "first_ping",
        "scapy_station",
        "sniff",
        "promisc",
        "allmulti",
        "link_flap",
        "queue_full",
        "your_own_nic",
    ]
    assert all(s.purpose.endswith(".") for s in found)
    assert all(len(s.path.read_text().splitlines()) < 80 for s in found)

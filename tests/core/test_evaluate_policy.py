"""The file that describes a policy: what it may say, and what is said of one that is wrong, with the place."""

import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.evaluate.targets import EpsilonGreedySpec, FixedSpec, Spec, ThompsonSpec, UniformSpec
from pipeline.core.policy import PolicyRules
from pipeline.errors import SettingsError
from pipeline.evaluate_policy import read_policy

yaml = pytest.importorskip("yaml")
FIXED = "policy: fixed\nactions:\n  red: 0.75\n  blue: 0.25\n"


def written(folder: Path, text: str, name: str = "new.yaml") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def complaint(path: Path) -> str:
    """What is said of a wrong file, without the folder."""
    with pytest.raises(SettingsError) as caught:
        read_policy(path)
    return str(caught.value).replace(str(path), path.name)


def test_yaml_and_toml_say_the_same(tmp_path: Path) -> None:
    toml = 'policy = "fixed"\n[actions]\nred = 0.75\nblue = 0.25\n'
    one = read_policy(written(tmp_path, FIXED))
    assert one == read_policy(written(tmp_path, toml, "new.toml"))
    assert one == FixedSpec(policy="fixed", actions={"red": 0.75, "blue": 0.25})


def test_what_is_not_said_is_as_in_delivery(tmp_path: Path) -> None:
    found = read_policy(written(tmp_path, "policy: epsilon_greedy\n"))
    assert isinstance(found, EpsilonGreedySpec)
    assert PolicyRules(found.epsilon, found.prior_mean, found.prior_trials) == PolicyRules()
    assert isinstance(read_policy(written(tmp_path, "policy: thompson\nprior_mean: 0\n")), ThompsonSpec)
    assert isinstance(read_policy(written(tmp_path, "policy: uniform")), UniformSpec)


WRONG = {
    "": "new.yaml: found nothing, expected `policy: NAME` and its parameters",
    "[1, 2]": "found list, expected `policy: NAME` and its parameters",
    "epsilon: 0.1": "new.yaml:1:1: no policy is named, expected one of epsilon_greedy, ucb, ",
    "\npolicy: greedy": "new.yaml:2:1: unknown policy 'greedy', expected one of epsilon_greedy, ",
    "policy: [thompson]": "unknown policy ['thompson'], expected one of",
    "policy: epsilon_greedy\nepsilom: 0.1": "new.yaml:2:1: epsilom: unknown, expected epsilon?",
    "policy: uniform\nepsilon: 0.1": "new.yaml:2:1: epsilon: unknown, expected nothing but the policy",
    "policy: epsilon_greedy\nepsilon: 1.5": "new.yaml:2:1: epsilon: found 1.5, expected: less than or equal to 1",
    "policy: epsilon_greedy\nepsilon: '0.1'": "epsilon: found '0.1', expected: a valid number",
    "policy: epsilon_greedy\nepsilon: .nan": "epsilon: found nan, expected: a finite number",
    "policy: thompson\nrefresh_every: 0": "refresh_every: found 0, expected: greater than or equal to 1",
    "policy: thompson\nprior_trials: -1": "prior_trials: found -1, expected: greater than or equal to 0",
    "policy: fixed": "actions: missing, expected probabilities by action id",
    "policy: fixed\nactions: {}": "new.yaml:2:1: actions: found {}, expected: ",
    "policy: fixed\nactions:\n  red: 0.5\n  blue: 0.2": "new.yaml:2:1: actions: the probabilities sum to 0.7, expe",
    "policy: fixed\nactions:\n  red: 1.5\n  blue: -0.5": "new.yaml:4:3: actions.blue: found -0.5, expected: greater",
    "policy: fixed\nactions:\n  12: 1.0": 'new.yaml:3:3: actions.12: found 12, expected: a valid string (write "12")',
    "policy: fixed\nactions:\n  red: 0.5\n  red: 0.5": "new.yaml:4:3: red stands here again, expected it once (line 3)",
    "policy: uniform\n  x: 1": "new.yaml:2:4: mapping values are not allowed here, expected YAML",
    "policy: !!python/object:os.system x": "could not determine a constructor for the tag",
    "policy: uniform\n---\npolicy: uniform": "but found another document, expected YAML",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str) -> None:
    assert WRONG[text] in complaint(written(tmp_path, text))


def test_every_mistake_has_a_line_of_its_own(tmp_path: Path) -> None:
    said = complaint(written(tmp_path, "policy: epsilon_greedy\nepsilon: 2\nprior: 1\n"))
    assert [re.sub(r": .*", "", line) for line in said.splitlines()] == ["new.yaml:2:1", "new.yaml:3:1"]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert complaint(tmp_path / "none.yaml") == (
        "none.yaml: No such file or directory, expected a file that describes a policy"
    )
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"policy: \xff")
    assert complaint(binary) == "binary.yaml: byte 8 is no UTF-8, expected text"
    assert "expected TOML" in complaint(written(tmp_path, "policy: uniform", "new.toml"))
    assert "line 1" in complaint(written(tmp_path, "policy: uniform", "new.toml"))


RIGHT = (
    FIXED,
    "policy: fixed\nactions: {a: 0.5, b: 0.5}",
    "policy: epsilon_greedy\nepsilon: 0.05\nprior_trials: 2\n",
    "policy: thompson\nprior_mean: 0.1\nrefresh_every: 10\n",
    "policy: linear_igw\nprior_mean: 0.01",
    "policy: ucb",
    "policy: uniform",
)


@st.composite
def altered(draw: st.DrawFn) -> str:
    """A file that is right, with another digit, or up to two characters replaced, put in or left out."""
    text = draw(st.sampled_from(RIGHT))
    if draw(st.booleans()):
        return re.sub(r"\d(?=\n|$)", draw(st.sampled_from("0123456789")), text) + draw(
            st.sampled_from(["", "\n", "# é"])
        )
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(text)))
        new = draw(st.sampled_from(["", *"0123456789.- e:{}[]\n&*!'\"#xl"]) | st.characters())
        text = text[:at] + new + text[at + draw(st.integers(0, 1)) :]
    return text


def test_no_text_ends_in_anything_but_a_policy_or_a_complaint(tmp_path: Path) -> None:
    read: Counter[bool] = Counter()

    @settings(max_examples=150)
    @given(altered())
    def is_either(text: str) -> None:
        path = tmp_path / "any.yaml"
        path.write_text(text, "utf-8", errors="replace")
        found = policy_or_complaint(path)
        read[isinstance(found, Spec)] += 1
        assert "expected" in found if isinstance(found, str) else found.target()

    is_either()
    assert min(read[True], read[False]) > 5, read


def policy_or_complaint(path: Path) -> Spec | str:
    try:
        return read_policy(path)
    except SettingsError as error:
        return str(error)

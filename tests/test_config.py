"""The gateway's configuration: what a file means, and that every fault is told with the line that is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkscale.errors import UsageError
from thinkscale.serve.bodies import ChatBody, CompletionBody
from thinkscale.serve.config import (
    DEFAULT,
    EFFORTS,
    Config,
    KeyConfig,
    ModelConfig,
    PolicyConfig,
    ServerConfig,
    for_model,
    load,
)
from thinkscale.serve.config_values import STANDARD_FIELDS
from thinkscale.store.keys import KeyLimits
from thinkscale.types import Budget

EXAMPLE = Path(__file__).resolve().parents[1] / "deploy" / "gateway.toml"
SECRET = "a-secret-of-more-than-20-characters"
MODEL = '[[models]]\nname = "m"\nbackends = ["http://gpu:8000/v1#m"]\n'


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes a configuration; messages name it as `gateway.toml`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CI_KEY", SECRET)

    def write(text: str) -> Path:
        path = Path("gateway.toml")
        path.write_text(text)
        return path

    return write


def faults(path: Path) -> list[str]:
    with pytest.raises(UsageError) as error:
        load(path)
    return str(error.value).splitlines()


# -- what a file means --------------------------------------------------------------------------------------------


def test_one_model_is_enough(written: Callable[[str], Path]) -> None:
    assert load(written(MODEL)) == Config(
        models=(ModelConfig("m", ("http://gpu:8000/v1#m",)),),
        server=ServerConfig("127.0.0.1", 8000, None, 1024),
        limits=Budget(max_calls=256, deadline_s=600),
        policies={
            "single": PolicyConfig("single"),
            "auto": PolicyConfig("auto"),
            "default": PolicyConfig("adaptive-consistency:n=256", Budget(max_calls=16)),
        },
        efforts=EFFORTS,
        verifiers={},
        keys=(),
    )


def test_the_example_shows_the_defaults() -> None:
    config = load(EXAMPLE)
    assert config.server == ServerConfig()
    assert config.efforts == EFFORTS
    assert config.limits == Budget(max_calls=256, deadline_s=600)
    assert config.policies["default"] == DEFAULT["default"]
    first, second = config.models
    assert (first.passed, first.policies, second.threads) == (("top_k", "min_p"), ("default", "careful", "single"), 4)
    careful = config.policies["careful"]
    assert careful.budget == Budget(max_calls=64, max_cost_usd=0.05, deadline_s=120)
    assert careful.verifier == config.verifiers["reward"] != "reward"


def test_what_the_example_leaves_out_is_right_too(written: Callable[[str], Path], monkeypatch: Any) -> None:
    monkeypatch.setenv("GPU_KEY", "x")
    text, uncommented = re.subn(r"^# (?=\[\[|[a-z_]+ = )", "", EXAMPLE.read_text(), flags=re.MULTILINE)
    config = load(written(text))
    assert uncommented == 15
    assert config.server.per_key == 512
    assert config.models[0].key_env == "GPU_KEY"
    assert config.keys == (
        KeyConfig("ci", "CI_KEY", False, ("qwen",), ("default",), 60, 100_000, 5_000_000, 50_000_000, 5.0, 50.0),
    )
    assert config.keys[0].limits == KeyLimits(60, 100_000, 5_000_000, 50_000_000, 5.0, 50.0)


def test_every_setting_is_in_the_example() -> None:
    text = EXAMPLE.read_text()
    named = {"passed": "pass"}
    for kind in (ServerConfig, ModelConfig, PolicyConfig, KeyConfig):
        for field in kind.__dataclass_fields__:
            assert re.search(rf"^(?:# )?{named.get(field, field)} = ", text, re.MULTILINE), f"{kind.__name__}.{field}"


def test_values(written: Callable[[str], Path]) -> None:
    config = load(
        written(
            "[server]\nport = 0\nlog_json = true\nmax_body_mb = 0.5\n[limits]\nbudget = {output-tokens = 10, usd = 1}\n"
            + MODEL
            + 'aliases = ["n", "o"]\nprice = "1/2"\n[efforts]\nhigh = "tokens=9"\n'
            + '[policies.default]\nstrategy = " esc "\nkind = "choice"\nverifier = "arithmetic"\nsystem = ""\n'
            + '[policies.single]\nstrategy = "self-consistency:n=4"\n'
            + '[[keys]]\nname = "k"\nenv = "CI_KEY"\nadmin = true\nmodels = ["n", "m"]\n'
        )
    )
    assert (config.server.port, config.server.log_json, config.server.max_body_mb) == (0, True, 0.5)
    assert config.limits == Budget(max_output_tokens=10, max_cost_usd=1)
    assert config.policies == {
        "default": PolicyConfig("esc", kind="choice", verifier="arithmetic", system=""),
        "single": PolicyConfig("self-consistency:n=4"),
        "auto": PolicyConfig("auto"),
    }
    assert config.efforts == {**EFFORTS, "high": Budget(max_total_tokens=9)}
    key = config.keys[0]
    assert (key.secret, key.limits, key.admin) == (SECRET, KeyLimits(), True)
    assert key.models == ("m",)  # a model goes by its own name, whichever alias a key is given


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("smollm2", "smollm2"),
        (" smollm2 ", "smollm2"),
        ("http://gpu/v1#Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("http://gpu/v1", None),
        ("models/tiny.q4.gguf", "tiny.q4"),
        ("hf:owner/repo/deep/tiny.gguf", "tiny"),
    ],
)
def test_one_backend_without_a_file(reference: str, name: str | None) -> None:
    config = for_model(reference, port=9000)
    assert config.models == (ModelConfig(name, (reference.strip(),)),)
    assert config.server == ServerConfig(port=9000)
    assert config.policies.keys() == {"default", "single", "auto"}


@pytest.mark.parametrize("reference", ["nope", "bank:samples.jsonl", "http://me:pw@gpu/v1"])
def test_a_wrong_backend_without_a_file(reference: str) -> None:
    with pytest.raises(UsageError):
        for_model(reference)


def test_reading_opens_nothing(written: Callable[[str], Path], tmp_path: Path) -> None:
    text = MODEL.replace('"http://gpu:8000/v1#m"', '"missing.gguf"')
    load(written(f'[server]\ndatabase = "sqlite:///here.db"\n{text}'))
    assert [path.name for path in tmp_path.iterdir()] == ["gateway.toml"]


def test_no_parameter_that_is_read_here_can_be_passed_on() -> None:
    assert ChatBody.model_fields.keys() | CompletionBody.model_fields.keys() <= STANDARD_FIELDS


# -- what is wrong, and where -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (MODEL + "\n# here:\nprice = 'x/y'\n", 6, "models.price: price 'x/y' is not IN/OUT in dollars per million"),
        (MODEL + "price = 3\n", 4, "models.price: expected text in quotes, not 3"),
        (MODEL + "max_in_flight = 0\n", 4, "models.max_in_flight: it should be greater than or equal to 1, not 0"),
        (MODEL + 'key_env = "NOT_SET_ANYWHERE"\n', 4, "models.key_env: the environment variable 'NOT_SET_ANYWHERE' is"),
        (MODEL + 'pass = ["min_p",\n "seed"]\n', 5, "models.pass: seed is a standard request field"),
        (MODEL + 'pass = "min_p"\n', 4, "models.pass: expected a list, not 'min_p'"),
        (MODEL + "threads = 2\n", 4, "models.threads: this is for an embedded model, and every backend is a server"),
        (MODEL + 'policy = "defualt"\n', 4, "models.policy: no policy is named 'defualt' (did you mean default?)"),
        (MODEL + 'policies = ["single",\n\n"x"]\npolicy = "single"', 6, "models.policies: no policy is named 'x'"),
        (MODEL + 'policies = ["single"]\n', 1, "models.policy: the policy 'default', which applies by default, is not"),
        (MODEL + "policies = []\n", 4, "models.policies: expected at least one"),
        (MODEL + "[policies.x]\n", 1, "models.policy: no policy is named 'default'; known: single, auto, x"),
        (MODEL + "\n" + MODEL, 6, "models.name: 'm' is already a name of the model 'm'"),
        (MODEL + 'aliases = ["n",\n"n"]', 5, "models.aliases: 'n' is already a name of the model 'm'"),
        (MODEL.replace('"m"', '"my model"'), 2, "models.name: a name must not be empty or hold spaces: 'my model'"),
        (MODEL.replace('name = "m"', ""), 1, "models.name: missing"),
        (MODEL.replace("backends", "backend"), 3, "models.backend: unknown key (did you mean backends?)"),
        ('[[models]]\nname = "m"\nbackends = [\n  "smollm2",\n  "smolm2",\n]', 5, "models.backends: no model is named"),
        ('[[models]]\nname = "m"\nbackends = ["bank:x"]', 3, "models.backends: bank:x holds samples of recorded"),
        ('[[models]]\nname = "m"\nbackends = []', 3, "models.backends: expected at least one"),
        ('[[models]]\nname = "m"\nbackends = ["http://a", "smollm2"]', 3, "models.backends: only servers can stand in"),
        ('[[models]]\nname = "m"\nbackends = ["http://a",\n"http://a"]', 4, "models.backends: http://a is given twice"),
        ('[[models]]\nname = "m"\nkey_env="CI_KEY"\nbackends = ["smollm2"]', 3, "models.key_env: this is for a server"),
        ("", 1, "models: no model is served: add [[models]] with a name and backends"),
        ("\n[models]\nname = 'm'", 2, "models: expected an array of tables: write [[models]] over each"),
        ("models = [3]", 1, "models: expected a table"),
        (MODEL + "[[server]]\n", 4, "server: expected a table: write [server]"),
        (MODEL + "[server]\nprot = 80\n", 5, "server.prot: unknown key (did you mean port?)"),
        (MODEL + "[limits]\nzzz = 80\n", 5, "limits.zzz: unknown key; known: budget"),
        (MODEL + '[server]\nport = "80"\n', 5, "server.port: expected a whole number, not '80'"),
        (MODEL + "[server]\nport = true\n", 5, "server.port: expected a whole number, not True"),
        (MODEL + "[server]\nport = 65536\n", 5, "server.port: it should be less than or equal to 65535, not 65536"),
        (MODEL + "[server]\ndrain_s = inf\n", 5, "server.drain_s: it should be a finite number, not inf"),
        (MODEL + "[server]\notel = 1\n", 5, "server.otel: expected true or false, not 1"),
        (MODEL + '[server]\nlog_json = "yes"\n', 5, "server.log_json: expected true, false or \"auto\", not 'yes'"),
        (MODEL + '[server]\ndatabase = "mysql://u:pw@h/d"\n', 5, "server.database: the database must be sqlite:///FILE"),
        (MODEL + "server.port = -1\n", 4, "models.server: unknown key; known: name, backends"),
        (MODEL + '[limits]\nbudget = "call=1"', 5, "limits.budget: budget 'call=1' is not one of tokens=NUMBER"),
        (MODEL + '[limits]\nbudget = ""', 5, 'limits.budget: expected limits such as "calls=16,seconds=60", not \'\''),
        (MODEL + "[limits]\nbudget = {calls = 1.5}", 5, "limits.budget: budget calls='1.5': expected a whole number"),
        (MODEL + "[limits]\nbudget.calls = -1", 5, "limits.budget: budget 'calls=-1': max_calls must be positive"),
        (MODEL + '[policies.default]\nstrategy = "ecs"', 5, "policies.default.strategy: unknown strategy 'ecs'"),
        (MODEL + '[policies.default]\nkind = "numbr"', 5, "policies.default.kind: unknown kind 'numbr' (known: auto"),
        (MODEL + '[policies.default]\nverifier = "code"', 5, "policies.default.verifier: the verifier code needs"),
        (MODEL + '[policies]\ndefault = 1', 5, "policies.default: expected a table"),
        (MODEL + '[policies.default]\n[policies."a:b"]', 5, "policies.a:b: a policy's name must not be empty or hold"),
        (MODEL + '[efforts]\nhihg = "calls=4"', 5, "efforts.hihg: unknown key (did you mean high?)"),
        (MODEL + "[efforts]\nhigh = 4", 5, "efforts.high: expected limits such as"),
        (MODEL + '[verifiers]\nx = "prm"', 5, "verifiers.x: prm needs the address of a vLLM server"),
        (MODEL + "[verifiers]\nx = 1", 5, 'verifiers.x: expected a word such as "arithmetic", not 1'),
        (MODEL + "[[key]]\nname = 'k'", 4, "key: unknown key (did you mean keys?)"),
        (MODEL + "[[keys]]\nname = 'k'", 4, "keys.env: missing"),
        (MODEL + "[[keys]]\nname = 'k'\nenv = ''", 6, "keys.env: the environment variable '' is not set"),
        (MODEL + "[[keys]]\nname = 'k'\nenv = 'CI_KEY'\nmodels = ['n']", 7, "keys.models: no model is named 'n'"),
        (MODEL + "[[keys]]\nname = 'k'\nenv = 'CI_KEY'\npolicies = ['n']", 7, "keys.policies: no policy is named 'n'"),
        (MODEL + "[[keys]]\nname = 'k'\nenv = 'CI_KEY'\nusd_per_day = 0", 7, "keys.usd_per_day: it should be greater"),
        (MODEL + 2 * "[[keys]]\nname = 'k'\nenv = 'CI_KEY'\n", 8, "keys.name: another key is named 'k'"),
    ],
)  # fmt: skip
def test_a_fault_is_told_by_its_line(written: Callable[[str], Path], text: str, line: int, message: str) -> None:
    told = faults(written(text))
    assert any(fault.startswith(f"gateway.toml:{line}: {message}") for fault in told), told
    assert len(told) == (2 if "backend =" in text else 1), told  # a misspelt key is also a missing one


def test_two_keys_must_not_share_a_secret(written: Callable[[str], Path]) -> None:
    keys = "".join(f"[[keys]]\nname = '{name}'\nenv = 'CI_KEY'\n" for name in "ab")
    assert faults(written(MODEL + keys)) == ["gateway.toml:9: keys.env: the key 'a' has the same secret"]


def test_all_faults_are_told_in_the_order_of_the_file(written: Callable[[str], Path]) -> None:
    text = """
        [server]
        port = "80"
        [[models]]
        name = "a"
        backends = ["nope"]
        policy = "fats"
        [[models]]
        name = "a"
        backends = ["http://x"]
        [policies.fast]
        strategy = "x"
        verifier = "checker"
        [[keys]]
        name = "k"
        env = "NOT_SET_ANYWHERE"
        models = ["b"]
        """
    told = [int(fault.split(":")[1]) for fault in faults(written(text))]
    assert told == [3, 6, 7, 8, 9, 12, 13, 16, 17]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\nport = \n", "gateway.toml:2:8: not TOML: Invalid value"),
        ("[server]\nport = 1\nport = 2\n", "gateway.toml:3:9: not TOML: Cannot overwrite a value"),
        ('[server]\nhost = """\n\n', "gateway.toml:4: not TOML: Unterminated string"),
    ],
)
def test_what_is_not_toml_is_told_by_line_and_column(written: Callable[[str], Path], text: str, message: str) -> None:
    told = faults(written(text))
    assert len(told) == 1
    assert told[0].startswith(message)


def test_files_that_cannot_be_read(written: Callable[[str], Path]) -> None:
    assert faults(Path("none.toml")) == ["cannot read none.toml: No such file or directory"]
    path = written("")
    path.write_bytes(b"# caf\xe9\n")
    assert "gateway.toml is not UTF-8 text" in faults(path)[0]
    path.write_text("\ufeff" + MODEL, "utf-8")
    assert load(path).models[0].name == "m"


JUNK = st.sampled_from(
    ['""', '"x"', "0", "-1", "1.5", "nan", "true", "[]", "[[]]", "[1]", '["x", 1]', "{}", "{ x = 1 }", "[{}]",
     "1979-05-27", '["default", ["single"]]', '{ name = ["m"] }']
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_no_value_makes_reading_fail_in_another_way(data: st.DataObject, tmp_path_factory: Any) -> None:
    """Any value in place of any other is either fine or refused, at a line that exists."""
    text = re.sub(r"^# (?=\[\[|[a-z_]+ = )", "", EXAMPLE.read_text(), flags=re.MULTILINE)
    text = re.sub(r"\[\n\s*(.*\n)\s*(.*\n)\]", r"[]", text)
    places = [match.span(1) for match in re.finditer(r"^[a-z_]+ = (.*)$", text, re.MULTILINE)]
    start, end = data.draw(st.sampled_from(places))
    text = text[:start] + data.draw(JUNK) + text[end:]
    section = data.draw(st.sampled_from(["", "server", "limits", "models", "policies", "efforts", "verifiers", "keys"]))
    if section:  # and one whole section is something else
        text = re.sub(rf"^\[+{section}\b.*?(?=^\[|\Z)", "", text, flags=re.MULTILINE | re.DOTALL)
        text = f"{section} = {data.draw(JUNK)}\n{text}"
    path = tmp_path_factory.getbasetemp() / "junk.toml"
    path.write_text(text)
    try:
        load(path)
    except UsageError as error:
        for fault in str(error).splitlines():
            assert 1 <= int(fault.removeprefix(f"{path}:").split(":")[0]) <= text.count("\n") + 1

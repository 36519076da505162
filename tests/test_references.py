"""What a model reference may look like, and that keys only go where they belong."""

from __future__ import annotations

from pathlib import Path

import pytest

from thinkscale.errors import UsageError
from thinkscale.models import catalog
from thinkscale.models.references import (
    KEY_VARIABLES,
    Bank,
    HubModel,
    ModelFile,
    NamedModel,
    Reference,
    Server,
    api_key_for,
    parse_reference,
)


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in KEY_VARIABLES:
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("smollm2", NamedModel("smollm2")),
        ("  smollm2\n", NamedModel("smollm2")),
        ("models/tiny.gguf", ModelFile(Path("models/tiny.gguf"))),
        ("/a b/Tiny.GGUF", ModelFile(Path("/a b/Tiny.GGUF"))),
        ("~/tiny.gguf", ModelFile(Path.home() / "tiny.gguf")),
        ("C:\\models\\tiny.gguf", ModelFile(Path("C:\\models\\tiny.gguf"))),
        ("hf:Qwen/Qwen3-0.6B-GGUF/Qwen3-0.6B-Q8_0.gguf", HubModel("Qwen/Qwen3-0.6B-GGUF", "Qwen3-0.6B-Q8_0.gguf")),
        ("hf:owner/repo/deep/er/file.gguf", HubModel("owner/repo", "deep/er/file.gguf")),
        ("http://127.0.0.1:8000/v1", Server("http://127.0.0.1:8000/v1", None)),
        ("http://127.0.0.1:8000/v1/", Server("http://127.0.0.1:8000/v1", None)),
        ("http://127.0.0.1:8000", Server("http://127.0.0.1:8000/v1", None)),
        ("https://openrouter.ai/api/v1#a/b:free", Server("https://openrouter.ai/api/v1", "a/b:free")),
        ("https://host/v1#name%20with%20spaces", Server("https://host/v1", "name with spaces")),
        ("https://host/v1#", Server("https://host/v1", None)),
        ("https://host/v1#who@where", Server("https://host/v1", "who@where")),
        ("HTTPS://Host/v1", Server("https://host/v1", None)),
        ("http://[::1]:8000/v1", Server("http://[::1]:8000/v1", None)),
        ("bank:samples.jsonl", Bank(Path("samples.jsonl"))),
        ("bank:many.parquet#gpt-4", Bank(Path("many.parquet"), "gpt-4")),
        ("bank:~/s.jsonl", Bank(Path.home() / "s.jsonl")),
    ],
)
def test_meaning(text: str, meaning: Reference) -> None:
    assert parse_reference(text) == meaning


def test_every_known_name_refers_to_itself() -> None:
    for known in catalog.entries():
        assert parse_reference(known.name) == NamedModel(known.name)


@pytest.mark.parametrize("typo", ["smolm2", "SmolLM2", "smollm-2", "smollm"])
def test_typo_gets_a_hint_and_the_list(typo: str) -> None:
    with pytest.raises(UsageError, match="Did you mean smollm2") as caught:
        parse_reference(typo)
    for known in catalog.entries():
        assert known.name in str(caught.value)


@pytest.mark.parametrize("text", ["", "zzzz", "ftp://host/v1", "ollama:llama3"])
def test_nonsense_gets_the_list_without_a_hint(text: str) -> None:
    with pytest.raises(UsageError, match=r"Known names: smollm2.*hf:owner/repo/file\.gguf") as caught:
        parse_reference(text)
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "hf:",
        "hf:owner/repo",
        "hf:owner/file.gguf",
        "hf:owner/repo/file.bin",
        "hf:owner//file.gguf",
        "hf:o/r/../../x.gguf",
        "hf:../../x.gguf",
    ],
)
def test_hub_reference_names_a_file(text: str) -> None:
    with pytest.raises(UsageError, match=r"write hf:owner/repo/file\.gguf"):
        parse_reference(text)


@pytest.mark.parametrize(
    "text", ["http://", "http:///v1", "http:host", "http://host:port/v1", "http://host:99999/v1", "http://a b/v1"]
)
def test_malformed_url(text: str) -> None:
    with pytest.raises(UsageError, match="is not a URL"):
        parse_reference(text)


@pytest.mark.parametrize(
    "text",
    [
        "https://user:hunter2@host/v1",
        "https://hunter2@host/v1",
        "https://user:hunter2@host#model",
        "http:user:hunter2@host/v1",
        "https://host/v1?api_key=hunter2",
    ],
)
def test_secret_in_a_url_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UsageError, match="THINKSCALE_API_KEY") as caught:
        parse_reference(text)
    assert "hunter2" not in str(caught.value)


def test_bank_needs_a_file() -> None:
    with pytest.raises(UsageError, match=r"bank:samples\.jsonl"):
        parse_reference("bank:")


VENDORS = {
    "https://api.openai.com/v1": "OPENAI_API_KEY",
    "https://openrouter.ai/api/v1": "OPENROUTER_API_KEY",
    "https://api.groq.com/openai/v1": "GROQ_API_KEY",
    "https://api.anthropic.com/v1": "ANTHROPIC_API_KEY",
}


@pytest.mark.parametrize(("url", "variable"), VENDORS.items())
def test_vendor_key_goes_to_that_vendor_only(monkeypatch: pytest.MonkeyPatch, url: str, variable: str) -> None:
    for name in KEY_VARIABLES[1:]:
        monkeypatch.setenv(name, f"secret of {name}")
    assert api_key_for(url) == f"secret of {variable}"
    monkeypatch.delenv(variable)
    assert api_key_for(url) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000/v1",
        "http://api.openai.com/v1",  # in the clear
        "https://api.openai.com.evil.example/v1",
        "https://evil.example/api.openai.com/v1",
        "https://xapi.openai.com/v1",
    ],
)
def test_no_vendor_key_for_anyone_else(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for name in KEY_VARIABLES[1:]:
        monkeypatch.setenv(name, "secret")
    assert api_key_for(url) is None


def test_own_key_comes_first_and_blank_ones_count_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "https://api.openai.com/v1"
    monkeypatch.setenv("OPENAI_API_KEY", "  vendor\n")
    assert api_key_for(url) == "vendor"
    monkeypatch.setenv("THINKSCALE_API_KEY", "  ")
    assert api_key_for(url) == "vendor"
    monkeypatch.setenv("THINKSCALE_API_KEY", "own")
    assert api_key_for(url) == "own"
    assert api_key_for("http://127.0.0.1:8000/v1") == "own"
    monkeypatch.delenv("THINKSCALE_API_KEY")
    monkeypatch.setenv("OPENAI_API_KEY", " ")
    assert api_key_for(url) is None

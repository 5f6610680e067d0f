"""Secrets are found in addresses, options, commands and texts of libraries; all else stays as it is."""

import pytest

from scmf.core.config.data import DataConfig
from scmf.core.errors import DataError
from scmf.core.redact import hide, hide_command, hide_override, hide_text, is_incomplete, left_out, remember


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://u:p@h/x?X-Amz-Signature=abc&download=1#top", "https://***@h/x?X-Amz-Signature=***&download=1#top"),
        ("https://t0ken@github.com/x", "https://***@github.com/x"),
        ("https://user:pa/s?s@host/x", "https://***@host/x"),
        ("https://u:p'w@host/x", "https://***@host/x"),
        ("https:/user:pw@host/x", "https:/***@host/x"),
        ("simplecache::https://u:p@h/x?sig=abc", "simplecache::https://***@h/x?sig=***"),
        ("zip://a.h5ad::https://u:p@h/x.zip?sig=abc", "zip://a.h5ad::https://***@h/x.zip?sig=***"),
        ("data.files=[https://h/a?sig=1,https://h/b?sig=2]", "data.files=[https://h/a?sig=***,https://h/b?sig=***]"),
        ("(see https://h/x?sig=1)", "(see https://h/x?sig=***)"),
        ("https://h/x?a&amp;sig=1", "https://h/x?***&amp;sig=***"),
        ("--set data.storage_options.secret=abc, --set a=1", "--set data.storage_options.secret=***, --set a=1"),
        ("storage_options={key: a, secret: b} is", "storage_options=*** is"),
        ("  secret: abc", "  secret: ***"),
        ('{"api_key": "abc"}', '{"api_key": ***}'),
        ("Authorization: Bearer abcdefghi", "Authorization: ***"),
        ("GET /x?X-Amz-Signature=abc&y=1", "GET /x?X-Amz-Signature=***&y=1"),
    ],
)  # fmt: skip
def test_a_secret_is_hidden_and_what_stands_around_it_stays(text, shown):
    assert hide_text(text) == shown
    assert hide_text(shown) == shown, "twice is as once"


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/a.h5ad", "abfs://container@account.dfs.core.windows.net/x", "ftp://ann@host/x",
        "hf://datasets/org/name@rev/x.h5ad", "https://host:8080/x@v1", "https://h/a?download=1", "C:/Users/ann",
        "pad_token: <pad>", "12 tokens: a", "storage_options region, or AWS_REGION", "file:///home/ann/x.h5ad",
        "give credentials in storage_options (key, secret, token), or anon: true", "gene token 'x', key 'cell_type'",
        "tissue == 'a?b=c'", "https://docs.org/page#section",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text):
    assert hide_text(text) == text and hide(text) == text


def test_options_that_are_not_known_to_be_harmless_are_left_out_of_records():
    config = {
        "data": {
            "files": ["s3://b/a", "https://u:p@h/x"],
            "storage_options": {"endpoint_url": "http://u:p@h", "region": "eu", "anon": False, "key": "A", "sas": ""},
        },
        "password": "x", "special": {"cls_token": "<cls>"},
    }  # fmt: skip
    assert hide(config) == {
        "data": {
            "files": ["s3://b/a", "https://***@h/x"],
            "storage_options": {"endpoint_url": "http://***@h", "region": "eu", "anon": False},
        },
        "password": "***", "special": {"cls_token": "<cls>"},
    }  # fmt: skip
    assert left_out(config) == [
        "data.files", "data.storage_options.endpoint_url", "data.storage_options.key", "data.storage_options.sas",
        "password",
    ]  # fmt: skip
    assert left_out(hide(config)) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("data.storage_options.secret=a b", "data.storage_options.secret=***"),
        ("data.storage_options={key: a}", "data.storage_options=***"),
        ("data={storage_options: {key: a}}", "data=***"),
        ("data.storage_options.region=eu", "data.storage_options.region=eu"),
        ("training.lr=1e-3", "training.lr=1e-3"),
    ],
)
def test_an_override_shows_its_key(text, shown):
    assert hide_override(text) == shown
    assert hide_command(["scmf", "train", "--set", text])[-1] == shown
    assert hide_command(["scmf", "train", f"--set={text}"])[-1] == f"--set={shown}"


def test_the_value_of_an_option_such_as_token_is_hidden():
    assert hide_command(["x", "--token", "abc", "--hf-token", "d", "--tokens", "e"])[1:] == [
        "--token", "***", "--hf-token", "***", "--tokens", "e"
    ]  # fmt: skip


def test_values_that_were_given_are_hidden_where_a_library_repeats_them(monkeypatch):
    DataConfig(files=("s3://b/a",), storage_options={"secret": "gr33nHorse!x", "region": "us-mars-1", "anon": True})
    remember({}, ["https://u:b1gPassw0rd@h/x?sig=zz9Plural"])
    monkeypatch.setenv("SOME_API_TOKEN", "tok3nOfTheEnvironment")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/home/ann/key.json")
    said = "cannot open gr33nHorse!x in us-mars-1: b1gPassw0rd, zz9Plural, tok3nOfTheEnvironment /home/ann/key.json"
    error = DataError(said, wanted=said, where=said, fix=said)
    hidden = "cannot open *** in us-mars-1: ***, ***, *** /home/ann/key.json"
    assert str(error).count(hidden) == 4 and set(error.to_json().values()) == {"DataError", hidden}
    assert hide({"a": [said]}) == {"a": [hidden]}
    assert hide(said, known=False) == said, "a digest depends on the value alone"


def test_a_plain_word_is_not_searched_for_in_other_texts():
    remember({"secret": "testing", "token": "123", "key": "yes"})
    assert hide_text("testing 123, yes") == "testing 123, yes"


def test_an_address_without_its_credentials_is_known():
    assert is_incomplete("https://***@host/x") and is_incomplete("s3://b/x?sig=***")
    assert not is_incomplete("s3://b/x") and not is_incomplete("cells/***.h5ad")

"""What others read holds no folders of this machine and no name of its user; what is no path stays."""

import pytest

from scmf.core.shareable import published, shareable, shareable_command


@pytest.fixture(autouse=True)
def ann(monkeypatch, tmp_path):
    """A user with a home; the current folder lies elsewhere."""
    monkeypatch.setenv("USER", "ann")
    monkeypatch.setenv("LOGNAME", "ann")
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/ann/a b/c.h5ad", "c.h5ad"),
        ("/scratch/lab/c.h5ad", "c.h5ad"),
        ("/data.h5ad", "data.h5ad"),
        ("~/x/y.tsv", "y.tsv"),
        ("/home/ann", "~"),
        ("/scratch/ann/", "~"),
        ("C:\\Users\\ann\\x.h5ad", "x.h5ad"),
        ("file:///home/ann/x.h5ad", "x.h5ad"),
        ("/home/ann/a.h5ad, /scratch/b.h5ad", "a.h5ad, b.h5ad"),
        ("no such file /home/ann/x/y.h5ad: gone", "no such file y.h5ad: gone"),
        ("[/home/ann/a.h5ad,/home/ann/b.h5ad]", "[a.h5ad,b.h5ad]"),
        ("['/home/jane doe/a.h5ad']", "['a.h5ad']"),
        ("runs/ann/x", "x"),
        ("s3://u:p@bucket/deep/x.h5ad?sig=1", "s3://***@bucket/deep/x.h5ad?sig=***"),
    ],
)
def test_a_path_becomes_a_name(text, shown):
    assert shareable(text) == shown and shareable(shown) == shown


@pytest.mark.parametrize(
    "text", ["CD4+/CD8+ T", "T cell /B cell", "runs/x/y", "mean of 1/2", "tissue == 'a/b'", "1e-3", "annotation", ""]
)
def test_what_is_no_path_from_a_root_stays(text):
    assert shareable(text) == text


def test_a_path_below_the_current_folder_stays_as_a_path_from_there(ann):
    assert shareable(str(ann / "runs" / "x")) == "runs/x"
    assert shareable_command(f"scmf evaluate {ann}/runs/x --tasks all") == "scmf evaluate runs/x --tasks all"


def test_commands_leave_out_storage_options_and_keep_the_rest():
    said = "scmf train --config /home/ann/my.yaml --set data.storage_options.secret=s --set training.lr=1e-3"
    assert shareable_command(said) == "scmf train --config my.yaml --set training.lr=1e-3"
    assert shareable({"command": said, "storage_options": {"region": "x"}}) == {"command": shareable_command(said)}
    assert shareable_command("scmf 'unclosed") == ""


def test_what_is_published_has_names_alone():
    assert published(["private/x.h5ad", "s3://b/deep/y.zarr", "/home/ann/a.h5ad, /b/c.h5ad"]) == [
        "x.h5ad", "y.zarr", "a.h5ad, c.h5ad"
    ]  # fmt: skip
    assert published("[/home/ann/a.h5ad,/b/c.h5ad]") == "[a.h5ad,c.h5ad]"

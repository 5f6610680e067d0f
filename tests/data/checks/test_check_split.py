"""Splitting and auditing files as they lie on disk, h5ad and zarr together."""

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from scmf.core.errors import ConfigError
from scmf.core.files import sha256_file
from scmf.data.checks.file import check_file
from scmf.data.checks.split import check_split, names_of, split_files
from scmf.data.splits.read import read_table, shared_groups, write_split
from tests.conftest import synthetic_cells


@pytest.fixture
def files(tmp_path):
    """Two files with the same cell names and other cells."""
    one, two = synthetic_cells(200, seed=1), synthetic_cells(150, seed=2)
    two.obs["donor_id"] = [f"e{name[1:]}" for name in two.obs["donor_id"]]
    one.write_h5ad(tmp_path / "one.h5ad")
    two.write_zarr(tmp_path / "two.zarr")
    return [tmp_path / "one.h5ad", tmp_path / "two.zarr"]


def test_files_are_split_by_donor_and_the_audit_agrees(files, tmp_path):
    said = split_files(files, tmp_path / "s.tsv.gz", by="donor", fractions=(0.6, 0.2, 0.2))
    table = read_table(tmp_path / "s.tsv.gz")
    assert (
        said["card"]["sha256"] == sha256_file(tmp_path / "s.tsv.gz")
        and len(table) == 350
        and "two:cell0" in table.index
    )
    parts = table[[*(f"one:cell{i}" for i in range(200)), *(f"two:cell{i}" for i in range(150))]]
    donors = [ad.read_h5ad(files[0]).obs["donor_id"], ad.read_zarr(files[1]).obs["donor_id"]]
    assert shared_groups(parts, np.concatenate([d.astype(str) for d in donors])) == {}
    report = check_split(files, tmp_path / "s.tsv.gz", batch_key="study")
    assert report.ok and report.facts["split"] == said["cells"]
    assert any("each of 12 values of 'donor_id' lies in one part" in finding.found for finding in report.findings)


def test_a_copy_in_the_other_file_is_found_and_a_random_split_cuts_donors(files, tmp_path):
    one, two = ad.read_h5ad(files[0]), ad.read_zarr(files[1])
    two.X = sp.vstack([one.X[:40], two.X[40:]]).tocsr()
    two.write_zarr(files[1])
    split_files(files, tmp_path / "r.tsv.gz", strategy="random")
    report = check_split(files, tmp_path / "r.tsv.gz", donor_key="donor_id", near_duplicates=False)
    errors = [finding.found for finding in report.findings if finding.level == "error"]
    assert any("have the same counts as a cell of another part" in found for found in errors)
    assert any("of 12 values of 'donor_id' lie in several parts" in found for found in errors)


def test_a_split_of_other_cells_is_a_finding(files, tmp_path):
    split_files(files[:1], tmp_path / "s.tsv.gz", by="donor")
    report = check_split(files, tmp_path / "s.tsv.gz")
    assert not report.ok and "350 of 350 cells are not in the split" in report.findings[0].found


def test_the_audit_reads_conditions_as_the_split_did(tmp_path):
    cells = synthetic_cells(200)
    cells.obs["perturbation"] = np.array(["non_targeting", "A_B", "B_A", "A", "B", "C", "D", "E"])[np.arange(200) % 8]
    cells.write_h5ad(tmp_path / "nt.h5ad")
    out = tmp_path / "s.tsv.gz"
    more = {"by": "perturbation", "strategy": "unseen", "separator": "_", "control": ["non_targeting"]}
    split_files([tmp_path / "nt.h5ad"], out, fractions=(0.6, 0.2, 0.2), **more)
    for report in (check_split([tmp_path / "nt.h5ad"], out), check_file(tmp_path / "nt.h5ad", split=out)):
        assert not [f for f in report.findings if f.level == "error" and f.what in ("leaks", "split")]
    table = read_table(out)
    table[cells.obs_names[cells.obs["perturbation"] == "B_A"]] = "test"
    table[cells.obs_names[cells.obs["perturbation"] == "A_B"]] = "train"
    write_split(out, table.to_dict())
    for report in (check_split([tmp_path / "nt.h5ad"], out), check_file(tmp_path / "nt.h5ad", split=out)):
        assert any("'A_B' and 'B_A'" in f.found for f in report.findings if f.level == "error")


def test_a_donor_whose_name_holds_a_comma_can_be_held_out(tmp_path):
    cells = synthetic_cells(200)
    cells.obs["donor_id"] = cells.obs["donor_id"].astype(str) + ", F"
    cells.write_h5ad(tmp_path / "comma.h5ad")
    held = {"test": names_of('["d4, F", "d5, F"]')}
    said = split_files([tmp_path / "comma.h5ad"], tmp_path / "s.tsv", by="donor", hold_out=held)
    assert said["card"]["parts"]["test"] == ["d4, F", "d5, F"]
    assert check_split([tmp_path / "comma.h5ad"], tmp_path / "s.tsv").ok
    assert names_of("d4,d5") == ["d4", "d5"] and names_of("[1, 2]") == ["1", "2"]
    for wrong in ("[d4", '[{"a": 1}]', "[1.5]"):
        with pytest.raises(ConfigError, match="JSON list"):
            names_of(wrong)

"""Cells of a card put together from several files: joins, harmonisation, filters, and their errors."""

import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scmf.core.errors import DataError
from scmf.data.cards.assembly import Annotation, Assembly
from scmf.data.cards.join_obs import assemble, name_columns


def cells(ids, **obs):
    return ad.AnnData(np.ones((len(ids), 2), np.float32), obs=pd.DataFrame(obs, index=list(ids)))


def assembly(**keys):
    return Assembly.model_validate(keys)


JOIN = {"file": "labels", "strip": r"[.-]\d+$", "within": {"condition": "sample"}, "columns": {"type": "celltype"}}


def test_ids_meet_after_stripping_and_within_a_column():
    mine = cells(["AA.1", "BB.1", "AA.2"], condition=["x", "x", "y"])
    # the same barcode in two conditions is two cells
    labels = cells(["AA-9", "AA-8", "BB-7"], sample=["y", "x", "x"], celltype=["b", "a", "c"])
    found = assemble(mine, assembly(annotations=[JOIN]), {"labels": labels}, where="card")
    assert found.obs["type"].tolist() == ["a", "c", "b"]


@pytest.mark.parametrize("missing", ["error", "drop"])
def test_a_cell_without_a_row_is_an_error_or_left_out(missing):
    mine = cells(["AA.1", "BB.1"], condition=["x", "x"])
    labels = cells(["AA-9"], sample=["x"], celltype=["a"])
    plan = assembly(annotations=[{**JOIN, "missing": missing}])
    if missing == "drop":
        assert assemble(mine, plan, {"labels": labels}, where="card").obs_names.tolist() == ["AA.1"]
        with pytest.raises(DataError, match="no cell has a row"):
            assemble(cells(["ZZ.1"], condition=["x"]), plan, {"labels": labels}, where="card")
    else:
        with pytest.raises(DataError, match=r"1 of 2 cells have no row, the first is 'BB.1'"):
            assemble(mine, plan, {"labels": labels}, where="card")


def test_two_rows_for_a_cell_are_refused():
    mine = cells(["AA.1"], condition=["x"])
    labels = cells(["AA-9", "AA-8"], sample=["x", "x"], celltype=["a", "b"])
    with pytest.raises(DataError, match="have the id of another"):
        assemble(mine, assembly(annotations=[JOIN]), {"labels": labels}, where="card")


def test_rows_in_order_must_agree_and_bring_vectors():
    mine = cells(["a", "b"], type=["T", "B"])
    beside = cells(["0", "1"], kind=["T", "B"])
    beside.obsm["emb"] = np.arange(6).reshape(2, 3)
    join = {"file": "v", "by": "order", "agree": {"type": "kind"}, "obsm": {"X_v": "emb"}}
    found = assemble(mine, assembly(annotations=[join]), {"v": beside}, where="card")
    assert found.obsm["X_v"].tolist() == [[0, 1, 2], [3, 4, 5]]
    swapped = beside[::-1].copy()
    with pytest.raises(DataError, match=re.escape("row 0: type 'T', kind 'B' (2 such rows)")):
        assemble(mine, assembly(annotations=[join]), {"v": swapped}, where="card")
    with pytest.raises(DataError, match="1 rows for 2 cells"):
        assemble(mine, assembly(annotations=[join]), {"v": beside[:1].copy()}, where="card")
    with pytest.raises(DataError, match="no 'other' in obsm"):
        assemble(mine, assembly(annotations=[{**join, "obsm": {"X": "other"}}]), {"v": beside}, where="card")


def test_names_constants_values_and_rows():
    one = cells(["a", "b", "c"], donor_id=["d1", "d1", "d2"], label=["naive T", "B", "T"])
    plan = assembly(
        constant={"f.h5ad": {"atlas": "one"}}, rename={"f.h5ad": {"donor": "donor_id"}},
        values={"label": {"naive T": "T"}}, rows={"label": ["T"]},
    )  # fmt: skip
    name_columns(one, "f.h5ad", plan)
    found = assemble(one, plan, {}, where="card")
    assert found.obs_names.tolist() == ["a", "c"] and set(found.obs["atlas"]) == {"one"}
    assert found.obs["donor"].tolist() == ["d1", "d2"]
    with pytest.raises(DataError, match="label has no value 'memory T'"):
        assemble(one, assembly(values={"label": {"memory T": "T"}}), {}, where="card")
    with pytest.raises(DataError, match="no cell with label NK"):
        assemble(one, assembly(rows={"label": ["NK"]}), {}, where="card")
    with pytest.raises(DataError, match=r"no column 'lable'.*[\s\S]*did you mean 'label'"):
        assemble(one, assembly(rows={"lable": ["T"]}), {}, where="card")


@pytest.mark.parametrize(
    ("keys", "said"), [({"by": "row"}, "cell_id or order"), ({"strip": "("}, "regular expression")]
)
def test_wrong_keys_are_refused(keys, said):
    with pytest.raises(ValueError, match=said):
        Annotation.model_validate({"file": "x", **keys})

"""Columns of obs over several files: a donor that is a number in one and text in another is one donor."""

import pandas as pd
import pytest

from scmf.data.convert.convert import convert
from scmf.data.preprocess.hvg import highly_variable_genes
from scmf.data.splits.make import make_split
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.memory import MemoryStore
from scmf.data.stores.zarr_store import ZarrStore
from tests.conftest import synthetic_cells

TEXT = ["1", "2", "d3"]


def corpus_of(*columns):
    stores = []
    for number, values in enumerate(columns):
        cells = synthetic_cells(120, seed=number)
        cells.obs_names = [f"{number}-{name}" for name in cells.obs_names]
        cells.obs["donor"] = pd.Series([values[i % len(values)] for i in range(120)], cells.obs_names)
        stores.append(MemoryStore(cells))
    return Corpus(stores)


@pytest.mark.parametrize("numbers", [[1, 2, 4], [1.0, 2.0, 4.0]])
@pytest.mark.parametrize("turned", [False, True])
def test_a_donor_is_one_as_number_and_as_text(tmp_path, numbers, turned):
    columns = [TEXT, numbers] if turned else [numbers, TEXT]
    corpus = corpus_of(*columns)
    values = corpus.obs(["donor"])["donor"]
    assert sorted(values.cat.categories) == ["1", "2", "4", "d3"]
    assert list(values[:3]) == [str(int(one)) if not isinstance(one, str) else one for one in columns[0]]
    split = make_split(corpus, by="donor", fractions=(0.5, 0.25, 0.25))
    assert sorted(name for names in split.groups.values() for name in names) == ["1", "2", "4", "d3"]
    assert make_split(corpus, by="donor", hold_out={"test": ["1"]}).groups["test"] == ("1",)
    assert highly_variable_genes(corpus, keep=None, batch_key="donor", n_top_genes=10).selected
    convert(corpus, tmp_path / "out", shuffle=False)
    written = ZarrStore(tmp_path / "out" / "dataset_0").obs(["donor"])["donor"]
    assert written.astype(str).tolist() == values.astype(str).tolist()


def test_numbers_alone_stay_numbers_and_categories_of_numbers_meet_text():
    assert corpus_of([1, 2], [3, 4]).obs(["donor"])["donor"].dtype.kind == "i"
    corpus = corpus_of([1, 2], [3.0, 4.0])
    split = make_split(corpus, by="donor", hold_out={"test": ["3"]})
    assert split.groups["test"] == ("3",)

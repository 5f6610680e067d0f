"""What a data section means is one record, whichever way the cells take."""

import anndata as ad
import pytest

from scmf.core.config.data import DataConfig
from scmf.core.errors import ConfigError, CountsError, DataError
from scmf.core.files import sha256_file
from scmf.data.loading.load import load_cells
from scmf.data.loading.open_corpus import open_corpus
from scmf.data.loading.resolve import resolve
from tests.data.loading.test_load import DERIVE, card, write

SHARED = ("dataset", "split", "split_sha256", "label_key", "batch_key", "donor_key", "gene_set", "orthologs", "removed")


def test_memory_and_stream_name_the_same_columns_split_and_cells(tmp_path):
    (tmp_path / "mine.tsv").write_text("cell_id\tsplit\nc2\ttest\nc0\ttrain\nc1\tvalid\n")
    name = card(tmp_path, write(tmp_path / "a.h5ad", n=3), batch_key="study")
    config = DataConfig(dataset=name, split=str(tmp_path / "mine.tsv"))
    held, opened = load_cells(config), open_corpus(config.model_copy(update={"stream": {}}))
    assert {key: getattr(held.facts, key) for key in SHARED} == {key: getattr(opened.facts, key) for key in SHARED}
    assert held.facts.batch_key == "study" and held.facts.keys == {"batch": "study", "cell_type": "kind"}
    for split in ("train", "valid", "test"):
        assert held.rows(split).tolist() == opened.mask(split).nonzero()[0].tolist()


def test_the_section_wins_over_the_card_and_the_card_over_nothing(tmp_path):
    name = card(tmp_path, write(tmp_path / "a.h5ad"), batch_key="study", counts="X", gene_symbols="feature_name")
    found = resolve(DataConfig(dataset=name, batch_key="kind", counts="layers/counts"))
    assert (found.batch_key, found.label_key, found.counts) == ("kind", "kind", "layers/counts")
    assert (found.gene_symbols, found.donor_key, found.split_path, found.aligner) == ("feature_name", None, None, None)
    assert resolve(DataConfig(dataset=name)).counts == "X"


def test_files_of_annotations_are_no_cells_and_such_cards_are_not_streamed(tmp_path):
    one = write(tmp_path / "one.h5ad")
    ad.AnnData(obs=ad.read_h5ad(one).obs).write_h5ad(tmp_path / "labels.h5ad")
    files = [
        {"name": path.name, "sha256": sha256_file(path), "sources": [{"kind": "mirror", "path": path.name}], **role}
        for path, role in ((one, {}), (tmp_path / "labels.h5ad", {"role": "annotations"}))
    ]
    plain = DataConfig(dataset=card(tmp_path, one, files=files))
    assert resolve(plain).names == ("one.h5ad",) and list(resolve(plain).annotations) == ["labels.h5ad"]
    assert open_corpus(plain).corpus.n_cells == load_cells(plain).n_obs == 5
    joined = DataConfig(dataset=card(tmp_path, one, files=files, cells={"rows": {"kind": ["a"]}}))
    assert load_cells(joined).n_obs == 3
    with pytest.raises(DataError, match="(?s)joined, renamed or filtered.*data.stream"):
        open_corpus(joined)


def test_counts_that_a_card_derives_or_lacks_are_refused_both_ways(tmp_path):
    path = write(tmp_path / "a.h5ad")
    with pytest.raises(DataError, match="are derived"):
        open_corpus(DataConfig(dataset=card(tmp_path, path, counts="X", derive=DERIVE)))
    without = DataConfig(dataset=card(tmp_path, path, counts="X", expression="log1p"))
    for way in (load_cells, open_corpus):
        with pytest.raises(CountsError, match="holds log-normalized expression"):
            way(without)


def test_cells_that_are_always_streamed_are_not_loaded():
    with pytest.raises(ConfigError, match="always streamed"):
        load_cells(DataConfig(census={}))

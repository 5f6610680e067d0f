"""Pictures of the leaderboard: drawn where there are numbers, once for equal numbers, the same bytes."""

import struct
import zlib

import pytest

from scmf.results.pages.leaderboard_plots import draw
from scmf.results.pages.leaderboard_tables import tables
from tests.fixtures.leaderboard_pages import ledger, result


def of(results):
    return tables(results, leaks={}, verdicts={})


def test_every_kind_with_data_is_drawn_and_not_again_while_its_numbers_stay(tmp_path):
    plots = draw(of(ledger()), tmp_path)
    names = {plot.file.split("-")[0] for plot in plots if plot.file}
    assert names == {"bio", "cost", "classes", "perturbations", "networks"} and all(plot.alt for plot in plots)
    drawn = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.glob("*.png")}
    assert draw(of(ledger()[::-1]), tmp_path) == plots
    assert {path: path.stat().st_mtime_ns for path in drawn} == {path: time for path, (time, _) in drawn.items()}
    changed = [r.model_copy(update={"seconds": 9.0}) if r.method == "hvg" else r for r in ledger()]
    draw(of(changed), tmp_path)
    anew = [path.name for path, (time, _) in drawn.items() if path.stat().st_mtime_ns != time]
    assert anew == ["cost-pancreas-donor-linear_probe.png"]
    draw(of(ledger()), tmp_path)
    assert all(path.read_bytes() == data for path, (_, data) in drawn.items())  # drawn anew, the same to the byte


def test_the_digest_is_a_valid_chunk_and_the_size_is_the_pictures(tmp_path):
    plot = next(plot for plot in draw(of(ledger()), tmp_path) if plot.file)
    data = (tmp_path / plot.file).read_bytes()
    at, kinds = 8, []
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        body = data[at + 4 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(body)
        kinds.append(body[:4])
        at += 12 + length
    assert kinds[0] == b"IHDR" and kinds[-1] == b"IEND" and b"tEXt" in kinds
    assert plot.size == struct.unpack(">II", data[16:24])


def test_what_has_no_data_says_so_and_old_pictures_go(tmp_path):
    details = {"per_class": {"a": {"f1": 0.2, "n": 3}}}
    draw(
        of([result(m, seed=s, details=details) for m, s in (("pretrained", 0), ("hvg", None), ("pca", None))]), tmp_path
    )
    assert list(tmp_path.glob("*.png"))
    (tmp_path / "mine.png").write_bytes(b"of somebody else")
    plots = draw(of([result("pretrained")]), tmp_path)
    assert [path.name for path in tmp_path.glob("*.png")] == ["mine.png"]
    assert all(not plot.file and plot.reason for plot in plots)


@pytest.mark.parametrize("missing", [None, "second"])
def test_details_are_means_over_all_seeds_or_absent(tmp_path, missing):
    def seed(n, f1):
        details = {} if missing and n else {"per_class": {"a": {"f1": f1, "n": 3}}}
        return result("pretrained", seed=n, details=details)

    others = [result(m, seed=None, details={"per_class": {"a": {"f1": 0.1, "n": 3}}}) for m in ("hvg", "pca")]
    seen = []
    from scmf.results.pages import leaderboard_figures

    with pytest.MonkeyPatch.context() as patch:
        real = leaderboard_figures.heat
        patch.setattr(leaderboard_figures, "heat", lambda figures, data: seen.append(data) or real(figures, data))
        draw(of([seed(0, 0.2), seed(1, 0.6), *others]), tmp_path)
    (data,) = seen
    found = dict(zip(data["methods"], data["f1"], strict=True))
    model = {} if missing else {"geneformer pretrained": [pytest.approx(0.4)]}
    assert data["classes"] == ["a (3)"] and found == {"HVG": [0.1], "PCA": [0.1], **model}


def test_variants_are_named_where_a_recipe_has_two(tmp_path):
    seen = []
    from scmf.results.pages import leaderboard_figures

    rows = [result("pretrained"), result("pretrained", variant="large"), result("pretrained", recipe="scgpt")]
    with pytest.MonkeyPatch.context() as patch:
        real = leaderboard_figures.points
        patch.setattr(leaderboard_figures, "points", lambda figures, data: seen.append(data) or real(figures, data))
        draw(of(rows), tmp_path)
    names = [point["name"] for point in seen[0]["points"]]
    assert sorted(names) == ["geneformer large, pretrained", "geneformer mini, pretrained", "scgpt pretrained"]

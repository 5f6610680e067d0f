"""Tasks that no suite has: a benchmark on the cells of a card, by ``benchmark:card.split``."""

import pytest

from scmf.core.errors import ConfigError, SourceError
from scmf.evaluation.tasks import load_suite, task_on_card


def test_a_benchmark_and_a_card_make_a_task():
    task = task_on_card("annotation:pancreas.donor")
    assert (task.benchmark, task.dataset, task.split) == ("annotation", "pancreas", "donor")
    assert task_on_card("integration:kang_ifnb.condition").protocols == ()


def test_the_only_split_need_not_be_named(toy_env):
    assert task_on_card(f"annotation:{toy_env / 'toy.yaml'}").split == "donor"
    assert task_on_card(f"annotation:{toy_env / 'toy.yaml'}.donor").split == "donor"


def test_it_stands_behind_the_tasks_of_the_suite():
    chosen = load_suite().chosen(["annotation:pancreas.study", "kang-condition"])
    assert list(chosen) == ["kang-condition", "annotation:pancreas.study"]


def test_cells_that_need_a_download_say_which():
    with pytest.raises(SourceError) as error:
        task_on_card("annotation:tabula_sapiens")
    assert "CELLxGENE Discover" in error.value.fix


@pytest.mark.parametrize(
    "name", ["annotation:pancreas", "annotation:nowhere", "nothing:pancreas.donor", "annotation:pancreas.x"]
)
def test_an_unknown_part_is_one_clear_error(name):
    with pytest.raises(ConfigError):
        load_suite().chosen([name])

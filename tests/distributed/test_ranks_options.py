"""Each option over two processes: the picks of its definition."""

from __future__ import annotations

from typing import Any

import aims
import pytest
import ranks_options
import torch
import torch.distributed as dist
import wishes
from groups import found_by

from fishermask_fast import reference

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="needs torch.distributed, gloo"
)

SIZE = 2


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What every rank of a group found."""
    return found_by(ranks_options.__file__, SIZE, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", wishes.OPTIONS)
def test_selections(name: str, found: list[dict[str, Any]]) -> None:
    factors = wishes.pool("part")
    usual = wishes.published(factors, 1)
    expected = wishes.defined(factors, wishes.options_of(name, usual), 1)
    assert len(set(usual) - set(expected)) >= wishes.N_SELECT / 2
    assert [rank[name] for rank in found] == [expected] * SIZE


@pytest.mark.parametrize("name", ranks_options.QUERIES)
def test_queries(name: str, found: list[dict[str, Any]]) -> None:
    setting = aims.Setting()
    expected = setting.defined(**aims.case(setting, name)[2])
    assert expected != setting.defined()
    assert [rank[f"query {name}"] for rank in found] == [expected] * SIZE


def test_weights_of_each_ranks_own(found: list[dict[str, Any]]) -> None:
    setting = aims.Setting()
    fisher = aims.aimed_at(setting, setting.pool, torch.linspace(0, 1, aims.N) ** 6)
    expected = reference.select(setting.rows(setting.pool), aims.K, fisher)[0]
    assert expected != reference.select(setting.rows(setting.pool), aims.K)[0]
    assert [rank["weighted"] for rank in found] == [expected] * SIZE


@pytest.mark.parametrize("name", ranks_options.ALONE)
def test_what_is_for_one_process(name: str, found: list[dict[str, Any]]) -> None:
    for rank in found:
        assert "over several processes" in rank[f"refused {name}"]

"""Queries from a LightningModule and a LightningDataModule, FisherMask's or BAIT's.

The module's `forward` gives the logits, its parameters the gradients V_x; the pool is what the
data module would predict on, the labeled samples what it trains on. See selector.py.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from fishermask_fast.checks import check_flag
from fishermask_fast.selection import Selection
from fishermask_fast.selector import FisherMaskSelector, split_options

_HOOKS = ("prepare_data", "setup", "train_dataloader", "predict_dataloader")


def query(
    module: nn.Module,
    datamodule: Any,
    n_select: int,
    *,
    setup: bool = True,
    progress: bool = False,
    **options: Any,
) -> Selection:
    """Picks samples of `predict_dataloader`, given those of `train_dataloader`.

    Both are read in the order of their dataset, shuffled or not, so that the picks are indices into
    the dataset of `predict_dataloader`. Give both without random augmentation. Where nothing is
    labeled yet, `train_dataloader` gives None or an empty list.

    Args:
        module: a LightningModule, whose forward takes the first item of a batch (or a dict's items
            as keywords) to logits (N, C). Its mode and its parameters' flags stay as they are.
        datamodule: a LightningDataModule.
        n_select: how many to pick.
        setup: whether to call the data module's `setup("predict")` first, as a Trainer would;
            before any training also its `prepare_data()` and `setup("fit")`.
        progress: show bars (needs tqdm).
        **options: of FisherMaskSelector, such as fraction=0.01, or mask="head" and
            backward_steps=1 for BAIT; and of its query, such as exclude= or eval_data=.

    Returns:
        The selection, whose `indices` are into the dataset of `predict_dataloader`.

    Raises:
        TypeError: no data module, a loader that is not one DataLoader, or an unknown option.
        ValueError: as FisherMaskSelector.query.

    Example:
        >>> import lightning
        >>> import torch
        >>> from torch.utils.data import DataLoader
        >>> from fishermask_fast.integrations.lightning import query
        >>> class Module(lightning.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.net = torch.nn.Linear(6, 3)
        ...     def forward(self, x):
        ...         return self.net(x)
        >>> class Data(lightning.LightningDataModule):
        ...     def train_dataloader(self):
        ...         return DataLoader(torch.randn(20, 6), batch_size=8)
        ...     def predict_dataloader(self):
        ...         return DataLoader(torch.randn(60, 6), batch_size=8)
        >>> len(query(Module(), Data(), 5))
        5
    """
    check_flag("setup", setup)
    check_flag("progress", progress)
    missing = [name for name in _HOOKS if not callable(getattr(datamodule, name, None))]
    if missing:
        raise TypeError(
            f"datamodule must be a LightningDataModule; {type(datamodule).__name__} has no "
            f"{missing[0]}"
        )
    options, asked = split_options(options)
    selector = FisherMaskSelector(module, **options)
    selector.check_parameters()
    if setup:
        if getattr(datamodule, "trainer", None) is None:
            datamodule.prepare_data()
            datamodule.setup("fit")
        datamodule.setup("predict")
    unlabeled = _one_loader("predict_dataloader", datamodule.predict_dataloader())
    known = datamodule.train_dataloader()
    nothing = known is None or (isinstance(known, (list, tuple)) and not known)
    labeled = None if nothing else _one_loader("train_dataloader", known)
    return selector.query(unlabeled, n_select, labeled, progress=progress, **asked)


def _one_loader(name: str, loader: Any) -> DataLoader[Any]:
    if isinstance(loader, (list, tuple)) and len(loader) == 1:
        loader = loader[0]
    if not isinstance(loader, DataLoader):
        raise TypeError(f"{name} must give one DataLoader; got {type(loader).__name__}")
    return loader

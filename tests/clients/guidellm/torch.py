"""What guidellm uses of torch: a loader that gives its prompts one by one. See requirements.txt."""

import sys
import types

this = sys.modules[__name__]
utils = types.ModuleType("torch.utils")
utils.data = types.ModuleType("torch.utils.data")
this.utils = utils


class Generator:
    def manual_seed(self, seed):
        return self


class Tensor:
    """`datasets` asks whether a value is one, or a module."""


class IterableDataset:
    def __class_getitem__(cls, item):
        return cls


class DataLoader:
    def __init__(self, dataset, **ignored):
        self.dataset = dataset

    def __class_getitem__(cls, item):
        return cls

    def __iter__(self):
        return iter(self.dataset)


this.nn = types.SimpleNamespace(Module=Tensor)
utils.data.get_worker_info = lambda: None
utils.data.dataloader = types.SimpleNamespace(DataLoader=DataLoader)
utils.data.dataset = types.SimpleNamespace(IterableDataset=IterableDataset)
sys.modules |= {
    "torch.utils": utils,
    "torch.utils.data": utils.data,
    "torch.utils.data.dataloader": utils.data.dataloader,
    "torch.utils.data.dataset": utils.data.dataset,
}

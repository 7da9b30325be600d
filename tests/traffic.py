"""Counts what a piece of torch code does: bytes read and written, values scattered, calls. The cost model's witness."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Traffic(TorchDispatchMode):
    """`with Traffic() as traffic: ...`; tensors of networks' multiplications count as well."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = self.scattered = self.calls = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        made = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        here, name = {x.untyped_storage().data_ptr() for x in given}, function.__name__
        in_place = name.split(".")[0].endswith("_")
        if made and not in_place and all(x.untyped_storage().data_ptr() in here for x in made):
            return result  # a view
        self.calls += 1
        picks = name.startswith(("index.", "index_select", "gather"))
        if picks or name.startswith(("index_put", "scatter", "index_copy", "index_add")):
            self.scattered += max(x.numel() for x in (made if picks else given[1:]))
            given = given[1:]  # not all of the source is read, not all of the target written
            made = made if picks else []
        self.moved += sum(x.numel() * x.element_size() for x in given + ([] if in_place else made))
        return result

"""Torch's SGD without torch's compiler, whose import takes a process longer than that of torch
itself."""

from __future__ import annotations

import inspect

import torch


class SGD(torch.optim.SGD):
    """`torch.optim.SGD`: its own methods, without the wrappers that import `torch._dynamo` when
    first called."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))
    add_param_group = inspect.unwrap(torch.optim.SGD.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.SGD.zero_grad)
    state_dict = inspect.unwrap(torch.optim.SGD.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.SGD.load_state_dict)

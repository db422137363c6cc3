"""What a user would write first: the loops that `benchmark.perf.speed` compares with. Nothing else
uses them.

Torch's own modules, float32, channels first; torchvision's transforms in a DataLoader with two
workers; the loss read with `.item()` after every step; scores from one pass per quantity.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmark.data._batches import PADDING, normalise
from benchmark.models import Net

WORKERS = 2
HESSIAN_BATCH = 256
"""Images per Hessian product, as in the code released with Lubana & Dick (ICLR 2021): one class of
CIFAR-10."""


class Pictures(Dataset):
    """Images uint8 [N, H, W, 3] as a torchvision user has them: decoded to PIL, augmented and
    normalised one by one."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, *, augment: bool) -> None:
        self.images, self.labels = images.numpy(), labels
        crops = (
            [transforms.RandomCrop(images.shape[1], PADDING), transforms.RandomHorizontalFlip()]
            if augment
            else []
        )
        scale = transforms.Normalize((0.5,) * 3, (0.5,) * 3)
        self.transform = transforms.Compose(
            [transforms.ToPILImage(), *crops, transforms.ToTensor(), scale]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.transform(self.images[index]), self.labels[index]


def plain(net: Net) -> nn.Module:
    """The same net of torch's own convs and batch norms, channels first in memory. It must be
    dense."""
    result = copy.deepcopy(net).to(memory_format=torch.contiguous_format)
    for module in result.modules():
        for kind in (nn.Conv2d, nn.BatchNorm2d):
            if isinstance(module, kind):
                module.__class__ = kind
    return result


def loader(
    images: torch.Tensor, labels: torch.Tensor, batch_size: int, *, train: bool
) -> DataLoader:
    """Batches of augmented (if `train`) and normalised images, from two worker processes."""
    pictures = Pictures(images.cpu(), labels.cpu(), augment=train)
    return DataLoader(
        pictures, batch_size, shuffle=train, num_workers=WORKERS, persistent_workers=True
    )


def train(
    net: nn.Module, optimizer: torch.optim.Optimizer, batches: DataLoader, temperature: float
) -> float:
    """One epoch; returns the mean training loss."""
    net.train()
    device, losses = next(net.parameters()).device, []
    for x, y in batches:
        loss = cross_entropy(net(x.to(device)) / temperature, y.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


def evaluate(net: nn.Module, batches: DataLoader) -> float:
    """Accuracy."""
    net.eval()
    device, correct = next(net.parameters()).device, 0
    with torch.no_grad():
        for x, y in batches:
            correct += (net(x.to(device)).argmax(1) == y.to(device)).sum().item()
    return correct / len(batches.dataset)


def gradient(
    net: nn.Module, images: torch.Tensor, labels: torch.Tensor, temperature: float
) -> list[torch.Tensor]:
    """g by batches of 128, in evaluation mode."""
    net.eval()
    net.zero_grad()
    for x, y in zip(images.split(128), labels.split(128), strict=True):
        (
            cross_entropy(net(normalise(x).contiguous()) / temperature, y) * len(x) / len(images)
        ).backward()
    return [p.grad for p in net.parameters()]


def hessian_gradient(
    net: nn.Module, images: torch.Tensor, labels: torch.Tensor, temperature: float
) -> None:
    """Hg into `.grad`, g held constant, by batches of 256."""
    g = [grad.clone() for grad in gradient(net, images, labels, temperature)]
    net.zero_grad()
    for x, y in zip(images.split(HESSIAN_BATCH), labels.split(HESSIAN_BATCH), strict=True):
        loss = cross_entropy(net(normalise(x).contiguous()) / temperature, y) * len(x) / len(images)
        grads = torch.autograd.grad(loss, list(net.parameters()), create_graph=True)
        sum((a * b).sum() for a, b in zip(grads, g, strict=True)).backward()

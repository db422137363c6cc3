"""Images on the device as uint8: batched crops, flips and normalisation, and class-balanced
subsets.

The order and the augmentation of an epoch depend only on seeds, so that a run can be resumed at any
epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn.functional import pad

PADDING = 4


def normalise(images: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """uint8 [N, H, W, 3] -> (images / 255 - 0.5) / 0.5, [N, 3, H, W], channels last in memory;
    of float [N, C, H, W] a copy, because a net may change its input.

    Computed in float32 (the same bits as torchvision's ToTensor and Normalize), then converted to
    `dtype`.
    """
    if images.is_floating_point():
        return images.to(dtype, copy=True)
    return images.permute(0, 3, 1, 2).float().div_(255).sub_(0.5).div_(0.5).to(dtype)


def pixels_of(images: torch.Tensor) -> tuple[int, int]:
    """Height and width of images, uint8 [N, H, W, C] or float [N, C, H, W]."""
    return tuple(images.shape[2:] if images.is_floating_point() else images.shape[1:3])


def generator(seed: int) -> torch.Generator:
    """A generator on the CPU, so that draws do not depend on the training device."""
    return torch.Generator().manual_seed(seed)


def balanced(
    labels: torch.Tensor, count: int, seed: int, *, last: torch.Tensor | None = None
) -> torch.Tensor:
    """Indices [M] of a class-balanced random subset, in random order; M = min(count, N).

    The numbers of images per class differ by at most one, if each class has enough. The images with
    the indices `last` are used only if their class has no others left.
    """
    draw = generator(seed)
    shuffled = torch.randperm(len(labels), generator=draw)
    if last is not None:
        shuffled = shuffled[torch.isin(shuffled, last.cpu()).to(torch.uint8).argsort(stable=True)]
    labels = labels.cpu()[shuffled]
    rank = torch.empty_like(labels)  # how many images of the same class come before
    for label in labels.unique():
        members = labels == label
        rank[members] = torch.arange(int(members.sum()))
    chosen = torch.argsort(rank, stable=True)[:count]
    return shuffled[chosen[torch.randperm(len(chosen), generator=draw)]]


@dataclass(frozen=True)
class Epoch:
    """The training images of an epoch, in its order and with its crops, on their device."""

    images: torch.Tensor
    """uint8 [M, H, W, 3]"""
    labels: torch.Tensor
    """int64 [M]"""
    drawn: tuple[torch.Tensor, ...]
    """[N] each, usually N = M: the order, and with augmentation the first row and column of each
    crop, and whether it is flipped."""

    @property
    def count(self) -> int:
        """The number of images that are trained on."""
        return len(self.drawn[0])

    def batch(self, places: slice | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The normalised images [B, 3, H, W] and labels [B] at these places of the order."""
        order, *crops = (column[places] for column in self.drawn)
        chosen = order.long()
        batch = self.images[chosen]
        return normalise(_crop(batch, *crops) if crops else batch), self.labels[chosen]


def drawn_epoch(
    images: torch.Tensor, labels: torch.Tensor, *, order_seed: int, augment_seed: int | None
) -> Epoch:
    """Draw the order of an epoch, and its random crops and flips (augment_seed None: neither)."""
    order = torch.randperm(len(images), generator=generator(order_seed)).to(torch.int32)
    crops = () if augment_seed is None else _crops(images, augment_seed)
    return Epoch(images, labels, (order.to(images.device), *crops))


def batches(epoch: Epoch, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The batches of an epoch: normalised images [B, 3, H, W] and labels [B]; the last batch may be
    smaller."""
    for start in range(0, epoch.count, batch_size):
        yield epoch.batch(slice(start, start + batch_size))


def augmented(images: torch.Tensor, seed: int) -> torch.Tensor:
    """Random crops (padding 4) and flips of uint8 images [N, H, W, 3]."""
    return _crop(images, *_crops(images, seed))


def _crops(images: torch.Tensor, seed: int) -> tuple[torch.Tensor, ...]:
    """The first row and column of each crop (uint8 [N]), and whether it is flipped (bool [N]), on
    the device: few bytes are sent there."""
    count, draw = len(images), generator(seed)
    top, left = (torch.randint(0, 2 * PADDING + 1, (count, 1), generator=draw) for _ in range(2))
    flip = torch.rand(count, 1, generator=draw) < 0.5
    drawn = (top.to(torch.uint8), left.to(torch.uint8), flip)
    return tuple(column.flatten().to(images.device) for column in drawn)


def _crop(
    images: torch.Tensor, top: torch.Tensor, left: torch.Tensor, flip: torch.Tensor
) -> torch.Tensor:
    height, width = images.shape[1:3]
    rows, columns = (torch.arange(n, device=images.device) for n in (height, width))
    columns = torch.where(flip[:, None], columns.flip(0), columns)
    rows, columns = top.long()[:, None] + rows, left.long()[:, None] + columns
    padded = pad(images, (0, 0, PADDING, PADDING, PADDING, PADDING))
    first = torch.arange(len(images), device=images.device)[:, None, None]
    return padded[first, rows[:, :, None], columns[:, None, :]]

"""Whole tensors on the first rank, from the parts that all ranks hold.

The first rank does the work of one process and asks for a tensor when it needs it; the others send their parts until it says that it has
ended, well or not. So nobody waits for a rank that failed, and no more than one tensor is on its way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from loongforge_core.component import Shape
from loongforge_core.errors import LoongForgeError, WeightsError
from loongforge_core.parallel.groups import local_device
from loongforge_core.weights.holding import Holding

__all__ = ["WholeTensor", "whole_tensors", "with_whole_tensors"]


@dataclass(frozen=True)
class Share:
    """A part of a tensor, and which rank has it."""

    rank: int
    number: int
    """Among that rank's pieces of the tensor."""
    offset: Shape
    shape: Shape
    """Without rows that pad a vocabulary."""

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()


@dataclass(frozen=True)
class WholeTensor:
    """A tensor that can be put together on the first rank."""

    name: str
    dtype: torch.dtype
    shape: Shape
    """As published."""
    shares: tuple[Share, ...]
    held: Mapping[str, Holding]
    """What this rank has."""

    def whole(self) -> Tensor:
        """Raises WeightsError where no rank has some of it."""
        shares = list({(share.offset, share.shape): share for share in reversed(self.shares) if share.numel}.values())
        there, wanted = sum(share.numel for share in shares), torch.Size(self.shape).numel()
        if there != wanted:
            raise WeightsError(f"{self.name}: {there} of {wanted} values are held by the ranks that export it")
        mine = distributed.get_rank()
        if len(shares) == 1 and shares[0].rank == mine:
            return part(self.held, self.name, shares[0])
        if any(share.rank != mine for share in shares):
            tell(Wanted(self.name, tuple(shares)))
        tensor = torch.empty(self.shape, dtype=self.dtype)
        for share in shares:
            here = tensor[tuple(slice(first, first + size) for first, size in zip(share.offset, share.shape, strict=True))]
            here.copy_(part(self.held, self.name, share) if share.rank == mine else received(share, self.dtype))
        return tensor


def whole_tensors(held: Mapping[str, Holding]) -> dict[str, WholeTensor]:
    """Of what this rank holds alone."""
    return united([described(held)], held)


def with_whole_tensors(held: Mapping[str, Holding], work: Callable[[Mapping[str, WholeTensor]], None]) -> None:
    """Called on every rank: does `work` on the first, which may ask for any tensor that is held anywhere.

    Where `work` raises, every rank does.
    """
    if distributed.get_world_size() == 1:
        work(whole_tensors(held))
    elif distributed.get_rank():
        distributed.gather_object(described(held), dst=0)
        serve(held)
    else:
        ranks: list[Description] = [{}] * distributed.get_world_size()
        distributed.gather_object(described(held), ranks, dst=0)
        try:
            work(united(ranks, held))
        except Exception as error:
            tell(Ended(str(error) if isinstance(error, LoongForgeError) else f"rank 0 failed: {error!r}"))
            raise
        tell(Ended())


# ---- who has what

Description = Mapping[str, tuple[torch.dtype, Shape, tuple[Share, ...]]]


def described(held: Mapping[str, Holding]) -> Description:
    rank = distributed.get_rank()

    def shares(holding: Holding) -> tuple[Share, ...]:
        return tuple(Share(rank, number, piece.offset, holding.published(piece)) for number, piece in enumerate(holding.pieces))

    return {name: (holding.dtype, holding.shape, shares(holding)) for name, holding in held.items()}


def united(ranks: list[Description], held: Mapping[str, Holding]) -> dict[str, WholeTensor]:
    found: dict[str, WholeTensor] = {}
    for rank in ranks:
        for name, (dtype, shape, shares) in rank.items():
            before = found[name].shares if name in found else ()
            found[name] = WholeTensor(name, dtype, shape, (*before, *shares), held)
    return found


# ---- what is said and sent


@dataclass(frozen=True)
class Wanted:
    """The first rank waits for these."""

    name: str
    shares: tuple[Share, ...]


@dataclass(frozen=True)
class Ended:
    """The first rank needs nothing any more."""

    error: str = ""


def tell(message: Wanted | Ended) -> None:
    distributed.broadcast_object_list([message], src=0)


def serve(held: Mapping[str, Holding]) -> None:
    """Sends what the first rank asks for. Raises WeightsError where it failed."""
    rank = distributed.get_rank()
    while True:
        messages: list[Wanted | Ended] = [Ended()]
        distributed.broadcast_object_list(messages, src=0)
        message = messages[0]
        if isinstance(message, Ended):
            if message.error:
                raise WeightsError(message.error)
            return
        for share in message.shares:
            if share.rank == rank:
                distributed.send(part(held, message.name, share).contiguous(), dst=0)


def received(share: Share, dtype: torch.dtype) -> Tensor:
    tensor = torch.empty(share.shape, dtype=dtype, device=local_device())
    distributed.recv(tensor, src=share.rank)
    return tensor


def part(held: Mapping[str, Holding], name: str, share: Share) -> Tensor:
    return held[name].pieces[share.number].tensor[tuple(slice(size) for size in share.shape)]

"""Worlds larger than memory: pages go to a memory-mapped file and come back when they are needed.

    pages-000.bin        pages of PAGE rows, one after another, each with all of its fields
    world.safetensors    which page of the file is which, the blocks, and the settings, as of the last `flush`

A page that the last flush counts on is never overwritten: changed, it goes to another place in the file, and its old
place is free after the next flush. So whatever interrupts a write, what was flushed is still there.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from mirage_nb import grid_io
from mirage_nb.blocks import PAGE, Blocks, Pages, grown

FORMAT = "mirage-world"
GROUP = 256  # pages that are moved at once
WORLD = "world.safetensors"
TABLES = {"at": (), "block": (), "rows": (), "keys": (), "count": (), "tail": (), "low": (3,), "high": (3,), "gone": ()}


class SpilledPages(Pages):
    """`Pages` of which at most `budget` bytes are in memory; those not used for longest make room.

    Args:
        fields, device: as in `Pages`.
        folder: of the two files; it must exist.
        budget: bytes.
        name: of the file of pages; None begins a new one, which takes the old one's place at the next flush.

    Raises:
        ValueError: the budget is too small for what is worked on at once.
    """

    def __init__(self, fields: dict, device: torch.device, folder: Path, budget: int, name: str | None = None):
        super().__init__(fields, device)
        self.page_bytes = PAGE * self.row_bytes
        self.capacity = budget // self.page_bytes
        if self.capacity < 2 * GROUP:
            least = 2 * GROUP * self.page_bytes
            raise ValueError(f"budget: expected at least {least} bytes for tokens of {self.row_bytes}, got {budget}")
        number = 1 + max((int(path.stem[6:]) for path in folder.glob("pages-*.bin")), default=-1)
        self.path = folder / (name or f"pages-{number:03d}.bin")
        self.slot = torch.zeros(0, dtype=torch.int64)  # of a page in memory, -1 for none
        self.at = torch.zeros(0, dtype=torch.int64)  # of a page in the file, -1 for none
        self._owner = torch.full((self.capacity,), -1)  # page in a slot
        self._used, self._clock = torch.zeros(self.capacity, dtype=torch.int64), 0
        self._dirty = torch.zeros(self.capacity, dtype=torch.bool)
        self._room: list[int] = []  # places in the file that nothing needs
        self._length, self._kept = 0, torch.zeros(0, dtype=torch.bool)  # places; those that the last flush counts on
        self._file, self._map = open(self.path, "a+b"), None
        self.slabs.append(self.allocate(self.capacity))

    def allocate(self, pages: int) -> dict[str, Tensor]:
        return {
            name: torch.zeros(pages, PAGE, *shape, dtype=dtype, device=self.device)  # memory is taken when it is used
            for name, (shape, dtype) in self.fields.items()
        }

    def reach(self, pages: Tensor, change: bool = False) -> Iterator[tuple[Tensor, dict[str, Tensor], Tensor]]:
        if not len(pages):
            return
        pages = pages.cpu()
        each = pages.unique()
        self.slot, self.at = grown(self.slot, int(each[-1]) + 1, -1), grown(self.at, int(each[-1]) + 1, -1)
        for group in each.split(GROUP):
            self._load(group)
            self._dirty[self.slot[group]] |= change
            which = ((pages >= group[0]) & (pages <= group[-1])).nonzero()[:, 0]
            yield which.to(self.device), self.slabs[0], self.slot[pages[which]].to(self.device)

    def _load(self, group: Tensor) -> None:
        """Have a group of pages in memory."""
        self._clock += 1
        here = self.slot[group]
        self._used[here[here >= 0]] = self._clock
        missing = group[here < 0]
        if not len(missing):
            return
        slots = (self._owner < 0).nonzero()[: len(missing), 0]
        if len(slots) < len(missing):
            oldest = self._used.masked_fill(self._owner < 0, self._clock).argsort(stable=True)
            oldest = oldest[: len(missing) - len(slots)]
            self._store(oldest[self._dirty[oldest]])
            self.slot[self._owner[oldest]] = -1
            slots = torch.cat([slots, oldest])
        self.slot[missing], self._owner[slots] = slots, missing
        self._used[slots], self._dirty[slots] = self._clock, False
        stored = self.at[missing] >= 0
        self._fetch(missing[stored], slots[stored])

    def _records(self) -> Tensor:
        """The file as bytes, (places, page_bytes)."""
        if self._map is None:
            self._map = mmap.mmap(self._file.fileno(), self._length * self.page_bytes)
        return torch.frombuffer(self._map, dtype=torch.uint8).view(self._length, self.page_bytes)

    def _parts(self, records: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
        start = 0
        for name, rows in self.slabs[0].items():
            width = rows[0].nbytes
            yield name, rows, records[:, start : start + width]
            start += width

    def _fetch(self, pages: Tensor, slots: Tensor) -> None:
        if len(pages):
            records, slots = self._records()[self.at[pages]], slots.to(self.device)
            for _, rows, part in self._parts(records):
                values = part.contiguous().view(rows.dtype).view(len(pages), *rows.shape[1:])
                rows[slots] = values.to(self.device)
            self._let_go()

    def _store(self, slots: Tensor) -> None:
        """Write the pages in these slots to the file, not over what the last flush counts on."""
        if not len(slots):
            return
        pages = self._owner[slots]
        at = self.at[pages]
        new = at < 0
        new |= self._kept[at.clamp(min=0)] if len(self._kept) else False
        places = self._places(int(new.sum()))
        self.at[pages[new]] = torch.tensor(places, dtype=torch.int64)
        records = torch.empty(len(slots), self.page_bytes, dtype=torch.uint8)
        for _, rows, part in self._parts(records):
            part.copy_(rows[slots.to(self.device)].cpu().flatten(1).contiguous().view(torch.uint8))
        self._records()[self.at[pages]] = records
        self._dirty[slots] = False
        self._let_go()

    def _places(self, count: int) -> list[int]:
        """Free places in the file; it grows where there are too few."""
        if count > len(self._room):
            more = max(count, 4 * GROUP, self._length // 8)
            self._map = None
            self._file.truncate((self._length + more) * self.page_bytes)
            self._room = [*range(self._length + more - 1, self._length - 1, -1), *self._room]
            self._length += more
            self._kept = grown(self._kept, self._length, False)
        return [self._room.pop() for _ in range(count)]

    def _let_go(self) -> None:
        """What was mapped need not stay in memory."""
        if self._map is not None and hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def flush(self, blocks: Blocks, settings: dict) -> None:
        """Bring everything to the disk; it is there when this returns.

        Raises:
            OSError: the disk is full. What the last flush stored stays.
        """
        for slots in (self._dirty & (self._owner >= 0)).nonzero()[:, 0].split(GROUP):
            self._store(slots)
        if self._map is not None:
            self._map.flush()
        os.fsync(self._file.fileno())
        tables = {"at": grown(self.at, blocks.used, -1)[: blocks.used]} | blocks.tables()
        tokens, dtype = self.fields["tokens"]
        more = {"file": self.path.name, "page": PAGE, "places": self._length, "written": blocks.written}
        more |= {"dtype": str(dtype).removeprefix("torch."), "channels": tokens[0]}
        grid_io.save_tensors(self.path.parent / WORLD, FORMAT, tables, settings | more)
        self._count_on(tables["at"][tables["rows"] > 0])
        for other in self.path.parent.glob("pages-*.bin"):
            if other != self.path:
                other.unlink()

    def _count_on(self, at: Tensor) -> None:
        """These places in the file are what a flush has stored; those that no page has are free."""
        self._kept = torch.zeros(self._length, dtype=torch.bool)
        self._kept[at] = True
        free = ~self._kept
        free[self.at[self.at >= 0]] = False
        self._room = free.nonzero()[:, 0].flip(0).tolist()

    @classmethod
    def open(cls, fields: dict, device: torch.device, folder: Path, budget: int, tables: dict, settings: dict):
        """The pages that a `flush` stored, and their `Blocks`.

        Raises:
            ValueError: the tables do not fit together, or not the file.
        """
        path, length = folder / str(settings["file"]), int(settings["places"])
        for name, shape in TABLES.items():
            kind = torch.float32 if shape else torch.int64
            if tables[name].dtype != kind or tuple(tables[name].shape[1:]) != shape:
                raise ValueError(f"{name}: expected {kind} (N, *{shape}), got {tables[name].dtype}")
        if settings["page"] != PAGE or path.parent != folder or not path.is_file():
            raise ValueError(f"file: expected pages of {PAGE} rows in {path.name}")
        pages, at = cls(fields, device, folder, budget, path.name), tables["at"]
        held, size = at[tables["rows"] > 0], path.stat().st_size
        fits = size >= length * pages.page_bytes and len(held.unique()) == len(held)
        if not fits or not ((held >= 0) & (held < length)).all():
            raise ValueError(f"{path.name}: expected {length} pages of {pages.page_bytes} bytes, found {size} bytes")
        pages._length, pages.at, pages.slot = (
            size // pages.page_bytes,
            at.where(tables["rows"] > 0, -1),
            torch.full_like(at, -1),
        )
        pages._count_on(held)
        return Blocks.restore(pages, tables, int(settings["written"]))

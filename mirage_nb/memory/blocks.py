"""Where the memory's rows live: in pages, each of one block of voxels, so that what no camera sees is never touched.

A block is a cube of 64 voxels a side of one level, 16 to 32 footprints wide, with a bounding box of the tokens in it.
Its rows stand in pages of PAGE rows; a block has as many pages as it needs. The cost of a write follows from the rows
it adds, that of a read from the blocks whose boxes are in view. Only a few numbers per block and page are looked at for
all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from mirage_nb.cameras import Cameras
from mirage_nb.memory.culling import in_view
from mirage_nb.memory.voxels import block_keys, voxel_keys
from mirage_nb.reprojection import CHUNK, MAX_SPLAT, NEAR, Batch

PAGE = 64  # rows
SLAB = 1024  # pages that are allocated at once; nothing is ever copied to grow


def grown(rows: Tensor, size: int, fill: float) -> Tensor:
    """The table with at least `size` rows, the new ones filled; its size doubles."""
    if size <= len(rows):
        return rows
    new = rows.new_full((max(size, 2 * len(rows)) - len(rows), *rows.shape[1:]), fill)
    return torch.cat([rows, new])


class Pages:
    """The pages' rows in memory: a tensor a field, PAGE rows a page.

    Args:
        fields: shape and dtype of a row, by name.
        device: where the rows live.
    """

    def __init__(self, fields: dict[str, tuple[tuple[int, ...], torch.dtype]], device: torch.device) -> None:
        self.fields, self.device = fields, device
        self.slabs: list[dict[str, Tensor]] = []
        self.row_bytes = sum(math.prod(shape) * dtype.itemsize for shape, dtype in fields.values())

    def to(self, device: torch.device) -> None:
        self.device = device
        self.slabs = [{name: rows.to(device) for name, rows in slab.items()} for slab in self.slabs]

    def allocate(self, pages: int) -> dict[str, Tensor]:
        """Room for a number of pages; a field is (pages, PAGE, ...)."""
        return {
            name: torch.empty(pages, PAGE, *shape, dtype=dtype, device=self.device)
            for name, (shape, dtype) in self.fields.items()
        }

    def reach(self, pages: Tensor, change: bool = False) -> Iterator[tuple[Tensor | slice, dict[str, Tensor], Tensor]]:
        """Where pages (K,) are: which of them, the tensors that hold those, and their places in them, part by part.

        Args:
            change: what is reached will be written.
        """
        if not len(pages):
            return
        slab = pages // SLAB
        first, last = slab.aminmax()
        while len(self.slabs) <= last:
            self.slabs.append(self.allocate(SLAB))
        for index in range(int(first), int(last) + 1):
            which = slice(None) if first == last else (slab == index).nonzero()[:, 0]
            yield which, self.slabs[index], pages[which] - index * SLAB

    def whole(self, name: str, pages: Tensor) -> Tensor:
        """All rows of pages (K,): (K * PAGE, ...)."""
        shape, dtype = self.fields[name]
        rows = torch.empty(len(pages), PAGE, *shape, dtype=dtype, device=self.device)
        for which, slab, slots in self.reach(pages):
            rows[which] = slab[name][slots]
        return rows.flatten(0, 1)

    def gather(self, name: str, place: Tensor) -> Tensor:
        """Rows (K, ...) at places (K,), page * PAGE + row."""
        shape, dtype = self.fields[name]
        rows = torch.empty(len(place), *shape, dtype=dtype, device=self.device)
        for which, slab, slots in self.reach(place // PAGE):
            found = slab[name].flatten(0, 1).index_select(0, slots * PAGE + place[which] % PAGE)
            if len(found) == len(rows):
                return found
            rows[which] = found
        return rows

    def put(self, rows: dict[str, Tensor], place: Tensor) -> None:
        """Write rows (K, ...) by name to places (K,)."""
        for which, slab, slots in self.reach(place // PAGE, change=True):
            for name, values in rows.items():
                slab[name].flatten(0, 1)[slots * PAGE + place[which] % PAGE] = values[which].to(slab[name].dtype)

    def blank(self, pages: Tensor) -> None:
        """Empty pages (K,): where there is no row, the position is NaN, which no camera sees."""
        for _, slab, slots in self.reach(pages, change=True):
            slab["positions"][slots] = torch.nan


class Blocks:
    """Rows by block of voxels. A row has a place, where it is, and an order, the number of rows written before it."""

    def __init__(self, pages: Pages) -> None:
        self.pages = pages
        self._ids: dict[int, int] = {}  # block by key
        self.count, self.tail = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
        self.low, self.high = torch.zeros(0, 3), torch.zeros(0, 3)
        self.block, self.rows = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)  # of a page
        self._free: list[int] = []
        self.used = 0  # pages that were ever used
        self.gone = torch.zeros(0, dtype=torch.int64)  # orders of rows that were removed, sorted
        self.written = 0  # rows that were ever added
        self._places: Tensor | None = None

    def __len__(self) -> int:
        return self.written - len(self.gone)

    def tables(self) -> dict[str, Tensor]:
        """All but the rows: what `restore` needs."""
        of_page = {name: getattr(self, name)[: self.used] for name in ("block", "rows")}
        of_block = {name: getattr(self, name)[: len(self._ids)] for name in ("count", "tail", "low", "high")}
        return of_page | of_block | {"keys": torch.tensor(list(self._ids), dtype=torch.int64), "gone": self.gone}

    @classmethod
    def restore(cls, pages: Pages, tables: dict[str, Tensor], written: int) -> Blocks:
        """The blocks over pages, from their tables.

        Raises:
            ValueError: the tables contradict each other.
        """
        blocks = cls(pages)
        for name in ("block", "rows", "count", "tail", "low", "high", "gone"):
            setattr(blocks, name, tables[name])
        keys, of, rows = tables["keys"].tolist(), blocks.block, blocks.rows
        blocks._ids = {key: index for index, key in enumerate(keys)}
        blocks.used, blocks.written = len(rows), written
        blocks._free = (of < 0).nonzero()[:, 0].tolist()
        fits = len(blocks._ids) == len(keys) == len(blocks.count) and len(of) == len(rows)
        fits = fits and (of < len(keys)).all() and ((rows >= 0) & (rows <= PAGE) & ((rows > 0) == (of >= 0))).all()
        fits = fits and torch.equal(
            torch.zeros_like(blocks.count).index_add_(0, of[of >= 0], rows[of >= 0]), blocks.count
        )
        if not fits or rows.sum() != len(blocks) or (blocks.tail >= len(rows)).any():
            raise ValueError("the tables of pages and blocks contradict each other")
        return blocks

    def places(self) -> Tensor:
        """(P,) places of all rows in their order."""
        if self._places is None:
            used = (self.rows[: self.used] > 0).nonzero()[:, 0]
            row = torch.arange(PAGE)
            place = (used[:, None] * PAGE + row)[row < self.rows[used, None]].to(self.pages.device)
            self._places = place[self.pages.gather("order", place).argsort()]
        return self._places

    def rank(self, order: Tensor) -> Tensor:
        """The row numbers (as of now) of rows of this order."""
        return order - torch.searchsorted(self.gone.to(order.device), order.long()) if len(self.gone) else order

    def _block_ids(self, keys: Tensor, new: bool) -> Tensor:
        """Ids of blocks by key; unknown ones are made, or -1."""
        ids = [self._ids.setdefault(key, len(self._ids)) if new else self._ids.get(key, -1) for key in keys.tolist()]
        size = len(self._ids)
        self.count, self.tail = grown(self.count, size, 0), grown(self.tail, size, -1)
        self.low, self.high = grown(self.low, size, torch.inf), grown(self.high, size, -torch.inf)
        return torch.tensor(ids, dtype=torch.int64)

    def _new_pages(self, count: int) -> Tensor:
        taken = [self._free.pop() for _ in range(min(count, len(self._free)))]
        pages = torch.tensor([*taken, *range(self.used, self.used + count - len(taken))], dtype=torch.int64)
        self.used += count - len(taken)
        self.block, self.rows = grown(self.block, self.used, -1), grown(self.rows, self.used, 0)
        self.pages.blank(pages.to(self.pages.device))
        return pages

    def add(self, rows: dict[str, Tensor], keys: Tensor) -> None:
        """Add rows (K, ...) by name with their voxel keys (K,), in their order."""
        if len(keys):
            order = torch.arange(self.written, self.written + len(keys), device=keys.device)
            block, inverse = block_keys(keys).unique(return_inverse=True)
            self.written += len(keys)
            self._add({**rows, "order": order}, self._block_ids(block, True)[inverse.cpu()])

    def _add(self, rows: dict[str, Tensor], ids: Tensor) -> None:
        """Add rows to blocks with these ids (K,)."""
        ids, order = ids.sort(stable=True)
        blocks, inverse, new = ids.unique_consecutive(return_inverse=True, return_counts=True)
        filled = self.count[blocks]
        at = filled[inverse] + torch.arange(len(ids)) - (new.cumsum(0) - new)[inverse]  # row of its block
        half = (filled % PAGE > 0).long()  # a page that has room
        more = -(-(filled + new) // PAGE) - -(-filled // PAGE)
        pages = self._new_pages(int(more.sum()))
        number = at // PAGE - (filled // PAGE)[inverse] - half[inverse]  # of the new page, -1 for the one with room
        page = torch.where(number < 0, self.tail[blocks][inverse], -1)
        page[number >= 0] = pages[((more.cumsum(0) - more)[inverse] + number)[number >= 0]]
        self.block[pages] = blocks.repeat_interleave(more)
        self.rows.index_add_(0, page, torch.ones_like(page))
        self.count[blocks] += new
        self.tail[blocks[more > 0]] = pages[more.cumsum(0)[more > 0] - 1]
        positions = rows["positions"].detach().cpu()[order]
        where = ids[:, None].expand(-1, 3)
        self.low.scatter_reduce_(0, where, positions, "amin")
        self.high.scatter_reduce_(0, where, positions, "amax")
        order = order.to(self.pages.device)
        place = (page * PAGE + at % PAGE).to(self.pages.device)
        self.pages.put({name: values.to(self.pages.device)[order] for name, values in rows.items()}, place)
        self._places = None

    def remove(self, place: Tensor) -> None:
        """Remove the rows at places (K,). The others of their blocks close up."""
        if not len(place):
            return
        gone = self.pages.gather("order", place).cpu()
        touched = torch.zeros(len(self.count), dtype=torch.bool)
        touched[self.block[place.cpu() // PAGE]] = True
        used = torch.arange(self.used)[self.block[: self.used] >= 0]
        pages = used[touched[self.block[used]]]
        self.count[touched], self.tail[touched] = 0, -1
        self.low[touched], self.high[touched] = torch.inf, -torch.inf
        left = torch.ones(len(pages) * PAGE, dtype=torch.bool)
        left[torch.searchsorted(pages, place.cpu() // PAGE) * PAGE + place.cpu() % PAGE] = False
        left &= (torch.arange(PAGE) < self.rows[pages, None]).flatten()
        all_rows, mine = {}, left.to(self.pages.device)
        for name in self.pages.fields:
            all_rows[name] = self.pages.whole(name, pages.to(self.pages.device))[mine]
        order = all_rows["order"].argsort()
        ids = self.block[pages].repeat_interleave(PAGE)[left]
        self.pages.blank(pages.to(self.pages.device))
        self.block[pages], self.rows[pages] = -1, 0
        self._free += pages.tolist()
        self.gone = torch.cat([self.gone, gone.long()]).sort().values
        self._places = None
        if len(order):
            self._add({name: rows[order] for name, rows in all_rows.items()}, ids[order.cpu()])

    def candidates(
        self, cameras: Cameras, splats: bool = True, cull: bool = True, near: float = NEAR
    ) -> Iterator[Batch]:
        """The rows of all blocks that the cameras, at latent size, may see, in batches for a `DepthTest`.

        Args:
            splats: with footprints; then blocks from which a splat may reach into the image count, too.
            cull: False goes through all blocks for all cameras.
        """
        cpu, blocks = cameras.to("cpu"), len(self._ids)
        seen = torch.ones(blocks, len(cameras), dtype=torch.bool)
        if cull:
            seen = in_view(self.low[:blocks], self.high[:blocks], cpu, MAX_SPLAT + 1 if splats else 0, near)
        used = (self.rows[: self.used] > 0).nonzero()[:, 0]
        used = used[seen.any(1)[self.block[used]]]
        device, row = self.pages.device, torch.arange(PAGE, device=self.pages.device)
        for pages in used.split(max(1, CHUNK // PAGE)):
            by = seen[self.block[pages]].any(0).nonzero()[:, 0].to(device)
            pages = pages.to(device)
            rows = {name: self.pages.whole(name, pages) for name in ("positions", "order")}
            footprints = self.pages.whole("footprints", pages) if splats else None
            place = (pages[:, None] * PAGE + row).flatten()
            index = self.rank(rows["order"])
            yield Batch(rows["positions"].T.contiguous().T, index, place, footprints, by)

    def occupied(self, keys: Tensor, voxel_size: float) -> Tensor:
        """(K,) bool: which voxels, by key (K,), hold a row."""
        block, inverse = block_keys(keys).unique(return_inverse=True)
        touched = torch.zeros(len(self._ids) + 1, dtype=torch.bool)
        touched[self._block_ids(block, False)] = True
        touched[-1] = False  # where -1, no block, points to
        used = (self.rows[: self.used] > 0).nonzero()[:, 0]
        pages = used[touched[self.block[used]]].to(self.pages.device)
        keys, back = keys.unique(return_inverse=True)
        found = torch.zeros_like(keys, dtype=torch.bool)
        for part in pages.split(max(1, CHUNK // PAGE)):
            positions, footprints = self.pages.whole("positions", part), self.pages.whole("footprints", part)
            real = positions[:, 0].isfinite()
            held = voxel_keys(positions[real], footprints[real], voxel_size)
            at = torch.searchsorted(keys, held).clamp(max=len(keys) - 1)
            found[at[keys[at] == held]] = True
        return found[back]

"""Stage 2: memories of latents, behind one contract."""

from mirage_nb.memory.base import Memory
from mirage_nb.memory.baselines import NoMemory, RGBPointCloud, make_memory
from mirage_nb.memory.grid import POLICIES, LatentGrid

__all__ = ["POLICIES", "LatentGrid", "Memory", "NoMemory", "RGBPointCloud", "make_memory"]

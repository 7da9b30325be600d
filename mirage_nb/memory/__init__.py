"""Stage 2: memories of latents, behind one contract."""

from mirage_nb.memory.base import Memory
from mirage_nb.memory.baselines import MEMORIES, NoMemory, RGBPointCloud, make_memory
from mirage_nb.memory.grid import POLICIES, LatentGrid

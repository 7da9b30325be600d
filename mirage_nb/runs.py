"""The folder of a run, from which an interrupted one resumes.

    state.json                 what was asked for (hashes of the inputs), and how many segments are done
    segment-000.safetensors    frames, latents and depth of a segment, its times and counts
    memory-001.safetensors     the memory after that many segments; memory.safetensors once all are done

A segment counts from the moment state.json names it, after its files are whole. Every file is written aside and
renamed, so a crash at any moment leaves the state of the last whole segment.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from mirage_nb.files import Schema, is_full, read_json, remove_stale
from mirage_nb.memory import Memory
from mirage_nb.memory.io import load_tensors, save_tensors, write_aside

FORMAT = "mirage-run"
SEGMENT = "mirage-segment"
TENSORS = {
    "frames": "uint8 T H W 3", "latents": "float C t h w", "depth": "~float t H W", "visibility": "bool t h w",
}  # fmt: skip


class State(Schema):
    """state.json. The memory named here is deleted once there is a newer one, so it must be one of the folder's own."""

    format: Literal[FORMAT]
    seed: int = Field(ge=0)
    segments: int = Field(ge=0, le=10**6)
    memory: str | None = Field(pattern=r"^memory(-\d{3,7})?\.safetensors$")
    inputs: dict[str, str]
    threads: int | None = None


class Figures(Schema):
    """The header of a segment: seconds by stage, tokens after it, and `depth_alignment.Fit`s."""

    seconds: dict[str, float]
    tokens: int = Field(ge=0)
    fits: list[Annotated[list[float], Field(min_length=4, max_length=4)]]


def digest(*values) -> str:
    """A hash of tensors and of whatever JSON can hold."""
    state = hashlib.sha256()
    for value in values:
        if isinstance(value, Tensor):
            value = value.detach().cpu().contiguous()
            state.update(f"{value.dtype}{tuple(value.shape)}".encode())
            state.update(value.flatten().view(torch.uint8).numpy().tobytes())
        else:
            state.update(json.dumps(value, sort_keys=True, default=str).encode())
    return state.hexdigest()[:16]


def model_digest(components: dict) -> str:
    """A hash of the models: their configurations, and some of each one's weights."""
    parts = []
    for name, component in sorted(components.items()):
        config = getattr(component, "config", {})
        config = config.to_dict() if hasattr(config, "to_dict") else dict(config)  # transformers', diffusers'
        parts += [name, {k: v for k, v in config.items() if not k.startswith("_")}]
        if isinstance(component, torch.nn.Module):
            weights = [weight.detach() for weight in component.parameters() if not weight.is_meta]  # offloaded
            parts += [weight.flatten()[:64].float() for weight in weights]
    return digest(*parts)


class Run:
    """One run's folder.

    Args:
        folder: created where it does not exist.
        inputs: hash by argument name; a second call must bring the same.
        seed: of the noise; None takes the earlier run's, or draws one.

    Raises:
        ValueError: the folder holds a run with other arguments (they are named), or its state is broken.
        OSError: it can't be created or written.
    """

    def __init__(self, folder: str | Path, inputs: dict[str, str], seed: int | None) -> None:
        self.folder, self.inputs = Path(folder), inputs
        self.segments, self.memory_file, self.seed = 0, None, seed
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"output_dir: {folder} is a file, expected a folder")
        state = self.folder / "state.json"
        if state.exists():
            self._go_on_from(state)
        elif seed is None:
            self.seed = secrets.randbelow(2**31)
        with self._disk_is_full():
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_stale(self.folder)
            self._write_state()

    def _go_on_from(self, path: Path) -> None:
        state = read_json(path, State, "output_dir", "is not the state of a run, choose another folder")
        if bool(state.segments) != bool(state.memory):
            raise ValueError(f"output_dir: {path} has {state.segments} segments and the memory {state.memory}")
        names = {*state.inputs, *self.inputs}
        other = sorted(name for name in names if state.inputs.get(name) != self.inputs.get(name))
        other += ["seed"] if self.seed not in (None, state.seed) else []
        if other:
            difference = ", ".join(other)
            raise ValueError(f"output_dir: {self.folder} holds a run with another {difference}; choose another folder")
        self.segments, self.memory_file, self.seed = state.segments, state.memory, state.seed
        threads, finished = torch.get_num_threads(), (self.folder / "memory.safetensors").exists()
        if state.threads not in (None, threads) and not finished:
            words = f"the run began with {state.threads} threads, this process has {threads}"
            warnings.warn(f"output_dir: {words}: the video may differ from an uninterrupted one", stacklevel=4)

    def results(self) -> list[dict]:
        """What the segments done made: TENSORS (without the batch), `seconds`, `tokens` and `fits`."""
        loaded = [load_tensors(self._segment(index), SEGMENT, TENSORS, Figures) for index in range(self.segments)]
        sizes = {(tensors["frames"].shape[1:], tensors["latents"][:, :0].shape) for tensors, _ in loaded}
        if len(sizes) > 1 or not all(len(tensors["frames"]) for tensors, _ in loaded):
            raise ValueError(f"output_dir: the segments in {self.folder} are empty, or of pictures of several sizes")
        return [tensors | figures.model_dump() for tensors, figures in loaded]

    def memory(self, memory: Memory) -> Memory:
        """The memory after the last segment done, of the kind of the one given."""
        path = self.folder / self.memory_file
        return memory.load(path if path.exists() else self.folder / "memory.safetensors")  # renamed, then stopped

    def commit(self, index: int, tensors: dict[str, Tensor], settings: dict, memory: Memory) -> None:
        """Store a segment and the memory after it. The disk being full leaves the run as it was before.

        Raises:
            OSError: what to do is in the message.
        """
        name = f"memory-{index + 1:03d}.safetensors"
        with self._disk_is_full():
            save_tensors(self._segment(index), SEGMENT, tensors, settings)
            memory.save(self.folder / name)
            old, self.segments, self.memory_file = self.memory_file, index + 1, name
            self._write_state()
        if old is not None:
            (self.folder / old).unlink(missing_ok=True)

    def finish(self) -> None:
        """Give the last memory its final name."""
        path, final = self.folder / self.memory_file, self.folder / "memory.safetensors"
        if path.exists() and path != final:
            path.replace(final)

    def _segment(self, index: int) -> Path:
        return self.folder / f"segment-{index:03d}.safetensors"

    def _write_state(self) -> None:
        state = {"format": FORMAT, "seed": self.seed, "segments": self.segments, "memory": self.memory_file}
        state |= {"threads": torch.get_num_threads()}
        write_aside(self.folder / "state.json", json.dumps({**state, "inputs": self.inputs}, indent=1).encode())

    @contextmanager
    def _disk_is_full(self):
        try:
            yield
        except OSError as error:
            if not is_full(error):
                raise
            advice = "what was done is kept; free some space and call again to go on"
            raise OSError(error.errno, f"output_dir: the disk of {self.folder} is full; {advice}") from None

"""The folder of a run, from which an interrupted one resumes.

    state.json                 what was asked for (hashes of the inputs), and how many segments are done
    segment-000.safetensors    frames, latents and depth of a segment, its times and counts
    memory-001.safetensors     the memory after that many segments; memory.safetensors once all are done

A segment counts from the moment state.json names it, after its files are whole. Every file is written aside and
renamed, so a crash at any moment leaves the state of the last whole segment.
"""

import hashlib
import json
import secrets
import warnings
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from mirage_nb.files import Schema, read_json, remove_stale, write_aside
from mirage_nb.memory import Memory
from mirage_nb.memory.io import load_tensors, save_tensors

FORMAT = "mirage-run"
SEGMENT = "mirage-segment"
TENSORS = {
    "frames": "uint8 T H W 3", "latents": "float C t h w", "depth": "~float t H W", "visibility": "bool t h w",
}  # fmt: skip


class State(Schema):
    """state.json. It names no file: those of the folder have their names from the number of segments."""

    format: Literal[FORMAT]
    seed: int = Field(ge=0)
    segments: int = Field(ge=0, le=10**6)
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

    ValueError where the folder holds a run with other arguments (they are named), or its state is broken.
    """

    def __init__(self, folder: str | Path, inputs: dict[str, str], seed: int | None) -> None:
        self.folder, self.inputs, self.segments, self.seed = Path(folder), inputs, 0, seed
        self.final = self.folder / "memory.safetensors"
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"output_dir: {folder} is a file, expected a folder")
        if (self.folder / "state.json").exists():
            self._go_on_from(self.folder / "state.json")
        elif seed is None:
            self.seed = secrets.randbelow(2**31)
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_stale(self.folder)
        self._write_state()

    def _go_on_from(self, path: Path) -> None:
        state = read_json(path, State, "output_dir", "is not the state of a run, choose another folder")
        names = {*state.inputs, *self.inputs}
        other = sorted(name for name in names if state.inputs.get(name) != self.inputs.get(name))
        if other := ", ".join(other + ["seed"] * (self.seed not in (None, state.seed))):
            raise ValueError(f"output_dir: {self.folder} holds a run with another {other}; choose another folder")
        self.segments, self.seed, threads = state.segments, state.seed, torch.get_num_threads()
        if state.threads not in (None, threads) and not self.final.exists():
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
        path = self._memory(self.segments)
        return memory.load(path if path.exists() else self.final)

    def commit(self, index: int, tensors: dict[str, Tensor], settings: dict, memory: Memory) -> None:
        """Store a segment and the memory after it. OSError, with what to do, if the disk is full: the run stays as it
        was before."""
        save_tensors(self._segment(index), SEGMENT, tensors, settings)
        memory.save(self._memory(index + 1))
        self.segments = index + 1
        self._write_state()
        self._memory(index).unlink(missing_ok=True)

    def finish(self) -> None:
        """Give the last memory its final name."""
        if (last := self._memory(self.segments)).exists():
            last.replace(self.final)

    def _segment(self, index: int) -> Path:
        return self.folder / f"segment-{index:03d}.safetensors"

    def _memory(self, segments: int) -> Path:
        return self.folder / f"memory-{segments:03d}.safetensors"

    def _write_state(self) -> None:
        threads = torch.get_num_threads()
        state = State(format=FORMAT, seed=self.seed, segments=self.segments, inputs=self.inputs, threads=threads)
        write_aside(self.folder / "state.json", state.model_dump_json(indent=1).encode())

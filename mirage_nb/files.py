"""Files from outside and to disk: declared schemas for JSON, and writes that never leave half a file.

This module loads no heavy library, so that the command line can check its paths at once.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from tempfile import mkstemp
from typing import TypeVar

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

STALE = re.compile(r"\..+\.(\d+)-\w+\.mirage-tmp")  # a file that process \1 was writing
LARGEST_JSON = 256 * 2**20  # bytes; the largest that is expected, COLMAP-like lists of poses, are a tenth of it


class Schema(BaseModel):
    """The declared keys of a file from outside: types as they are (no "8" for 8), finite numbers, others are dropped.

    Lists may be nested 200 deep, which is pydantic's limit.
    """

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="ignore", frozen=True)


Declared = TypeVar("Declared", bound=Schema)


def regular_file(path: str | Path, name: str = "") -> Path:
    """The path of a file that can be read to its end: a named pipe or a device may have none.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it is something else; `name` is the argument's.
    """
    path, name = Path(path), f"{name}: " if name else ""
    if not path.exists():
        raise FileNotFoundError(f"{name}no such file: {path}")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "a pipe, socket or device"
        raise ValueError(f"{name}{path} is {kind}, expected a file")
    return path


def parse(schema: type[Declared], content: bytes | str | dict, where: str | Path) -> Declared:
    """JSON, or a dictionary of it, as a schema declares it. ValueError in one line: where, key, what was expected."""
    try:
        if isinstance(content, dict):
            return schema.model_validate(content)
        return schema.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "it"
        got = "" if first["type"] in ("missing", "json_invalid") else f", got {first['input']!r:.60}"
        raise ValueError(to_one_line(f"{where}: {key}: {first['msg']}{got}")) from None


def read_json(path: str | Path, schema: type[Declared], name: str = "", fault: str = "is broken") -> Declared:
    """A JSON file as a schema declares it.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it holds something else. `name` is the argument's,
            `fault` words for the second.
    """
    path, where = regular_file(path, name), f"{name}: {path}" if name else f"{path}"
    if (size := path.stat().st_size) > LARGEST_JSON:
        raise ValueError(f"{where}: expected at most {LARGEST_JSON >> 20} MiB of JSON, got {size >> 20} MiB")
    return parse(schema, path.read_bytes(), f"{where} {fault}")


def write_aside(path: str | Path, *parts: bytes | memoryview) -> None:
    """Write a file under a temporary name in its folder and rename it, so that a broken one never takes its name.

    Raises:
        OSError: it can't be written; a full disk is told with what to do.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist")
    handle, temporary = mkstemp(".mirage-tmp", f".{path.name}.{os.getpid()}-", path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(parts)
        os.chmod(temporary, 0o644)  # mkstemp's files are private
        os.replace(temporary, path)
    except BaseException as error:
        os.unlink(temporary)
        if is_full(error):
            advice = "what was done is kept; free some space and call again to go on"
            raise OSError(error.errno, f"the disk of {path.parent} is full; {advice}") from None
        raise


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk, or one's share of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def remove_stale(folder: str | Path) -> None:
    """Remove the temporary files that a killed `write_aside` left in a folder; those of living processes stay."""
    for path in Path(folder).iterdir():
        if (match := STALE.fullmatch(path.name)) and path.is_file():
            try:  # a process that began after the file was written only has the number of the killed one
                lives = psutil.Process(int(match[1])).create_time() <= path.stat().st_mtime + 1
            except (psutil.Error, FileNotFoundError):
                lives = False
            if not lives:
                path.unlink(missing_ok=True)


def to_one_line(words: object) -> str:
    """Words without line breaks, colours and other control characters, which a file name or a library may hold."""
    return re.sub(r"\s*[\x00-\x1f\x7f-\x9f]+\s*", " ", str(words)).strip()

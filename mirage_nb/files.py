"""Files from outside and to disk: declared schemas for JSON, and writes that never leave half a file.

This module loads no heavy library, so that the command line can check its paths at once.
"""

import errno
import os
import re
from pathlib import Path
from tempfile import mkstemp
from typing import TypeVar

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

STALE = re.compile(r"\..+\.(\d+)-\w+\.mirage-tmp")  # a file that process \1 was writing
LARGEST_JSON = 256 * 2**20  # bytes
Schema_ = TypeVar("Schema_", bound="Schema")


class Schema(BaseModel):
    """The declared keys of a file from outside: types as they are (no "8" for 8), finite numbers; others are dropped.

    Lists may be nested 200 deep, which is pydantic's limit.
    """

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="ignore", frozen=True)


def regular_file(path: str | Path, name: str = "") -> Path:
    """The path of a file, which pipes and devices are not: they may have no end. FileNotFoundError or ValueError else,
    with the `name` of the argument."""
    path, name = Path(path), f"{name}: " if name else ""
    if not path.exists():
        raise FileNotFoundError(f"{name}no such file: {path}")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "a pipe, socket or device"
        raise ValueError(f"{name}{path} is {kind}, expected a file")
    return path


def parse(schema: type[Schema_], content: bytes | str | dict, where: str | Path) -> Schema_:
    """JSON, or a dictionary of it, as a schema declares it. ValueError in one line: where, key, what was expected."""
    try:
        return (schema.model_validate if isinstance(content, dict) else schema.model_validate_json)(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        got = "" if first["type"] in ("missing", "json_invalid") else f", got {first['input']!r:.60}"
        key = ".".join(map(str, first["loc"])) or "it"
        raise ValueError(to_one_line(f"{where}: {key}: {first['msg']}{got}")) from None


def read_json(path: str | Path, schema: type[Schema_], name: str = "", fault: str = "is broken") -> Schema_:
    """A JSON file as a schema declares it; see `regular_file` and `parse` for the errors, which say `fault`."""
    path, where = regular_file(path, name), f"{name}: {path}" if name else f"{path}"
    if (size := path.stat().st_size) > LARGEST_JSON:
        raise ValueError(f"{where}: expected at most {LARGEST_JSON >> 20} MiB of JSON, got {size >> 20} MiB")
    return parse(schema, path.read_bytes(), f"{where} {fault}")


def write_aside(path: str | Path, *parts: bytes | memoryview) -> None:
    """Write a file under a temporary name in its folder and rename it, so that a broken one never takes its name."""
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
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):  # EDQUOT: one's share of it
            advice = "what was done is kept; free some space and call again to go on"
            raise OSError(error.errno, f"the disk of {path.parent} is full; {advice}") from None
        raise


def remove_stale(folder: str | Path) -> None:
    """Remove what a killed `write_aside` left in a folder. This process, which may have the number of the killed one,
    writes nothing there yet."""
    for path in Path(folder).iterdir():
        number = STALE.fullmatch(path.name)
        if number and (int(number[1]) == os.getpid() or not psutil.pid_exists(int(number[1]))):
            path.unlink(missing_ok=True)


def to_one_line(words: object) -> str:
    """Words without line breaks, colours and other control characters, which a file name or a library may hold."""
    return re.sub(r"\s*[\x00-\x1f\x7f-\x9f]+\s*", " ", str(words)).strip()

"""A folder whose files were spoilt, in any way, loads or is refused with a ModelError: no other
exception, no wait and no absurd memory. Seeded."""

import json
import random
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from services.inference_worker.model.errors import ModelError
from services.inference_worker.model.registry import load_model
from tests.releases import ANSWERING, INTERNVL, resave, write_release

FAMILIES = {
    "qwen2_vl": ANSWERING[0],
    "qwen2_5_vl": ANSWERING[8],
    "qwen3_vl": ANSWERING[10],
    "internvl": INTERNVL[1],
    "smolvlm": ANSWERING[-1],
}
LONGEST_S = 30.0  # on a machine with other work; one takes a tenth of a second
MOST_BYTES = 512 * 2**20
ABSURD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    3,
    2**31,
    2**63,
    10**40,
    0.5,
    -1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "../../etc/passwd",
    "<|im_end|>",
    "{{ 1/0 }}",
    "{% for n in range(10**9) %}x{% endfor %}",
    "y" * 5000,
    [],
    [[]],
    [1e9, "a"],
    {},
    {"a": {"b": None}},
]


@pytest.fixture(scope="module", params=FAMILIES)
def folders(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """One release of each family, as published and as saved today."""
    release = FAMILIES[request.param]
    root = tmp_path_factory.mktemp(request.param)
    published = write_release(release, root / "published")
    return published, resave(release, published, root / "resaved")


def places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a JSON value, with each of its keys."""
    if not isinstance(content, dict | list) or len(content) > 200:
        return
    for key in list(content if isinstance(content, dict) else range(len(content))):
        yield content, key
        yield from places(content[key])


def parsed(file: Path) -> Any:
    """None for what is none any more."""
    try:
        return json.loads(file.read_text())
    except (ValueError, RecursionError):
        return None


def spoil(folder: Path, rng: random.Random) -> str:
    """Spoil one file and say how."""
    files = sorted(p for p in folder.iterdir() if p.suffix in (".json", ".jinja", ".txt"))
    file = rng.choice([*files, folder / "config.json", folder / "tokenizer_config.json"])
    kind = rng.choice(["value", "value", "value", "key", "key", "cut", "byte", "gone", "other"])
    content = parsed(file) if file.is_file() else None
    if not file.is_file():
        pass
    elif kind in ("value", "key") and content is not None:
        spots = list(places(content))
        for _ in range(rng.choice([1, 1, 2, 4]) if spots else 0):
            holder, key = rng.choice(spots)
            if isinstance(holder, list) or kind == "value":
                if isinstance(holder, dict) or key < len(holder):
                    holder[key] = rng.choice(ABSURD)
            else:
                holder.pop(key, None)
        file.write_text(json.dumps(content))
    elif kind == "gone":
        file.unlink()
    elif kind == "other":
        file.write_text(rng.choice(["", "[]", "null", "7", '"x"', "[" * 5000, '{"a": ' * 2000]))
    else:
        data = bytearray(file.read_bytes())
        if kind == "byte" and data:
            data[rng.randrange(len(data))] = rng.randrange(256)
        file.write_bytes(data if kind == "byte" else data[: rng.randrange(len(data) + 1)])
    return f"{kind} of {file.name}"


def check(folder: Path, what: str) -> None:
    started_s = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        load_model(str(folder), torch.float32, torch.device("cpu"), 12_544)
    except ModelError:
        pass
    except BaseException as error:
        raise AssertionError(f"{what}: {type(error).__name__}") from error
    assert time.monotonic() - started_s < LONGEST_S, what
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < MOST_BYTES, what


def run(folders: tuple[Path, Path], seeds: range, tmp_path: Path) -> None:
    for seed in seeds:
        rng = random.Random(seed)
        folder = tmp_path / "spoilt"
        shutil.copytree(folders[seed % 2], folder)
        what = "; ".join(spoil(folder, rng) for _ in range(rng.choice([1, 1, 1, 3])))
        check(folder, f"seed {seed}: {what}")
        shutil.rmtree(folder)


def test_a_spoilt_folder_loads_or_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    run(folders, range(14), tmp_path)


@pytest.mark.slow
def test_hundreds_of_spoilt_folders_load_or_are_refused(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    """About a minute for each family."""
    run(folders, range(100, 500), tmp_path)

"""Settings in a folder of Hugging Face's layout: pictures, chat, sampling.

Where a thing stands has changed over the years, so each is looked for in transformers' own order.
"""

import json
import logging
import math
from pathlib import Path
from typing import Any

from services.inference_worker.model.errors import ModelError
from services.inference_worker.model.sampling import Sampling

log = logging.getLogger(__name__)

CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Mean and deviation of colours where a folder names none."""
_TOP_K = 50  # transformers' own, where a folder names none
# Of generation_config.json, what else would change an answer, and its value that changes nothing.
_UNHEEDED = {
    "bad_words_ids": None,
    "begin_suppress_tokens": None,
    "encoder_repetition_penalty": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "exponential_decay_length_penalty": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "guidance_scale": None,
    "min_length": 0,
    "min_new_tokens": None,
    "min_p": None,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "penalty_alpha": None,
    "sequence_bias": None,
    "suppress_tokens": None,
    "top_h": None,
    "typical_p": 1.0,
}


def read_json(file: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises ModelError for any other."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot read {file}: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"cannot read {file}: it holds no object")
    return content


def preprocessor(folder: Path, usual: tuple[tuple[float, ...], ...]) -> dict[str, Any]:
    """Preparation of colours: `image_mean` and `image_std` of the three channels after a
    multiplication by `rescale_factor`, with what is not to be done done by zeros and ones.

    usual: mean and deviation of the family. Raises ModelError for a folder that says nothing.
    """
    said = _preprocessor(folder)
    named = {"image_mean": usual[0], "image_std": usual[1]}
    if said.get("do_normalize") is False:
        found: dict[str, Any] = {"image_mean": (0.0,) * 3, "image_std": (1.0,) * 3}
    else:
        found = {key: _channels(said, key, default) for key, default in named.items()}
    if not all(found["image_std"]):
        raise ModelError("the preprocessor's image_std has a 0, by which nothing can be divided")
    factor = 1.0 if said.get("do_rescale") is False else said.get("rescale_factor")
    found["rescale_factor"] = 1 / 255 if factor is None else _number("rescale_factor", factor)
    if not found["rescale_factor"]:
        raise ModelError("the preprocessor's rescale_factor is 0")
    return found


def _preprocessor(folder: Path) -> dict[str, Any]:
    together = folder / "processor_config.json"  # all in one, as transformers 5 saves it
    parts = read_json(together) if together.is_file() else {}
    alone = [folder / f"{kind}preprocessor_config.json" for kind in ("video_", "")]
    candidates = [
        parts.get("video_processor"),
        *(read_json(file) for file in alone if file.is_file()),
        parts.get("image_processor"),
    ]
    found = next((each for each in candidates if each is not None), None)
    if found is None:
        raise ModelError(
            f"{folder} does not say how pictures are prepared: no video_preprocessor_config.json, "
            "no preprocessor_config.json, and no processor_config.json with a video_processor"
        )
    if not isinstance(found, dict):
        raise ModelError(f"cannot read {together}: its video_processor is no object")
    return found


def _channels(said: dict[str, Any], key: str, usual: tuple[float, ...]) -> tuple[float, ...]:
    value = said.get(key)
    if value is None:
        return usual
    values = value if isinstance(value, list) else [value] * 3
    if len(values) != 3:
        raise ModelError(f"the preprocessor's {key} has {len(values)} numbers; colours have three")
    return tuple(_number(key, each) for each in values)


def chat_template(folder: Path) -> str | None:
    """The processor's template, where it has one of its own."""
    config, old = folder / "processor_config.json", folder / "chat_template.json"
    jinja = folder / "chat_template.jinja"
    template: Any = None
    if config.is_file():
        template = read_json(config).get("chat_template")
    if template is None and old.is_file():
        template = read_json(old).get("chat_template")
    if isinstance(template, dict):
        template = template.get("default")
    if template is None and jinja.is_file():
        try:
            template = jinja.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ModelError(f"cannot read {jinja}: {error}") from error
    if template is not None and not isinstance(template, str):
        raise ModelError(f"the chat template of {folder} is no text")
    return template


def generation(folder: Path) -> dict[str, Any]:
    """generation_config.json. One that cannot be read counts for none, as in transformers."""
    file = folder / "generation_config.json"
    if not file.is_file():
        return {}
    try:
        return read_json(file)
    except ModelError as error:
        log.warning("generation_config.json is left out", extra={"reason": error.message})
        return {}


def usual_sampling(said: dict[str, Any]) -> Sampling:
    """Sampling that `generate` of transformers does with such a generation_config.json, where
    nobody asks for anything else. Raises ModelError for values that it could not use either."""
    for key, without in _UNHEEDED.items():
        if said.get(key) not in (None, without):
            log.warning("generation_config.json: not done here", extra={"setting": key})

    def number(key: str, usual: float, least: float, most: float) -> float:
        value = said.get(key)
        found = usual if value is None else _number(key, value)
        if not least <= found <= most:
            raise ModelError(f"generation_config.json: {key} is {found}; {least} to {most}")
        return found

    temperature = number("temperature", 1.0, 0.0, 1000.0)
    top_k = number("top_k", _TOP_K, 0, 2**31)
    return Sampling(
        temperature=temperature if said.get("do_sample") else 0.0,
        top_k=int(top_k),
        top_p=number("top_p", 1.0, 0.0, 1.0),
        repetition_penalty=number("repetition_penalty", 1.0, 1e-3, 1000.0),
    )


def stop_tokens(*said: Any) -> frozenset[int]:
    """Every token that any of these ends an answer with: numbers, lists of them, or None. Raises
    ModelError for what is no token."""
    listed = [each for one in said for each in (one if isinstance(one, list) else [one])]
    found = [each for each in listed if each is not None]
    if not all(isinstance(each, int) and not isinstance(each, bool) for each in found):
        raise ModelError(f"generation_config.json: eos_token_id is {said[0]!r}, which is no token")
    return frozenset(found)


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
        raise ModelError(f"{key} is {value!r}, which is no number")
    return float(value)


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer with more digits than a float has
        return False

"""Progress of a model that is not ready yet, in words for people."""

from sightline.v1 import inference_pb2
from sightline.v1.inference_pb2 import LOADING_PHASE_DOWNLOADING, LOADING_PHASE_WARMING

RESTART = "about 20 s"  # what the built-in model takes from nothing


def percent_of(state: inference_pb2.LoadingState) -> int | None:
    """0 to 100; None where nobody knows."""
    return state.bytes_done * 100 // state.bytes_total if state.bytes_total else None


def words_of(description: inference_pb2.ModelDescription) -> str:
    """ "Downloading Qwen2.5-VL-3B-Instruct: 41 %, 3.1 of 7.5 GB, about 2 min"."""
    state = description.loading
    name = description.model.rpartition("/")[2] or "the model"
    if state.phase == LOADING_PHASE_WARMING:
        return f"Warming {name} up: a few seconds"
    if state.phase != LOADING_PHASE_DOWNLOADING:
        percent = percent_of(state)
        return f"Loading {name}" + (f": {percent} %" if percent is not None else "")
    if not state.bytes_total:
        return f"Asking the hub for {name}" + _silence(state)
    parts = [f"{percent_of(state)} %", _bytes(state.bytes_done, state.bytes_total)]
    if state.silent_s:
        return f"Downloading {name}: {', '.join(parts)}" + _silence(state)
    if state.eta_s:
        parts.append(duration(state.eta_s))
    return f"Downloading {name}: {', '.join(parts)}"


def duration(seconds: float) -> str:
    """ "about 2 min", in steps that people count in."""
    if seconds < 90:
        return f"about {max(1, round(seconds / 5)) * 5} s"
    if seconds < 5400:
        return f"about {round(seconds / 60)} min"
    return f"about {seconds / 3600:.1f} h"


def _silence(state: inference_pb2.LoadingState) -> str:
    if not state.silent_s:
        return ""
    return f"; nothing has come for {state.silent_s:.0f} s, still trying"


def _bytes(done: int, total: int) -> str:
    if total >= 1e8:
        return f"{done / 1e9:.1f} of {total / 1e9:.1f} GB"
    return f"{done / 1e6:.1f} of {total / 1e6:.1f} MB"

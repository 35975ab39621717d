"""Folders in Hugging Face layout: which one is meant, and its tensors, straight to the device."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from services.inference_worker.model.decoder import DecoderConfig
from services.inference_worker.model.errors import ModelError
from services.inference_worker.model.loading import Loading
from services.inference_worker.model.published.folder import read_json
from services.inference_worker.model.published.refusals import refuse_other_layouts, weights_error

_NAMED = 5  # tensors that an error names
_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
# What old versions of transformers saved and nobody reads: it is computed.
_STRAYS = re.compile(r"rotary_(pos_)?emb\.inv_freq$|(^|\.)position_ids$")
_QUANTISED = (
    ".qweight",
    ".qzeros",
    ".weight_scale",
    ".weight_scale_inv",
    ".weight_packed",
    ".absmax",
)


def find_folder(name: str, progress: Loading) -> Path:
    """Folder of a model: a local one, or one of the hub, downloaded once.

    Raises ModelError for a folder that is not there, or a hub that does not have it.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        refuse_other_layouts(name, folder)
    if (folder / "config.json").is_file():
        return folder
    if name.endswith(".gguf"):
        raise ModelError(f"{name} is a GGUF file, which is llama.cpp's, not a folder of a model")
    if folder.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelError(f"no model at {name}: {folder / 'config.json'} is missing")
    from services.inference_worker.model.published import hub

    return hub.fetch(name, progress)


@dataclass(frozen=True, slots=True)
class Place:
    """Place of a tensor of a checkpoint: rows of a parameter, from `row` on. turned: each of its
    matrices may lie there transposed."""

    parameter: str
    row: int = 0
    turned: bool = False


class Checkpoint:
    """The safetensors of a folder, in one file or in shards. `names`: every tensor; `shards`: those
    of each file."""

    def __init__(self, folder: Path) -> None:
        self.shards: dict[Path, list[str]] = {}
        whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
        if whole.is_file():
            try:
                with safe_open(whole, "pt") as shard:
                    self.shards[whole] = list(shard.keys())
            except (OSError, SafetensorError) as error:
                raise ModelError(f"cannot read {whole}: {error}") from error
        elif index.is_file():
            places = read_json(index).get("weight_map")
            if not isinstance(places, dict) or not places:
                raise ModelError(f"cannot read {index}: it has no weight_map")
            for name, file in places.items():
                if not isinstance(file, str) or Path(file).name != file:
                    raise ModelError(f"cannot read {index}: {name} is in {file!r}")
                self.shards.setdefault(folder / file, []).append(name)
        else:
            raise weights_error(folder)
        self.names = {name for names in self.shards.values() for name in names}

    def prefix(self, *candidates: str, probe: str) -> str:
        """The one of `candidates` that `probe` has here; the layout changed over the years."""
        for candidate in candidates:
            if candidate + probe in self.names:
                return candidate
        tried = ", ".join(candidate + probe for candidate in candidates)
        raise ModelError(f"the checkpoint has none of {tried}{self._hint()}")

    def first(self, *candidates: str) -> str | None:
        """The first of these tensors that is here."""
        return next((name for name in candidates if name in self.names), None)

    def same(self, one: str, other: str) -> bool:
        """Whether two tensors hold the same numbers."""
        files = {name: file for file, names in self.shards.items() for name in names}
        found = []
        try:
            for name in (one, other):
                with safe_open(files[name], "pt") as shard:
                    found.append(shard.get_tensor(name))
        except (OSError, SafetensorError) as error:
            raise ModelError(f"cannot read {files[name]}: {error}") from error
        return torch.equal(*found)

    def _hint(self) -> str:
        """Words for what is amiss, where names of tensors tell."""
        if any(name.endswith(_QUANTISED) for name in self.names):
            return "; its tensors are quantised, which this worker does not read"
        if any(".lora_" in name for name in self.names):
            return "; it holds an adapter that was not merged into its model"
        return ""

    def load(
        self,
        module: nn.Module,
        places: dict[str, Place],
        *,
        dtype: torch.dtype,
        device: torch.device,
        unused: frozenset[str] = frozenset(),
        progress: Loading | None = None,
    ) -> None:
        """Give every parameter of `module` (made on the meta device) its values.

        places: by name of tensor. unused: tensors that may be there and are not needed. One shard
        is open at a time, and memory-mapped, so that host memory holds no second copy. Raises
        ModelError for tensors that are missing, left over or of another shape, and for files that
        cannot be read.
        """
        parameters = dict(module.named_parameters())
        self._check(places, set(parameters), unused)
        filled: dict[str, Tensor] = {}
        rows = dict.fromkeys(parameters, 0)
        for name, tensor in self._tensors(set(places), progress or Loading()):
            place = places[name]
            if tensor.dtype not in _DTYPES:
                kind = str(tensor.dtype).removeprefix("torch.")
                raise ModelError(f"tensor {name} is quantised: {kind} cannot be read as it is")
            shape = parameters[place.parameter].shape
            if place.turned and tensor.ndim == 3 and tensor.shape != shape:
                tensor = tensor.transpose(1, 2)
            fits = tensor.shape[1:] == shape[1:] and place.row + len(tensor) <= shape[0]
            if not fits:
                raise ModelError(
                    f"tensor {name} has shape {tuple(tensor.shape)}, which does not fit the "
                    f"configuration's {tuple(shape)}"
                )
            target = filled.get(place.parameter)
            if target is None:
                target = torch.empty(shape, dtype=dtype, device=device)
                filled[place.parameter] = target
            target[place.row : place.row + len(tensor)].copy_(tensor)
            rows[place.parameter] += len(tensor)
        for name, parameter in parameters.items():
            if rows[name] != parameter.shape[0]:
                raise ModelError(f"{name}: {parameter.shape[0]} rows wanted, {rows[name]} found")
            owner, _, leaf = name.rpartition(".")
            value = nn.Parameter(filled[name], requires_grad=False)
            module.get_submodule(owner).register_parameter(leaf, value)

    def _check(self, places: dict[str, Place], wanted: set[str], unused: frozenset[str]) -> None:
        missing = sorted(set(places) - self.names)
        if missing:
            raise ModelError(f"tensors missing in the checkpoint: {_some(missing)}{self._hint()}")
        left = self.names - set(places) - unused
        extra = sorted(name for name in left if not _STRAYS.search(name))
        if extra:
            raise ModelError(f"tensors this model has no use for: {_some(extra)}{self._hint()}")
        orphans = sorted(wanted - {place.parameter for place in places.values()})
        assert not orphans, f"parameters without a source: {orphans}"

    def _tensors(self, wanted: set[str], progress: Loading) -> Iterator[tuple[str, Tensor]]:
        for file, names in self.shards.items():
            try:
                with safe_open(file, "pt") as shard:
                    for name in names:
                        if name in wanted:
                            tensor = shard.get_tensor(name)
                            yield name, tensor
                            progress.add(tensor.nbytes)
            except (OSError, SafetensorError) as error:
                raise ModelError(f"cannot read {file}: {error}") from error


def decoder_places(config: DecoderConfig, prefix: str, head: str) -> dict[str, Place]:
    """A Llama-like decoder's tensors, which all families call alike, in our `Decoder`.

    `prefix` stands before their names in the checkpoint; `head` is the name of the last matrix.
    """
    query_rows = config.num_heads * config.head_dim
    kv_rows = config.num_kv_heads * config.head_dim
    starts = {"q": 0, "k": query_rows, "v": query_rows + kv_rows}
    places = {
        f"{prefix}embed_tokens.weight": Place("decoder.embedding.weight"),
        f"{prefix}norm.weight": Place("decoder.norm.weight"),
    }
    if not config.tie_embeddings:
        places[head] = Place("decoder.head.weight")
    for n in range(config.num_layers):
        theirs, ours = f"{prefix}layers.{n}.", f"decoder.layers.{n}."
        for letter, row in starts.items():
            places[f"{theirs}self_attn.{letter}_proj.weight"] = Place(f"{ours}qkv.weight", row)
            if config.qkv_bias:
                places[f"{theirs}self_attn.{letter}_proj.bias"] = Place(f"{ours}qkv.bias", row)
        if config.qk_norm:
            places[f"{theirs}self_attn.q_norm.weight"] = Place(f"{ours}query_norm.weight")
            places[f"{theirs}self_attn.k_norm.weight"] = Place(f"{ours}key_norm.weight")
        places[f"{theirs}self_attn.o_proj.weight"] = Place(f"{ours}output.weight")
        if config.is_mixture(n):
            places[f"{theirs}mlp.gate.weight"] = Place(f"{ours}experts.router.weight")
            # As published; transformers of today saves them as its own layers have them.
            for their, our in (("gate_up_proj", "gate_up"), ("down_proj", "down")):
                place = Place(f"{ours}experts.{our}", turned=True)
                places[f"{theirs}mlp.experts.{their}"] = place
        else:
            places[f"{theirs}mlp.gate_proj.weight"] = Place(f"{ours}gate_up.weight")
            places[f"{theirs}mlp.up_proj.weight"] = Place(f"{ours}gate_up.weight", config.mlp_size)
            places[f"{theirs}mlp.down_proj.weight"] = Place(f"{ours}down.weight")
        places[f"{theirs}input_layernorm.weight"] = Place(f"{ours}attention_norm.weight")
        places[f"{theirs}post_attention_layernorm.weight"] = Place(f"{ours}mlp_norm.weight")
    return places


def _some(names: list[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")

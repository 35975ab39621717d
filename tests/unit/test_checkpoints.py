"""The random checkpoints: transformers reads them, and their answers depend on what they are shown.

These are oracles for tests of other readers: where logits do not move with a picture or with a
position, a reader that ignores it would pass.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE as VIDEO_TEMPLATE

from tests.checkpoints import FAMILIES, write_checkpoint

HEIGHT, WIDTH = 84, 112  # Qwen's in whole tokens of 28; Qwen3's are 96 × 128, SmolVLM's 64 × 64
CHAT = [
    {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What changed?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "A cup fell."}]},
    {"role": "user", "content": "And now, in 2026?"},
]
TURNS = {
    "qwen": (
        "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>What changed?<|im_end|>\n"
        "<|im_start|>assistant\nA cup fell.<|im_end|>\n"
        "<|im_start|>user\nAnd now, in 2026?<|im_end|>\n"
        "<|im_start|>assistant\n"
    ),
    "internvl": (
        "<|im_start|>user\n<video>\nWhat changed?<|im_end|>\n"
        "<|im_start|>assistant\nA cup fell.<|im_end|>\n"
        "<|im_start|>user\nAnd now, in 2026?<|im_end|>\n"
        "<|im_start|>assistant\n"
    ),
    "smolvlm": (
        "<|im_start|>User: <video>What changed?<end_of_utterance>\n"
        "Assistant: A cup fell.<end_of_utterance>\n"
        "User: And now, in 2026?<end_of_utterance>\n"
        "Assistant:"
    ),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(family, tmp_path_factory.mktemp(family))


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder)


def patches(frames: torch.Tensor, patch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames [n, 3, height, width] as Qwen's rows of two frames each, and their grid [1, 3]."""
    pairs, rows, columns = len(frames) // 2, frames.shape[2] // patch, frames.shape[3] // patch
    split = frames.view(pairs, 2, 3, rows // 2, 2, patch, columns // 2, 2, patch)
    flat = split.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(pairs * rows * columns, -1)
    return flat, torch.tensor([[pairs, rows, columns]])


def video_inputs(model: Any, tokenizer: Any, *, seed: int = 0, says: str = "What changed?") -> dict:
    """Four random frames and a question, as a family's processor would hand them to its model."""
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    if config.model_type == "smolvlm":
        pixels = torch.randn(1, 4, 3, 64, 64, generator=generator)
        picture = "<fake_token_around_image><global-img><image><image><image><image>"
        prompt = "<|im_start|>User: " + f"{picture}<fake_token_around_image>" * 4
        text = f"{prompt}{says}<end_of_utterance>\nAssistant:"
        ids = tokenizer(text, return_tensors="pt").input_ids
        return {"input_ids": ids, "pixel_values": pixels}
    if config.model_type == "internvl":
        pixels = torch.randn(4, 3, 64, 64, generator=generator)
        picture = f"<img>{'<IMG_CONTEXT>' * 4}</img>\n"
        video = "".join(f"Frame{number + 1}: {picture}" for number in range(4))
        text = f"<|im_start|>user\n{video}{says}<|im_end|>\n<|im_start|>assistant\n"
        return {"input_ids": tokenizer(text, return_tensors="pt").input_ids, "pixel_values": pixels}
    patch = config.vision_config.patch_size
    height, width = HEIGHT // 14 * patch, WIDTH // 14 * patch
    rows, grid = patches(torch.randn(4, 3, height, width, generator=generator), patch)
    tokens = int(grid.prod()) // 4
    if config.model_type == "qwen3_vl":
        part = f"<|vision_start|>{'<|video_pad|>' * (tokens // 2)}<|vision_end|>"
        video = f"<0.5 seconds>{part}<2.5 seconds>{part}"
    else:
        video = f"<|vision_start|>{'<|video_pad|>' * tokens}<|vision_end|>"
    text = f"<|im_start|>user\n{video}{says}<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(text, return_tensors="pt").input_ids
    kinds = (ids == config.video_token_id).int() * 2
    return {
        "input_ids": ids,
        "mm_token_type_ids": kinds,
        "pixel_values_videos": rows,
        "video_grid_thw": grid,
    }


@pytest.fixture(scope="module")
def last_logits(model: Any) -> Callable[[dict], torch.Tensor]:
    def run(inputs: dict) -> torch.Tensor:
        with torch.inference_mode():
            return model(**inputs).logits[0, -1]

    return run


def test_config_and_tokenizer_agree(family: str, folder: Path, tokenizer: Any) -> None:
    config = transformers.AutoConfig.from_pretrained(folder)
    assert config.model_type == family
    assert config.text_config.vocab_size == len(tokenizer)
    names = {"image_token_id": "<image>" if family == "smolvlm" else "<IMG_CONTEXT>"}
    if family.startswith("qwen"):
        names = {
            "image_token_id": "<|image_pad|>",
            "video_token_id": "<|video_pad|>",
            "vision_start_token_id": "<|vision_start|>",
            "vision_end_token_id": "<|vision_end|>",
        }
    for field, token in names.items():
        assert tokenizer(token).input_ids == [getattr(config, field)]
    ends = transformers.GenerationConfig.from_pretrained(folder).eos_token_id
    assert tokenizer.eos_token_id in (ends if isinstance(ends, list) else [ends])
    alone = Tokenizer.from_file(str(folder / "tokenizer.json"))
    says = "Café's 2026: it's 12:30,\n\n  日本 <|im_start|>x"
    assert tokenizer(says).input_ids == alone.encode(says).ids
    assert tokenizer.decode(alone.encode(says).ids) == says


def test_chat_template(family: str, tokenizer: Any) -> None:
    own = VIDEO_TEMPLATE if family == "smolvlm" else None  # as transformers' processor takes it
    text = tokenizer.apply_chat_template(
        CHAT, chat_template=own, tokenize=False, add_generation_prompt=True
    )
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    expected = TURNS.get(family, TURNS["qwen"])
    assert text == (system + expected if family.startswith("qwen2") else expected)
    if family != "smolvlm":
        brief = [{"role": "system", "content": "Be brief."}, *CHAT]
        assert "helpful" not in tokenizer.apply_chat_template(brief, tokenize=False)
    else:
        assert "<video>" not in tokenizer.apply_chat_template(CHAT[:2], tokenize=False)


def test_logits_move_with_pictures_and_words(
    model: Any, tokenizer: Any, last_logits: Callable[[dict], torch.Tensor]
) -> None:
    inputs = video_inputs(model, tokenizer)
    logits = last_logits(inputs)
    assert logits.isfinite().all()
    assert logits.softmax(-1).max() > 0.05  # a uniform one has 0.002
    other = last_logits(video_inputs(model, tokenizer, seed=1))
    assert (other - logits).abs().max() > 0.1
    far = {**inputs, "input_ids": inputs["input_ids"].clone()}
    far["input_ids"][0, 1] += 1
    assert (last_logits(far) - logits).abs().max() > 0.01


@pytest.mark.parametrize("axis", range(3))
def test_logits_move_with_every_axis_of_a_position(
    family: str, model: Any, tokenizer: Any, last_logits: Callable[[dict], torch.Tensor], axis: int
) -> None:
    """One token of the video by one step, which is the smallest mistake a reader can make."""
    inputs = video_inputs(model, tokenizer)
    if not family.startswith("qwen"):
        positions = torch.arange(inputs["input_ids"].shape[1])[None]
        moved = positions.clone()
        moved[0, 10] += 1
    else:
        positions, _ = model.model.get_rope_index(**inputs)
        moved = positions.clone()
        moved[axis, 0, 10] += 1
    logits = last_logits(inputs)
    assert torch.equal(last_logits({**inputs, "position_ids": positions}), logits)
    assert (last_logits({**inputs, "position_ids": moved}) - logits).abs().max() > 1e-3


def test_greedy_answers_differ(model: Any, tokenizer: Any) -> None:
    answers = set()
    for seed in range(4):
        inputs = video_inputs(model, tokenizer, seed=seed)
        answer = model.generate(**inputs, max_new_tokens=8, do_sample=False)
        answers.add(tuple(answer[0, inputs["input_ids"].shape[1] :].tolist()))
    assert len(answers) == 4


def test_shards_hold_the_same_tensors(family: str, folder: Path, tmp_path: Path) -> None:
    write_checkpoint(family, tmp_path, shards=3)
    whole = load_file(folder / "model.safetensors")
    files = sorted(tmp_path.glob("*.safetensors"))
    assert [file.name for file in files] == [
        f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)
    ]
    joined = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert joined.keys() == whole.keys()
    assert all(torch.equal(joined[name], whole[name]) for name in whole)
    model = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path)
    one = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    assert all(map(torch.equal, model.parameters(), one.parameters()))


def test_another_seed_is_another_model(family: str, folder: Path, tmp_path: Path) -> None:
    write_checkpoint(family, tmp_path, seed=1)
    one, other = load_file(folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert all(not torch.equal(one[name], other[name]) for name in one)


def test_sizes_are_overridden(family: str, tmp_path: Path) -> None:
    wider = {"hidden_size": 128, "num_hidden_layers": 4, "vocab_size": 512}
    depth = "vision_depth" if family.startswith("qwen") else "vision_num_hidden_layers"
    write_checkpoint(family, tmp_path, **wider, **{depth: 5, "tie_word_embeddings": True})
    model = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert model.lm_head.weight.shape == (512, 128)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert model.config.text_config.num_hidden_layers == 4
    inner = model.model
    layers = {
        "internvl": lambda: inner.vision_tower.encoder.layer,
        "smolvlm": lambda: inner.vision_model.encoder.layers,
    }.get(family, lambda: inner.visual.blocks)
    assert len(layers()) == 5


def test_what_cannot_be_written_is_refused(family: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="colour"):
        write_checkpoint(family, tmp_path / "name", colour="red")
    with pytest.raises(ValueError, match="vocab_size"):
        write_checkpoint(family, tmp_path / "small", vocab_size=100)
    assert not list(tmp_path.iterdir())

"""What a published model reads around its frames is what transformers' own processor writes."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.models.internvl.processing_internvl import InternVLProcessor
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.smolvlm import processing_smolvlm
from transformers.video_utils import VideoMetadata

from services.inference_worker.model.family import Round
from services.inference_worker.model.layout import VISION
from services.inference_worker.model.published.model import PublishedModel
from services.inference_worker.model.registry import load_model
from tests.releases import ANSWERING, INTERNVL, write_release

FRAMES = 30  # the window
ROUNDS = [Round("What is it?", "A cup."), Round("And now?", "It fell.")]
MESSAGES = [
    {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What is it?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "A cup."}]},
    {"role": "user", "content": [{"type": "text", "text": "And now?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "It fell."}]},
    {"role": "user", "content": [{"type": "text", "text": "Who was there?"}]},
]


def read(name: str, folder: Path) -> PublishedModel:
    release = next(release for release in (*ANSWERING, *INTERNVL) if str(release) == name)
    write_release(release, folder)
    model = load_model(str(folder), torch.float32, torch.device("cpu"), 12_544)
    assert isinstance(model, PublishedModel)
    return model


def video(grid: list[int], fps: float) -> dict[str, Any]:
    """What a video processor says of 30 frames."""
    metadata = VideoMetadata(
        total_num_frames=FRAMES,
        fps=fps,
        duration=FRAMES / fps,
        frames_indices=list(range(FRAMES)),
    )
    return {
        "pixel_values": torch.zeros(1, FRAMES, 1),
        "video_grid_thw": torch.tensor([grid]),
        "video_metadata": [metadata],
    }


def shown(model: PublishedModel, fps: float) -> Iterator[int]:
    """Every token of the session in which the questions are asked, with the picture's own."""
    yield from model.sink_tokens()
    for start in range(0, FRAMES, model.tubelet):
        seconds = (start + (model.tubelet - 1) / 2) / fps
        words = model.segment(model.spec.layout, 0, seconds)
        yield from (model.vision_token if word == VISION else word for word in words.tokens)
    yield from model.question_tokens(ROUNDS, "Who was there?")


def test_smolvlm2_reads_what_its_processor_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By transformers' template for videos (#38105), its intro and times, one tile a frame."""
    model = read("SmolVLM2-500M-Video-Instruct", tmp_path)
    monkeypatch.setattr(processing_smolvlm, "num2words", {30: "thirty"}.get)
    processor = SimpleNamespace(
        image_seq_len=model.spec.layout.vision_tokens,
        image_token="<image>",
        fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
    )
    replace = processing_smolvlm.SmolVLMProcessor.replace_video_token
    text = model.chat.tokenizer.apply_chat_template(
        MESSAGES,
        chat_template=processing_smolvlm.DEFAULT_CHAT_TEMPLATE,
        tokenize=False,
        add_generation_prompt=True,
    ).replace("<video>", replace(processor, video([], 1.0), 0))
    assert list(shown(model, 1.0)) == model.chat.tokens(text)


@pytest.mark.parametrize("name", ["InternVL3-1B-hf", "InternVL3_5-8B-HF"])
def test_internvl_reads_what_its_processor_writes(name: str, tmp_path: Path) -> None:
    """Each frame's number before it and a line after it, at one frame a second."""
    model = read(name, tmp_path)
    processor = SimpleNamespace(
        image_seq_length=model.spec.layout.vision_tokens,
        image_token="<IMG_CONTEXT>",
        start_image_token="<img>",
        end_image_token="</img>",
    )
    seen = {"pixel_values_videos": torch.zeros(1, FRAMES, 1)}
    frames = InternVLProcessor.replace_video_token(processor, seen, 0)
    text = model.chat.tokenizer.apply_chat_template(
        MESSAGES, tokenize=False, add_generation_prompt=True
    ).replace("<video>", frames)
    assert list(shown(model, 1.0)) == model.chat.tokens(text)


def test_qwen3_vl_reads_what_its_processor_writes(tmp_path: Path) -> None:
    """Each tubelet's time in words, then its span, at two frames a second and at three."""
    model = read("Qwen3-VL-4B-Instruct", tmp_path)
    rows = model.spec.layout.height // model.config.vision_config.patch_size
    processor = SimpleNamespace(
        video_processor=SimpleNamespace(merge_size=2, temporal_patch_size=2),
        video_token="<|video_pad|>",
        vision_start_token="<|vision_start|>",
        vision_end_token="<|vision_end|>",
        _calculate_timestamps=lambda *each: Qwen3VLProcessor._calculate_timestamps(None, *each),
    )
    for fps in (2.0, 3.0):
        seen = video([FRAMES // 2, rows, rows], fps)
        text = model.chat.tokenizer.apply_chat_template(
            MESSAGES, tokenize=False, add_generation_prompt=True
        ).replace(
            "<|vision_start|><|video_pad|><|vision_end|>",
            Qwen3VLProcessor.replace_video_token(processor, seen, 0),
        )
        assert list(shown(model, fps)) == model.chat.tokens(text)


@pytest.mark.parametrize("name", ["Qwen2-VL-2B-Instruct", "Qwen2.5-VL-7B-Instruct"])
def test_qwen2_vl_reads_its_template(name: str, tmp_path: Path) -> None:
    """With a span for every tubelet, where transformers has one for the whole video."""
    model = read(name, tmp_path)
    text = model.chat.tokenizer.apply_chat_template(
        MESSAGES, tokenize=False, add_generation_prompt=True
    )
    pads = "<|video_pad|>" * model.spec.layout.vision_tokens
    spans = f"<|vision_start|>{pads}<|vision_end|>" * (FRAMES // 2)
    text = text.replace("<|vision_start|><|video_pad|><|vision_end|>", spans)
    assert text.startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n")
    assert list(shown(model, 2.0)) == model.chat.tokens(text)

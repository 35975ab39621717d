"""Doubt of a trained model: how sure it must be of each name, by photographs it never learnt from.

Half of what its training never saw is called by the model, as photographs and in scenes of a shop
that has such goods, and photographs of other things beside it, but for those of which it says that
they are unfamiliar. A name's bound is the least probability above which most of what is called so
is it.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from services.inference_worker.model.builtin import BuiltinModel
from services.inference_worker.model.doubt import FILE, VAGUE
from services.inference_worker.model.familiarity import Familiarity
from training import strangers
from training.answerers import DenseAnswerer
from training.batches import with_words
from training.examination.photographs import ASKED
from training.layout import branch_of
from training.recipe import load_recipe
from training.rendering import Pixels
from training.resizing import resized
from training.world.asking import ask
from training.world.clip import SIZE
from training.world.goods import REAL_NOUNS, photographs, read
from training.world.question import Question
from training.world.wide import film

FRAMES = 2
WANTED = 0.8  # share of what is called so that should be it
LEAST, MOST = 0.2, 0.95
FEW = 6  # claims that say too little of a name
SCENES, SCENE_FRAMES = 48, 24
_ASK_EVERY = 8
_NAMING = ("held", "what", "gone", "newest", "scene")  # questions that are answered by names
_RECIPE = "goods"
_STRANGERS_ONE_IN = 8
Advance = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Claim:
    """What the model called a thing, how surely, and whether it was that."""

    noun: str
    share: float
    right: bool


def write(folder: Path, photos: Path, most: int = 60, advance: Advance = lambda: None) -> None:
    """Measure the bounds of a folder's model and write them down there, with the words for what is
    below them. Raises ModelError, and ValueError without photographs or without goods."""
    model = BuiltinModel.load(folder, torch.float32, torch.device("cpu"))
    claims = list(_claims(model, photos, most, advance))
    if not claims:
        raise ValueError(f"no photographs of goods in {photos}")
    claims += _claims_of_scenes(model, advance)
    judge = Familiarity.load(folder, torch.device("cpu"))
    model = _with_vague(model)
    model.save(folder)
    if judge is not None:  # a word more changes nothing of what it looks at, but it names the file
        judge.save(folder)
    least = bounds(claims)
    (folder / FILE).write_text(json.dumps({"instead": VAGUE, "least": least}, indent=2) + "\n")


def bounds(claims: list[Claim]) -> dict[str, float]:
    """The least probability of every noun."""
    usual = _bound(claims)
    found: dict[str, float] = {}
    for noun in REAL_NOUNS:
        mine = [claim for claim in claims if claim.noun == noun]
        found[noun] = round(usual if len(mine) < FEW else _bound(mine), 3)
    return found


def _bound(claims: list[Claim]) -> float:
    """The least probability above which the wanted share of claims is right."""
    ranked = sorted(claims, key=lambda claim: -claim.share)
    right = np.cumsum([claim.right for claim in ranked]) / np.arange(1, len(ranked) + 1)
    good = np.flatnonzero(right >= WANTED)
    bound = ranked[int(good[-1])].share if len(good) else MOST
    return float(np.clip(bound, LEAST, MOST))


def _claims(model: BuiltinModel, photos: Path, most: int, advance: Advance) -> Iterator[Claim]:
    answerer = DenseAnswerer(model)
    side = model.config.frame_size
    taken: dict[str, int] = {}
    for one in photographs(photos):
        measures = one.split == "measured"
        taken[one.noun] = taken.get(one.noun, 0) + measures
        if measures and taken[one.noun] <= most:
            noun, share = _called(answerer, resized(read(one.path)[None], side, side)[0])
            yield Claim(noun, share, noun == one.noun)
            advance()
    _, others = strangers.photographs(photos, strangers.NO_GOODS)
    for path in others[::_STRANGERS_ONE_IN]:
        picture = resized(read(path)[None], side, side)[0]
        if not _is_unfamiliar(model, picture):
            noun, share = _called(answerer, picture)
            yield Claim(noun, share, right=False)
        advance()


def _claims_of_scenes(model: BuiltinModel, advance: Advance) -> Iterator[Claim]:
    """What the model calls the goods of a shop when it is asked about them."""
    recipe = load_recipe(_RECIPE)
    answerer, side = DenseAnswerer(model), model.config.frame_size
    nouns = {model.tokenizer.token_to_id(noun): noun for noun in REAL_NOUNS}
    for seed in range(SCENES):
        rng = np.random.default_rng((seed, 15))
        clip = film(seed, SCENE_FRAMES, "goods", "measured", scale=side / SIZE, trade=recipe.trade)
        answerer.open()
        for number, frame in enumerate(clip.pixels):
            answerer.push(frame, number)
            if (number + 1) % _ASK_EVERY:
                continue
            for kind in _NAMING:
                question = ask(clip, number, kind, rng)
                if question is not None:
                    yield from _said(answerer, question, nouns)
        advance()


def _said(
    answerer: DenseAnswerer, question: Question, nouns: dict[int | None, str]
) -> Iterator[Claim]:
    """The names in an answer, each beside whether the true answer has it."""
    model = answerer.model
    branch = branch_of(model, answerer.newest, question)
    true = question.answer.split()
    said: list[int] = []
    while len(said) < model.spec.max_answer_tokens:
        share, token = answerer.scores(branch.prompt + said, branch.before).softmax(-1).max(-1)
        said.append(int(token))
        if said[-1] in model.stop_tokens:
            return
        if noun := nouns.get(said[-1]):
            yield Claim(noun, float(share), noun in true)


def _is_unfamiliar(model: BuiltinModel, picture: Pixels) -> bool:
    """Whether the model says of a picture that it knows nothing like it, whatever it calls it."""
    strangeness = model.encode(torch.from_numpy(picture[None, None].copy())).strangeness
    return strangeness is not None and float(strangeness) > 1


def _called(answerer: DenseAnswerer, picture: Pixels) -> tuple[str, float]:
    """The name of what fills a picture, and its probability."""
    answerer.open()
    for number in range(FRAMES):
        answerer.push(picture, number)
    model = answerer.model
    branch = branch_of(model, FRAMES - 1, Question("", ASKED, ""))
    said = [int(answerer.scores(branch.prompt).argmax())]
    articles = {model.tokenizer.token_to_id(word) for word in ("a", "an")}
    scores = answerer.scores(branch.prompt + (said if said[0] in articles else []))
    share, token = scores.float().softmax(-1).max(-1)
    return str(model.tokenizer.id_to_token(int(token))), float(share)


def _with_vague(model: BuiltinModel) -> BuiltinModel:
    """The model with words for what it is not sure of, which are to its decoder as the mean of all
    names."""
    if model.tokenizer.token_to_id(VAGUE) is not None:
        return model
    model, _ = with_words(model, [VAGUE], 1)
    state = json.loads(model.tokenizer.to_str())
    size = model.config.decoder.vocab_size
    state["model"]["vocab"][VAGUE] = size
    tokenizer = Tokenizer.from_str(json.dumps(state))
    config = replace(model.config, decoder=replace(model.config.decoder, vocab_size=size + 1))
    larger = BuiltinModel(config, tokenizer, model.spec.name)
    tensors = model.state_dict()
    words = tensors["decoder.embedding.weight"]
    found = (tokenizer.token_to_id(noun) for noun in REAL_NOUNS)
    names = [token for token in found if token is not None] or list(range(size))
    mean = words[names].mean(0, keepdim=True)
    larger.load_state_dict(tensors | {"decoder.embedding.weight": torch.cat((words, mean))})
    return larger.prepare(torch.float32, torch.device("cpu"))

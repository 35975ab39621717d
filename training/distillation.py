"""Distillation of a larger model into a smaller one of its family: how likely the teacher finds
every word of an answer (Hinton et al., 2015), and what it makes of the frames."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from services.inference_worker.model.builtin import BuiltinModel
from services.inference_worker.model.errors import ModelError
from training.batches import Batch
from training.layout import NO_TARGET
from training.objectives import Losses, encode, final_states
from training.recipe import Teaching


class Lessons(nn.Module):
    """A frozen teacher beside a student. What learns in it is the map from the student's states
    to the teacher's. Raises ModelError for a folder without a model or one of other words."""

    def __init__(self, teaching: Teaching, student: BuiltinModel) -> None:
        super().__init__()
        self.teaching = teaching
        teacher = BuiltinModel.load(Path(teaching.folder), torch.float32, torch.device("cpu"))
        if teacher.tokenizer.get_vocab() != student.tokenizer.get_vocab():
            raise ModelError(f"the teacher in {teaching.folder} has other words than its student")
        self._teacher = [teacher]  # in a list: none of its weights are saved or counted
        size, wanted = (m.config.decoder.hidden_size for m in (student, teacher))
        self.state_head = nn.Linear(size, wanted)

    def losses(self, batch: Batch, final: Tensor, scores: Tensor) -> Losses:
        """final: the student's states [clips, length, hidden]; scores: its logits of every token
        of an answer."""
        teaching, teacher = self.teaching, self._teacher[0].to(final.device)
        asked, heat = batch.targets != NO_TARGET, teaching.temperature
        with torch.no_grad():
            vision = encode(teacher, batch.pixels)
            known = final_states(teacher, batch, vision)
            likely = functional.log_softmax(teacher.decoder.logits(known[asked]).float() / heat, -1)
        said = functional.log_softmax(scores / heat, -1)
        answers = functional.kl_div(said, likely, log_target=True, reduction="batchmean") * heat**2
        start = len(teacher.sink_tokens())
        trunk = slice(start, start + vision.shape[1])
        mapped, wanted = self.state_head(final[:, trunk]).float(), known[:, trunk].float()
        unlike = 1 - functional.cosine_similarity(mapped, wanted, dim=-1).mean()
        total = teaching.answers * answers + teaching.hidden * unlike
        parts = {"teacher": float(answers.detach()), "teacher/unlike": float(unlike.detach())}
        return Losses(total, parts)

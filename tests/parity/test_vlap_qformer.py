"""Golden case 3: the Q-Former with text, and the projection."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stages.models.backbones.text import TextBatch


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_qformer_queries_and_projection_equal_the_reference(vlap_golden: Any, who: str) -> None:
    data = vlap_golden.tensors(f"case03_qformer_{who}")
    model = vlap_golden.teacher() if who == "teacher" else vlap_golden.student()
    backbone = model.backbone
    text = TextBatch(
        data["input_ids"],
        data["text_attention_mask"],
        data["input_ids"],
        data["text_attention_mask"],
    )
    frame = backbone.normalise(data["vit_tokens"])
    vlap_golden.close(frame, data["ln_vision_out"], "ln_vision")
    queries = backbone.query_outputs(frame[:, None], text)
    vlap_golden.close(queries[:, 0], data["query_output"], "query_output")
    vlap_golden.close(backbone.project(queries), data["projected"], "projected")


def test_qformer_embeds_queries_before_text_like_the_reference(vlap_golden: Any) -> None:
    data = vlap_golden.tensors("case03_qformer_student")
    backbone = vlap_golden.student().backbone
    batch = len(data["input_ids"])
    embedded = backbone.qformer.embeddings(
        input_ids=data["input_ids"], query_embeds=backbone.query_tokens.expand(batch, -1, -1)
    )
    real = data["full_attention_mask"].bool()
    vlap_golden.close(embedded[real], data["embedding_output"][real], "embedding_output")
    assert torch.equal(real[:, : backbone.num_queries].all(), torch.tensor(True))

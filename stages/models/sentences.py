"""Texts as ids for CLIP's text tower, question and option in one sentence.

A text that is longer than the tower's positions loses its end. Of a question with an option the
question loses its end instead: the option is what tells the candidates apart.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from stages.models.backbones.clip import clip_config, clip_tokenizer
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.text import encode_texts, ids_of
from stages.models.text_tower import TokenIds

Sentence = str | tuple[str, str]
"""A text, or a question and an option."""


class Sentences:
    """A CLIP folder's tokenizer.

    Args:
        tokenizer: Padded on the right.
        limit: Most tokens, begin and end included (77 for CLIP).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, limit: int) -> None:
        self.tokenizer, self.limit = tokenizer, limit

    @classmethod
    def load(cls, folder: BackboneFolder) -> Sentences:
        """The tokenizer of a folder in CLIPModel layout."""
        config = clip_config(folder.config, str(folder.path)).text_config
        return cls(clip_tokenizer(folder, config), int(config.max_position_embeddings))

    def encode(self, sentences: Sequence[Sentence]) -> TokenIds:
        """Sentences as ids [R, M], M as long as the longest needs."""
        texts = [item if isinstance(item, str) else self.joined(*item) for item in sentences]
        return TokenIds(*encode_texts(self.tokenizer, texts, self.limit))

    def joined(self, question: str, option: str) -> str:
        """Question and option, the question cut word by word as far as the limit demands."""
        words = question.split(" ")
        text = f"{question} {option}".strip()
        while words and self._length(text) > self.limit:
            words.pop()
            text = " ".join([*words, option])
        return text

    def _length(self, text: str) -> int:
        return len(ids_of(self.tokenizer, text))

"""Text in and out of a BLIP-2 family backbone: tokenizers, prompts as ids, the answer's tokens.

Reads the folder's `tokenizer.json` (T5) and `qformer_tokenizer/tokenizer.json`. Lengths and sides
are those of specs/vlap.md 1.4 and, for a Q-Former that reads no text, specs/sevila.md 1.6.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast

from stages.core.errors import DataError, MissingInput
from stages.models.backbones.folder import BackboneFolder
from stages.models.losses import IGNORED

LETTERS = "ABCDE"
OPTION_WORD = "Option"
_TOKENIZING = threading.Lock()
"""A fast tokenizer keeps side, truncation and padding in itself between being told and using them,
and training prepares the next batch in a thread of its own."""
MAX_TEXT_TOKENS = 128
MAX_PLAIN_TOKENS = 77
"""SeViLA's limit for prompts, `</s>` included; its configured limit is never used."""
MAX_TARGET_TOKENS = 256
FRAME_PREFIX = "Frame: "
NUMBERED_FRAME_PREFIX = "Frame {number}: "
FLAN_T5_VOCABULARIES = (32_100, 32_128)


@dataclass(frozen=True)
class TextBatch:
    """One prompt per row, as ids for both readers; 1 in a mask is text, 0 is padding (right)."""

    qformer_ids: Tensor
    qformer_mask: Tensor
    t5_ids: Tensor
    t5_mask: Tensor

    def __len__(self) -> int:
        return self.t5_ids.shape[0]

    def rows(self, index: Tensor) -> TextBatch:
        """The prompts at `index` (which may repeat), as another batch."""
        return TextBatch(
            self.qformer_ids[index],
            self.qformer_mask[index],
            self.t5_ids[index],
            self.t5_mask[index],
        )

    def to(self, device: torch.device | str) -> TextBatch:
        """The same batch on `device`."""
        return TextBatch(
            self.qformer_ids.to(device),
            self.qformer_mask.to(device),
            self.t5_ids.to(device),
            self.t5_mask.to(device),
        )


@dataclass(frozen=True)
class PromptIds:
    """One prompt per row for T5 alone: ids [R, L] and mask, 0 is padding (right)."""

    ids: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return self.ids.shape[0]

    @property
    def lengths(self) -> Tensor:
        """Ids of each prompt, padding not counted, [R]."""
        return self.mask.sum(dim=1)

    def rows(self, index: Tensor) -> PromptIds:
        """The prompts at `index` (which may repeat), without padding that none of them needs."""
        mask = self.mask[index]
        longest = int(mask.sum(dim=1).max()) if len(mask) else 0
        return PromptIds(self.ids[index][:, :longest], mask[:, :longest])

    def to(self, device: torch.device | str) -> PromptIds:
        """The same batch on `device`."""
        return PromptIds(self.ids.to(device), self.mask.to(device))


@dataclass(frozen=True)
class FramePrefixes:
    """What stands before each frame's tokens: ids [F, P] and mask, padded to the longest.

    Padding inside a row shifts T5's relative positions, so it is part of the layout: with ten
    frames and more the reference pads `Frame 1: ` to the length of `Frame 10: `.
    """

    ids: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return self.ids.shape[0]

    def to(self, device: torch.device | str) -> FramePrefixes:
        """The same prefixes on `device`."""
        return FramePrefixes(self.ids.to(device), self.mask.to(device))


@dataclass(frozen=True)
class AnswerTokens:
    """Ids that answers are read from, taken from the tokenizer; never constants of one model."""

    option: int
    letters: tuple[int, ...]
    yes: int
    no: int
    eos: int
    pad: int

    def as_json(self) -> dict[str, Any]:
        """Plain values, for the backbone's config in manifests."""
        return asdict(self)


FLAN_T5_LETTERS = (71, 272, 205, 309, 262)
FLAN_T5_YES, FLAN_T5_NO, FLAN_T5_SPACE = 4273, 150, 3


class BackboneText:
    """Both tokenizers of a folder and the rules by which prompts become ids."""

    def __init__(
        self,
        t5: PreTrainedTokenizerFast,
        qformer: PreTrainedTokenizerFast | None,
        *,
        vocabulary: int,
        max_tokens: int = MAX_TEXT_TOKENS,
    ) -> None:
        self.t5 = t5
        self.qformer = qformer
        self.max_tokens = max_tokens
        self.answer_tokens = read_answer_tokens(t5, vocabulary)

    @classmethod
    def load(cls, folder: BackboneFolder) -> BackboneText:
        """Tokenizers of `folder`; the Q-Former's only where the layout has one (InstructBLIP)."""
        text = folder.config.get("text_config", {})
        # Defaults are T5's, which transformers leaves out of a saved config.
        pad, eos = text.get("pad_token_id", 0), text.get("eos_token_id", 1)
        t5 = load_tokenizer(folder.path, pad=pad, eos=eos)
        qformer = None
        if folder.config.get("model_type") == "instructblip":
            qformer_pad = folder.config.get("qformer_config", {}).get("pad_token_id", 0)
            qformer = load_tokenizer(folder.path / "qformer_tokenizer", pad=qformer_pad)
        return cls(t5, qformer, vocabulary=text.get("vocab_size", 32_128))

    def encode(self, prompts: Sequence[str], *, training: bool) -> TextBatch:
        """Prompts as ids: cut on the left to 128 tokens (which keeps the options).

        T5's side is cut only in training; the reference leaves it whole in evaluation.
        """
        if self.qformer is None:
            raise DataError("this backbone's Q-Former reads no text")
        qformer = encode_texts(self.qformer, prompts, self.max_tokens, side="left")
        t5 = encode_texts(self.t5, prompts, self.max_tokens if training else None, side="left")
        return TextBatch(*qformer, *t5)

    def encode_plain(
        self, prompts: Sequence[str], limit: int | None = MAX_PLAIN_TOKENS
    ) -> PromptIds:
        """Prompts as ids for T5 alone, cut on the right to `limit` ids with `</s>`.

        Long prompts thus lose their last sentence (specs/sevila.md 0.3); None cuts nothing.
        """
        return PromptIds(*encode_texts(self.t5, prompts, limit, side="right"))

    def frame_prefix(self) -> FramePrefixes:
        """`Frame: `, which stands before a frame that is looked at alone."""
        return self._prefixes([FRAME_PREFIX])

    def numbered_prefixes(self, frames: int) -> FramePrefixes:
        """`Frame 1: ` ... `Frame K: `, which stand before frames that are looked at together."""
        return self._prefixes([NUMBERED_FRAME_PREFIX.format(number=k + 1) for k in range(frames)])

    def _prefixes(self, texts: Sequence[str]) -> FramePrefixes:
        rows = [torch.tensor(self.plain_ids(text)) for text in texts]
        masks = [torch.ones_like(row) for row in rows]
        pad = float(self.t5.pad_token_id)
        return FramePrefixes(
            pad_sequence(rows, batch_first=True, padding_value=pad),
            pad_sequence(masks, batch_first=True),
        )

    def encode_targets(self, targets: Sequence[str]) -> Tensor:
        """Answers with `</s>` as labels [B, L]; padding is -100."""
        ids, mask = encode_texts(self.t5, targets, MAX_TARGET_TOKENS, side="right")
        return ids.masked_fill(mask == 0, IGNORED)

    def plain_ids(self, text: str) -> list[int]:
        """T5 ids of `text` without special tokens."""
        return ids_of(self.t5, text, special=False)

    def decode(self, ids: Tensor) -> list[str]:
        """Generated ids [B, L] as text without special tokens."""
        return [self.t5.decode(row, skip_special_tokens=True).strip() for row in ids.tolist()]


def load_tokenizer(folder: Path, *, pad: int, eos: int | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer exactly as its `tokenizer.json` says.

    transformers' T5 tokenizer classes rebuild the pre-tokenizer and lose a trailing space piece;
    the plain fast class keeps it.

    Raises:
        DataError: the file is damaged, or `pad` / `eos` are not in its vocabulary.
    """
    file = folder / "tokenizer.json"
    if not file.exists():
        raise MissingInput(
            f"tokenizer not found: {file}",
            "vqa reads fast tokenizers; save it with `AutoTokenizer...save_pretrained(folder)`",
        )
    try:
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file))
    except Exception as error:  # the Rust library raises bare Exception for any damage
        raise DataError(f"{file} cannot be read as a tokenizer: {error}") from None
    names = {"pad_token": pad} | ({"eos_token": eos} if eos is not None else {})
    for role, index in names.items():
        piece = tokenizer.convert_ids_to_tokens(index)
        if piece is None:
            raise DataError(f"{file}: {role} id {index} of config.json is not in the vocabulary")
        setattr(tokenizer, role, piece)
    tokenizer.padding_side = "right"
    return tokenizer


def read_answer_tokens(t5: PreTrainedTokenizerFast, vocabulary: int) -> AnswerTokens:
    """Read the ids of `Option`, the letters, yes and no; check them for Flan-T5.

    Raises:
        DataError: `Option A` is not one piece and one letter, or a Flan-T5 vocabulary has other
            ids than the published ones.
    """

    def pieces(text: str) -> list[int]:
        return list(t5(text, add_special_tokens=False)["input_ids"])

    pairs = {letter: pieces(f"{OPTION_WORD} {letter}") for letter in LETTERS}
    first = {pair[0] for pair in pairs.values() if pair}
    if any(len(pair) != 2 for pair in pairs.values()) or len(first) != 1:
        raise DataError(
            f"the tokenizer does not read 'Option X' as two pieces: {pairs}",
            "letter answers are read at the second position, so both must be single pieces",
        )
    yes, no = pieces("yes"), pieces("no")
    if len(yes) != 1 or len(no) != 1:
        raise DataError(f"the tokenizer does not read yes and no as one piece each: {yes}, {no}")
    letters = tuple(pair[1] for pair in pairs.values())
    tokens = AnswerTokens(first.pop(), letters, yes[0], no[0], t5.eos_token_id, t5.pad_token_id)
    if vocabulary in FLAN_T5_VOCABULARIES:
        _assert_flan_t5(tokens)
    return tokens


def _assert_flan_t5(tokens: AnswerTokens) -> None:
    published = (FLAN_T5_LETTERS, FLAN_T5_YES, FLAN_T5_NO, 1, 0)
    found = (tokens.letters, tokens.yes, tokens.no, tokens.eos, tokens.pad)
    if found != published:
        raise DataError(
            f"a Flan-T5 vocabulary must have letters, yes, no, </s>, pad = {published}, "
            f"this tokenizer has {found}",
            "the tokenizer in the folder does not belong to these weights",
        )


def assert_flan_t5_prompts(t5: PreTrainedTokenizerFast) -> None:
    """Raise `DataError` unless prompts and prefixes become ids as in SeViLA (specs/sevila.md 1.6).

    The prefixes' trailing space must be a piece of its own (id 3): a tokenizer that was rebuilt
    with `WhitespaceSplit` drops it and shifts every input.
    """

    def ids(text: str, *, special: bool) -> list[int]:
        return list(t5(text, add_special_tokens=special)["input_ids"])

    numbered = ids(NUMBERED_FRAME_PREFIX.format(number=1), special=False)
    single = ids(FRAME_PREFIX, special=False)
    letter = ids(f"{OPTION_WORD} A", special=True)
    found = {
        "Frame 1: ": len(numbered) == 4 and numbered[-1] == FLAN_T5_SPACE,
        "Frame: ": len(single) == 3 and single[-1] == FLAN_T5_SPACE,
        "Option A": len(letter) == 3 and letter[1:] == [FLAN_T5_LETTERS[0], 1],
        "yes": ids("yes", special=True) == [FLAN_T5_YES, 1],
    }
    wrong = [text for text, right in found.items() if not right]
    if wrong:
        raise DataError(
            f"the tokenizer does not read {', '.join(map(repr, wrong))} as Flan-T5's does: "
            f"{[ids(text, special=False) for text in wrong]}",
            "was tokenizer.json saved by a class that rebuilds the pre-tokenizer? take the "
            "published file",
        )


def encode_texts(
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    limit: int | None,
    *,
    side: str = "right",
) -> tuple[Tensor, Tensor]:
    """Texts as ids [B, L] and their mask, padded to the longest; safe in several threads.

    Args:
        tokenizer: Any.
        texts: B of them.
        limit: Longer ones are cut to so many tokens; none: they are not.
        side: Where they are cut.
    """
    with _TOKENIZING:
        tokenizer.truncation_side = side
        encoded = tokenizer(
            list(texts),
            padding="longest",
            truncation=limit is not None,
            max_length=limit,
            return_tensors="pt",
        )
    return encoded["input_ids"], encoded["attention_mask"]


def ids_of(tokenizer: PreTrainedTokenizerFast, text: str, *, special: bool = True) -> list[int]:
    """Ids of one text, neither cut nor padded; safe in several threads."""
    with _TOKENIZING:
        return list(tokenizer(text, add_special_tokens=special)["input_ids"])

"""The tokenizer of the embedded backbones: at most 1,000 pieces; any text goes in and comes back.

Byte-level: 256 byte pieces and, on top, whole words. A word that is not in the list falls back to
its bytes. Written twice with the same ids for the same pieces: T5's side (`</s>` appended) and
BERT's side for the Q-Former (`[CLS]` ... `[SEP]`).
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from stages.benchmarks.shapes.questions import TEMPLATES
from stages.benchmarks.shapes.scene import COLORS, PLACES, SHAPES

MAX_PIECES = 1000
T5_SPECIALS = ("<pad>", "</s>", "<unk>", "<extra_id_0>", "<extra_id_1>")
BERT_SPECIALS = ("[PAD]", "[SEP]", "[UNK]", "[CLS]", "[DEC]")

_PROMPT_WORDS = """
Question Options Option Considering the information presented in frame select correct answer from
options Does within provide necessary details to accurately given question yes no Yes No Frame
Upon observing provided frames what is most probable subsequent event predict next none object
after before when shown one
"""
_COMMON_WORDS = """
a an and are as at away baby back bag ball band bed be behind being bike bird black blanket book
both bottle bowl box boy brown by cabinet camera can car cartoon cat chair child children clean
close closed clothes coffee computer cook cooking couch cup cut dance dancing desk did do dog doing
door down drink driving eat eating end face fall feel few first five floor food for four front game
get getting girl give glass go going grab grass group hair hand hands happy hard has hat have he
head her hero him his hold holding horse house how if inside into it its jump kid kitchen lady
laptop large laugh lie look looking make making man many medicine men microphone middle mirror most
mouth move moving music near not of off on open opened or orange other out outside over paper
people person phone picture piece pillow pink place play player playing pour pull push put putting
ran reach ride room run running sandwich sea see shelf shirt shoe shoes show sing singing sit
sitting sky sleep slow small smile sofa someone song stage stand standing start still stop street
swim table take taken taking talk talking team television that their them then there these they
thing this three throw thrown throwing tidy toy train tree turn two under up used using video walk
walking wall wash watch watching water wear wearing where which white who whose why will window with
woman women work write
"""


def _words() -> list[str]:
    """Words in a fixed order without repeats, benchmark and prompts first."""
    templates = " ".join(wording for t in TEMPLATES for wording in (*t.wordings, *t.hard_wordings))
    cleaned = templates.replace("{when}", " ").replace("{}", " ").replace("?", " ")
    answers = " ".join((*COLORS, *SHAPES, *PLACES))
    text = " ".join((answers, cleaned, _PROMPT_WORDS, _COMMON_WORDS))
    return list(dict.fromkeys(text.split()))


def pieces(specials: tuple[str, ...]) -> dict[str, int]:
    """Piece -> id: special tokens, bytes, then words with and without the space before them."""
    space = "Ġ"  # how the byte-level alphabet writes a space
    listed = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    words = _words()
    listed += [space + letter for letter in "ABCDE"]
    listed += [space + word for word in words]
    listed += words
    listed += [word.capitalize() for word in ("how", "why", "who", "is", "are", "did", "while")]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(listed))}
    if len(vocabulary) > MAX_PIECES:
        raise ValueError(f"{len(vocabulary)} pieces are more than {MAX_PIECES}")
    return vocabulary


def build_tokenizer(specials: tuple[str, ...], template: str) -> Tokenizer:
    """A byte-level tokenizer that adds special tokens as `template` says."""
    vocabulary = pieces(specials)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in specials])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template,
        special_tokens=[(token, vocabulary[token]) for token in specials if token in template],
    )
    # Text that happens to spell a special token is text.
    tokenizer.encode_special_tokens = True
    return tokenizer


def _write(folder: Path, tokenizer: Tokenizer, roles: dict[str, str], max_length: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "truncation_side": "left",
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
        **roles,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(roles, indent=2) + "\n")


def write_tokenizers(folder: Path) -> int:
    """Write T5's tokenizer into `folder`, the Q-Former's below it; returns the number of pieces."""
    t5 = build_tokenizer(T5_SPECIALS, "$A </s>")
    bert = build_tokenizer(BERT_SPECIALS, "[CLS] $A [SEP]")
    t5_roles = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    bert_roles = {
        "pad_token": "[PAD]",
        "sep_token": "[SEP]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "bos_token": "[DEC]",
    }
    _write(folder, t5, t5_roles, 512)
    _write(folder / "qformer_tokenizer", bert, bert_roles, 128)
    return t5.get_vocab_size()

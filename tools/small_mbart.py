"""A small mBART with random weights and a tokenizer trained on a dataset's own training texts.

    python -m tools.small_mbart configs/runs/tasks/multi30k_de-en.yaml

No package ships weights of a translation model; this one lets the whole path of a translation be run without the Hub.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import MBartConfig, MBartForConditionalGeneration, MBartTokenizer

from kdcache.data.read import read_split
from kdcache.training.run import RunFile, load_run

PIECES = 6_000
WIDTH = 192
LAYERS = 2


def make(file: RunFile) -> Path:
    """Write the model that the run file names as its teacher; one that is there is left as it is.

    Args:
        file: of a translation with `source_language` and `target_language`, whose teacher is a folder.

    Returns:
        The folder.
    """
    folder = Path(file.models.teacher.path)
    if (folder / "config.json").is_file():
        return folder
    tokenizer = make_tokenizer(
        _texts(file), num_pieces=PIECES, source=file.dataset.source_language, target=file.dataset.target_language
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = MBartConfig(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=4 * WIDTH,
        decoder_ffn_dim=4 * WIDTH,
        max_position_embeddings=256,
        dropout=0.1,
        scale_embedding=True,
        decoder_start_token_id=tokenizer.convert_tokens_to_ids(file.dataset.target_language),
        forced_eos_token_id=None,
    )
    MBartForConditionalGeneration(config).save_pretrained(folder)  # config.json last: a folder with it is whole
    return folder


def make_tokenizer(texts: Iterable[str], *, num_pieces: int, source: str | None, target: str | None) -> MBartTokenizer:
    """SentencePiece-like unigram pieces of both languages, with mBART's special tokens and language codes.

    Args:
        texts: of both languages, to learn the pieces from.
        num_pieces: at most so many.
        source: mBART's code of the source language, e.g. `de_DE`.
        target: of the target language.
    """
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=num_pieces, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    core = MBartTokenizer()
    special = [core.convert_ids_to_tokens(i) for i in range(4)]
    pieces = [(piece, score) for piece, score in json.loads(backend.to_str())["model"]["vocab"] if piece not in special]
    codes = [(code, 0.0) for code in sorted(core.lang_code_to_id)]
    vocab = [*((token, 0.0) for token in special), *pieces, *codes, ("<mask>", 0.0)]
    return MBartTokenizer(vocab=vocab, src_lang=source, tgt_lang=target)


def _texts(file: RunFile) -> Iterator[str]:
    for example in read_split(file.dataset, "train", data_root=file.data_root):
        yield example.fields["source"]
        yield example.fields["target"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    print(make(load_run(parser.parse_args().config)))

"""A student's layers are copies of the pretrained model's, bit for bit; its head is fresh, from the seed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import (
    AutoModel,
    BartConfig,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    GemmaConfig,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    MarianConfig,
    MBartConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
    RobertaModel,
    SmolLM3Config,
    T5Config,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from kdcache.core.config import parse
from kdcache.core.errors import ConfigError, ModelError
from kdcache.student import skip_layers
from kdcache.training.models import StackLayers, StudentSource

CLASSIFIER = "AutoModelForSequenceClassification"
SMALL = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 20,
}
DISTIL = {"vocab_size": 30, "dim": 16, "n_layers": 4, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 20}
FAMILIES: dict[str, tuple[Any, str]] = {
    "bert": (lambda: BertModel(BertConfig(**SMALL)), "encoder.layer"),
    "roberta": (lambda: RobertaModel(RobertaConfig(**SMALL)), "encoder.layer"),
    "xlm-roberta": (lambda: XLMRobertaModel(XLMRobertaConfig(**SMALL)), "encoder.layer"),
    "distilbert": (lambda: DistilBertModel(DistilBertConfig(**DISTIL)), "transformer.layer"),
}


BART = {
    "vocab_size": 30,
    "d_model": 16,
    "encoder_layers": 4,
    "decoder_layers": 4,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 20,
}
MARIAN = {**BART, "pad_token_id": 1, "decoder_start_token_id": 1}
T5 = {"vocab_size": 30, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 4, "num_decoder_layers": 4, "num_heads": 2}
LLAMA = {**SMALL, "num_key_value_heads": 1, "head_dim": 8, "tie_word_embeddings": False, "pad_token_id": 1}
GENERATORS: dict[str, tuple[Any, Any]] = {
    "bart": (BartConfig, BART),
    "mbart": (MBartConfig, BART),
    "marian": (MarianConfig, MARIAN),
    "t5": (T5Config, T5),
    "llama": (LlamaConfig, LLAMA),
    "mistral": (MistralConfig, LLAMA),
    "qwen2": (Qwen2Config, LLAMA),
    "qwen3": (Qwen3Config, LLAMA),
    "smollm3": (SmolLM3Config, LLAMA),
    "gemma": (GemmaConfig, {**LLAMA, "tie_word_embeddings": True}),
}


def generator(folder: Path, family: str) -> tuple[str, str, Any]:
    """A tiny random generator, saved: path, class, weights."""
    torch.manual_seed(3)
    config, settings = GENERATORS[family]
    seq2seq = family in ("bart", "mbart", "marian", "t5")
    auto_class = "AutoModelForSeq2SeqLM" if seq2seq else "AutoModelForCausalLM"
    model = getattr(transformers, auto_class).from_config(config(**settings))
    for parameter in model.parameters():
        if parameter.requires_grad:  # not Marian's positions, which are no weights
            torch.nn.init.normal_(parameter)  # also norms and biases, which all begin alike
    model.save_pretrained(folder)
    return str(folder), auto_class, model.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("family", GENERATORS)
def test_a_generators_layers_embeddings_and_head_are_copied_bit_for_bit(tmp_path: Path, family: str):
    path, auto_class, pretrained = generator(tmp_path / "base", family)
    student = skip_layers.build(StudentSource(path=path, layers=2), auto_class, seed=0)
    stacks, copied, seen = skip_layers.FAMILIES[family], student.state_dict(), set()
    for name, value in copied.items():
        source = name
        for stack in stacks:
            match = re.match(stack.layers, name)
            if match is not None:
                seen.add((stack.name, match[2]))
                if not (stack.first and re.search(stack.first, name)):
                    source = f"{match[1]}{ {'0': '1', '1': '3'}[match[2]] }{match[3]}"
        assert torch.equal(value, pretrained[source]), (name, source)
    assert seen == {(stack.name, index) for stack in stacks for index in "01"}
    names = {"layers": "kept"}
    recorded = {names.get(stack.name, stack.name): [1, 3] for stack in stacks}
    assert student.config.kdcache_layers == {"source": path, **recorded}
    student.save_pretrained(tmp_path / "student")
    again = getattr(transformers, auto_class).from_pretrained(tmp_path / "student")
    assert all(torch.equal(value, copied[name]) for name, value in again.state_dict().items())
    ids = torch.arange(4)[None] + 3
    inputs = {"input_ids": ids} if len(stacks) == 1 else {"input_ids": ids, "decoder_input_ids": ids}
    assert again(**inputs).logits.shape == (1, 4, 30)


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_the_stacks_of_an_encoder_decoder_may_keep_different_layers(tmp_path: Path, family: str):
    path, auto_class, _ = generator(tmp_path, family)
    source = StudentSource(path=path, layers=StackLayers(encoder=3, decoder=(0,)))
    student = skip_layers.build(source, auto_class, seed=0)
    assert student.config.kdcache_layers == {"source": path, "encoder": [0, 1, 3], "decoder": [0]}
    whole = skip_layers.build(StudentSource(path=path, layers=StackLayers(decoder=1)), auto_class, seed=0)
    assert whole.config.kdcache_layers == {"source": path, "encoder": [0, 1, 2, 3], "decoder": [3]}


def test_stacks_of_a_model_with_one_are_refused(tmp_path: Path):
    path, auto_class, _ = generator(tmp_path, "llama")
    with pytest.raises(ConfigError, match=r"^layers of a 'llama' model are one stack; give a number or a list$"):
        skip_layers.build(StudentSource(path=path, layers=StackLayers(encoder=1)), auto_class, seed=0)


def test_layers_of_stacks_are_read_from_yaml():
    parsed = parse(StudentSource, {"path": "x", "layers": {"encoder": 3, "decoder": [0, 5]}}, where="m.yaml")
    assert parsed.layers == StackLayers(encoder=3, decoder=(0, 5))
    with pytest.raises(
        ConfigError, match=r"^unknown setting layers\.encode in m\.yaml; did you mean layers\.encoder\?$"
    ):
        parse(StudentSource, {"path": "x", "layers": {"encode": 3}}, where="m.yaml")


def save(folder: Path, family: str) -> tuple[str, dict[str, torch.Tensor]]:
    torch.manual_seed(3)
    model = FAMILIES[family][0]()
    model.save_pretrained(folder)
    return str(folder), model.state_dict()


def test_every_family_is_tested():
    assert FAMILIES.keys() | GENERATORS.keys() == skip_layers.FAMILIES.keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_kept_layers_embeddings_and_norms_are_copied_bit_for_bit(tmp_path: Path, family: str):
    path, pretrained = save(tmp_path, family)
    student = skip_layers.build(StudentSource(path=path, layers=(1, 3)), CLASSIFIER, seed=0, num_labels=3)
    layer, number = FAMILIES[family][1], {"0": "1", "1": "3"}
    copied = student.base_model.state_dict()
    seen = set()
    for name, value in copied.items():
        source = name
        if name.startswith(f"{layer}."):
            index, _, rest = name.removeprefix(f"{layer}.").partition(".")
            source = f"{layer}.{number[index]}.{rest}"
            seen.add(index)
        assert torch.equal(value, pretrained[source]), (name, source)
    assert seen == {"0", "1"}
    matrices = [name for name in copied if name.startswith(f"{layer}.0.") and copied[name].ndim == 2]
    assert matrices
    for name in matrices:
        assert not torch.equal(copied[name], copied[name.replace(".0.", ".1.", 1)]), "else the map could not be wrong"
    assert student.num_labels == 3
    assert not student.training
    assert {value.dtype for value in student.parameters()} == {torch.float32}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_map_and_the_depth_are_in_the_configuration_that_is_saved(tmp_path: Path, family: str):
    path, _ = save(tmp_path / "base", family)
    student = skip_layers.build(StudentSource(path=path, layers=2), CLASSIFIER, seed=0, num_labels=2)
    student.save_pretrained(tmp_path / "student")
    again = AutoModel.from_pretrained(tmp_path / "student")
    assert again.config.kdcache_layers == {"source": path, "kept": [1, 3]}
    assert getattr(again.config, skip_layers.FAMILIES[family][0].depth) == 2
    for name, value in student.base_model.state_dict().items():
        assert torch.equal(again.state_dict().get(name, value), value), name


def test_the_head_comes_from_the_seed_and_the_layers_do_not(tmp_path: Path):
    path, _ = save(tmp_path, "bert")
    source = StudentSource(path=path, layers=2)
    one, same, other = (skip_layers.build(source, CLASSIFIER, seed=s, num_labels=2) for s in (0, 0, 1))
    assert torch.equal(one.classifier.weight, same.classifier.weight)
    assert not torch.equal(one.classifier.weight, other.classifier.weight)
    layer = "encoder.layer.0.attention.self.query.weight"
    assert torch.equal(one.base_model.state_dict()[layer], other.base_model.state_dict()[layer])


def test_without_layers_the_whole_model_is_kept(tmp_path: Path):
    path, pretrained = save(tmp_path, "bert")
    student = skip_layers.build(StudentSource(path=path), CLASSIFIER, seed=0, num_labels=2)
    assert student.config.num_hidden_layers == 4
    assert all(torch.equal(value, pretrained[name]) for name, value in student.base_model.state_dict().items())


def test_a_family_whose_layers_are_unknown_is_refused_by_name(tmp_path: Path):
    GPT2Model(GPT2Config(vocab_size=30, n_embd=8, n_layer=2, n_head=2, n_positions=16)).save_pretrained(tmp_path)
    message = r"is a 'gpt2' model, whose layers kdcache cannot skip; it knows bart, bert, .*, xlm-roberta\."
    with pytest.raises(ModelError, match=message):
        skip_layers.build(StudentSource(path=str(tmp_path), layers=1), CLASSIFIER, seed=0, num_labels=2)


@pytest.mark.parametrize(
    ("total", "layers", "scheme", "kept"),
    [
        (12, 6, "even", (1, 3, 5, 7, 9, 11)),
        (12, 4, "even", (2, 5, 8, 11)),
        (12, 3, "even", (3, 7, 11)),
        (12, 2, "even", (5, 11)),
        (12, 1, "even", (11,)),
        (6, 3, "even", (1, 3, 5)),
        (12, 5, "even", (1, 3, 6, 8, 11)),
        (12, 12, "even", tuple(range(12))),
        (12, 3, "first", (0, 1, 2)),
        (12, 3, "last", (9, 10, 11)),
        (12, None, "even", tuple(range(12))),
        (12, (0, 11), "even", (0, 11)),
        (12, [2, 3], "last", (2, 3)),
    ],
)
def test_which_layers_are_kept(total: int, layers: Any, scheme: str, kept: tuple[int, ...]):
    assert skip_layers.kept_layers(total, layers, scheme) == kept


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (0, r"layers: 0 cannot be kept of a model with 12; give 1 to 12"),
        (13, r"layers: 13 cannot be kept of a model with 12; give 1 to 12"),
        ((), r"layers: \[\] must be increasing layer numbers from 0 to 11"),
        ((3, 1), r"layers: \[3, 1\] must be increasing layer numbers from 0 to 11"),
        ((1, 1), r"layers: \[1, 1\] must be increasing"),
        ((-1, 2), r"layers: \[-1, 2\] must be increasing"),
        ((5, 12), r"layers: \[5, 12\] must be increasing"),
    ],
)
def test_layers_that_are_not_there_are_refused(layers: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        skip_layers.kept_layers(12, layers, "even")


def test_renaming_leaves_other_weights_alone_and_drops_other_layers():
    state = {
        name: torch.tensor(i) for i, name in enumerate(["embeddings.w", "encoder.layer.1.w", "encoder.layer.10.w"])
    }
    renamed = skip_layers.remap(state, (10,), skip_layers.FAMILIES["bert"][0])
    assert {name: int(value) for name, value in renamed.items()} == {"embeddings.w": 0, "encoder.layer.0.w": 2}

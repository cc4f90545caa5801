"""Output heads of tiny random models of each family, from configurations alone."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from kdcache.core.errors import ModelError
from kdcache.training import heads

V, D = 37, 16
BERT = {
    "vocab_size": V,
    "hidden_size": D,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
}
LLAMA = {**BERT, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True}
BART = {
    "vocab_size": V,
    "d_model": D,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
T5 = {"vocab_size": V, "d_model": D, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "pad_token_id": 1}
DISTILBERT = {"vocab_size": V, "dim": D, "n_layers": 1, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 40}

LANGUAGE_MODELS: dict[str, Callable[[], Any]] = {
    "BERT": lambda: hf.BertForMaskedLM(hf.BertConfig(**BERT)),
    "RoBERTa": lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**BERT)),
    "DistilBERT": lambda: hf.DistilBertForMaskedLM(hf.DistilBertConfig(**DISTILBERT)),
    "Llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA)),
    "Gemma 2": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**LLAMA, final_logit_softcapping=0.5)),
    "Cohere": lambda: hf.CohereForCausalLM(hf.CohereConfig(**LLAMA, logit_scale=0.0625)),
    "Granite": lambda: hf.GraniteForCausalLM(hf.GraniteConfig(**LLAMA, logits_scaling=8.0)),
    "BART": lambda: hf.BartForConditionalGeneration(hf.BartConfig(**BART)),
    "mBART": lambda: hf.MBartForConditionalGeneration(hf.MBartConfig(**BART)),
    "Marian": lambda: hf.MarianMTModel(hf.MarianConfig(**BART)),
    "T5, tied": lambda: hf.T5ForConditionalGeneration(hf.T5Config(**T5, decoder_start_token_id=1)),
    "T5, untied": lambda: hf.T5ForConditionalGeneration(
        hf.T5Config(**T5, tie_word_embeddings=False, decoder_start_token_id=1)
    ),
}
CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "BERT": lambda: hf.BertForSequenceClassification(hf.BertConfig(**BERT, num_labels=3)),
    "RoBERTa": lambda: hf.RobertaForSequenceClassification(hf.RobertaConfig(**BERT, num_labels=3)),
    "DistilBERT": lambda: hf.DistilBertForSequenceClassification(hf.DistilBertConfig(**DISTILBERT, num_labels=3)),
    "BART": lambda: hf.BartForSequenceClassification(hf.BartConfig(**BART, num_labels=3)),
    "BERT, words": lambda: hf.BertForTokenClassification(hf.BertConfig(**BERT, num_labels=3)),
}


class Whole:
    """A task of one row an item."""

    name = "texts"

    def rows(self, outputs: Any, positions: Tensor) -> Tensor:
        logits: Tensor = outputs.logits
        return logits


class Rows:
    """A task that reads a row at each position it is told."""

    name = "words"

    def rows(self, outputs: Any, positions: Tensor) -> Tensor:
        logits: Tensor = outputs.logits
        return logits if logits.ndim == 2 else logits[positions[:, 0], positions[:, 1]]


def _run(model: Any, *, num_classes: int) -> tuple[heads.HeadSpec, Tensor, Tensor]:
    torch.manual_seed(3)
    model.eval()
    for name, parameter in model.named_parameters():
        if "layer_norm" not in name.lower() and "layernorm" not in name.lower():
            nn.init.normal_(parameter, std=0.3)
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.normal_()
    ids = torch.tensor([[5, 6, 7, 8, 2], [9, 10, 11, 12, 2]])
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if hasattr(model, "final_logits_bias") else {})
    if isinstance(model, hf.T5ForConditionalGeneration):
        inputs["decoder_input_ids"] = ids
    spec = heads.split(model, num_classes=num_classes)
    with torch.no_grad(), heads.capture(spec) as captured:
        outputs = model(**inputs)
    per_item = outputs.logits.ndim == 2
    positions = torch.tensor([[0, 0], [1, 0]] if per_item else [[0, 1], [0, 4], [1, 2]])
    hidden = heads.rows_of(captured, spec=spec, task=Rows(), positions_R2=positions)  # type: ignore[arg-type]
    return spec, hidden, Rows().rows(outputs, positions)


@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_a_language_models_head_gives_its_logits_back(family: str) -> None:
    spec, hidden, logits = _run(LANGUAGE_MODELS[family](), num_classes=V)
    assert hidden.shape == (3, D)
    assert logits.abs().max() > 0.01
    assert heads.prove(spec, hidden, logits, name="t") < 1e-5
    assert not spec.module._forward_pre_hooks


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_a_classifiers_last_linear_gives_its_logits_back(family: str) -> None:
    spec, hidden, logits = _run(CLASSIFIERS[family](), num_classes=3)
    assert spec.head.num_classes == 3
    assert heads.prove(spec, hidden, logits, name="t") < 1e-5


def test_what_follows_the_layer_is_read_from_the_model() -> None:
    assert heads.split(LANGUAGE_MODELS["Gemma 2"](), num_classes=V).head.soft_cap == 0.5
    assert heads.split(LANGUAGE_MODELS["Cohere"](), num_classes=V).head.scale == 0.0625
    assert heads.split(LANGUAGE_MODELS["Granite"](), num_classes=V).head.scale == 0.125
    spec, _, _ = _run(LANGUAGE_MODELS["Marian"](), num_classes=V)
    assert spec.head.bias_V is not None
    assert spec.head.bias_V.abs().max() > 0.1


def test_the_padded_part_of_a_vocabulary_is_cut() -> None:
    spec, hidden, logits = _run(LANGUAGE_MODELS["Llama"](), num_classes=30)
    assert spec.head.weight_VD.shape == (30, D)
    heads.prove(spec, hidden, logits, name="t")
    torch.testing.assert_close(spec.head.logits(hidden), logits[:, :30], rtol=1e-4, atol=1e-5)


class Squashed(hf.BertForSequenceClassification):
    """A classifier with a nonlinearity after its last layer."""

    def forward(self, **inputs: Any) -> Any:
        return SimpleNamespace(logits=torch.sigmoid(super().forward(**inputs).logits))


def test_a_nonlinearity_after_the_head_is_refused_with_the_difference() -> None:
    spec, hidden, logits = _run(Squashed(hf.BertConfig(**BERT, num_labels=3)), num_classes=3)
    message = (
        r"teacher t_ll: its output head classifier does not give its logits back: the largest difference is "
        r"\d+(\.\d+)? at logits up to [\d.]+, allowed 0\.0001 of that in float32 \(1e-4 in float32\); .* store: topk"
    )
    with pytest.raises(ModelError, match=message):
        heads.prove(spec, hidden, logits, name="t_ll")


def test_a_scale_that_nobody_knows_of_is_refused() -> None:
    spec, hidden, logits = _run(LANGUAGE_MODELS["Llama"](), num_classes=V)
    with pytest.raises(ModelError, match=r"does not give its logits back"):
        heads.prove(spec, hidden, logits * 1.001, name="t")


def test_bfloat16_is_given_more_room_than_float32() -> None:
    spec, hidden, logits = _run(LANGUAGE_MODELS["Llama"]().bfloat16(), num_classes=V)
    assert 1e-5 < heads.prove(spec, hidden, logits, name="t") < heads.TOLERANCE[torch.bfloat16]
    with pytest.raises(ModelError, match=r"allowed 0\.02 of that in bfloat16 \(1e-4 in float32\)"):
        heads.prove(spec, hidden, logits * 1.05, name="t")


def test_logits_that_are_not_finite_prove_nothing() -> None:
    spec, hidden, logits = _run(LANGUAGE_MODELS["Llama"](), num_classes=V)
    logits[0, 3] = -torch.inf
    with pytest.raises(ModelError, match=r"teacher t gives logits that are not finite to classes of its own; if its"):
        heads.prove(spec, hidden, logits, name="t")


def test_a_layer_of_too_few_classes_is_no_head() -> None:
    with pytest.raises(ModelError, match=r"classifier, gives 3 values, but rows have 5 classes: .* store: topk"):
        heads.split(CLASSIFIERS["BERT"](), num_classes=5)


def test_a_model_that_pools_after_its_head_is_refused() -> None:
    model = hf.LlamaForSequenceClassification(hf.LlamaConfig(**LLAMA, num_labels=3)).eval()
    spec = heads.split(model, num_classes=3)
    with torch.no_grad(), heads.capture(spec) as captured:
        model(input_ids=torch.tensor([[5, 6, 7]]))
    with pytest.raises(ModelError, match=r"picks its rows after the head; store: topk"):
        heads.rows_of(
            captured,
            spec=spec,
            task=Whole(),  # type: ignore[arg-type]
            positions_R2=torch.tensor([[0, 0]]),
        )


def test_a_head_that_did_not_run_is_refused() -> None:
    spec = heads.split(CLASSIFIERS["BERT"](), num_classes=3)
    with pytest.raises(ModelError, match=r"classifier ran 0 times in one forward pass, not once"):
        heads.rows_of([], spec=spec, task=Rows(), positions_R2=torch.tensor([[0, 0]]))  # type: ignore[arg-type]


def test_arrays_of_a_head_are_float32_and_hold_what_it_has() -> None:
    capped = heads.to_arrays(heads.split(LANGUAGE_MODELS["Gemma 2"]().bfloat16(), num_classes=30).head)
    assert {name: (a.dtype, a.shape) for name, a in capped.items()} == {
        "weight": (np.float32, (30, D)),
        "scale": (np.float32, (1,)),
        "soft_cap": (np.float32, (1,)),
    }
    assert set(heads.to_arrays(heads.split(CLASSIFIERS["BERT"](), num_classes=3).head)) == {"weight", "scale", "bias"}

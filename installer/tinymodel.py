"""bridge"""
import json, numpy as np
from pathlib import Path
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, decoders


def make(d: Path, *, seed: int = 0) -> None:
    d.mkdir(parents=True, exist_ok=True)
    H, L, I, NH = 64, 2, 128, 2
    vocab = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for t in ["<s>", "</s>"]:
        vocab[t] = len(vocab)
    tok = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens(["<s>", "</s>"])
    tok.save(str(d / "tokenizer.json"))
    V = tok.get_vocab_size()
    json.dump({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": H, "intermediate_size": I, "num_hidden_layers": L, "num_attention_heads": NH, "num_key_value_heads": NH, "vocab_size": V, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16", "bos_token_id": vocab["<s>"], "eos_token_id": vocab["</s>"], "tie_word_embeddings": False, "hidden_act": "silu"}, open(d / "config.json", "w"))
    json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "chat_template": "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"}, open(d / "tokenizer_config.json", "w"))
    r = np.random.default_rng(seed)
    w = lambda *s: (r.standard_normal(s) * 0.05).astype(np.float32)
    t = {"model.embed_tokens.weight": w(V, H), "lm_head.weight": w(V, H), "model.norm.weight": np.ones(H, np.float32)}
    for i in range(L):
        p = f"model.layers.{i}."
        for n in "qkvo":
            t[p + f"self_attn.{n}_proj.weight"] = w(H, H)
        t[p + "mlp.gate_proj.weight"] = w(I, H)
        t[p + "mlp.up_proj.weight"] = w(I, H)
        t[p + "mlp.down_proj.weight"] = w(H, I)
        t[p + "input_layernorm.weight"] = np.ones(H, np.float32)
        t[p + "post_attention_layernorm.weight"] = np.ones(H, np.float32)
    save_file(t, str(d / "model.safetensors"), metadata={"format": "pt"})
    (d / "README.md").write_text("---\nlicense: apache-2.0\n---\n")

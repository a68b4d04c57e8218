"""How OpenAI names the weights of Whisper's encoder, which transformers names otherwise."""

from collections.abc import Mapping

from torch import Tensor

DROPPED_PREFIX = "decoder."  # Whisper's writer of text
DIMS = (
    "n_mels",
    "n_audio_ctx",
    "n_audio_state",
    "n_audio_head",
    "n_audio_layer",
)  # of a checkpoint's `dims`, what the encoder needs

_NAMES = {  # transformers' name within the encoder: OpenAI's
    "embed_positions.weight": "positional_embedding",
    "layer_norm.": "ln_post.",
    "layers.": "blocks.",
    "self_attn_layer_norm.": "attn_ln.",
    "self_attn.q_proj.": "attn.query.",
    "self_attn.k_proj.": "attn.key.",
    "self_attn.v_proj.": "attn.value.",
    "self_attn.out_proj.": "attn.out.",
    "final_layer_norm.": "mlp_ln.",
    "fc1.": "mlp.0.",
    "fc2.": "mlp.2.",
}


def named_as_openai(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of a `WhisperAudioEncoder` under OpenAI's names (shared, not copied)."""
    return {openai_name(name): tensor for name, tensor in state_dict.items()}


def openai_name(our_name: str) -> str:
    """Return what OpenAI calls a weight of ours; both begin with `encoder.`."""
    name = our_name
    for ours, theirs in _NAMES.items():
        position = name.find(f".{ours}")
        if position >= 0:
            name = name[: position + 1] + theirs + name[position + 1 + len(ours) :]
    return name

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from lipsync_lightning.errors import MissingWeights, WrongWeights
from lipsync_lightning.models.autoencoder import LinearAutoencoder
from lipsync_lightning.models.frozen import frozen, pretrained
from lipsync_lightning.models.syncnet import StableSyncNet


def test_a_frozen_network_passes_gradients_to_its_input_and_takes_none(tiny_syncnet, clip_batch):
    network, mel = frozen(tiny_syncnet.train()), clip_batch["mel"].requires_grad_()
    network.embed_mel(mel)[:, 0].sum().backward()
    assert mel.grad is not None
    assert mel.grad.abs().sum() > 0
    assert not any(part.training for part in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_a_saved_network_comes_back_frozen_with_its_weights(tmp_path, tiny_syncnet):
    tiny_syncnet.save_pretrained(tmp_path)
    loaded = pretrained(network=StableSyncNet, path=str(tmp_path), get_with="train it")
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not loaded.training
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in tiny_syncnet.state_dict().items())


def test_an_empty_folder_is_refused_with_the_command_that_fills_it(tmp_path):
    with pytest.raises(MissingWeights, match=r"no StableSyncNet at .*get it with: python -m train it"):
        pretrained(network=StableSyncNet, path=str(tmp_path), get_with="python -m train it")


def test_another_network_is_refused(tmp_path, tiny_autoencoder):
    tiny_autoencoder.save_pretrained(tmp_path)
    with pytest.raises(WrongWeights, match="does not hold a StableSyncNet"):
        pretrained(network=StableSyncNet, path=str(tmp_path), get_with="train it")


def test_a_network_without_some_of_its_weights_is_refused_by_their_names(tmp_path, tiny_autoencoder):
    tiny_autoencoder.save_pretrained(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    weights = load_file(file)
    del weights["basis"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(WrongWeights, match=r"missing or unknown \['basis'\]"):
        pretrained(network=LinearAutoencoder, path=str(tmp_path), get_with="train it")


def test_a_broken_file_is_refused(tmp_path, tiny_autoencoder):
    tiny_autoencoder.save_pretrained(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(WrongWeights, match="does not hold a LinearAutoencoder"):
        pretrained(network=LinearAutoencoder, path=str(tmp_path), get_with="train it")


def test_attention_weights_under_their_old_names_are_accepted(tmp_path):
    """`stabilityai/sd-vae-ft-mse` still has them."""
    AutoencoderKL(block_out_channels=(32,)).save_pretrained(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    expected = load_file(file)
    old_names = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    renamed = {}
    for name, tensor in expected.items():
        for new, old in old_names.items():
            name = name.replace(new, old)
        renamed[name] = tensor
    assert set(renamed) != set(expected)
    save_file(renamed, file, metadata={"format": "pt"})
    loaded = pretrained(network=AutoencoderKL, path=str(tmp_path), get_with="download it").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from lipsync_lightning import diffusion
from lipsync_lightning.files import CONF_DIR
from lipsync_lightning.losses.sync import LatentSyncLoss
from lipsync_lightning.modules.rng import ClipRNG

TERMS = {"noise": 1.0, "sync": 0.05, "perceptual": 0.1, "trepa": 10.0}
PUBLISHED = {"stage2": 674_792_320, "stage2_efficient": 284_660_480}


@pytest.mark.parametrize("experiment", PUBLISHED)
def test_the_published_parameter_groups_train_and_nothing_else(experiment, make_stage2):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        config = compose("train", overrides=[f"+experiment={experiment}"])
    with torch.device("meta"):
        unet = instantiate(config.module.unet, _convert_="all")
    module = make_stage2(unet=unet, trainable=list(config.module.trainable))
    trained = {name: parameter.numel() for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert all(name.startswith("unet.") for name in trained)
    assert sum(trained.values()) == PUBLISHED[experiment]


def test_every_named_loss_is_logged_and_the_total_is_their_weighted_sum(make_stage2, clip_batch, train):
    metrics = train(make_stage2(), [clip_batch], steps=1, heldout=[clip_batch]).callback_metrics
    for split in ("train", "val"):
        total = sum(weight * metrics[f"{split}/loss_{name}"].item() for name, weight in TERMS.items())
        assert metrics[f"{split}/loss"].item() == pytest.approx(total, rel=1e-4)
    assert len(metrics) == 2 * (1 + len(TERMS))


@pytest.mark.parametrize("term", TERMS)
def test_the_gradient_of_every_term_reaches_temporal_and_attention_layers(term, make_stage2, clip_batch, denoised):
    module = make_stage2()
    with torch.no_grad():
        for parameter in module.unet.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))  # past the layers that start at zero
    module.losses.terms[term](denoised(module, clip_batch)).backward()
    for group in ("motion_modules.", "attentions."):
        gradients = [p.grad for name, p in module.unet.named_parameters() if group in name and p.grad is not None]
        assert max(gradient.abs().max().item() for gradient in gradients) > 0
    frozen = [*module.losses.parameters(), *module.autoencoder.parameters()]
    assert all(parameter.grad is None for parameter in frozen)


def test_frames_are_decoded_once_where_three_terms_look_at_them_and_never_where_none_does(
    make_stage2, make_syncnet, losses_of, clip_batch, monkeypatch
):
    def num_decoded(module) -> int:
        calls = []
        decode = diffusion.decode
        with monkeypatch.context() as patch:
            patch.setattr(diffusion, "decode", lambda *given: calls.append(1) or decode(*given))
            module.training_step(clip_batch, 0)
        return len(calls)

    assert num_decoded(make_stage2()) == 1
    latent = losses_of("noise")
    latent.terms["noise"].loss = LatentSyncLoss(syncnet=make_syncnet())
    latent.terms["noise"].loss.forward = lambda latents, mel: latents.sum() + mel.sum()
    assert num_decoded(make_stage2(losses=latent)) == 0


def test_stage_two_starts_where_stage_one_ended(make_stage1, make_stage2, clip_batch, train, tmp_path):
    first, second = make_stage1(), make_stage2()
    train(first, [clip_batch] * 2, steps=2).save_checkpoint(tmp_path / "step_00000002.ckpt")
    second.load_weights(str(tmp_path / "step_00000002.ckpt"))
    sample, timestep = torch.randn(2, 13, 4, 8, 8), torch.tensor([10, 900])
    with torch.no_grad():
        expected = first.unet(sample, timestep, clip_batch["audio"])
        assert expected.abs().max() > 0
        torch.testing.assert_close(second.unet(sample, timestep, clip_batch["audio"]), expected)


def test_sync_does_not_judge_clips_that_were_made_without_sound(make_stage2, make_clip_batch, monkeypatch):
    module, batch = make_stage2(audio_dropout=0.5), make_clip_batch(8)
    judged = []
    sync = module.losses.terms["sync"].loss
    monkeypatch.setattr(sync, "forward", lambda frames, mel: judged.append(mel) or frames.sum() * 0.0)
    module.training_step(batch, 0)
    has_audio = ClipRNG(batch["seed"], "cpu").uniform() >= 0.5
    assert 0 < has_audio.sum() < 8
    assert torch.equal(judged[0], batch["mel"][has_audio])


def test_activations_that_wait_in_the_hosts_memory_change_neither_loss_nor_gradients(make_stage2, clip_batch):
    results, packed = [], []
    for offload in (False, True):
        torch.manual_seed(0)
        module = make_stage2(offload_activations=offload, gradient_checkpointing=True)
        module.log = module.log_dict = lambda *_, **__: None
        with torch.autograd.graph.saved_tensors_hooks(lambda own: packed.append(own) or own, lambda own: own):
            before = len(packed)
            loss = module.training_step(clip_batch, 0)
        assert (len(packed) == before) == offload  # the inner hooks have them
        loss.backward()
        results.append((loss.detach(), [own.grad for own in module.unet.parameters() if own.grad is not None]))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-5)

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from lipsync_lightning.files import CONF_DIR
from lipsync_lightning.modules.draws import ClipDraws

PUBLISHED = {"stage2": 674_792_320, "stage2_efficient": 284_660_480}


@pytest.mark.parametrize("experiment", PUBLISHED)
def test_the_published_parameter_groups_train_and_nothing_else(experiment, make_stage2, tiny_autoencoder):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        config = compose("train", overrides=[f"+experiment={experiment}"])
    with torch.device("meta"):
        unet = instantiate(config.module.unet, _convert_="all")
    module = make_stage2(unet=unet, trainable=list(config.module.trainable))
    trained = {name: parameter.numel() for name, parameter in module.unet.named_parameters() if parameter.requires_grad}
    assert sum(trained.values()) == PUBLISHED[experiment]
    assert (
        sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad) == PUBLISHED[experiment]
    )


def test_parameters_outside_the_trained_groups_stay_as_they_were(make_stage2, clip_batch, train):
    module = make_stage2(trainable=["motion_modules.", "attn2."])
    before = {name: parameter.detach().clone() for name, parameter in module.unet.named_parameters()}
    with torch.no_grad():
        module.unet.conv_out.weight.normal_(std=0.1)
        before["conv_out.weight"] = module.unet.conv_out.weight.clone()
    train(module, [clip_batch] * 2, steps=2)
    moved = {name for name, parameter in module.unet.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved
    assert all("motion_modules." in name or "attn2." in name for name in moved)


def test_every_named_loss_is_logged_and_the_total_is_their_weighted_sum(make_stage2, clip_batch, train):
    metrics = train(make_stage2(), [clip_batch], steps=1, heldout=[clip_batch]).callback_metrics
    terms = {"noise": 1.0, "sync": 0.05, "perceptual": 0.1, "trepa": 10.0}
    for split in ("train", "val"):
        total = sum(weight * metrics[f"{split}/loss_{name}"].item() for name, weight in terms.items())
        assert metrics[f"{split}/loss"].item() == pytest.approx(total, rel=1e-4)
    assert len(metrics) == 2 * (1 + len(terms))


@pytest.mark.parametrize("term", ["noise", "sync", "perceptual", "trepa"])
def test_the_gradient_of_every_term_reaches_temporal_and_attention_layers(term, make_stage2, clip_batch):
    module = make_stage2()
    with torch.no_grad():
        for parameter in module.unet.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))  # past the layers that start at zero
    step = module.denoise(clip_batch, torch.ones_like(clip_batch["seed"]).bool(), ClipDraws(clip_batch["seed"], "cpu"))
    module.losses.terms[term].loss(*module.loss_inputs(clip_batch, step)[term]()).backward()
    for group in ("motion_modules.", "attentions."):
        gradients = [p.grad for name, p in module.unet.named_parameters() if group in name and p.grad is not None]
        assert max(gradient.abs().max().item() for gradient in gradients) > 0
    assert all(
        parameter.grad is None for part in (module.losses, module.autoencoder) for parameter in part.parameters()
    )


def test_frames_are_decoded_once_where_three_terms_look_at_them_and_never_where_none_does(
    make_stage2, noise_losses, clip_batch, monkeypatch
):
    def num_decoded(module) -> int:
        calls = []
        decode = module.decode
        monkeypatch.setattr(module, "decode", lambda latents: calls.append(1) or decode(latents))
        module.training_step(clip_batch, 0)
        return len(calls)

    assert num_decoded(make_stage2()) == 1
    assert num_decoded(make_stage2(losses=noise_losses())) == 0


def test_stage_two_starts_where_stage_one_ended(make_stage1, make_stage2, clip_batch, train, tmp_path):
    first = make_stage1()
    train(first, [clip_batch] * 2, steps=2).save_checkpoint(tmp_path / "step_00000002.ckpt")
    second = make_stage2()
    second.load_weights(str(tmp_path / "step_00000002.ckpt"))
    sample, timestep = torch.randn(2, 13, 4, 8, 8), torch.tensor([10, 900])
    with torch.no_grad():
        expected = first.unet(sample, timestep, clip_batch["audio"])
        assert expected.abs().max() > 0
        torch.testing.assert_close(second.unet(sample, timestep, clip_batch["audio"]), expected)


def test_the_loss_falls_on_one_clip(make_stage2, clip_batch, train):
    module = make_stage2(trainable=[""])
    trainer = train(module, [clip_batch], steps=1, heldout=[clip_batch])
    before = trainer.callback_metrics["val/loss"].item()
    after = train(module, [clip_batch] * 20, steps=20, heldout=[clip_batch]).callback_metrics["val/loss"].item()
    assert after < 0.9 * before


def test_sync_does_not_judge_clips_that_were_made_without_sound(make_stage2, make_clip_batch, monkeypatch):
    module, batch = make_stage2(audio_dropout=0.5), make_clip_batch(8)
    judged = []
    sync = module.losses.terms["sync"].loss
    monkeypatch.setattr(sync, "forward", lambda frames, mel: judged.append(mel) or frames.sum() * 0.0)
    module.training_step(batch, 0)
    heard = ClipDraws(batch["seed"], "cpu").uniform() >= 0.5
    assert 0 < heard.sum() < 8
    assert torch.equal(judged[0], batch["mel"][heard])


def test_a_latent_syncnet_judges_without_decoding(make_stage2, clip_batch, monkeypatch):
    module = make_stage2()
    monkeypatch.setattr(module, "decode", lambda _: pytest.fail("decoded"))
    step = module.denoise(clip_batch, torch.ones_like(clip_batch["seed"]).bool(), ClipDraws(clip_batch["seed"], "cpu"))
    latents, mel = module.loss_inputs(clip_batch, step)["sync_latent"]()
    assert latents is step.clean_pred
    assert mel is clip_batch["mel"]

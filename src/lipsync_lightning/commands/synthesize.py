"""`python -m lipsync_lightning.synthesize out=<folder>`: draw a corpus of raw talking-face videos."""

from pathlib import Path

from omegaconf import DictConfig

from lipsync_lightning.synthetic.corpus import write_corpus


def run(config: DictConfig) -> None:
    first_person, seconds = 0, config.seconds
    for split, num_people in config.people.items():
        write_corpus(
            out=Path(config.out) / str(split),
            people=range(first_person, first_person + num_people),
            clips_per_person=config.clips_per_person,
            seconds=seconds[split] if isinstance(seconds, DictConfig) else seconds,
            seed=config.seed,
            leak=config.leak,
            second_voice=config.second_voice,
            num_workers=config.num_workers,
            max_offset_frames=config.max_offset_frames.get(split, 0),
        )
        first_person += num_people

import pytest
import torch

from command_line import CommandLine
from lipsync_lightning.commands.infer import device_and_dtype
from lipsync_lightning.errors import BadConfig
from lipsync_lightning.infer import main


def test_a_folder_that_is_no_export_is_refused_with_the_command_that_makes_one(command_line: CommandLine):
    refused = command_line.refusal(main, "model=.", "video=v.mp4", "audio=a.wav", "out=o.mp4")
    assert refused.startswith("error: no export at . (no model_index.json there)")


@pytest.mark.parametrize(
    ("device", "dtype"),
    [("cpu", "mean"), ("cpu", "int8"), ("cpu", "fp16"), ("toaster", "float32"), ("cuda:99", "float32")],
)
def test_unknown_devices_and_types_are_refused(device: str, dtype: str):
    assert device_and_dtype("cpu", "bfloat16") == (torch.device("cpu"), torch.bfloat16)
    with pytest.raises(BadConfig, match=f"{device} cannot be used|{dtype} is no floating-point type"):
        device_and_dtype(device, dtype)

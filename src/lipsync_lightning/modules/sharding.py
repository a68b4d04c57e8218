"""`trainer=fsdp`: the trained U-Net lies in pieces on all processes (torch's fully_shard)."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from lipsync_lightning.errors import BadConfig


class ShardedStrategy(DDPStrategy):
    """Splits weights, gradients and optimizer state of a module's `unet` over all processes, block by block.

    A block is gathered where it computes. Frozen networks stay whole on each process. What is computed is what DDP
    computes; checkpoints hold whole tensors, so that a run goes on with any other strategy.
    """

    def configure_ddp(self) -> None:
        """Raises: BadConfig, if the module has no U-Net, or weights are averaged, which needs them whole."""
        module: Any = self.lightning_module
        if not hasattr(module, "unet"):
            raise BadConfig(f"trainer=fsdp splits a U-Net, {type(module).__name__} has none; trainer=ddp trains it")
        if any(isinstance(callback, WeightAveraging) for callback in module.trainer.callbacks):
            raise BadConfig("callbacks=ema averages whole weights, trainer=fsdp splits them; use one, or trainer=ddp")
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        unet = module.unet
        for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks, unet):
            fully_shard(block, mesh=mesh)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return self._gathered(super().lightning_module_state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Tensor]:
        return self._gathered(super().optimizer_state(optimizer))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            for index, state in saved["state"].items():
                own = parameters[index]
                for name, value in state.items():
                    if isinstance(value, Tensor) and value.shape == own.shape:
                        state[name] = distribute_tensor(value, own.device_mesh, own.placements)
        super().load_optimizer_state_dict(checkpoint)

    def _gathered(self, state: dict[str, Any]) -> dict[str, Any]:
        def gathered(piece: DTensor) -> Tensor:
            whole = piece.full_tensor()  # all processes take part
            return whole.cpu() if self.is_global_zero else whole.new_empty(0)  # the first one writes

        return tree_map_only(DTensor, gathered, state)

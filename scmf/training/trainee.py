"""The network of a run as its processes hold it: one, a copy in each (DDP), or shards (FSDP2).

Shards are of a copy; the caller's network stays whole on the CPU of every process and receives the weights where they
are saved or evaluated, by calls that all processes make. Checkpoints hold whole tensors, hence one that was written
under one strategy and number of processes is resumed under any other.

FSDP2 on GPUs is accelerate's. On CPUs, where accelerate knows DDP alone, torch's ``fully_shard`` is called here, with
gloo. Lives elsewhere: which strategy and how many processes (processes), the files of a checkpoint (training_state).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]


@dataclass
class Trainee:
    """What is trained.

    Parameters
    ----------
    accelerator
        Gradients and precision.
    model
        What a step calls; the network itself, DDP around it, or shards of a copy.
    network
        The caller's network.
    optimizer
        Over the parameters of ``model``.
    is_sharded
        Whether ``model`` is a copy in shards.
    schedule
        The learning rate.
    """

    accelerator: Any
    model: Any
    network: Any
    optimizer: Any
    is_sharded: bool
    schedule: Any = None

    @classmethod
    def of(cls, accelerator: Any, network: Any, make_optimizer: MakeOptimizer, *, sharded: bool) -> Trainee:
        """Give each process its copy or shard, and the optimizer of it; every process calls it."""
        if not sharded:
            model, optimizer = accelerator.prepare(network, make_optimizer(network))
            return cls(accelerator, model, network, optimizer, False)
        model = copy.deepcopy(network)
        names = _without_aliases(model)
        if accelerator.is_fsdp2:
            model, optimizer = accelerator.prepare(model, make_optimizer(_as_in(network, model, names)))
        else:
            model = accelerator.prepare_model(_shard(model, accelerator), device_placement=False, evaluation_mode=True)
            optimizer = accelerator.prepare_optimizer(make_optimizer(_as_in(network, model, names)))
        return cls(accelerator, model, network, optimizer, True)

    def before_forward(self) -> None:
        """Give all processes the buffers of the first, as DDP does (moments of norms, features that are redrawn)."""
        if self.is_sharded:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)

    def gather(self) -> None:
        """Bring the weights into `network`; every process calls it."""
        if self.is_sharded:
            own = self.network.state_dict()
            with torch.no_grad():
                for name, value in self.model.state_dict().items():
                    own[name].copy_(whole(value))

    def spread(self) -> None:
        """Bring the weights of `network` into what is trained; every process calls it."""
        if self.is_sharded:
            own = self.network.state_dict()
            with torch.no_grad():
                for name, value in self.model.state_dict().items():
                    value.copy_(share_of(own[name], value))

    @contextmanager
    def evaluated(self) -> Iterator[Any]:
        """The network for evaluation on one process, with weights that were gathered, on its device."""
        if not self.is_sharded:
            yield self.accelerator.unwrap_model(self.model)
            return
        try:
            yield self.network.to(self.accelerator.device)
        finally:
            self.network.to("cpu")

    def optimizer_state(self) -> dict[str, Any]:
        """The state of the optimizer in whole tensors on the CPU; every process calls it."""
        state = self.optimizer.state_dict()
        moments = {
            parameter: {name: whole(value) if isinstance(value, Tensor) else value for name, value in values.items()}
            for parameter, values in state["state"].items()
        }
        return {**state, "state": moments}

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        """Load what `optimizer_state` gave; every process calls it."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        moments = {
            at: {
                name: share_of(value, parameters[at]) if _is_moment(value, parameters[at]) else value
                for name, value in values.items()
            }
            for at, values in state["state"].items()
        }
        self.optimizer.load_state_dict({**state, "state": moments})


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may lie in shards, whole and on the CPU."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu()


def share_of(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, which all processes have, cut as ``like`` is."""
    if not isinstance(like, DTensor):
        return tensor
    tensor = tensor.to(like.device_mesh.device_type)
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def _is_moment(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape == parameter.shape


def _without_aliases(model: Any) -> dict[str, str]:
    """Drop a parameter's second name where a module holds what a module inside it holds too, as heads of BERT do.

    accelerate makes the decoder a group of shards; its bias must not be seen in the group around it as well.

    Returns
    -------
    dict
        Name that was dropped -> name that stays.
    """
    dropped = {}
    for name, tied_to in getattr(model, "all_tied_weights_keys", {}).items():
        owner, _, alias = tied_to.rpartition(".")
        if name.startswith(f"{owner}."):
            delattr(model.get_submodule(owner), alias)
            dropped[tied_to] = name
    return dropped


def _as_in(network: nn.Module, model: nn.Module, names: dict[str, str]) -> nn.Module:
    """The parameters of ``model`` in the order of ``network``, by which the state of an optimizer counts them."""
    found = dict(model.named_parameters())
    return nn.ParameterList([found[names.get(name, name)] for name, _ in network.named_parameters()])


def _shard(model: Any, accelerator: Any) -> Any:
    """Shard a network on CPUs: its layers one by one, and what remains as one group, tied weights among it."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (accelerator.num_processes,))
    layers = set(getattr(model, "_no_split_modules", None) or ())
    for module in model.modules():
        if type(module).__name__ in layers:
            fully_shard(module, mesh=mesh)
    return fully_shard(model, mesh=mesh)

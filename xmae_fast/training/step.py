"""One pretraining step, from masks to optimiser, as a single CUDA graph where that is possible."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, distributed, nn

from xmae_fast import _graphs as graphs
from xmae_fast.model.calls import first_hook, heads_of
from xmae_fast.model.xmae import xMAE
from xmae_fast.ops._dropout import seeds_from
from xmae_fast.ops.random_masking import MODES
from xmae_fast.training.gradients import GradientArena
from xmae_fast.training.masks import mask_ids
from xmae_fast.training.truth import TruthHead

_MOST_GRAPHS = 8  # one for each pair of batch size and mask ratio; further pairs run eagerly


class GraphedStep:
    """A training step, which is made by calling it: masks, forward, masked loss, backward, optimiser.

    On a CUDA device the first calls with a batch size and mask ratio run eagerly (they are real steps), the next call
    captures a CUDA graph, and every later step is one launch of it. Elsewhere every step runs eagerly, and `reason`
    says why. The learning rate (a tensor, see `adamw`), `mask_ratio`, `mask_ratio_ppg` and `seed` may change between
    steps. After other changes the step is captured again: weights or the state of the optimiser that were replaced,
    frozen parameters, modes, rates of dropout, settings of the optimiser. With hooks, or with modules that are not the
    standard ones, it runs eagerly. Masks depend on the seed and the number of the step alone, and so does dropout,
    except that of modules that run in place of a kernel.

    Args:
        model: an xMAE with a bridge, in training mode, or one wrapped by DistributedDataParallel, which runs eagerly
            (an `arena` need not).
            A model that reconstructs ECG without a bridge serves too, and PPG is then not read.
        optimizer: of the parameters of the model. To be captured it needs capturable=True, as `adamw` makes it.
        mask_ratio: share of the ECG patches that are hidden, in [0, 1].
        mode: of both masks, see `random_masking`.
        mask_ratio_ppg: share of the PPG patches that are hidden; the published one is 0.
        autocast: torch.bfloat16, or None for the precision of the weights. (float16 would need a gradient scaler.)
        micro_batches: parts into which each batch is cut; their gradients are added.
        seed: of masks and dropout, below 2^32.
        graph: False never captures.
        loss_weight: factor of the gradient. The loss that is returned is without it.
        rank, world_size: the number of this process and how many share a batch. Row i of this process is row
            i * world_size + rank of the whole batch. The masks are those that one process would draw for the whole
            batch; each process draws its own dropout.
        truth: the head of a further loss on `ppg_embedding`, whose parameters the optimiser has too; None for none.
        truth_weight: factor of the gradient of that loss.
        arena: of all parameters that are trained; the processes exchange their gradients through it, within the graph
            where they use NCCL. None where the model is wrapped or alone.

    Attributes:
        truth_loss: that loss in the last step, a scalar on the device; None without a head.

    Raises:
        ValueError: an argument is wrong; the message names it.

    Example:
        step = GraphedStep(model.train(), adamw(model.parameters()), autocast=torch.bfloat16)
        for batch in loader:
            loss = step(batch["ppg"], batch["ecg"])
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        mask_ratio: float = 0.8,
        mode: str = "anchor",
        mask_ratio_ppg: float = 0.0,
        autocast: torch.dtype | None = None,
        micro_batches: int = 1,
        seed: int = 77,
        graph: bool = True,
        loss_weight: float = 1.0,
        rank: int = 0,
        world_size: int = 1,
        truth: TruthHead | None = None,
        truth_weight: float = 1.0,
        arena: GradientArena | None = None,
    ) -> None:
        self.core = _core(model)
        if mode not in MODES:
            raise ValueError(f"mode: expected one of {', '.join(map(repr, MODES))}, got {mode!r}")
        if autocast not in (None, torch.bfloat16):
            raise ValueError(f"autocast: expected None or torch.bfloat16, got {autocast}")
        if micro_batches < 1:
            raise ValueError(f"micro_batches: expected a whole number >= 1, got {micro_batches}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank: expected 0 to world_size - 1 = {world_size - 1}, got {rank}")
        self.model, self.optimizer = model, optimizer
        self.loss_weight, self.rank, self.world_size = loss_weight, rank, world_size
        self.truth, self.truth_weight = truth, truth_weight
        self.truth_loss: Tensor | None = None
        self.arena = arena
        self.mode, self.autocast, self.micro_batches = mode, autocast, micro_batches
        self.mask_ratio, self.mask_ratio_ppg = mask_ratio, mask_ratio_ppg
        self.device = self.core.mask_token.device
        self._told = torch.zeros((), device=self.device)  # the loss of the truth; a captured step writes it here
        self.steps = 0
        cfg = self.core.cfg
        blocks = cfg.depth_ppg + cfg.depth_ecg + cfg.depth_bridge + 1
        self._sites = micro_batches * (2 + 2 * blocks)  # two masks, and two dropouts a block
        self._seeds = torch.empty(self._sites, 2, dtype=torch.int64, device=self.device)
        self.seed = seed
        self.reason = self._why_eager(graph)
        self._pool = torch.cuda.graph_pool_handle() if not self.reason else None
        self._runs: dict[tuple, _Run] = {}

    def __call__(self, ppg: Tensor, ecg: Tensor, truth: Tensor | None = None) -> Tensor:
        """Make a step. It does not wait for the device.

        Args:
            ppg, ecg: [B, L] or [B, 1, L].
            truth: [B, T], as `truth_of` gives it; needed if and only if there is a head for it.

        Returns:
            The loss, a scalar without gradient, on the device.

        Raises:
            ValueError: the shapes are wrong, or B is no multiple of micro_batches.
        """
        as_ppg, as_ecg = self.core.as_signal("ppg", ppg), self.core.as_signal("ecg", ecg)
        if as_ppg is None and as_ecg is not None and self.core.cfg.source == "ecg":
            as_ppg = as_ecg[:, :, :0]  # nothing of it is read
        elif as_ppg is None or as_ecg is None or as_ppg.shape != as_ecg.shape:
            shapes = [None if x is None else list(x.shape) for x in (as_ppg, as_ecg)]
            raise ValueError(f"ppg, ecg: expected two signals of one shape, got {shapes[0]} and {shapes[1]}")
        ppg, ecg = as_ppg, as_ecg
        if (truth is None) != (self.truth is None):
            expected = "None without a head for it" if self.truth is None else "a tensor, as there is a head for it"
            raise ValueError(f"truth: expected {expected}, got {'a tensor' if self.truth is None else None}")
        if ppg.shape[0] % self.micro_batches:
            raise ValueError(f"ppg: expected a multiple of micro_batches = {self.micro_batches}, got {ppg.shape[0]}")
        hidden = self._masked(self.mask_ratio), self._masked(self.mask_ratio_ppg)
        self.steps += 1
        loss = self._made(ppg, ecg, truth, hidden)
        self.truth_loss = None if self.truth is None else self._told.clone()
        return loss

    def _made(self, ppg: Tensor, ecg: Tensor, truth: Tensor | None, hidden: tuple[int, int]) -> Tensor:
        """Make the step, as a replay where that is possible."""
        if self.reason or first_hook(self.core) or any(self.core.irregular()):  # a replay would pass them by
            return self._step(ppg, ecg, truth, *hidden)
        key = (ppg.shape[0], ppg.dtype, *hidden)
        if key not in self._runs:
            if len(self._runs) == _MOST_GRAPHS:
                return self._step(ppg, ecg, truth, *hidden)
            own = [None if x is None else torch.empty_like(x) for x in (ppg, ecg, truth)]
            self._runs[key] = _Run(self, own, hidden)
        return self._runs[key](ppg, ecg, truth)

    @property
    def seed(self) -> int:
        """The seed of masks and dropout. Setting it leaves the number of the step as it is."""
        return self._seed

    @seed.setter
    def seed(self, value: int) -> None:
        self._seed = value
        self._write_seeds()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs besides the model and the optimiser."""
        state = {"seed": self.seed, "steps": self.steps, "mask_ratio": self.mask_ratio,
                 "mask_ratio_ppg": self.mask_ratio_ppg}  # fmt: skip
        return state if self.truth is None else state | {"truth": self.truth.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on as the run does whose `state_dict` this is."""
        self.steps, self.mask_ratio, self.mask_ratio_ppg = state["steps"], state["mask_ratio"], state["mask_ratio_ppg"]
        self.seed = state["seed"]
        if self.truth is not None:
            self.truth.load_state_dict(state["truth"])

    def _write_seeds(self) -> None:
        """Write the seeds of the last step, to which `_step` adds the number of sites before it draws.

        Site i of a step draws from (seed, steps * sites + i), where steps counts the steps before it. The first sites
        are the masks, two for each part; the others are the dropouts, whose seeds have the rank in their upper half.
        """
        before, own = (self.steps - 1) * self._sites, self._seed + (self.rank << 32)
        masks = 2 * self.micro_batches
        rows = [[self._seed if site < masks else own, before + site] for site in range(self._sites)]
        self._seeds.copy_(torch.tensor(rows, dtype=torch.int64))

    def _masked(self, ratio: float) -> int:
        if not 0 <= ratio <= 1:
            raise ValueError(f"mask_ratio: expected a number in [0, 1], got {ratio}")
        return round(ratio * self.core.cfg.num_patches)

    def _why_eager(self, graph: bool) -> str:
        if not graph:
            return "graph=False"
        if self.device.type != "cuda":
            return f"the model is on {self.device}, CUDA graphs need a CUDA device"
        if self.model is not self.core:
            return f"the model is wrapped by {type(self.model).__name__}, whose communication is not captured"
        if self.world_size > 1 and self.arena is None:
            return "the processes share a batch, but the step does not exchange their gradients"
        if self.arena is not None and (name := distributed.get_backend()) != "nccl":
            return f"the processes communicate by {name}, which is not captured"
        if not all(group.get("capturable") for group in self.optimizer.param_groups):
            return f"{type(self.optimizer).__name__} was not made with capturable=True"
        return ""

    def _relies_on(self) -> tuple:
        """Everything whose change a captured step would not follow."""
        state = (x for made in self.optimizer.state.values() for x in made.values())
        settings = (x for group in self.optimizer.param_groups for name, x in group.items() if name != "params")
        trained = (x for group in self.optimizer.param_groups for x in group["params"])
        modules = (module.__dict__ for module in self.core.modules())
        return (
            graphs.places(self.core),
            heads_of(self.core),
            tuple(x.requires_grad for x in self.core.parameters()),
            tuple((own["training"], own.get("p"), own.get("dropout")) for own in modules),
            tuple(x.data_ptr() if isinstance(x, Tensor) else x for x in (*state, *settings, *trained)),
            (self.mode, self.autocast, self.micro_batches, self.loss_weight, self.truth_weight, self.core.impl),
        )

    def _step(self, ppg: Tensor, ecg: Tensor, truth: Tensor | None, hidden_ecg: int, hidden_ppg: int) -> Tensor:
        self._seeds[:, 1].add_(self._sites)  # `+=` would write the column a second time
        self.optimizer.zero_grad(set_to_none=True)
        losses, of_truth = [], []
        with seeds_from(self._seeds[2 * self.micro_batches :]):
            for part in range(self.micro_batches):
                own = (None if x is None else x.chunk(self.micro_batches)[part] for x in (ppg, ecg, truth))
                ppg_part, ecg_part, truth_part = own
                assert ppg_part is not None
                assert ecg_part is not None
                with self._without_reduction(part + 1 < self.micro_batches):
                    result = self._result(part, ppg_part, ecg_part, hidden_ecg, hidden_ppg)
                    loss = result["loss"]
                    loss = loss if self.micro_batches == 1 else loss / self.micro_batches
                    total = loss if self.loss_weight == 1 else loss * self.loss_weight
                    if self.truth is not None and truth_part is not None:
                        error = self.truth.loss(result["ppg_embedding"], truth_part) / self.micro_batches
                        of_truth.append(error.detach())
                        total = total + error * self.truth_weight
                    total.backward()
                losses.append(loss.detach())
        if self.arena is not None:
            self.arena.average()
        elif self.truth is not None:
            self._reduce_head(self.truth)
        if self.truth is not None:
            self._told.copy_(torch.stack(of_truth).sum())
        self.optimizer.step()
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _reduce_head(self, head: nn.Module) -> None:
        """Give all processes the mean of the gradients of the head, which DistributedDataParallel does not know."""
        if self.world_size == 1:
            return
        for parameter in head.parameters():
            if parameter.grad is not None:
                distributed.all_reduce(parameter.grad)
                parameter.grad /= self.world_size

    def _result(self, part: int, ppg: Tensor, ecg: Tensor, hidden_ecg: int, hidden_ppg: int) -> dict[str, Tensor]:
        """What the model makes of a part: `loss`, and `ppg_embedding` where there is a head for it."""
        ids = {}
        for site, (name, hidden) in enumerate((("ecg", hidden_ecg), ("ppg", hidden_ppg)), 2 * part):
            if name == "ppg" and (hidden == 0 or not self.core.has_bridge):
                continue
            ids |= mask_ids(self.core, name, self._seeds[site], len(ppg), hidden, self.mode, self.rank, self.world_size)
        context: AbstractContextManager = nullcontext()
        if self.autocast is not None:
            context = torch.autocast(self.device.type, self.autocast)
        with context:
            embedding = self.truth is not None or None
            return self.model(ppg, ecg, **ids, return_loss=True, return_embeddings=embedding)

    def _without_reduction(self, more_to_come: bool) -> AbstractContextManager:
        """A context in which DistributedDataParallel exchanges gradients only after the last part of a step."""
        no_sync: Any = getattr(self.model, "no_sync", None)
        return no_sync() if more_to_come and no_sync is not None else nullcontext()


class _Run:
    """The steps with one batch size and mask ratio: some run eagerly, one is captured, the later ones are replayed."""

    def __init__(self, step: GraphedStep, own: Sequence[Tensor | None], hidden: tuple[int, int]) -> None:
        self.step, self.own, self.hidden = step, tuple(own), hidden
        self.eager_steps = 0
        self.replay: graphs.Replay | None = None
        self.relies_on: tuple = ()

    def __call__(self, *batch: Tensor | None) -> Tensor:
        step = self.step
        if self.replay is not None and self.relies_on != step._relies_on():
            self.replay, self.eager_steps = None, 0
        if self.replay is None and self.eager_steps < graphs.WARM_UP:
            self.eager_steps += 1
            return graphs.on_side_stream(lambda: self._eagerly(batch), step.device)
        for mine, theirs in zip(self.own, batch, strict=True):
            if mine is not None and theirs is not None:
                mine.copy_(theirs)
        if self.replay is None:
            try:
                self.replay = graphs.Replay(lambda: self._eagerly(self.own), step._pool)
            except RuntimeError as error:
                step.reason = f"the capture failed: {error}"
                warnings.warn(f"GraphedStep goes on without a CUDA graph: {step.reason}", stacklevel=3)
                return self._eagerly(batch)
            self.relies_on = step._relies_on()
        return self.replay().clone()

    def _eagerly(self, batch: Sequence[Tensor | None]) -> Tensor:
        ppg, ecg, truth = batch
        assert ppg is not None
        assert ecg is not None
        return self.step._step(ppg, ecg, truth, *self.hidden)


def _core(model: nn.Module) -> xMAE:
    core = getattr(model, "module", model)
    if not isinstance(core, xMAE) or core.cfg.source == "ppg":
        what = type(core).__name__ if not isinstance(core, xMAE) else "source='ppg', which reconstructs nothing"
        raise ValueError(f"model: expected an xMAE with a bridge, got {what}")
    return core

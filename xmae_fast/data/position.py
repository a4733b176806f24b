"""Where a loader is: the epoch, and the batches of it that were taken."""


class Position:
    """Epoch and batch of a loader whose passes are numbered as they begin, and of which only one counts at a time.

    A pass begins when its first batch is asked for. The one after it is the next epoch, however far it came, unless
    `set` or `load` say otherwise. Lightning's Trainer is heard too (`tell`): it never asks a pass for its end, may
    leave it early (limit_train_batches), does not load the state of a checkpoint taken between two epochs, and counts
    from 0 again in each fit."""

    def __init__(self) -> None:
        self.epoch = 0
        self.batch = 0  # batches that were taken; where no pass has begun, those that the next one leaves out
        self._pass: object | None = None  # the one that has begun
        self._chosen = False  # no pass has begun since `set` or `load`
        self._told: int | None = None  # the trainer's epoch
        self._used = False  # a pass has begun since that was told
        self._offset = 0  # from the trainer's epoch to this one

    def begin(self) -> object:
        """A pass begins, with batch `batch` of `epoch`; an object that stands for it."""
        if self._pass is not None:
            self.epoch, self.batch = self.epoch + 1, 0
        if self._told is not None and self._used:
            self._offset += 1
        self._pass, self._chosen, self._used = object(), False, True
        return self._pass

    def counts(self, one: object) -> bool:
        """Whether this pass is the one that counts."""
        return self._pass is one

    def end(self) -> None:
        """The pass was asked for more than its last batch."""
        self.epoch, self.batch, self._pass = self.epoch + 1, 0, None

    def set(self, epoch: int) -> None:
        """The next pass is `epoch`: from its first batch, or on from where `load` has just put it in this epoch."""
        if self._pass is not None or self.epoch != epoch:
            self.epoch, self.batch, self._pass = epoch, 0, None
        self._chosen, self._told, self._offset = True, None, 0

    def tell(self, trainers: int) -> None:
        """Epoch `trainers` of a trainer begins, or goes on."""
        told, used = self._told, self._used
        self._told, self._used = trainers, False
        if self._chosen:
            if told is not None and trainers > told:  # the state is of the end of an earlier one
                self.epoch, self.batch = trainers + self._offset, 0
            elif trainers != told:
                self._offset = self.epoch - trainers
        elif used or trainers != told:
            if told is not None and trainers == 0:  # another fit
                self._offset = self.epoch + (self._pass is not None)
            self.epoch, self.batch, self._pass = trainers + self._offset, 0, None

    def state_dict(self, batches: int) -> dict:
        """For `load`; `batches` are those of an epoch: once they are taken the next one follows."""
        whole = self._pass is not None and self.batch >= batches
        place = {"epoch": self.epoch + 1, "batch": 0} if whole else {"epoch": self.epoch, "batch": self.batch}
        return place | {"told": self._told, "offset": self._offset}

    def load(self, state: dict, batches: int) -> None:
        """Go on where `state` was taken.

        Raises:
            ValueError: an epoch below 0, or a batch that is not one of 0 to `batches`.
        """
        epoch, batch = int(state["epoch"]), int(state["batch"])
        if epoch < 0:
            raise ValueError(f"epoch: expected a state with at least 0, got {epoch}")
        if not 0 <= batch <= batches:
            raise ValueError(f"batch: expected a state with 0 to {batches}, the batches of an epoch, got {batch}")
        self.epoch, self.batch = (epoch + 1, 0) if 0 < batch == batches else (epoch, batch)
        self._pass, self._chosen, self._used = None, True, False
        self._told, self._offset = state.get("told"), state.get("offset", 0)


class TrainersSampler:
    """What Lightning finds at `loader.batch_sampler.sampler`: it calls `set_epoch` there before each epoch."""

    def __init__(self, position: Position) -> None:
        self.set_epoch = position.tell


class TrainersBatchSampler:
    """What Lightning (and DeepSpeed) look for in a loader."""

    def __init__(self, position: Position, batch_size: int, drop_last: bool) -> None:
        self.sampler, self.batch_size, self.drop_last = TrainersSampler(position), batch_size, drop_last

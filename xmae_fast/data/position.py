"""The position of a loader: its epoch, and how many batches of it were taken."""


class Position:
    """The epoch and the batch of a loader. Passes are numbered when they begin, and only the last one counts.

    A pass begins when its first batch is asked for. The pass after it is the next epoch, however many batches it gave,
    unless `set` or `load` choose another. Lightning's Trainer tells its epochs through `tell`. The Trainer never asks a
    pass for its end, may leave it early (limit_train_batches), does not load the state of a checkpoint that was taken
    between two epochs, and counts from 0 again in each fit.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.batch = 0  # batches that were taken; if no pass has begun, the first batch of the next one
        self._pass: object | None = None  # stands for the pass that has begun
        self._chosen = False  # whether no pass has begun since `set` or `load`
        self._told: int | None = None  # the epoch that the trainer has told
        self._used = False  # whether a pass has begun since then
        self._offset = 0  # this epoch minus the trainer's

    def begin(self) -> object:
        """A pass begins with batch `self.batch` of `self.epoch`. Returns an object that stands for the pass."""
        if self._pass is not None:
            self.epoch, self.batch = self.epoch + 1, 0
        if self._told is not None and self._used:
            self._offset += 1
        self._pass, self._chosen, self._used = object(), False, True
        return self._pass

    def counts(self, one: object) -> bool:
        """Whether `one`, which `begin` has returned, stands for the last pass that has begun."""
        return self._pass is one

    def end(self) -> None:
        """The pass has ended: it was asked for more after its last batch."""
        self.epoch, self.batch, self._pass = self.epoch + 1, 0, None

    def set(self, epoch: int) -> None:
        """Choose the epoch of the next pass. It begins with its first batch, or with the batch that `load` has just
        chosen in the same epoch."""
        if self._pass is not None or self.epoch != epoch:
            self.epoch, self.batch, self._pass = epoch, 0, None
        self._chosen, self._told, self._offset = True, None, 0

    def tell(self, trainers: int) -> None:
        """A trainer says that its epoch `trainers` begins or goes on."""
        told, used = self._told, self._used
        self._told, self._used = trainers, False
        if self._chosen:
            if told is not None and trainers > told:  # the state that was loaded belongs to the end of an earlier epoch
                self.epoch, self.batch = trainers + self._offset, 0
            elif trainers != told:
                self._offset = self.epoch - trainers
        elif used or trainers != told:
            if told is not None and trainers == 0:  # another fit
                self._offset = self.epoch + (self._pass is not None)
            self.epoch, self.batch, self._pass = trainers + self._offset, 0, None

    def state_dict(self, batches: int) -> dict:
        """The state that `load` takes.

        Args:
            batches: how many batches an epoch has; when all are taken, the state is the start of the next epoch.
        """
        whole = self._pass is not None and self.batch >= batches
        place = {"epoch": self.epoch + 1, "batch": 0} if whole else {"epoch": self.epoch, "batch": self.batch}
        return place | {"told": self._told, "offset": self._offset}

    def load(self, state: dict, batches: int) -> None:
        """Go on where `state` was taken.

        Args:
            state: what `state_dict` has returned.
            batches: how many batches an epoch has.

        Raises:
            ValueError: the state has an epoch below 0, or a batch that is not in 0 to `batches`.
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
    """Takes the place of `loader.batch_sampler.sampler`, where Lightning calls `set_epoch` before each epoch."""

    def __init__(self, position: Position) -> None:
        self.set_epoch = position.tell


class TrainersBatchSampler:
    """Takes the place of `loader.batch_sampler`, which Lightning and DeepSpeed look for in a loader."""

    def __init__(self, position: Position, batch_size: int, drop_last: bool) -> None:
        self.sampler, self.batch_size, self.drop_last = TrainersSampler(position), batch_size, drop_last

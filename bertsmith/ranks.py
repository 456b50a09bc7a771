"""The processes that train one model together, as PyTorch's launcher starts them.

`torchrun` tells each process its rank; all that goes between them goes through torch.distributed.
A process that was started without it is rank 0 of 1, and nothing here does anything.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from bertsmith.errors import BertsmithError, ConfigError, SaidElsewhere
from bertsmith.processes import end_with_parent
from bertsmith.streams import LenientStream

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor
    from torch._C._distributed_c10d import Store
    from torch.distributed import ProcessGroup

_TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for another that is there and does not answer."""

_PREPARATION_TIMEOUT = timedelta(days=7)
"""The same while a text is prepared, which one rank does and the others wait for."""

_SECONDS_TO_STOP = 20.0
"""What a rank has for a last checkpoint when its launcher is gone."""

_OWN, _PARENT = os.getpid(), os.getppid()
"""Of the process that loaded this module; see `_end_with_launcher`."""

_SECONDS_TO_BE_ENDED = 10.0
"""A rank that lost another leaves the launcher so long to find out which, and to end all."""


@dataclass(frozen=True)
class Ranks:
    """Which of the processes this is."""

    rank: int = 0
    size: int = 1
    patient: ProcessGroup | None = None
    """All of them, for what one does and takes long."""

    @property
    def is_first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def gather(self, values: list[float]) -> npt.NDArray[np.float64]:
        """The numbers (N of them) of every rank, on the host: float64 [size, N]."""
        import numpy as np

        found = np.zeros((self.size, len(values)))
        found[self.rank] = values
        return self.sum(found)  # each is a number and zeros: exact

    def sum(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Arrays of one shape added up over the ranks, on the host."""
        if self.size == 1:
            return values
        import torch
        import torch.distributed as dist

        total = torch.from_numpy(values.copy())
        dist.all_reduce(total)
        return total.numpy()

    def any(self, is_so: bool) -> bool:
        """Whether it is so on one of the ranks."""
        return bool(self.gather([float(is_so)]).any())

    def from_first(self, value: Any) -> Any:
        """What the first rank has of something that is JSON."""
        return json.loads(self._from(0, json.dumps(value)))

    def broadcast(self, tensor: Tensor) -> None:
        """Overwrite `tensor`, on the host, with what the first rank has; all ranks must ask."""
        if self.size > 1:
            import torch.distributed as dist

            dist.broadcast(tensor, 0)

    def of_all(self, error: BertsmithError) -> BertsmithError:
        """What to raise where every rank meets the same `error`: the first one says it."""
        return error if self.is_first else SaidElsewhere(f"Rank 0 could not go on: {error}")

    @contextmanager
    def raising_on_all(self, *, is_long: bool = False) -> Iterator[None]:
        """Do something on every rank, and go on with all or not at all, as `agree` says.

        Inside the ranks must not wait for each other: one may have left.

        Args:
            is_long: whether one of them may take hours.
        """
        error = None
        try:
            yield
        except BertsmithError as raised:
            error = raised
        self.agree(error, self.patient if is_long else None)

    def agree(self, error: BertsmithError | None, group: ProcessGroup | None = None) -> None:
        """Go on together, or not at all; the first rank says why.

        Args:
            error: of this rank, or None.
            group: in which they wait for each other; None: as ever.

        Raises:
            BertsmithError: on the first rank, an error of its own or another's.
            SaidElsewhere: on the others.
        """
        if self.size == 1:
            if error is not None:
                raise error
            return
        import torch
        import torch.distributed as dist

        failed = torch.zeros(self.size, dtype=torch.int64)
        failed[self.rank] = error is not None
        dist.all_reduce(failed, group=group)
        if not failed.any():
            return
        first = int(failed.argmax())
        text = self._from(first, str(error or ""))
        if not self.is_first:
            raise SaidElsewhere(f"Rank {first} could not go on: {text}") from error
        raise error or BertsmithError(f"On rank {first}: {text}")

    def _from(self, rank: int, text: str) -> str:
        """The `text` that a rank has. As bytes: objects would be pickled."""
        if self.size == 1:
            return text
        import torch
        import torch.distributed as dist

        raw = torch.tensor(list(text.encode("utf-8")), dtype=torch.uint8)
        length = torch.tensor(len(raw))
        dist.broadcast(length, rank)
        if self.rank != rank:
            raw = torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(raw, rank)
        return bytes(raw.tolist()).decode("utf-8")


ALONE = Ranks()
"""One process by itself."""


def rank() -> int:
    """The number of this process in its job, as the launcher said it."""
    return _number("RANK")


def local_rank() -> int:
    """The number of this process among those of its machine, which is that of its device."""
    return _number("LOCAL_RANK")


def is_restarted() -> bool:
    """Whether the launcher started this process anew, after one of the job died."""
    return _number("TORCHELASTIC_RESTART_COUNT") > 0


def may_be_restarted() -> bool:
    """Whether the launcher would start it anew."""
    return _number("TORCHELASTIC_MAX_RESTARTS") > 0


def _number(name: str) -> int:
    text = os.environ.get(name, "0")
    if not text.isdecimal():
        raise ConfigError(f"{name}, which a launcher sets, must be a whole number; got {text!r}.")
    return int(text)


@contextmanager
def joined(*, uses_cuda: bool) -> Iterator[Ranks]:
    """Meet the other processes of the job; alone where no launcher says that there are others.

    Args:
        uses_cuda: whether tensors are on GPUs; those of the host go by gloo in any case.

    Raises:
        SaidElsewhere: another process died; the launcher says which.
    """
    _end_with_launcher()
    size = _number("WORLD_SIZE")
    if size <= 1:
        yield ALONE
        return
    import torch.distributed as dist

    backend = "cpu:gloo,cuda:nccl" if uses_cuda else "gloo"
    own = rank()
    try:
        store = _store_of_attempt()
        place: dict[str, Any] = {} if store is None else {"rank": own, "world_size": size}
        dist.init_process_group(backend, store=store, timeout=_TIMEOUT, **place)
        yield Ranks(own, size, dist.new_group(backend="gloo", timeout=_PREPARATION_TIMEOUT))
    except RuntimeError as error:
        if not _is_of_connection(error):
            raise
        line = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]
        LenientStream(sys.stderr).write(
            f"bertsmith: rank {own} lost the connection to another rank ({line}); "
            "the launcher says which one ended.\n"
        )
        # Whoever leaves at once may be taken for the one that failed.
        time.sleep(_SECONDS_TO_BE_ENDED)
        raise SaidElsewhere(f"Rank {own} lost the connection to another rank.") from error
    dist.destroy_process_group()


def _end_with_launcher() -> None:
    """End soon after the launcher, if PyTorch's started this process.

    It would otherwise wait for ranks that nobody starts any more, or train on with nobody to end
    it. Whoever started ranks by hand may leave: nothing says that they must end then.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        parent = _PARENT if os.getpid() == _OWN else os.getppid()
        end_with_parent(parent, seconds_to_stop=_SECONDS_TO_STOP)


def _store_of_attempt() -> Store | None:
    """Where processes that the launcher started anew find each other; None: as PyTorch does it.

    The launcher's store outlives them, and one that is quick may find the address of a rank that
    died (https://github.com/pytorch/pytorch/issues/135712). On one machine all know which attempt
    it is; on several each counts its own.
    """
    import torch.distributed as dist

    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or _number("GROUP_WORLD_SIZE") > 1:
        return None
    stores: Any = dist  # which does not say that it has them
    address, port = os.environ.get("MASTER_ADDR", ""), _number("MASTER_PORT")
    _refuse_lost_launcher(address, port)
    store = stores.TCPStore(address, port, is_master=False, timeout=_TIMEOUT)
    found: Store = stores.PrefixStore(f"attempt-{_number('TORCHELASTIC_RESTART_COUNT')}", store)
    return found


def _refuse_lost_launcher(address: str, port: int) -> None:
    """Raise `SaidElsewhere` if the launcher of this machine does not answer.

    It did before it started this process. One that was killed before this process could look who
    its parent is would be waited for.
    """
    try:
        socket.create_connection((address, port), _TIMEOUT.total_seconds()).close()
    except OSError as error:
        raise SaidElsewhere(f"The launcher of rank {rank()} is gone: {error}.") from error


def _is_of_connection(error: RuntimeError) -> bool:
    """Whether it tells of the other processes: gloo's errors are plain ones."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or "gloo" in str(error)

"""What the GPU benchmarks share: the null device, waits for the device, and the time in which its kernels run."""

import json
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.full_size_step import NULL_CUDA, NullCuda
from boson_multimodal.device import pick_device


def open_device() -> tuple[torch.device, NullCuda | None]:
    """The GPU with the settings that all commands give it, and the counters of the null device if it is one.

    Raises:
        SystemExit: without a CUDA device.
    """
    device = pick_device(-1)
    if device.type != "cuda":
        raise SystemExit("error: no CUDA device: start this on a machine with a GPU, or under the null device")
    torch.set_num_threads(1)
    library = os.environ.get(NULL_CUDA)
    if library is None:
        return device, None
    torch.backends.cudnn.enabled = False  # there is no null cuDNN
    torch.backends.cuda.enable_cudnn_sdp(False)
    return device, NullCuda(library)


def print_result(result: dict[str, Any]) -> None:
    """Print a result as one line of JSON, with the names of the card and of torch's release."""
    gpu = "null CUDA" if NULL_CUDA in os.environ else torch.cuda.get_device_name()
    print(json.dumps({"gpu": gpu, "torch": torch.__version__, **result}), flush=True)


def leave(null_cuda: NullCuda | None) -> None:
    """End the process at once under the null device: the interpreter's own end may use handles that it has freed."""
    if null_cuda is not None:
        os._exit(0)


def seconds_of(run: Callable[[], object]) -> float:
    """Seconds until the device has finished."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def kernel_seconds(run: Callable[[], object]) -> float | None:
    """Seconds in which the device computes or copies, by the profiler; None if the profiler sees no kernel."""
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        run()
        torch.cuda.synchronize()
    microseconds = sum(event.self_device_time_total for event in found.key_averages())
    return microseconds / 1e6 or None


def share(part: float | None, whole: float) -> float | None:
    """The share of a whole; None stays None."""
    return None if part is None else round(part / whole, 3)


@contextmanager
def noted_waits() -> Iterator[Counter[str]]:
    """Count the lines at which the host waits for the device."""
    waits: Counter[str] = Counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for warning in caught:
        if "called a synchronizing" in str(warning.message):
            waits[f"{Path(warning.filename).name}:{warning.lineno}"] += 1


def counts_of(null_cuda: NullCuda, run: Callable[[], object]) -> Counter[str]:
    """What a call launches, copies and waits for on the null device."""
    null_cuda.reset()
    run()
    return Counter(null_cuda.read())

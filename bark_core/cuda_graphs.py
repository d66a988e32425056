"""CUDA graphs: launches that are recorded once and replayed without the host."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bark_core.transformer import FineGPT

_log = logging.getLogger(__name__)

GRAPH_WINDOWS = 2  # of the fine stage: more take longer to compute than to launch


class Capture:
    """Makes graphs that share their memory: they are replayed one after another."""

    def __init__(self) -> None:
        self._pool: Any = None  # torch's handle of the memory
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def __call__(self, launch: Callable[[], object]) -> Callable[[], None]:
        """What replays all that `launch` launches; it must never wait for the device."""
        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            launch()  # what is set up at first use must not be recorded
            torch.cuda.synchronize()
            # other threads may use the device meanwhile: previews are decoded while a job runs
            graph.capture_begin(self._pool, capture_error_mode="thread_local")
            try:
                launch()
            finally:
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(self._stream)
        self._pool = self._pool or graph.pool()
        return graph.replay


class FineGraphs:
    """`FineGPT` for few windows: a graph for each codebook and number of windows.

    It holds the weights where they are: when they leave the device, it has to go.
    """

    def __init__(self, model: FineGPT) -> None:
        self._model = model
        self._capture: Capture | None = Capture()
        self._graphs: dict[tuple[int, ...], tuple[Tensor, Tensor, Callable[[], None]]] = {}

    def __call__(self, codebook: int, codes: Tensor, n_out: int | None = None) -> Tensor:
        """Logits as `FineGPT` gives them; of few windows only until the next call.

        Those of all frames, whatever is asked for: a graph's shapes are always the same.
        """
        key = (codebook, *codes.shape)
        if key not in self._graphs and len(codes) <= GRAPH_WINDOWS and self._capture is not None:
            self._try(key, codebook, codes, self._capture)
        if key not in self._graphs:
            logits: Tensor = self._model(codebook, codes)
            return logits
        given, made, replay = self._graphs[key]
        given.copy_(codes)
        replay()
        return made

    def _try(self, key: tuple[int, ...], codebook: int, codes: Tensor, capture: Capture) -> None:
        given = codes.clone()
        made = self._model(codebook, given)
        try:
            replay = capture(lambda: made.copy_(self._model(codebook, given)))
        except Exception:
            _log.warning("CUDA graphs don't work here; going on without", exc_info=True)
            self._capture = None
        else:
            self._graphs[key] = (given, made, replay)

"""llama.cpp's own HTTP server (the `xllamacpp` wheel) as a child program: OpenAI routes on a loopback port.

    python -m thinkscale.models.llama_server MODEL.gguf --parallel 16 --context 20480 --threads 4 --alias NAME

When the model is loaded it prints one line of JSON, {"url": "http://127.0.0.1:PORT"}; everything else goes to stderr.
It lives as long as its standard input stays open and its parent stays alive, so it cannot outlast a killed parent.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import sys
import threading
from typing import Any, NoReturn

_PROMPT_CACHE_MIB = 512


def main() -> None:
    arguments = _parser().parse_args()
    parent = os.getppid()
    # The engine's libraries may print: only the ready line may reach the pipe that the parent reads.
    ready = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    watch = threading.Thread(target=_live_with, args=(parent,), daemon=True)
    watch.start()
    try:
        server = _serve(arguments)
    except RuntimeError as failure:
        sys.exit(f"{failure}")
    with ready:
        print(json.dumps({"url": server.listening_address}), file=ready)
    watch.join()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="thinkscale.models.llama_server", description="Serve a GGUF model.")
    parser.add_argument("model", help="path of the .gguf file")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--context", type=int, required=True, help="tokens of the KV pool, shared by all slots")
    parser.add_argument("--parallel", type=int, required=True, help="slots: samples decoded together")
    parser.add_argument("--alias", nargs="+", default=[], help="names the model answers to")
    return parser


def _serve(arguments: argparse.Namespace) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = arguments.model
    params.model_alias = set(arguments.alias)
    params.port = arguments.port
    params.n_parallel = arguments.parallel
    params.n_ctx = arguments.context
    params.kv_unified = True  # siblings share their prompt's cells, and a lone sample may use the whole pool
    params.n_gpu_layers = 0
    params.fit_params = False  # it would load the model twice, to fit a GPU
    params.warmup = False  # an empty run costs as much as it saves the first request
    params.cpuparams.n_threads = arguments.threads
    params.cpuparams_batch.n_threads = arguments.threads
    # A search comes back to its prefixes: leave them in their slots (they are evicted when the pool is full), and
    # bound the copies of displaced ones in main memory, which by default may grow to 8 GiB.
    params.cache_idle_slots = False
    params.cache_ram_mib = _PROMPT_CACHE_MIB
    params.endpoint_slots = True
    params.ui = False
    params.cors_origins = ""  # no web page may read a model on the user's machine
    params.cors_origins_explicit = True
    params.verbosity = 1  # errors only
    return xllamacpp.Server(params)


def _live_with(parent: int) -> NoReturn:
    # A process that the parent forked may hold the pipe open after the parent died: so the parent's id is asked too.
    while os.getppid() == parent:
        readable, _, _ = select.select([0], [], [], 1.0)
        if readable and not os.read(0, 4096):
            break
    os._exit(0)


if __name__ == "__main__":
    main()

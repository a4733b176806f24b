"""From recordings and shards to embeddings: `Embedder`, extraction of millions of segments, reconstruction of ECG."""

from importlib import import_module

_HOME = {
    "Embedder": "embedder",
    "Embeddings": "embedder",
    "ExtractionReport": "extraction",
    "Reconstruction": "reconstruction",
    "SignalWarning": "checks",
    "StoredEmbeddings": "store",
    "embed_files": "extraction",
    "iter_embeddings": "store",
    "read_embeddings": "store",
    "reconstruct": "reconstruction",
}
__all__ = list(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""From recordings and shards to embeddings: `Embedder`, extraction of millions of segments, reconstruction of ECG."""

from xmae_fast._optional import lazy_names

_HOME = {
    "Embedder": "embedder",
    "Embeddings": "embedder",
    "ExtractionReport": "report",
    "Reconstruction": "reconstruction",
    "SignalWarning": "checks",
    "StoredEmbeddings": "store",
    "embed_files": "embed",
    "iter_embeddings": "store",
    "read_embeddings": "store",
    "reconstruct": "reconstruction",
    "write_embedding_page": "page",
}
__getattr__, __dir__, __all__ = lazy_names(__name__, _HOME)

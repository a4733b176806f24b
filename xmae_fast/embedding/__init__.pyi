"""For type checkers: the public names, which the package itself imports when they are first used."""

from xmae_fast.embedding.checks import SignalWarning as SignalWarning
from xmae_fast.embedding.embed import embed_files as embed_files
from xmae_fast.embedding.embedder import Embedder as Embedder
from xmae_fast.embedding.embedder import Embeddings as Embeddings
from xmae_fast.embedding.page import write_embedding_page as write_embedding_page
from xmae_fast.embedding.reconstruction import Reconstruction as Reconstruction
from xmae_fast.embedding.reconstruction import reconstruct as reconstruct
from xmae_fast.embedding.report import ExtractionReport as ExtractionReport
from xmae_fast.embedding.store import StoredEmbeddings as StoredEmbeddings
from xmae_fast.embedding.store import iter_embeddings as iter_embeddings
from xmae_fast.embedding.store import read_embeddings as read_embeddings

"""For type checkers: the public names, which the package itself imports when they are first used."""

from xmae_fast.export.checking import CheckError as CheckError
from xmae_fast.export.checking import Difference as Difference
from xmae_fast.export.export import ExportReport as ExportReport
from xmae_fast.export.export import export_model as export_model
from xmae_fast.export.graphs import make_graph as make_graph

"""Exported models: graphs without custom operators for ONNX Runtime, OpenVINO, torch.export and ExecuTorch."""

from xmae_fast._optional import lazy_names

_HOME = {
    "CheckError": "checking",
    "Difference": "checking",
    "ExportReport": "export",
    "export_model": "export",
    "make_graph": "graphs",
}
__getattr__, __dir__, __all__ = lazy_names(__name__, _HOME)

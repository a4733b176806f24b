"""Exported models: graphs without custom operators for ONNX Runtime, OpenVINO, torch.export and ExecuTorch."""

from xmae_fast.lazy import lazy_names

_HOME = {
    "CheckError": "checking",
    "Difference": "checking",
    "ExportReport": "run",
    "export_model": "run",
    "make_graph": "graphs",
}
__all__ = list(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)

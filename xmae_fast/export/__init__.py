"""Exported models: graphs without custom operators for ONNX Runtime, OpenVINO, torch.export and ExecuTorch."""

from importlib import import_module

_HOME = {
    "CheckError": "checking",
    "Difference": "checking",
    "ExportReport": "run",
    "export_model": "run",
    "make_graph": "graphs",
}
__all__ = list(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Looking at what a model has learned: reconstruction against baselines, attention by lag, linear probes, a report."""

from xmae_fast.lazy import lazy_names

_HOME = {
    "HeldOut": "held_out",
    "Interval": "bootstrap",
    "LagProfile": "lag",
    "ProbeResult": "linear_probe",
    "ReconstructionStudy": "reconstruction",
    "embed_segments": "embedding",
    "evaluate": "run",
    "hand_made_features": "embedding",
    "lag_profile": "lag",
    "load_held_out": "held_out",
    "mean_beat": "beats",
    "find_beats": "beats",
    "probe": "linear_probe",
    "probe_embeddings": "embedding_probe",
    "pulse_feet": "detectors",
    "r_peaks": "detectors",
    "random_twin": "embedding",
    "timing": "detectors",
    "write_report": "report",
}
__all__ = list(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)

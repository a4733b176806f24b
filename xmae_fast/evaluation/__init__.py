"""What a model has learned: reconstruction against baselines, attention by lag, linear probes, and a report on them."""

from xmae_fast._optional import lazy_names

_HOME = {
    "HeldOut": "held_out",
    "Interval": "probes.bootstrap",
    "LagProfile": "attention",
    "ProbeResult": "probes.linear",
    "ReconstructionStudy": "reconstruction_study",
    "embed_segments": "features",
    "evaluate": "evaluating",
    "evaluate_rhythm": "evaluating_rhythm",
    "hand_made_features": "features",
    "lag_profile": "attention",
    "load_held_out": "held_out",
    "LabelledPPG": "labelled",
    "RhythmRow": "rhythms",
    "mean_beat": "beats",
    "find_beats": "beats",
    "probe": "probes.linear",
    "probe_embeddings": "probes.embeddings",
    "paper_features": "features_of_paper",
    "pulse_feet": "detectors",
    "r_peaks": "detectors",
    "random_twin": "features",
    "read_labelled": "labelled",
    "rhythm_study": "rhythms",
    "timing": "detectors",
    "write_report": "report",
}
__getattr__, __dir__, __all__ = lazy_names(__name__, _HOME)

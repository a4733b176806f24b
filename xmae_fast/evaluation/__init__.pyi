"""For type checkers: the public names, which the package itself imports when they are first used."""

from xmae_fast.evaluation.attention import LagProfile as LagProfile
from xmae_fast.evaluation.attention import lag_profile as lag_profile
from xmae_fast.evaluation.beats import find_beats as find_beats
from xmae_fast.evaluation.beats import mean_beat as mean_beat
from xmae_fast.evaluation.detectors import pulse_feet as pulse_feet
from xmae_fast.evaluation.detectors import r_peaks as r_peaks
from xmae_fast.evaluation.detectors import timing as timing
from xmae_fast.evaluation.evaluating import evaluate as evaluate
from xmae_fast.evaluation.evaluating_rhythm import evaluate_rhythm as evaluate_rhythm
from xmae_fast.evaluation.features import embed_segments as embed_segments
from xmae_fast.evaluation.features import hand_made_features as hand_made_features
from xmae_fast.evaluation.features import random_twin as random_twin
from xmae_fast.evaluation.features_of_paper import paper_features as paper_features
from xmae_fast.evaluation.held_out import HeldOut as HeldOut
from xmae_fast.evaluation.held_out import load_held_out as load_held_out
from xmae_fast.evaluation.labelled import LabelledPPG as LabelledPPG
from xmae_fast.evaluation.labelled import read_labelled as read_labelled
from xmae_fast.evaluation.probes.bootstrap import Interval as Interval
from xmae_fast.evaluation.probes.embeddings import probe_embeddings as probe_embeddings
from xmae_fast.evaluation.probes.linear import ProbeResult as ProbeResult
from xmae_fast.evaluation.probes.linear import probe as probe
from xmae_fast.evaluation.reconstruction_study import ReconstructionStudy as ReconstructionStudy
from xmae_fast.evaluation.report import write_report as write_report
from xmae_fast.evaluation.rhythms import RhythmRow as RhythmRow
from xmae_fast.evaluation.rhythms import rhythm_study as rhythm_study

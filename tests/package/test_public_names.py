"""Names that users import, each from where it was: moving a module may not take one away."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAZY = [
    path
    for path in sorted((ROOT / "xmae_fast").rglob("__init__.py"))
    if "= lazy_names(" in path.read_text(encoding="utf-8")
]

NAMES = {
    "xmae_fast": (
        "Embedder ModelCfg PatchMask Recipe available build_model_from_cfg embed_files explain from_pretrained"
        " load_checkpoint masked_mse ops pretrained_models PretrainedModel random_masking read_embeddings reconstruct"
        " save_checkpoint xMAE __version__"
        " data embedding evaluation export training tuning"
    ),
    "xmae_fast.data": (
        "AugmentDraw Channel Layout PlainSegmentDataset PrepareReport Reading Recording RecordingError RepackReport"
        " SegmentDataset SegmentIndex SegmentKey SegmentLoader ShardChangedError ShardReport Simulation SimulationCfg"
        " apply_augmentation apply_recipe draw_augmentation draw_examples fetch inspect_shards load_segments open_index"
        " parse_key prepare print_report read_index read_recording repack simulate split_subjects verify_packed"
        " write_inspection_page write_preparation_page write_shard"
    ),
    "xmae_fast.data.index": "SegmentIndex open_index",
    "xmae_fast.backend": (
        "BackendError Availability NOT_AUTOMATIC available explain cpu_kernels use_cpu_kernels release_cpu_memory"
    ),
    "xmae_fast.config": "ModelCfg cfg_from_dict",
    "xmae_fast.embedding": (
        "Embedder Embeddings ExtractionReport Reconstruction SignalWarning StoredEmbeddings embed_files iter_embeddings"
        " read_embeddings reconstruct write_embedding_page"
    ),
    "xmae_fast.embedding.ppg_bench": "XmaeEncoder XmaePort",
    "xmae_fast.evaluation": (
        "HeldOut Interval LabelledPPG LagProfile ProbeResult ReconstructionStudy RhythmRow embed_segments evaluate"
        " evaluate_rhythm hand_made_features paper_features read_labelled rhythm_study"
        " lag_profile load_held_out mean_beat find_beats probe probe_embeddings pulse_feet r_peaks random_twin timing"
        " write_report"
    ),
    "xmae_fast.export": "CheckError Difference ExportReport export_model make_graph",
    "xmae_fast.model": (
        "Bridger ConvBNAct CrossAttentionBlock ModelCfg PatchEmbed1D SinglePath TransformerDecoderLite"
        " TransformerEncoder TransformerEncoderBlock UNetHalfInceptionStem1D WaveformDecoder build_model_from_cfg xMAE"
        " InceptionBlock1D"
    ),
    "xmae_fast.model.lag": "LagBias",
    "xmae_fast.ops": "conv_stem conv_stems lag_attention patch_embed random_masking masked_mse",
    "xmae_fast.signals.beats": "ppg_beats ecg_beats template_quality",
    "xmae_fast.signals.clean": "clean_ppg clean_ecg fill_missing resample",
    "xmae_fast.testing": (
        "Error check_op hostile_layout largest_errors named_tensors relative_error several_roundings within_rounding"
    ),
    "xmae_fast.sklearn": "EmbeddingTransformer",
    "xmae_fast.transformers": "XmaeConfig XmaeModel XmaeOutput",
    "xmae_fast.training": (
        "GradientArena GraphedStep PretrainingError Result TrainCfg adamw make_step pretrain read_train_cfg"
        " train_cfg_from_dict validation_loss"
    ),
    "xmae_fast.tuning": "tune",
    "xmae_fast.cli": "main parser",
}


NEEDS = {"xmae_fast.sklearn": "sklearn", "xmae_fast.transformers": "transformers"}  # module -> optional package


@pytest.mark.parametrize("module", NAMES)
def test_names_are_there(module):
    if module in NEEDS:
        pytest.importorskip(NEEDS[module])
    found = importlib.import_module(module)
    assert [name for name in NAMES[module].split() if not hasattr(found, name)] == []


def test_packages_with_lazy_names_are_found():
    packages = {"data", "embedding", "evaluation", "export", "preparation", "training"}
    assert packages <= {path.parent.name for path in LAZY}


@pytest.mark.parametrize("path", LAZY, ids=lambda path: path.parent.name)
def test_type_checkers_see_the_names_that_a_package_imports_lazily(path):
    package = importlib.import_module(".".join(path.parent.relative_to(ROOT).parts))
    stub = ast.parse(path.with_suffix(".pyi").read_text(encoding="utf-8"))
    homes = {
        alias.asname: node.module
        for node in ast.walk(stub)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name  # other names are not public for a type checker
    }
    assert sorted(homes) == sorted(package.__all__)
    for name, module in homes.items():
        assert getattr(importlib.import_module(module), name) is getattr(package, name)

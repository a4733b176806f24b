"""Embed a PPG recording with onnxruntime and numpy alone: no torch, no xmae_fast.

    xmae-fast export model.ckpt --to onnx -o model.onnx                                # once, where torch is installed
    python examples/embed_without_torch.py model.onnx recording.npy 100 embeddings.npy

recording.npy: samples [T], cleaned and at the model's rate, which the third argument states in Hz."""

import json
import sys

import numpy as np
import onnxruntime


def embed(model: str, ppg: np.ndarray, fs: float, batch: int = 64) -> np.ndarray:
    """Embeddings [T // L, D] of the segments of L samples that follow one another in a recording [T]."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    cfg = json.loads(session.get_modelmeta().custom_metadata_map["xmae_fast"])["cfg"]
    rate, L = cfg["sampling_freq"], cfg["seq_len"]
    segments = np.asarray(ppg, np.float32)[: len(ppg) // L * L].reshape(-1, L)
    low, high = segments.min(1, keepdims=True), segments.max(1, keepdims=True)
    if fs != rate or not len(segments) or not (high > low).all():
        raise ValueError(f"expected {L} samples or more at {rate} Hz, finite and not flat, got {len(ppg)} at {fs} Hz")
    parts = np.array_split(2 * (segments - low) / (high - low) - 1, -(-len(segments) // batch))
    return np.concatenate([session.run(["pooled"], {"ppg": part})[0] for part in parts])


if __name__ == "__main__":
    np.save(sys.argv[4], embed(sys.argv[1], np.load(sys.argv[2]), float(sys.argv[3])))

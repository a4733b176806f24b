"""Fine-tune an xMAE encoder to tell segments with premature beats (PVC) from those without.

    python examples/finetune.py [CHECKPOINT]

Without a checkpoint a small encoder starts from random weights. Takes under two minutes; needs scikit-learn."""

import sys

import torch
from torch import nn

import xmae_fast
from xmae_fast.data import SimulationCfg, simulate

CFG = xmae_fast.ModelCfg(d_model=64, nhead=4, depth_ppg=1, stem_ch=16, proj_dim=32, dropout=0.0)


class Classifier(nn.Module):
    """A linear layer on the mean and maximum of the encoder's tokens (an event may show in one token alone)."""

    def __init__(self, model: xmae_fast.xMAE) -> None:
        super().__init__()
        self.encoder = model.ppg_path
        self.head = nn.Linear(2 * model.cfg.d_model, 1)

    def forward(self, ppg: torch.Tensor) -> torch.Tensor:  # [B, L] -> logits [B]
        tokens = self.encoder.encode(ppg[:, None])
        return self.head(torch.cat([tokens.mean(1), tokens.amax(1)], 1))[:, 0]


def load(subjects: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """PPG [S, L] and labels [S]; put your own here. The subjects of two seeds are different people."""
    sim = simulate(subjects, 10, seed=seed, cfg=SimulationCfg(pvc_probability=0.05))
    return torch.from_numpy(sim.ppg), torch.from_numpy(sim.has_pvc).float()


def finetune(model: xmae_fast.xMAE, subjects: int = 60, epochs: int = 4, batch: int = 32, lr: float = 1e-3) -> float:
    """Train the model, and return the AUROC on half as many unseen subjects."""
    from sklearn.metrics import roc_auc_score

    (ppg, label), (test_ppg, test_label) = load(subjects, seed=1), load(max(subjects // 2, 2), seed=2)
    net = Classifier(model)
    groups = [{"params": net.encoder.parameters(), "lr": lr / 3}, {"params": net.head.parameters(), "lr": lr}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    loss_of = nn.BCEWithLogitsLoss(pos_weight=(1 - label).sum() / label.sum())
    for epoch in range(epochs):
        for rows in torch.randperm(len(ppg)).split(batch):
            optimizer.zero_grad()
            loss_of(net.train()(ppg[rows]), label[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            score = roc_auc_score(test_label, torch.cat([net.eval()(part) for part in test_ppg.split(128)]))
        print(f"epoch {epoch + 1}: AUROC on unseen subjects {score:.3f}")
    return score


if __name__ == "__main__":
    torch.manual_seed(0)
    finetune(xmae_fast.load_checkpoint(sys.argv[1]) if len(sys.argv) > 1 else xmae_fast.xMAE(CFG))

"""Training on simulated patients: the same batches whatever the workers, the ranks and the interruptions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tests.training.conftest import TINY, rows
from xmae_fast import load_checkpoint
from xmae_fast.simulation.population import PopulationCfg, simulate_population
from xmae_fast.training import pretrain, read_train_cfg
from xmae_fast.training.config import train_cfg_from_dict
from xmae_fast.training.pretraining import make_step
from xmae_fast.training.simulated import SimulatedLoader, SimulatedValidation
from xmae_fast.training.simulation_source import SimulationSource, Stage
from xmae_fast.training.truth import SCALES, TruthHead, truth_of

pytest.importorskip("scipy")
SOURCE = SimulationSource(seed=3, segments=600, val_segments=10, workers=0, population=PopulationCfg(seg_len=5))


@pytest.fixture
def cfg() -> dict:
    """A run of two epochs of three steps."""
    torch.set_num_threads(1)
    return {
        "data": "simulation:5", "seg_len": 5, "model_params": dict(TINY), "batch_size": 8, "epochs": 2,
        "lr": 1e-3, "log_every": 1, "tensorboard": False, "accelerator": "cpu",
        "simulation": {"segments": 24, "val_segments": 12, "workers": 0},
    }  # fmt: skip


def taken(loader: SimulatedLoader, count: int | None = None) -> list[dict[str, torch.Tensor]]:
    """Batches of one pass of the loader, all or `count`."""
    return list(itertools.islice(loader, count))


def same(first: list[dict[str, torch.Tensor]], second: list[dict[str, torch.Tensor]]) -> bool:
    """Whether the batches are the same, bit for bit; where the truth has no number, neither has it one."""
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(np.array_equal(a[name], b[name], equal_nan=True) for name in a)
        for a, b in zip(first, second, strict=True)
    )


def test_batches_are_segments_of_the_population():
    """Each segment of a round comes once, with its own PPG, ECG and subject."""
    loader = SimulatedLoader(SimulationSource(seed=3, segments=2048, workers=0, population=SOURCE.population), 64)
    batches = taken(loader)
    made = simulate_population(2048, seed=3, cfg=SOURCE.population)
    ppg, ecg = (torch.cat([batch[name] for batch in batches]).numpy() for name in ("ppg", "ecg"))
    place = {row.tobytes(): number for number, row in enumerate(made["ppg"])}
    found = [place[row.tobytes()] for row in ppg]
    assert sorted(found) == list(range(2048))
    assert (made["ecg"][found] == ecg).all()
    assert (made["subject"][found] == torch.cat([batch["subject"] for batch in batches]).numpy()).all()
    assert len(set(batches[0]["subject"].tolist())) > 48  # neighbours of a subject are spread


def test_epochs_go_on():
    """The second epoch has other segments, and epochs are the stream in pieces."""
    loader = SimulatedLoader(SOURCE, 60)
    both = taken(loader) + taken(loader)
    assert loader.epoch == 2
    assert same(both[:10], taken(SimulatedLoader(SimulationSource(**vars(SOURCE) | {"segments": 1200}), 60), 10))
    loader.set_epoch(1)
    assert same(taken(loader), both[10:])
    seen = {row.numpy().tobytes() for batch in both for row in batch["ppg"]}
    assert len(seen) == 1200


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_give_the_same(workers):
    loader = SimulatedLoader(SimulationSource(**vars(SOURCE) | {"workers": workers}), 64)
    assert same(taken(loader) + taken(loader), taken(one := SimulatedLoader(SOURCE, 64)) + taken(one))
    loader.close()


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_ranks_share_the_batches(ranks):
    """Row i of rank r is row i * ranks + r of the batch that one process would see."""
    whole = taken(SimulatedLoader(SOURCE, 48), 4)
    parts = [taken(SimulatedLoader(SOURCE, 48 // ranks, rank=r, world_size=ranks), 4) for r in range(ranks)]
    for number, batch in enumerate(whole):
        for rank in range(ranks):
            assert all(torch.equal(parts[rank][number][name], batch[name][rank::ranks]) for name in batch)


def test_a_batch_can_be_larger_than_a_round():
    source = SimulationSource(**vars(SOURCE) | {"segments": 5000})
    large, small = taken(SimulatedLoader(source, 2500)), taken(SimulatedLoader(source, 500))
    for name in ("ppg", "ecg", "subject"):
        assert torch.equal(torch.cat([b[name] for b in large]), torch.cat([b[name] for b in small]))


def test_it_goes_on_at_any_batch():
    loader = SimulatedLoader(SOURCE, 64)
    first = taken(loader, 4)
    state = loader.state_dict()
    again = SimulatedLoader(SOURCE, 64)
    again.load_state_dict(state)
    assert same(first + taken(again), taken(SimulatedLoader(SOURCE, 64)))
    other = SimulatedLoader(SimulationSource(**vars(SOURCE) | {"seed": 4}), 64)
    with pytest.raises(ValueError, match="seed: the state is of a loader with 3, this one has 4"):
        other.load_state_dict(state)


def test_only_one_pass_at_a_time():
    loader = SimulatedLoader(SOURCE, 64)
    old = iter(loader)
    next(old)
    next(iter(loader))
    with pytest.raises(RuntimeError, match="this pass is over"):
        next(old)


def test_validation_has_other_segments_and_always_the_same():
    val = SimulatedValidation(SOURCE, 4)
    batches = list(val)
    assert [len(batch["ppg"]) for batch in batches] == [4, 4, 2]
    assert same(batches, list(val))
    trained = simulate_population(256, seed=3, cfg=SOURCE.population)["ppg"]
    assert not {row.tobytes() for row in trained} & {row.numpy().tobytes() for b in batches for row in b["ppg"]}
    parts = [next(iter(SimulatedValidation(SOURCE, 2, rank=r, world_size=2))) for r in range(2)]
    assert all(torch.equal(parts[r]["ppg"], batches[0]["ppg"][r::2]) for r in range(2))


@pytest.mark.parametrize("impl", ["auto", "reference"])  # the reference draws its dropout from torch's own generator
def test_a_run_and_its_continuation_give_the_same_weights_and_rows(cfg, tmp_path, impl):
    cfg |= {"impl": impl, "truth_weight": 0.5, "log_every": 3}
    whole = pretrain(cfg, "whole", runs=tmp_path, quiet=True)
    assert (whole.status, whole.steps, whole.epochs) == ("finished", 6, 2)

    class Stop(Exception):
        pass

    def stop(step: int) -> None:
        if step == 5:
            raise Stop

    broken = cfg | {"checkpoint_every": 4}
    with pytest.raises(Stop):
        pretrain(broken, "broken", runs=tmp_path, quiet=True, callback=stop)
    resumed = pretrain(broken, "broken", runs=tmp_path, resume=True, quiet=True)
    one, two = (load_checkpoint(run.last).state_dict() for run in (whole, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)
    columns = ("step", "loss", "truth_loss", "val_loss")
    assert rows(tmp_path / "whole", *columns) == rows(tmp_path / "broken", *columns)
    about = (tmp_path / "whole" / "run.json").read_text()
    assert '"simulation"' in about


def test_settings_of_the_population(cfg):
    changed = cfg | {"simulation": {"population": {"shares": [1, 0, 0, 0, 0, 0], "ecg": {"noise": [0.001, 0.002]}}}}
    source = train_cfg_from_dict(changed).make_simulation()
    assert (source.seed, source.segments, source.population.shares[0]) == (5, 65536, 1)
    assert (source.population.ecg.noise, source.population.seq_len) == ((0.001, 0.002), 500)
    again = train_cfg_from_dict(train_cfg_from_dict(changed).to_dict()).make_simulation()
    assert again == source
    assert train_cfg_from_dict(cfg | {"data": "simulation:", "seed": 11}).make_simulation().seed == 11


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "simulation:x"}, "data: expected 'simulation:' or 'simulation:SEED' with a whole number"),
        ({"data": ["simulation:", "shards"]}, "data: expected 'simulation:SEED' alone, or shards alone"),
        ({"data": ["shards", "simulation:"]}, "data: expected 'simulation:SEED' alone, or shards alone"),
        ({"data": "shards"}, "simulation: expected 'simulation:' in data, or no such key"),
        ({"val_data": "shards"}, "val_data: expected null with 'simulation:'"),
        ({"simulation": {"segment": 5}}, "simulation: unknown key 'segment'"),
        ({"simulation": {"segments": 0}}, "simulation.segments: expected a whole number, at least 1, got 0"),
        ({"simulation": {"population": {"share": 1}}}, "share"),
        ({"simulation": {"population": 3}}, "simulation.population: expected a mapping"),
        ({"simulation": {"population": {"ecg": {"noise": [1]}}}}, "EcgCfg.noise"),
        ({"simulation": {"stages": [{"segments": 5, "population": {"share": 1}}]}}, "simulation.stages[0].population"),
        ({"simulation": {"stages": [{"segments": 0}]}}, "simulation.stages.segments: expected a whole number"),
        ({"batch_size": 48}, "batch_size: expected at most the 24 segments of an epoch (simulation.segments), got 48"),
    ],
)
def test_what_is_wrong_is_one_line(cfg, refusal, changes, message):
    assert message in refusal(cfg | changes)


def test_stages_come_first():
    easy = PopulationCfg(seg_len=5, shares=(1, 0, 0, 0, 0, 0))
    source = SimulationSource(**vars(SOURCE) | {"segments": 4096, "stages": (Stage(2048, easy),)})
    truth = torch.cat([batch["truth"] for batch in taken(SimulatedLoader(source, 512))])
    assert (truth[:2048, 0] == 0).all()
    assert len(set(truth[2048:, 0].tolist())) == 6


def test_truth_is_that_of_the_segments():
    made = simulate_population(256, seed=9)
    truth = truth_of(made)
    names = ["rhythm", *SCALES]
    told = {name: truth[:, names.index(name)] * unit + centre for name, (centre, unit) in SCALES.items()}
    assert (truth[:, 0] == made["rhythm"]).all()
    for row in range(256):
        times = made["r_times"][row][np.isfinite(made["r_times"][row])].astype(float)
        intervals = np.diff(times)
        assert told["heart_rate"][row] == pytest.approx(60 / intervals.mean(), rel=1e-3)
        assert told["log_sd"][row] == pytest.approx(np.log(intervals.std() / intervals.mean() + 0.005), abs=1e-3)
        rmssd = np.sqrt((np.diff(intervals) ** 2).mean())
        assert told["log_rmssd"][row] == pytest.approx(np.log(rmssd / intervals.mean() + 0.005), abs=1e-3)
        kinds = made["beat_kind"][row][: len(times)]
        assert told["pvc_share"][row] == pytest.approx((kinds == 1).mean(), abs=1e-5)
        assert told["pac_share"][row] == pytest.approx((kinds == 2).mean(), abs=1e-5)
        sizes = made["pulse_size"][row][: len(times)]
        assert told["deficit_share"][row] == pytest.approx((sizes == 0).mean(), abs=1e-5)
        assert told["log_size_sd"][row] == pytest.approx(np.log(sizes[sizes > 0]).std(), abs=1e-4)
        feet = np.sort(made["foot_times"][row][: len(times)][sizes > 0.15].astype(float))
        rate = 60 / np.median(np.diff(feet)) if len(feet) > 1 else np.nan
        assert told["pulse_rate"][row] == pytest.approx(rate, rel=1e-3, nan_ok=True)


def test_the_head_ignores_what_is_not_known():
    head, embedding = TruthHead(4), torch.randn(3, 4)
    truth = torch.tensor([[0.0] + [0.5] * len(SCALES), [5.0] + [torch.nan] * len(SCALES), [2.0] + [1.0] * len(SCALES)])
    loss = head.loss(embedding, truth)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in head.parameters())
    rhythm = torch.nn.functional.cross_entropy(head.linear(embedding)[:, :6], truth[:, 0].long())
    known = ((head.linear(embedding)[[0, 2], 6:] - truth[[0, 2], 1:]) ** 2).mean()
    assert loss.item() == pytest.approx((rhythm + known).item(), rel=1e-5)


def test_the_head_follows_what_is_far_off():
    """An error of more than three units counts in proportion, and still has a gradient."""
    head, embedding = TruthHead(4), torch.zeros(1, 4)
    torch.nn.init.zeros_(head.linear.bias)
    truth = torch.tensor([[0.0, 10.0] + [torch.nan] * (len(SCALES) - 1)])
    loss = head.loss(embedding, truth)
    loss.backward()
    assert loss.item() == pytest.approx(np.log(6) + 2 * 3 * (10 - 1.5), rel=1e-5)
    assert head.linear.bias.grad[6].item() == pytest.approx(-6)


@pytest.mark.parametrize("parts", [1, 2])
def test_truth_trains_the_embedding(cfg, tmp_path, parts):
    """The projection, which pretraining alone does not touch, is trained, and a resumed run goes on with its head."""
    told = cfg | {"truth_weight": 0.5, "accumulate": parts}
    whole = pretrain(told, "whole", runs=tmp_path, quiet=True)
    plain = pretrain(cfg, "plain", runs=tmp_path, quiet=True)
    projections = [load_checkpoint(run.last).ppg_path.proj.state_dict() for run in (whole, plain)]
    assert not all(torch.equal(projections[0][name], projections[1][name]) for name in projections[0])
    pretrain(told | {"max_steps": 3}, "resumed", runs=tmp_path, quiet=True)
    resumed = pretrain(told, "resumed", runs=tmp_path, quiet=True, resume=True)
    one, two = (load_checkpoint(run.last).state_dict() for run in (whole, resumed))
    assert one.keys() == two.keys()
    written = (tmp_path / "whole" / "metrics.csv").read_text().splitlines()
    assert written[0].endswith("truth_loss")
    assert all(row.rpartition(",")[2] for row in written[1:3])


def test_truth_needs_a_simulation(cfg):
    with pytest.raises(ValueError, match="truth_weight: expected 0 with shards"):
        train_cfg_from_dict(cfg | {"data": "shards", "truth_weight": 1, "simulation": None})
    with pytest.raises(ValueError, match="truth_weight: expected 0 unless"):
        train_cfg_from_dict(cfg | {"truth_weight": 1, "swap_signals": True})
    with pytest.raises(ValueError, match="truth_weight: expected 0 unless the model has a bridge"):
        train_cfg_from_dict(cfg | {"truth_weight": 1, "model_params": TINY | {"use_cross_bridge": False}})
    step = make_step(train_cfg_from_dict(cfg | {"truth_weight": 1}), torch.device("cpu"))
    with pytest.raises(ValueError, match="truth: expected a tensor, as there is a head for it, got None"):
        step(torch.randn(2, 500), torch.randn(2, 500))
    step = make_step(train_cfg_from_dict(cfg), torch.device("cpu"))
    with pytest.raises(ValueError, match="truth: expected None without a head for it, got a tensor"):
        step(torch.randn(2, 500), torch.randn(2, 500), torch.zeros(2, 10))


@pytest.mark.parametrize("name", ["xmae_sim_base", "xmae_sim_small"])
def test_recipes_of_shipped_models_give_the_same_weights_again(name, tmp_path):
    """The recipes as they stand, but for a few small batches."""
    torch.set_num_threads(1)
    few = ["max_steps=2", "batch_size=4", "simulation.val_segments=4", "simulation.workers=0", "tensorboard=false",
           "max_minutes=null", "precision=float32"]  # fmt: skip
    cfg = read_train_cfg(name, few)
    runs = [pretrain(cfg, run, runs=tmp_path, quiet=True) for run in ("first", "second")]
    weights = [load_checkpoint(run.last).state_dict() for run in runs]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    easy, later = cfg.make_simulation().population_of(0), cfg.make_simulation().population
    assert easy.ecg.leads == (60,)
    assert len(later.ecg.leads) > 1

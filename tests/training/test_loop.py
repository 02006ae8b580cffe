"""The loop: exact resuming, equal ranks, stages, skipped steps, early stopping (USERS.md items 15-18, 22-24)."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from semgen_platform.errors import ConfigError, SemgenError
from semgen_platform.perturbations.compose import PerturbationConfig
from semgen_platform.perturbations.elastic import ElasticConfig
from semgen_platform.training.crops import Crops
from semgen_platform.training.loop import best_weights, fit
from semgen_platform.training.metrics import read_metrics
from semgen_platform.training.state import FitConfig, TrainState

STEPS = 12  # of the phantom fit: 3 of classification, 9 of both


def test_published_defaults_are_those_of_the_publication() -> None:
    config = FitConfig()
    assert (config.width, config.norm, config.window_hu) == (32, "batch", (-1000, 1000))
    assert (config.loss.classification, config.loss.restoration) == (0.01, 1.0)
    assert (config.learning_rate, config.halve_every_epochs, config.patience_epochs) == (1e-3, 40, 50)
    assert (config.batch_size, config.epochs, config.classification_epochs) == (64, 10_000, 20)
    assert (config.perturbation.elastic.sigma_voxels, config.perturbation.elastic.alpha) == (8, 991)
    assert (config.perturbation.shares, config.perturbation.shuffle_blocks) == ((0.25,) * 4, 5)


@pytest.mark.parametrize(
    ("norm", "stop_at"),
    [("running", 2), ("running", 5), ("running", 9), ("batch", 5), ("instance", 5)],  # 2: in the first stage
)
def test_stopped_and_resumed_ends_with_the_weights_of_an_uninterrupted_fit(
    program: ModuleType, tmp_path: Path, norm: str, stop_at: int
) -> None:
    straight = program.run(tmp_path / "straight", norm=norm)
    stopped = program.run(tmp_path / "resumed", norm=norm, stop_at=stop_at)
    assert (stopped.ended, stopped.step) == ("stopped", stop_at)
    resumed = program.run(tmp_path / "resumed", norm=norm)
    assert (resumed.ended, resumed.resumed_step, resumed.step) == ("finished", stop_at, STEPS)
    assert resumed.weights_digest == straight.weights_digest
    best = [best_weights(tmp_path / name, config_digest="small") for name in ("straight", "resumed")]
    assert best[0][1] == best[1][1]
    assert all(torch.equal(best[0][0][name], best[1][0][name]) for name in best[0][0])


def test_twenty_straight_steps_equal_ten_resumed_for_ten_more(program: ModuleType, tmp_path: Path) -> None:
    straight = program.run(tmp_path / "straight", epochs=6, stop_at=20)
    program.run(tmp_path / "resumed", epochs=6, stop_at=10)
    resumed = program.run(tmp_path / "resumed", epochs=6, stop_at=10)
    assert (straight.step, resumed.resumed_step, resumed.step) == (20, 10, 20)
    assert resumed.weights_digest == straight.weights_digest
    losses = [[row["loss"] for row in read_metrics(tmp_path / f, "train")] for f in ("straight", "resumed")]
    assert losses[0] == losses[1]


def test_a_finished_fit_is_found_and_trains_no_further(program: ModuleType, tmp_path: Path) -> None:
    first, again = program.run(tmp_path), program.run(tmp_path)
    assert (again.ended, again.resumed_step, again.step) == ("finished", STEPS, STEPS)
    assert again.weights_digest == first.weights_digest


def test_two_ranks_end_with_equal_weights(run_program: Callable[..., list[dict[str, Any]]], tmp_path: Path) -> None:
    ranks = run_program(tmp_path, world=2)
    assert ranks[0]["weights_digest"] == ranks[1]["weights_digest"]
    assert [rank["step"] for rank in ranks] == [STEPS, STEPS]


@pytest.mark.slow
def test_two_ranks_stopped_and_resumed_end_with_the_weights_of_an_uninterrupted_fit(
    run_program: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    straight = run_program(tmp_path / "straight", world=2)
    stopped = run_program(tmp_path / "resumed", "--stop-at", "7", world=2)
    assert [rank["step"] for rank in stopped] == [7, 7]
    resumed = run_program(tmp_path / "resumed", world=2)
    assert [rank["resumed_step"] for rank in resumed] == [7, 7]
    assert {rank["weights_digest"] for rank in resumed} == {straight[0]["weights_digest"]}
    assert straight[0]["rows"] == resumed[0]["rows"] == STEPS


def test_two_ranks_train_as_one_where_no_statistic_depends_on_the_batch(
    run_program: Callable[..., list[dict[str, Any]]], program: ModuleType, tmp_path: Path
) -> None:
    """Ranks deal the same global batch among them, so with instance norm only the order of float sums differs."""
    run_program(tmp_path / "two", "--norm", "instance", "--stop-at", "6", world=2)
    program.run(tmp_path / "one", norm="instance", stop_at=6)
    two, one = ([row["loss"] for row in read_metrics(tmp_path / f, "train")] for f in ("two", "one"))
    np.testing.assert_allclose(two, one, rtol=1e-4)


@pytest.mark.slow
def test_killed_between_any_two_lines_it_resumes_to_the_same_weights(
    start_program: Callable[..., list[subprocess.Popen[str]]],
    run_program: Callable[..., list[dict[str, Any]]],
    tmp_path: Path,
) -> None:
    straight = run_program(tmp_path / "straight")[0]
    for delay_s in (4.0, 5.0, 6.0):
        victim = start_program(tmp_path / "killed")[0]
        try:
            victim.wait(timeout=delay_s)
        except subprocess.TimeoutExpired:
            victim.kill()
        victim.communicate()
    assert run_program(tmp_path / "killed")[0]["weights_digest"] == straight["weights_digest"]
    assert [row["step"] for row in read_metrics(tmp_path / "killed", "train")] == list(range(1, STEPS + 1))


def test_decoder_waits_while_the_classifier_trains_alone(program: ModuleType, tmp_path: Path) -> None:
    config = program.small_config()
    start = TrainState(config, program.CLASSES, torch.device("cpu")).network.state_dict()
    program.run(tmp_path, stop_at=3)
    trained, _ = best_weights(tmp_path, config_digest="small")
    moved = {
        name.split(".")[0] for name, value in trained.items() if "conv" in name and not torch.equal(value, start[name])
    }
    assert moved == {"down_tr64", "down_tr128", "down_tr256", "down_tr512", "clc_out"}


def test_rows_tell_stage_losses_rate_and_times(program: ModuleType, tmp_path: Path) -> None:
    program.run(tmp_path, halve_every_epochs=2)
    rows = read_metrics(tmp_path, "train")
    assert [row["stage"] for row in rows] == [0] * 3 + [1] * 9
    assert [row["learning_rate"] for row in rows] == [1e-3] * 9 + [5e-4] * 3  # the schedule starts again with the stage
    assert all(row["restoration"] == 0 for row in rows[:3])
    for row in rows[3:]:
        assert row["loss"] == pytest.approx(0.01 * row["classification"] + row["restoration"], rel=1e-5)
    assert all(0 <= row["waiting_share"] <= 1 for row in rows)
    assert [row["step"] for row in read_metrics(tmp_path, "validation")] == [3, 6, 9, 12]


def test_validation_is_the_mean_over_all_crops(program: ModuleType, tmp_path: Path) -> None:
    """Accuracy over 8 crops is a multiple of an eighth, whatever the batches."""
    program.run(tmp_path, batch_size=6)
    for row in read_metrics(tmp_path, "validation"):
        assert (8 * row["accuracy"]) == pytest.approx(round(8 * row["accuracy"]), abs=1e-5)


def test_a_stage_ends_when_its_patience_does(program: ModuleType, tmp_path: Path) -> None:
    """With a rate of almost nought no epoch improves on noise for long: 1000 epochs end early."""
    result = program.run(tmp_path, classification_epochs=0, epochs=1000, patience_epochs=2, learning_rate=1e-12)
    assert result.ended == "finished"
    validated = [row["loss"] for row in read_metrics(tmp_path, "validation")]
    assert min(validated) not in validated[-2:]
    assert len(validated) < 200


def broken_crops(program: ModuleType, bad: set[int]) -> Crops:
    whole = program.phantom_crops(12, seed=1)

    def read(indices: np.ndarray) -> np.ndarray:
        crops = whole.read(indices)
        crops[[n for n, index in enumerate(indices) if int(index) in bad]] = np.nan
        return crops

    return Crops(whole.labels, read)


def fit_broken(program: ModuleType, folder: Path, bad: set[int], **changes: Any) -> Any:
    return fit(
        program.small_config(**changes),
        broken_crops(program, bad),
        program.phantom_crops(8, seed=2),
        classes=program.CLASSES,
        folder=folder,
        config_digest="small",
        device=torch.device("cpu"),
    )


def test_steps_without_finite_gradients_are_skipped_counted_and_named(program: ModuleType, tmp_path: Path) -> None:
    result = fit_broken(program, tmp_path, bad={5})
    assert result.skipped_steps == 4  # once in each of four epochs
    rows = read_metrics(tmp_path, "skipped")
    assert len(rows) == 4
    assert all(5 in row["crops"] for row in rows)
    weights, _ = best_weights(tmp_path, config_digest="small")
    assert all(torch.isfinite(w).all() for w in weights.values())  # running averages, too
    assert all(np.isfinite(row["loss"]) for row in read_metrics(tmp_path, "validation"))


def test_too_many_such_steps_end_the_run_with_their_number_and_the_remedy(program: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SemgenError, match=r"3 steps had no finite gradients \(the limit is 2\).*lower learning_rate"):
        fit_broken(program, tmp_path, bad=set(range(12)), most_skipped_steps=2)


def test_a_loss_that_is_no_number_is_never_the_best(program: ModuleType, tmp_path: Path) -> None:
    state = TrainState(program.small_config(), program.CLASSES, torch.device("cpu"))
    assert not float("nan") < state.position.best_loss
    fit(
        program.small_config(),
        program.phantom_crops(12, seed=1),
        broken_crops(program, {0}),
        classes=program.CLASSES,
        folder=tmp_path,
        config_digest="small",
        device=torch.device("cpu"),
    )
    assert not (tmp_path / "best").exists()


def test_without_validation_the_last_weights_are_the_best(program: ModuleType, tmp_path: Path) -> None:
    program.run(tmp_path, validation=False)
    assert best_weights(tmp_path, config_digest="small")[1] == STEPS


def test_batches_that_cannot_be_dealt_are_refused(program: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="12 training crops do not fill one batch of 16"):
        program.run(tmp_path, batch_size=16)


def test_an_epoch_may_take_part_of_the_crops_and_draws_them_anew(program: ModuleType, tmp_path: Path) -> None:
    seen: list[int] = []
    whole = program.phantom_crops(12, seed=1)

    def read(indices: np.ndarray) -> np.ndarray:
        seen.extend(indices.tolist())
        return whole.read(indices)

    fit(
        program.small_config(epoch_crops=4, epochs=8),
        Crops(whole.labels, read),
        None,
        classes=program.CLASSES,
        folder=tmp_path,
        config_digest="small",
        device=torch.device("cpu"),
    )
    epochs = [tuple(sorted(seen[i : i + 4])) for i in range(0, len(seen), 4)]
    assert len(seen) == 9 * 4
    assert len(set(epochs)) > 4


def test_training_lowers_the_losses_on_the_phantom(program: ModuleType, tmp_path: Path) -> None:
    mild = PerturbationConfig(elastic=ElasticConfig(alpha=0), shuffling=1, intensity=0, in_painting=0, out_painting=0)
    program.run(tmp_path, classification_epochs=8, epochs=10, learning_rate=5e-3, perturbation=mild)
    rows = read_metrics(tmp_path, "train")
    first, second = [r for r in rows if r["stage"] == 0], [r for r in rows if r["stage"] == 1]
    assert np.mean([r["classification"] for r in first[-3:]]) < 0.8 * np.mean([r["classification"] for r in first[:3]])
    assert np.mean([r["restoration"] for r in second[-3:]]) < 0.7 * np.mean([r["restoration"] for r in second[:3]])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device at hand")
def test_gpu_follows_the_losses_of_the_cpu(program: ModuleType, tmp_path: Path) -> None:
    torch.backends.cudnn.allow_tf32 = False
    for name in ("cpu", "cuda"):
        fit(
            program.small_config(),
            program.phantom_crops(12, seed=1),
            None,
            classes=program.CLASSES,
            folder=tmp_path / name,
            config_digest="small",
            device=torch.device(name),
        )
    cpu, gpu = ([row["loss"] for row in read_metrics(tmp_path / f, "train")] for f in ("cpu", "cuda"))
    np.testing.assert_allclose(gpu, cpu, rtol=1e-3)  # float32 sums in another order, through 12 steps of Adam

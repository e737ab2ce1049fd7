"""Training under a real Slurm: it starts on two nodes, goes on after whatever ended it, and ends bit-equal."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from training_jobs import TrainingRun, same_end, write_settings

from launch.slurm.history import saved_step
from launch.slurm.watch import cancel_run, read_status

pytestmark = pytest.mark.slow
STEPS, EVERY = 80, 8
LAYOUT = ("layout.tensor_parallel=1", "layout.distributed_optimizer=false")  # else updates mend spoiled parameters


@contextlib.contextmanager
def closed(cluster: Cluster) -> Iterator[None]:
    """Jobs are taken and wait."""
    cluster.run("scontrol", "update", "PartitionName=main", "State=DOWN")
    try:
        yield
    finally:
        cluster.run("scontrol", "update", "PartitionName=main", "State=UP")


@pytest.fixture
def new_run(
    on_cluster: Cluster, tiny_recipe: Callable[..., Path], tiny_builds: dict[str, str], tmp_path: Path
) -> Callable[..., TrainingRun]:
    def make(name: str, steps: int = STEPS, **settings: object) -> TrainingRun:
        phase = {
            "name": "main",
            "tokens": steps * 8 * 32,
            "learning_rate": 3e-3,
            "blend": [{"name": "a", "builds": tiny_builds["train"]}],
            "sequence_length": 32,
            "global_batch_size": 8,
        }
        recipe = tiny_recipe(
            name, phases=[phase], layout={"tensor_parallel": 2}, checkpoint={"every_steps": EVERY, "keep_last": 3}
        )
        return TrainingRun(on_cluster, recipe, write_settings(tmp_path / f"{name}.cluster.yaml", **settings))

    return make


@pytest.fixture(scope="module")
def kept() -> dict[str, TrainingRun]:
    return {}


@pytest.fixture
def whole(kept: dict[str, TrainingRun], new_run: Callable[..., TrainingRun]) -> TrainingRun:
    """A run that nothing happened to. Its recipe is spoiled once it is submitted, which is not to matter."""
    if "whole" not in kept:
        kept["whole"] = new_run("whole")
        with closed(kept["whole"].cluster):
            kept["whole"].submit(chain=2)
            kept["whole"].recipe.write_text("not: a recipe")
        kept["whole"].wait_until_finished()
    return kept["whole"]


def test_two_nodes(whole: TrainingRun) -> None:
    assert whole.step == STEPS
    whole.wait(lambda: whole.state(whole.jobs[1]) == "CANCELLED", "the end of the job that has nothing to do")
    (attempt,) = whole.named("attempt")
    assert len(attempt["nodes"]) == 2
    logs = whole.run_dir / "launch" / "logs" / "attempt-0001"
    assert [(logs / f"rank-{rank}.exit").read_text().split() for rank in (0, 1)] == [
        ["0", node] for node in attempt["nodes"]
    ]
    assert f"/{STEPS}" in (logs / "rank-0.log").read_text()
    console = (whole.run_dir / "launch" / f"job-{whole.jobs[0]}.out").read_text()
    assert (logs / "rank-0.log").read_text() in console
    status = read_status(whole.run_dir)
    assert (status.state, status.step, status.saved_step, status.days_left) == ("finished", STEPS, STEPS, 0.0)
    assert status.tokens_per_second > 0 and not status.jobs


def test_torchrun_on_each_node(new_run: Callable[..., TrainingRun], whole: TrainingRun) -> None:
    run = new_run("torchrun")
    run.submit(launcher="torchrun")
    run.wait_until_finished()
    assert same_end(run, whole)


def test_scontrol_requeue(new_run: Callable[..., TrainingRun], whole: TrainingRun, on_cluster: Cluster) -> None:
    run = new_run("requeued")
    run.submit()
    run.wait_until_saved(EVERY)
    on_cluster.run("scontrol", "requeue", run.jobs[0])
    run.wait_until_finished()
    assert run.restarts(run.jobs[0]) == 1
    assert run.named("attempt")[1]["saved"] >= EVERY
    assert same_end(run, whole)


def test_time_limits(new_run: Callable[..., TrainingRun]) -> None:
    """SIGTERM at the limit, and SIGUSR1 before it to a chain of jobs; both at once, to save time."""
    limited, chained = new_run("limited", steps=20_000, signal_margin_s=0), new_run("chained", steps=20_000)
    limited.submit(time_limit="1")
    chained.submit(time_limit="3", chain=3)
    limited.wait(lambda: len(limited.named("attempt")) == 2, "the second attempt")
    (requeued,), (ended,) = limited.named("requeued"), limited.named("ended")
    assert requeued["why"] == "the time limit" and ended["outcome"] == "stopped"
    assert limited.named("attempt")[1]["saved"] == ended["saved"] > 0
    assert limited.restarts(limited.jobs[0]) == 1
    compared = ended["saved"] + 2 * EVERY  # some steps after the one that the limit came at
    limited.wait(lambda: min(limited.step, chained.step) >= compared, "steps after the limit")
    cancel_run(limited.run_dir, now=True)
    assert limited.losses[:compared] == chained.losses[:compared]  # what trained on without a break

    chained.wait(lambda: len(chained.named("attempt")) == 2, "the second job")
    first, second = chained.named("attempt")
    assert (first["job"], second["job"]) == tuple(chained.jobs[:2])
    assert "the next job of the chain goes on" in chained.named("left")[0]["why"]
    assert second["saved"] == chained.named("ended")[0]["saved"] > 0
    assert chained.restarts(chained.jobs[0]) == 0
    assert set(cancel_run(chained.run_dir, now=True)) == set(chained.jobs[1:])


@pytest.fixture
def cut_off(on_cluster: Cluster) -> Iterator[Callable[[str], None]]:
    """Cuts a node off; it is back when the test is over."""
    lost: list[str] = []

    def cut(node: str) -> None:
        lost.append(node)
        on_cluster.kill_node(node)

    yield cut
    for node in lost:
        on_cluster.start_node(node)
    on_cluster.wait_until_idle()


def test_lost_node_with_a_spare(
    new_run: Callable[..., TrainingRun], whole: TrainingRun, cut_off: Callable[[str], None]
) -> None:
    run = new_run("spared")
    run.submit(spare_nodes=1)
    run.wait_until_saved(EVERY)
    cut_off("n2")
    run.wait_until_finished()
    assert run.restarts(run.jobs[0]) == 0
    first, second = run.named("attempt")
    assert (first["job"], first["nodes"], second["job"], second["nodes"]) == (
        run.jobs[0], ["n1", "n2"], run.jobs[0], ["n1", "n3"],
    )  # fmt: skip
    assert read_status(run.run_dir).left_out == {"n2": "it was lost"}
    assert same_end(run, whole)


def test_lost_node_without_a_spare(
    new_run: Callable[..., TrainingRun], whole: TrainingRun, cut_off: Callable[[str], None]
) -> None:
    run = new_run("unspared")
    run.submit()
    run.wait_until_saved(EVERY)
    cut_off("n2")
    run.wait_until_finished()
    assert run.restarts(run.jobs[0]) == 1
    assert [attempt["nodes"] for attempt in run.named("attempt")] == [["n1", "n2"], ["n1", "n3"]]
    assert same_end(run, whole)


def test_lost_first_node(
    new_run: Callable[..., TrainingRun], whole: TrainingRun, cut_off: Callable[[str], None]
) -> None:
    """The supervisor was on it, so that Slurm itself has to start the job again."""
    run = new_run("headless")
    run.submit(spare_nodes=1, min_nodes=2)
    run.wait_until_saved(EVERY)
    cut_off("n1")
    run.wait_until_finished()
    assert [attempt["nodes"] for attempt in run.named("attempt")] == [["n1", "n2"], ["n2", "n3"]]
    assert run.restarts(run.jobs[0]) == 1
    assert "the node that watched it was lost" not in read_status(run.run_dir).state
    assert same_end(run, whole)


def test_fewer_nodes_where_the_recipe_allows_it(
    new_run: Callable[..., TrainingRun], cut_off: Callable[[str], None]
) -> None:
    run = new_run("fewer")
    run.submit(["layout.tensor_parallel=1"], min_nodes=1)
    run.wait_until_saved(EVERY)
    cut_off("n2")
    run.wait_until_finished()
    assert [attempt["nodes"] for attempt in run.named("attempt")] == [["n1", "n2"], ["n1"]]
    assert run.step == len(run.losses) == STEPS and run.restarts(run.jobs[0]) == 0


def test_node_whose_replica_differs(new_run: Callable[..., TrainingRun], tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(_SPOILED_MEMORY)
    python.chmod(0o755)
    run = new_run("faulty", python=str(python), processes_per_node=2)
    run.submit([*LAYOUT, "guard.compare_replicas_every_steps=5"], spare_nodes=1)
    run.wait_until_finished()
    assert [attempt["nodes"] for attempt in run.named("attempt")] == [["n1", "n2"], ["n2", "n3"]]
    assert read_status(run.run_dir).left_out == {"n1": "its replicas differed"}
    assert run.step == STEPS and run.restarts(run.jobs[0]) == 0


def test_cancel_saves_first(new_run: Callable[..., TrainingRun], whole: TrainingRun) -> None:
    run = new_run("cancelled")
    run.submit()
    run.wait_until_saved(EVERY)
    (job,) = run.jobs
    assert read_status(run.run_dir).state == f"running (job {job})"
    assert cancel_run(run.run_dir, now=False) == {job: "told to save and end"}
    run.wait(lambda: not read_status(run.run_dir).jobs, "the end of the job")
    assert run.restarts(job) == 0 and not run.named("requeued")
    assert saved_step(run.run_dir) == run.step > EVERY
    assert read_status(run.run_dir).state == "cancelled"
    run.submit()
    run.wait_until_finished()
    assert same_end(run, whole)


def test_a_run_that_fails_at_once_is_given_up(new_run: Callable[..., TrainingRun]) -> None:
    run = new_run("hopeless", environment={"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "many"})
    run.submit(tries=2)
    run.wait(lambda: run.named("gave_up"), "giving up")
    assert len(run.named("attempt")) == 2 and run.restarts(run.jobs[0]) == 0
    state = read_status(run.run_dir).state
    assert state.startswith("gave up: 2 attempts left no new checkpoint: ranks 0, 1: exit code 1"), state


def test_what_must_be_put_right_is_not_tried_again(
    new_run: Callable[..., TrainingRun], tiny_builds: dict[str, str], tmp_path: Path, on_cluster: Cluster
) -> None:
    for path in Path(tiny_builds["train"]).parent.glob("train.*"):
        shutil.copy(path, tmp_path)
    run = new_run("wrong")
    with closed(on_cluster):
        run.submit([f"phases.0.blend.0.builds={tmp_path / 'train'}"])
        (tmp_path / "train.bin").write_bytes(b"")
    run.wait(lambda: run.named("gave_up"), "giving up")
    assert len(run.named("attempt")) == 1
    assert "something that has to be put right first" in read_status(run.run_dir).state


def test_a_node_with_a_full_disk_is_found_before_training(
    new_run: Callable[..., TrainingRun], whole: TrainingRun, tmp_path: Path
) -> None:
    scratch, python = tmp_path / "scratch", tmp_path / "python"
    scratch.mkdir()
    python.write_text(_FULL_DISK.format(scratch=scratch))
    python.chmod(0o755)
    run = new_run("unhealthy", scratch=str(scratch), python=str(python))
    run.submit(spare_nodes=1, health=True)
    run.wait_until_finished()
    (attempt,) = run.named("attempt")
    assert attempt["nodes"] == ["n1", "n3"]
    (left_out,) = run.named("node_left_out")
    assert left_out["node"] == "n2" and "cannot be written: No space left on device" in left_out["why"]
    assert same_end(run, whole)


_FULL_DISK = """#!/bin/bash
python={python}
if [ "$SLURMD_NODENAME" = n2 ] && [ "$2" = launch.health ]; then
    exec unshare -m bash -c 'mount -t tmpfs -o size=64k none "$1"; shift; exec "$@"' bash "{scratch}" "$python" "$@"
fi
exec "$python" "$@"
""".replace("{python}", sys.executable)
_SPOILED_MEMORY = f"""#!/bin/bash
if [ "$SLURMD_NODENAME" = n1 ] && [ "$2" = megatron_seed.train ]; then
    shift 2
    exec {sys.executable} {Path(__file__).parents[1] / "distributed" / "faulty_ranks.py"} silent:12 "$@"
fi
exec {sys.executable} "$@"
"""

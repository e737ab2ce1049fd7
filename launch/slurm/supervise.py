"""`python -m launch.slurm.supervise OPTIONS -- COMMAND`: what a batch script runs on the job's first node.

It starts training as a step of srun on good nodes of the job, and when that ends it decides: done, start again in this
job without the nodes that failed, go back to the queue, or give up. All of it is noted in `RUN/launch/jobs.jsonl`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from launch.slurm import control, nodes, step
from launch.slurm.health import HealthCheck
from launch.slurm.history import Event, History, attempts, failures_in_a_row, log_dir, saved_step, verdict
from launch.slurm.policy import Act, Decision, End, Rules, Situation, decide, read_end
from launch.slurm.step import Training
from megatron_seed.runtime import exit_codes

GAVE_UP = 1
_WORDS = {"finished": "finished", "gave_up": "given up", "cancelled": "cancelled"}
_BETWEEN_ATTEMPTS_S = 2.0
_STOP_AGAIN_S = 30.0
_UNTIL_SLURM_ENDS_THE_JOB_S = 120.0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m launch.slurm.supervise", allow_abbrev=False)
    add = made.add_argument
    add("--run-dir", type=Path, required=True)
    add("--nodes", required=True, help="numbers of nodes to train on, such as 4 or 2,4")
    add("--processes", type=int, required=True, help="of each node")
    add("--launcher", choices=("srun", "torchrun"), default="srun")
    add("--tries", type=int, default=3, help="attempts from one checkpoint before giving up")
    add("--requeue", action="store_true", help="go back to the queue when there are too few good nodes")
    add("--at-time-limit", choices=("requeue", "next", "end"), default="end")
    add("--grace-s", type=float, default=120.0, help="for the last processes of an attempt to end by themselves")
    add("--probe-s", type=float, default=30.0, help="for a node to answer")
    add("--health", action="append", default=[], metavar="LIMIT=NUMBER", help="check nodes first, by these limits")
    add("--scratch", help="a folder on each node's disk, to be checked")
    add("--deputy", action="store_true", help="Slurm keeps the job when it loses a node: have its first one watched")
    add("--srun-option", action="append", default=[], metavar="OPTION")
    add("--inside", action="append", default=[], metavar="WORD", help="what enters a container, word by word")
    add("command", nargs="+", help="python -m megatron_seed.train RECIPE ...")
    return made


class Supervisor:
    """One job's share of a run."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.job = os.environ["SLURM_JOB_ID"]
        self.run_dir: Path = options.run_dir
        self.history = History(self.run_dir)
        self.rules = Rules(
            tuple(sorted(map(int, options.nodes.split(",")))), options.tries, options.requeue, options.at_time_limit
        )
        self.training = Training(
            tuple(options.command),
            options.processes,
            options.launcher,
            tuple(options.srun_option),
            tuple(options.inside),
        )
        self.faulty: dict[str, str] = {}
        """Nodes that are left out, and why."""
        self.terminated = False
        """Slurm ends the job."""
        self.at_limit: bool | None = None
        """For its time limit; None before that was asked."""
        self.requeued = False
        self.stop_again_at = 0.0
        """By the monotonic clock: when training that should not go on is told so once more."""
        self.deputy: tuple[str, subprocess.Popen] | None = None
        """Where it is, and its srun."""

    def run(self) -> int:
        signal.signal(signal.SIGTERM, self._terminate)
        restarts = int(os.environ.get("SLURM_RESTART_COUNT", 0))
        self._note("started", restarts=restarts, nodes=os.environ["SLURM_JOB_NODELIST"])
        while not (ended := self._verdict()):
            now = self._attempt()
            if self._verdict():  # cancelled meanwhile
                continue
            if self.terminated:
                now = dataclasses.replace(now, terminated=True, time_limit=self._is_time_limit())
            decision = decide(now, self.rules)
            self._say(f"{decision.act.value}: {decision.why}")
            if decision.act is not Act.AGAIN:
                return self._end(decision)
            time.sleep(_BETWEEN_ATTEMPTS_S)
        self._say(f"nothing more to do: the run was {_WORDS[ended['event']]}")
        return 0 if ended["event"] == "finished" else GAVE_UP

    def _attempt(self) -> Situation:
        """Train once, on as many good nodes as the recipe can use."""
        held, number = control.job_nodes(self.job), attempts(self.history.events()) + 1
        good, problem = self._good_nodes([node for node in held if node not in self.faulty])
        self._appoint_deputy([node for node in good if node not in held[:1]])
        count = max((count for count in self.rules.node_counts if count <= len(good)), default=0)
        saved = saved_step(self.run_dir)
        if self._is_over():
            return self._situation(End("stopped", "stopped before training began"), len(good), saved)
        if problem or not count:
            left_out = ", ".join(f"{node}: {why}" for node, why in self.faulty.items())
            end = End("failed", problem or f"too few good nodes ({left_out or 'the job has no more'})")
            self._note("attempt", attempt=number, nodes=[], saved=saved)
            self._note("ended", attempt=number, outcome=end.outcome, failed=True, why=end.why, saved=saved)
            return self._situation(end, len(good), saved)
        return self._train(good, good[:count], number, saved)

    def _train(self, good: Sequence[str], chosen: Sequence[str], number: int, saved: int) -> Situation:
        began, logs = time.time(), log_dir(self.run_dir, number)
        self._say(f"attempt {number} on {', '.join(chosen)}, from step {saved}; logs of all ranks are in {logs}")
        self._say(step.told(self.training, chosen))
        self._note("attempt", attempt=number, nodes=list(chosen), saved=saved)
        result = step.run_training(self.training, chosen, logs, self.job, number, self.options.grace_s, self._look)
        end = read_end(result.codes, len(chosen) * self.training.processes, result.srun_code)
        if end.outcome not in ("done", "stopped") and not self.terminated:
            self._find_faulty(chosen, result, began)
        left = [node for node in good if node not in self.faulty]
        stopped_by_others = self.terminated and not self._is_time_limit()
        now = saved_step(self.run_dir)
        went_well = end.outcome == "done" or (end.outcome == "stopped" and now > saved)
        failed = not went_well and not stopped_by_others
        self._note("ended", attempt=number, outcome=end.outcome, failed=failed, why=end.why, saved=now)
        return self._situation(end, len(left), now)

    def _situation(self, end: End, nodes_left: int, saved: int) -> Situation:
        failures = failures_in_a_row(self.history.events(), saved)
        return Situation(end, nodes_left, [failure["why"] for failure in failures], faulty=self.faulty)

    def _is_time_limit(self) -> bool:
        """Whether it is for the time limit that Slurm ends the job. What Slurm says later is another thing."""
        if self.at_limit is None:
            self.at_limit = control.job_reason(self.job) == "TimeLimit"
        return self.at_limit

    def _verdict(self) -> Event | None:
        return verdict(self.history.events())

    def _is_over(self) -> bool:
        """Nothing more is to be started in this job."""
        return self.terminated or self._verdict() is not None

    def _look(self) -> None:
        """What cannot wait until training ends: at the time limit there are seconds left, and the last save may take
        all of them."""
        if ended := self._verdict():
            self._stop_training(ended)
        elif self.terminated and self.rules.at_time_limit == "requeue" and self._is_time_limit() and not self.requeued:
            self._requeue("the time limit")

    def _stop_training(self, ended: Event) -> None:
        """The signal of `launch cancel` may have come when nobody heard it, and so may this one: torchrun takes a while
        to start its ranks. To training several are one."""
        if time.monotonic() < self.stop_again_at:
            return
        self.stop_again_at = time.monotonic() + _STOP_AGAIN_S
        self._say(f"the run was {_WORDS[ended['event']]}: training is told to save and end")
        with contextlib.suppress(control.SlurmError):
            step.stop_training(self.job)

    def _good_nodes(self, candidates: Sequence[str]) -> tuple[list[str], str]:
        """Those that are fit, and why nothing can be said of any: what all of several nodes fail is no node's fault."""
        if not self.options.health or not candidates:
            return list(candidates), ""
        check = HealthCheck(self.training, self.run_dir, self.job, self.options.scratch, self.options.health)
        bad = check.unhealthy(candidates)
        if self._is_over():
            return list(candidates), ""
        if len(bad) == len(candidates) > 1:
            node, why = next(iter(bad.items()))
            return list(candidates), f"no node passed the health check, {node} for one: {why}"
        for node, why in bad.items():
            self._leave_out(node, why)
        return [node for node in candidates if node not in bad], ""

    def _appoint_deputy(self, others: Sequence[str]) -> None:
        """On the last of the other nodes, which is a spare where there are any."""
        if not self.options.deputy or not others or (self.deputy and self.deputy[0] == others[-1]):
            return
        if self.deputy:
            self.deputy[1].terminate()
        place = ["srun", "--job-name=deputy", "--nodes=1", "--ntasks=1", f"--nodelist={others[-1]}", "--overlap"]
        then = "requeue" if self.rules.requeue else "cancel"
        command = [sys.executable, "-m", "launch.slurm.deputy", self.job, then]
        self.deputy = others[-1], subprocess.Popen([*place, *command], stdin=subprocess.DEVNULL)

    def _find_faulty(self, chosen: Sequence[str], result: step.StepEnd, began: float) -> None:
        for node, why in nodes.named_faulty(self.run_dir, result.nodes, chosen, began).items():
            self._leave_out(node, why)
        silent = nodes.without_answer(chosen, result.nodes, self.training.processes)
        for node in nodes.lost(silent, self.job, self.options.probe_s):
            self._leave_out(node, "it was lost")

    def _leave_out(self, node: str, why: str) -> None:
        self.faulty[node] = why
        self._note("node_left_out", node=node, why=why)
        self._say(f"node {node} is left out: {why}")

    def _end(self, decision: Decision) -> int:
        match decision.act:
            case Act.DONE:
                self._note("finished")
                self._cancel_others()
                return 0
            case Act.GIVE_UP:
                self._note("gave_up", why=decision.why)
                self._cancel_others()
                return GAVE_UP
            case Act.REQUEUE:
                return exit_codes.STOPPED_EARLY if self.requeued or self._requeue(decision.why) else GAVE_UP
            case _:
                self._note("left", why=decision.why)
                return exit_codes.STOPPED_EARLY

    def _requeue(self, why: str) -> bool:
        """Back to the queue; when Slurm has taken it, it ends this job's processes."""
        self._note("requeued", why=why, without=list(self.faulty))
        try:
            control.requeue(self.job, list(self.faulty))
        except control.SlurmError as error:
            self._note("left", why=f"the job could not be requeued: {error}")
            self._say(f"the job could not be requeued: {error}")
            return False
        self.requeued = True
        deadline = time.monotonic() + _UNTIL_SLURM_ENDS_THE_JOB_S
        while not self.terminated and time.monotonic() < deadline:
            time.sleep(0.2)
        return True

    def _cancel_others(self) -> None:
        """Jobs of this run that still wait have nothing to do."""
        jobs = [job for event in self.history.events() for job in event.get("jobs", [])]
        try:
            waiting = [job for job, (state, _) in control.job_states(jobs).items() if state == "PENDING"]
            control.cancel([job for job in waiting if job != self.job])
        except control.SlurmError as error:
            self._say(f"other jobs of this run could not be cancelled: {error}")

    def _note(self, event: str, **facts: Any) -> None:
        self.history.add(event, job=self.job, **facts)

    def _say(self, line: str) -> None:
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} megatron-seed: {line}", flush=True)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self.terminated = True


def main(arguments: Sequence[str]) -> int:
    try:
        return Supervisor(parser().parse_args(arguments)).run()
    except control.SlurmError as error:
        print(f"megatron-seed: {error}", file=sys.stderr)
        return GAVE_UP


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

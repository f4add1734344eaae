"""All runs of an ablation, one after the other or in processes beside each other.

After each run the report is written anew, so that an ablation that is broken off keeps what it
has; resuming leaves out the runs that have ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import as_completed, ProcessPoolExecutor
from itertools import groupby
import multiprocessing
import os
from pathlib import Path

import torch

from psd_depth_ros.config import dump
from psd_depth_ros.training.ablation import Ablation, Plan, Report, VARIANTS
from psd_depth_ros.training.ablation_folder import AblationFolder
from psd_depth_ros.training.ablation_report import write_report
from psd_depth_ros.training.ablation_table import RunResult
from psd_depth_ros.training.start import Start

Job = tuple[str, int]


def run_ablation(
    plan: Plan,
    output: Path,
    start: Start,
    *,
    start_id: str = '',
    worlds: Path | None = None,
    device: str = 'auto',
    processes: int = 1,
    resume: bool = False,
    rendering: Callable[[str, int, int], None] = lambda name, done, total: None,
    report: Report = lambda name, seed, how: None,
    ended: Callable[[RunResult], None] = lambda result: None,
) -> list[RunResult]:
    """Train and compare into `output`; gives all results that lie there.

    `start_id` says which weights `start` is, so that a resume tells others. `report` hears of
    every step where there is one process. Raises SettingsError where the folder is in use or holds
    another ablation.
    """
    folder = AblationFolder(output)
    folder.claim(describe(plan, start_id), resume)
    try:
        return _work_off(
            plan, folder, start, start_id, worlds, device, processes, rendering, report, ended
        )
    finally:
        folder.release()


def _work_off(
    plan: Plan,
    folder: AblationFolder,
    start: Start,
    start_id: str,
    worlds: Path | None,
    device: str,
    processes: int,
    rendering: Callable[[str, int, int], None],
    report: Report,
    ended: Callable[[RunResult], None],
) -> list[RunResult]:
    # here, so that several processes find everything rendered
    ablation = Ablation(
        plan, folder, start, start_id, worlds=worlds, device=device, report=rendering
    )
    left = [job for job in plan.jobs if folder.result(*job) is None]
    write_report(folder, plan)

    def settle(result: RunResult) -> None:
        write_report(folder, plan)
        ended(result)

    while left and (processes == 1 or _is_first(plan, left[0])):
        settle(ablation.run(*left.pop(0), report))
    del ablation
    if left:
        with ProcessPoolExecutor(
            processes, multiprocessing.get_context('spawn'), _settle_threads, (processes,)
        ) as pool:
            work = (plan, folder.path, start, start_id, worlds, device)
            chains = [pool.submit(_run_chain, *work, chain) for chain in make_chains(left)]
            for chain in as_completed(chains):
                for result in chain.result():
                    settle(result)
    return folder.results()


def describe(plan: Plan, start_id: str) -> dict[str, object]:
    """What a resumed ablation must have in common with the one that was stopped."""
    return {
        'recipe': dump(plan.recipe),
        'test': list(plan.test),
        'minutes': plan.minutes,
        'start': start_id,
    }


def make_chains(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs that can be done beside each other: those of one seed wait for each other."""

    def chain(job: Job) -> tuple[bool, int]:
        return VARIANTS[job[0]].is_control, job[1]

    return [list(group) for _, group in groupby(sorted(jobs, key=chain), chain)]


def _is_first(plan: Plan, job: Job) -> bool:
    """Whether all others wait for this one, which says how many steps there are."""
    return plan.minutes is not None and job == plan.jobs[0]


def _settle_threads(processes: int) -> None:
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))


def _run_chain(
    plan: Plan,
    output: Path,
    start: Start,
    start_id: str,
    worlds: Path | None,
    device: str,
    jobs: Sequence[Job],
) -> list[RunResult]:
    ablation = Ablation(
        plan, AblationFolder(output), start, start_id, worlds=worlds, device=device
    )
    return [ablation.run(*job) for job in jobs]

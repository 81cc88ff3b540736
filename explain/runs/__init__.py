"""A run is a folder: manifest, state, progress and results; a job is a process that works in one."""

from explain.runs.archive import free_folder, pack, remove, unpack
from explain.runs.folder import (
    LIVE,
    REQUESTS,
    STATES,
    JobStopped,
    Run,
    inside,
    is_run,
    list_runs,
    model_folder,
)
from explain.runs.jobs import start_job

__all__ = [
    "LIVE",
    "REQUESTS",
    "STATES",
    "JobStopped",
    "Run",
    "free_folder",
    "inside",
    "is_run",
    "list_runs",
    "model_folder",
    "pack",
    "remove",
    "start_job",
    "unpack",
]

"""A run is a folder: manifest, state, progress and results; a job is a process that works in one."""

from explain.runs.archive import free_folder, pack, remove, unpack
from explain.runs.folder import JobStopped, Run
from explain.runs.jobs import start_job
from explain.runs.listing import inside, is_run, list_runs, model_folder
from explain.runs.manifest import LIVE, REQUESTS, STATES

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

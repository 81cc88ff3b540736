"""The page Runs & reports; see `dashboard.views.runs`."""

from dashboard.views import runs

runs.page()
